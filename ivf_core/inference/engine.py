"""Choice of engine, device and precision."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Sequence
from dataclasses import replace
from importlib import metadata
from typing import TYPE_CHECKING, Protocol

from ivf_core.defaults import ENGINE_PACKAGES, ENGINES, PRECISIONS
from ivf_core.inference.onnx_store import OnnxStore
from ivf_core.inference.options import EngineOptions
from ivf_core.inference.protocol import Engine
from ivf_core.inference.selection import Candidate, MeasuredEngine
from ivf_core.models.weights_files import WeightsFile
from ivf_core.system.processor import has_cuda_device, processor_fingerprint

if TYPE_CHECKING:
    from ivf_core.models.checkpoints import FusionModel

__all__ = ["Engine", "create_engine", "describe", "describe_measurements", "installed_engines"]


def installed_engines() -> list[str]:
    """Return the names in `ENGINES` whose packages are installed."""
    return [
        engine
        for engine, packages in ENGINE_PACKAGES.items()
        if all(importlib.util.find_spec(package) is not None for package in packages)
    ]


class _Builder(Protocol):
    def __call__(self, weights: WeightsFile | FusionModel, options: EngineOptions) -> Engine: ...


def create_engine(
    weights: WeightsFile | FusionModel,
    *,
    engine: str = "auto",
    device: str = "auto",
    precision: str = "auto",
    threads: int = 0,
) -> Engine:
    """Build an engine for weights.

    Where engine or precision is "auto", the candidates are measured for each size of images,
    once on a machine: see `MeasuredEngine`. Candidates on a CPU are OpenVINO and ONNX
    Runtime, and PyTorch only if neither is installed; on a CUDA device PyTorch.

    Args:
        weights: opened weights file, or networks in memory, which must not change meanwhile.
        engine: one of `ENGINES`, or "auto" for the fastest one.
        device: as in `EngineOptions`.
        precision: one of `PRECISIONS`, or "auto": of those that the device computes natively,
            the fastest that keeps 99.9 % of the fused values within 2 grey levels of fp32 and
            99 % of the class ids.
        threads: as in `EngineOptions`.

    Returns:
        The engine, ready to run.

    Raises:
        ValueError: an unknown name, a package that is not installed, a device or precision
            that the engine does not have, or weights without a graph where PyTorch is
            missing; the message lists the valid names or the remedy.
    """
    if engine != "auto" and engine not in ENGINES:
        raise ValueError(f"engine '{engine}': expected auto or one of {', '.join(ENGINES)}")
    if precision != "auto" and precision not in PRECISIONS:
        raise ValueError(
            f"precision '{precision}': expected auto or one of {', '.join(PRECISIONS)}"
        )
    engines = _engines_for(device) if engine == "auto" else [engine]
    for name in engines:
        if name not in installed_engines():
            raise ValueError(
                f"engine '{name}' is not installed: pip install {' '.join(ENGINE_PACKAGES[name])} "
                f"(installed: {', '.join(installed_engines()) or 'none'})"
            )
    options = EngineOptions(device=device, threads=threads)
    if precision == "auto":
        options = replace(options, precision="fp32")
        candidates = _candidates(weights, engines, options)
    else:
        candidates = _that_have(precision, engines)

    def build(candidate: Candidate) -> Engine:
        return _builder(candidate[0])(weights, replace(options, precision=candidate[1]))

    if len(candidates) == 1:
        built = build(candidates[0])
        logging.getLogger(__name__).info(
            "%s: %s",
            describe(built),
            "as requested" if engine != "auto" and precision != "auto" else "the only choice here",
        )
        return built
    key = {
        "graph": OnnxStore(weights, options.cache).fingerprint,
        "processor": processor_fingerprint(),
        "device": device,
        "threads": threads,
        "versions": {name: _versions(name) for name, _ in candidates},
    }
    return MeasuredEngine(candidates, build, options.cache, key)


def describe(engine: Engine) -> str:
    """Return engine, device and precision as text for logs."""
    return f"{engine.name} on {engine.device} in {engine.precision}"


def describe_measurements(engine: Engine) -> str:
    """Return what the choice of an engine was measured from, as text; "" if nothing was."""
    measurements = engine.measurements if isinstance(engine, MeasuredEngine) else []
    return "; ".join(map(str, measurements)) if len(measurements) > 1 else ""


def _engines_for(device: str) -> list[str]:
    """Return the engines that may be the fastest on a device."""
    installed = installed_engines()
    kind = device.partition(":")[0]
    if kind == "gpu":
        return ["openvino"]
    if kind == "tensorrt":
        return ["onnxruntime"]
    if kind == "cuda" or (device == "auto" and has_cuda_device()):
        if kind == "cuda" or "torch" in installed:
            return ["torch"]
        logging.getLogger(__name__).warning(
            "there is an NVIDIA GPU, which is not used: pip install torch"
        )
    return [name for name in ("openvino", "onnxruntime") if name in installed] or ["torch"]


def _candidates(
    weights: WeightsFile | FusionModel, engines: Sequence[str], options: EngineOptions
) -> list[Candidate]:
    """Return every engine in fp32, and in each lower precision that the device computes natively.

    The most precise come first, so that a less precise one is taken only if it is faster.
    """
    lower: dict[str, list[Candidate]] = {precision: [] for precision in PRECISIONS[1:]}
    for name in engines:
        for precision in _lower_precisions(name, weights, options):
            lower[precision].append((name, precision))
    return [*((name, "fp32") for name in engines), *(c for cs in lower.values() for c in cs)]


def _lower_precisions(
    name: str, weights: WeightsFile | FusionModel, options: EngineOptions
) -> tuple[str, ...]:
    if name == "onnxruntime" and (options.device == "cpu" or not has_cuda_device()):
        return ()  # its CPU kernels convert to fp32; loading it to ask would cost 80 MB
    return _builder(name)(weights, options).native_precisions


def _that_have(precision: str, engines: Sequence[str]) -> list[Candidate]:
    """Return the engines to measure in a precision; below fp32 only the first has any on a CPU."""
    return [(name, precision) for name in (engines if precision == "fp32" else engines[:1])]


def _versions(engine: str) -> str:
    return " ".join(metadata.version(package) for package in ENGINE_PACKAGES[engine])


def _builder(name: str) -> _Builder:
    """Return the class of an engine; its package is imported only here."""
    if name == "openvino":
        from ivf_core.inference.openvino_engine import OpenVinoEngine

        return OpenVinoEngine
    if name == "onnxruntime":
        from ivf_core.inference.onnxruntime_engine import OnnxRuntimeEngine

        return OnnxRuntimeEngine
    from ivf_core.inference.torch_engine import TorchEngine

    return TorchEngine
