"""Engine protocol, and the choice of engine and precision."""

from __future__ import annotations

import importlib.util
import logging
from dataclasses import replace
from typing import Protocol

import cv2
import numpy as np

from ivf_core.defaults import ENGINE_PACKAGES, ENGINES, PRECISIONS
from ivf_core.inference.options import EngineOptions
from ivf_core.inference.torch_engine import TorchEngine, choose_device
from ivf_core.models.checkpoints import FusionModel

__all__ = ["Engine", "create_engine", "describe", "installed_engines"]

_TOLERANCE = 2.0
_SHARE = 99.9
_CHECK_SIZE = (240, 320)


class Engine(Protocol):
    """Protocol of engines: each runs the same `FusionGraph` on one pair at a time.

    Attributes:
        name: one of `ENGINES`.
        device: device in use, such as "cpu" or "cuda:0".
        precision: one of `PRECISIONS`.
        native_precisions: precisions below fp32 that the device computes natively, fastest
            first.
    """

    name: str
    device: str
    precision: str
    native_precisions: tuple[str, ...]

    def __call__(
        self, visible: np.ndarray, infrared: np.ndarray, *, fused: bool = True, labels: bool = True
    ) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Fuse and segment one pair.

        Args:
            visible: H x W x 3 uint8 RGB.
            infrared: H x W uint8.
            fused: whether the fused image is wanted.
            labels: whether the class ids are wanted.

        Returns:
            H x W x 3 uint8 RGB and H/2 x W/2 uint8 class ids, contiguous and owned by the
            caller; None for a result that is not wanted, and for class ids without a head.
        """
        ...


def installed_engines() -> list[str]:
    """Return the names in `ENGINES` whose packages are installed."""
    return [
        engine
        for engine, packages in ENGINE_PACKAGES.items()
        if all(importlib.util.find_spec(package) is not None for package in packages)
    ]


class _Builder(Protocol):
    def __call__(self, model: FusionModel, options: EngineOptions) -> Engine: ...


def create_engine(
    model: FusionModel,
    *,
    engine: str = "auto",
    device: str = "auto",
    precision: str = "auto",
    threads: int = 0,
) -> Engine:
    """Build an engine for a model.

    Args:
        model: the networks.
        engine: one of `ENGINES`, or "auto" for the fastest one installed: PyTorch
            on a CUDA device; on a CPU OpenVINO, else ONNX Runtime, else PyTorch.
        device: as in `EngineOptions`.
        precision: one of `PRECISIONS`, or "auto": the lowest that the device computes
            natively, if on a test image 99.9 % of the fused values differ from fp32 by at
            most 2 grey levels, else fp32.
        threads: as in `EngineOptions`.

    Returns:
        The engine, ready to run.

    Raises:
        ValueError: an unknown name, a package that is not installed, or a device or
            precision that the engine does not have; the message lists the valid ones.
    """
    if engine != "auto" and engine not in ENGINES:
        raise ValueError(f"engine '{engine}': expected auto or one of {', '.join(ENGINES)}")
    if precision != "auto" and precision not in PRECISIONS:
        raise ValueError(
            f"precision '{precision}': expected auto or one of {', '.join(PRECISIONS)}"
        )
    reason = "as requested"
    if engine == "auto":
        engine, reason = _fastest_engine(device)
    if engine not in installed_engines():
        raise ValueError(
            f"engine '{engine}' is not installed: pip install {' '.join(ENGINE_PACKAGES[engine])} "
            f"(installed: {', '.join(installed_engines())})"
        )
    build = _builder(engine)
    options = EngineOptions(device=device, threads=threads)
    if precision == "auto":
        built, precision_reason = _lowest_precision(build, model, options)
        reason = f"{reason}; {precision_reason}"
    else:
        built = build(model, replace(options, precision=precision))
    logging.getLogger(__name__).info("%s: %s", describe(built), reason)
    return built


def describe(engine: Engine) -> str:
    """Return engine, device and precision as text for logs."""
    return f"{engine.name} on {engine.device} in {engine.precision}"


def _fastest_engine(device: str) -> tuple[str, str]:
    """Return the fastest engine installed for a device, and the reason for this choice."""
    installed = installed_engines()
    kind = device.partition(":")[0]
    if kind == "gpu":
        return "openvino", "the one that runs on Intel GPUs"
    if kind == "tensorrt":
        return "onnxruntime", "the one with TensorRT"
    if choose_device(device).type == "cuda":
        return "torch", "on CUDA"
    for name in ("openvino", "onnxruntime"):
        if name in installed:
            return name, "the fastest of those installed on a CPU"
    return "torch", "the only one installed; on a CPU openvino is faster"


def _builder(name: str) -> _Builder:
    """Return the class of an engine; its package is imported only here."""
    if name == "openvino":
        from ivf_core.inference.openvino_engine import OpenVinoEngine

        return OpenVinoEngine
    if name == "onnxruntime":
        from ivf_core.inference.onnxruntime_engine import OnnxRuntimeEngine

        return OnnxRuntimeEngine
    return TorchEngine


def _lowest_precision(
    build: _Builder, model: FusionModel, options: EngineOptions
) -> tuple[Engine, str]:
    """Build the engine in the fastest precision that preserves the fused image.

    Returns:
        The engine, and the reason for its precision.
    """
    reference = build(model, options)
    if not reference.native_precisions:
        return reference, "nothing below fp32 is native here"
    pair = _check_pair()
    expected, _ = reference(*pair, labels=False)
    assert expected is not None
    for precision in reference.native_precisions:
        try:
            candidate = build(model, replace(options, precision=precision))
            found, _ = candidate(*pair, labels=False)
        except (ValueError, RuntimeError) as error:
            logging.getLogger(__name__).info("%s cannot be used: %s", precision, error)
            continue
        assert found is not None
        off = float(np.percentile(cv2.absdiff(expected, found), _SHARE))
        if off <= _TOLERANCE:
            return candidate, f"{precision} is within {off:.0f}/255 of fp32"
    return reference, f"lower precisions are off by more than {_TOLERANCE:.0f}/255 or do not run"


def _check_pair() -> tuple[np.ndarray, np.ndarray]:
    """Draw two fixed images with large shapes, edges and noise over the whole range."""
    random = np.random.default_rng(0)
    height, width = _CHECK_SIZE

    def image(channels: int) -> np.ndarray:
        planes = [random.uniform(0, 255, (n, n * 4 // 3, channels)) for n in (6, 24)]
        sizes = (cv2.INTER_CUBIC, cv2.INTER_NEAREST)
        large, edges = (
            cv2.resize(plane, (width, height), interpolation=mode).reshape(height, width, channels)
            for plane, mode in zip(planes, sizes, strict=True)
        )
        noise = random.normal(0, 6, (height, width, channels))
        return np.clip(0.6 * large + 0.4 * edges + noise, 0, 255).astype(np.uint8)

    return image(3), image(1)[..., 0]
