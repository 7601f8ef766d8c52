"""What an engine is, and which one to take."""

from __future__ import annotations

import importlib.util
import logging
from typing import Protocol

import cv2
import numpy as np

from ivf_core.defaults import ENGINE_PACKAGES, ENGINES, PRECISIONS
from ivf_core.inference.torch_engine import TorchEngine, choose_device
from ivf_core.models.checkpoints import FusionModel

__all__ = ["Engine", "create_engine", "describe", "installed_engines"]

_TOLERANCE = 2.0
_SHARE = 99.9
_CHECK_SIZE = (240, 320)


class Engine(Protocol):
    """Runs `FusionGraph`, the same function in every engine, on one pair at a time.

    Attributes:
        name: one of `ENGINES`.
        device: where it runs, such as "cpu" or "cuda:0".
        precision: one of `PRECISIONS`.
        native_precisions: those below fp32 that the device computes natively, fastest first.
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
            fused, labels: which results are wanted.

        Returns:
            H x W x 3 uint8 RGB and H/2 x W/2 uint8 class ids, contiguous and the
            caller's own; None for what was not wanted or cannot be had.
        """
        ...


def installed_engines() -> list[str]:
    """Those of `ENGINES` whose packages are installed."""
    return [
        engine
        for engine, packages in ENGINE_PACKAGES.items()
        if all(importlib.util.find_spec(package) is not None for package in packages)
    ]


class _Builder(Protocol):
    def __call__(self, model: FusionModel, device: str, precision: str, threads: int) -> Engine: ...


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
        device: "auto", "cpu", "cuda" or "cuda:N"; OpenVINO also takes its own GPU as
            "gpu", ONNX Runtime "tensorrt".
        precision: one of `PRECISIONS`, or "auto": the lowest that the device computes
            natively, if on a test picture 99.9 % of the fused values stay within 2
            grey levels of fp32, else fp32.
        threads: of a CPU engine; 0 leaves it to the engine.

    Raises:
        ValueError: an unknown name, a package that is not installed, or a device or
            precision that the engine does not have; says what there is.
    """
    if engine != "auto" and engine not in ENGINES:
        raise ValueError(f"engine '{engine}': expected auto or one of {', '.join(ENGINES)}")
    if precision != "auto" and precision not in PRECISIONS:
        raise ValueError(
            f"precision '{precision}': expected auto or one of {', '.join(PRECISIONS)}"
        )
    why = "as asked"
    if engine == "auto":
        engine, why = _choose(device)
    if engine not in installed_engines():
        raise ValueError(
            f"engine '{engine}' is not installed: pip install {' '.join(ENGINE_PACKAGES[engine])} "
            f"(installed: {', '.join(installed_engines())})"
        )
    build = _builder(engine)
    if precision == "auto":
        made, because = _lowest_precision(build, model, device, threads)
        why = f"{why}; {because}"
    else:
        made = build(model, device, precision, threads)
    logging.getLogger(__name__).info("%s: %s", describe(made), why)
    return made


def describe(engine: Engine) -> str:
    """Engine, device and precision in words, for logs."""
    return f"{engine.name} on {engine.device} in {engine.precision}"


def _choose(device: str) -> tuple[str, str]:
    """The engine that "auto" means, and why."""
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
    """The engine's class. Its package is imported here and no earlier."""
    if name == "openvino":
        from ivf_core.inference.openvino_engine import OpenVinoEngine

        return OpenVinoEngine
    if name == "onnxruntime":
        from ivf_core.inference.onnxruntime_engine import OnnxRuntimeEngine

        return OnnxRuntimeEngine
    return TorchEngine


def _lowest_precision(
    build: _Builder, model: FusionModel, device: str, threads: int
) -> tuple[Engine, str]:
    """The fastest precision that keeps the picture, and why it is that one."""
    reference = build(model, device, "fp32", threads)
    if not reference.native_precisions:
        return reference, "nothing below fp32 is native here"
    pair = _check_pair()
    expected, _ = reference(*pair, labels=False)
    assert expected is not None
    for precision in reference.native_precisions:
        try:
            candidate = build(model, device, precision, threads)
            found, _ = candidate(*pair, labels=False)
        except (ValueError, RuntimeError) as error:
            logging.getLogger(__name__).info("%s cannot be used: %s", precision, error)
            continue
        assert found is not None
        off = float(np.percentile(cv2.absdiff(expected, found), _SHARE))
        if off <= _TOLERANCE:
            return candidate, f"{precision} is within {off:.0f}/255 of fp32"
    return reference, f"below it more than {_TOLERANCE:.0f}/255 would be lost, or it does not run"


def _check_pair() -> tuple[np.ndarray, np.ndarray]:
    """Two pictures with large shapes, edges and noise over the whole range, always the same."""
    random = np.random.default_rng(0)
    height, width = _CHECK_SIZE

    def picture(channels: int) -> np.ndarray:
        planes = [random.uniform(0, 255, (n, n * 4 // 3, channels)) for n in (6, 24)]
        sizes = (cv2.INTER_CUBIC, cv2.INTER_NEAREST)
        large, edges = (
            cv2.resize(plane, (width, height), interpolation=mode).reshape(height, width, channels)
            for plane, mode in zip(planes, sizes, strict=True)
        )
        noise = random.normal(0, 6, (height, width, channels))
        return np.clip(0.6 * large + 0.4 * edges + noise, 0, 255).astype(np.uint8)

    return picture(3), picture(1)[..., 0]
