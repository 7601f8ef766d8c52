"""Batches of pairs through a pipeline, as NumPy arrays or as PyTorch tensors on their device."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ivf_core.images.registration import Registration
from ivf_core.images.thermal import ThermalNormalizer
from ivf_core.inference.protocol import Engine
from ivf_core.models.interface import MINIMUM_SIZE
from ivf_core.rigs.remap import AnyRegistration

__all__ = ["BatchResult", "fuse_batch"]

_LAYOUT = "N x H x W x 3 (channels last)"
_DTYPES = ("uint8", "uint16", "float32")


class _Pipeline(Protocol):
    """Part of `FusionPipeline` that a batch needs."""

    normalizer: ThermalNormalizer
    registration: AnyRegistration

    def select_engine(self, size: tuple[int, ...]) -> Engine: ...

    def prepare_batch(
        self, visible: np.ndarray, infrared: np.ndarray, seconds: Sequence[float] | None
    ) -> tuple[np.ndarray, np.ndarray]: ...


@dataclass(frozen=True)
class BatchResult:
    """Results for a batch of N pairs: arrays for arrays, tensors on their device for tensors.

    Attributes:
        fused: N x H x W x 3 uint8 RGB, or None if it was not wanted.
        labels: N x H/2 x W/2 uint8 class ids, or None if they were not wanted or there is no
            head.
        confidence: N x H/2 x W/2 uint8 confidence in the class ids, likewise.
        infrared: N x H x W uint8, the prepared thermal images.
        prepare_ms: time of gain control and registration, for all pairs.
        model_ms: time of the engine, for all pairs. On CUDA it is that of the start alone: the
            results are computed when they are used.
    """

    fused: Any
    labels: Any
    confidence: Any
    infrared: Any
    prepare_ms: float
    model_ms: float


def fuse_batch(
    pipeline: _Pipeline,
    visible: Any,
    infrared: Any,
    *,
    seconds: Sequence[float] | None = None,
    fused: bool = True,
    labels: bool = True,
    confidence: bool = False,
) -> BatchResult:
    """Fuse a batch; see `FusionPipeline.run_batch` for arguments, results and errors."""
    tensors = [_is_tensor(images) for images in (visible, infrared)]
    if tensors[0] != tensors[1]:
        raise ValueError(
            f"visible is {_described(visible)} and infrared {_described(infrared)}: "
            "expected two arrays or two tensors"
        )
    _check(visible, infrared)
    count = len(visible)
    if seconds is not None and len(seconds) != count:
        raise ValueError(f"seconds has {len(seconds)} stamps for {count} pairs")
    wanted = {"fused": fused, "labels": labels, "confidence": confidence}
    if tensors[0]:
        return _fuse_tensors(pipeline, visible, infrared, seconds, wanted)
    start = time.perf_counter()
    visible, prepared = pipeline.prepare_batch(visible, infrared, seconds)
    ready = time.perf_counter()
    engine = pipeline.select_engine(prepared.shape[1:])
    if engine.name == "torch":
        parts = _run_arrays_on_torch(engine, visible, prepared, wanted)
    else:
        parts = _run_one_by_one(engine, visible, prepared, wanted)
    done = time.perf_counter()
    return _result(parts, prepared, ready - start, done - ready)


def _fuse_tensors(
    pipeline: _Pipeline,
    visible: Any,
    infrared: Any,
    seconds: Sequence[float] | None,
    wanted: dict[str, bool],
) -> BatchResult:
    import torch

    engine: Any = pipeline.select_engine(tuple(visible.shape[1:3]))
    if engine.name != "torch":
        raise ValueError(
            f"tensors need the engine torch, this pipeline has {engine.name}: "
            'FusionPipeline(..., engine="torch"), or pass .numpy() arrays'
        )
    if not visible.device == infrared.device == engine.torch_device:
        raise ValueError(
            f"visible is on {visible.device}, infrared on {infrared.device} and the pipeline on "
            f"{engine.torch_device}: expected one device; move the tensors with .to() or build "
            f'the pipeline with device="{visible.device}"'
        )
    start = time.perf_counter()
    plain = (
        infrared.dtype == torch.uint8
        and infrared.shape == visible.shape[:3]
        and pipeline.registration == Registration()
        and pipeline.normalizer.mode != "percentile"
    )
    if plain:  # nothing else is to be prepared: the images stay on their device
        visible, prepared = _leave_out_blank(visible, infrared)
    else:
        arrays = pipeline.prepare_batch(visible.cpu().numpy(), infrared.cpu().numpy(), seconds)
        visible, prepared = (torch.from_numpy(array).to(visible.device) for array in arrays)
    ready = time.perf_counter()
    parts = engine.run_tensors(visible, prepared, **wanted)
    done = time.perf_counter()
    return _result(parts, prepared, ready - start, done - ready)


def _leave_out_blank(visible: Any, infrared: Any) -> tuple[Any, Any]:
    """Do what `leave_out_blank` does, for the tensors of a batch and without asking the device."""
    dark, cold = ((x == x[:, :1, :1]).flatten(1).all(1) for x in (visible, infrared))
    return (
        visible * ~(dark & ~cold)[:, None, None, None],
        infrared * ~(cold & ~dark)[:, None, None],
    )


def _run_arrays_on_torch(
    engine: Any, visible: np.ndarray, infrared: np.ndarray, wanted: dict[str, bool]
) -> list[Any]:
    import torch

    images = [
        torch.from_numpy(np.require(array, requirements=["C", "W"])).to(engine.torch_device)
        for array in (visible, infrared)
    ]
    parts = engine.run_tensors(*images, **wanted)
    return [None if part is None else part.cpu().numpy() for part in parts]


def _run_one_by_one(
    engine: Engine, visible: np.ndarray, infrared: np.ndarray, wanted: dict[str, bool]
) -> list[Any]:
    results = [
        engine(rgb, thermal, **wanted) for rgb, thermal in zip(visible, infrared, strict=True)
    ]
    columns = zip(*results, strict=True)
    return [None if column[0] is None else np.stack(column) for column in columns]  # type: ignore[arg-type]


def _result(parts: Sequence[Any], infrared: Any, prepare: float, model: float) -> BatchResult:
    fused, labels, confidence = parts
    return BatchResult(fused, labels, confidence, infrared, prepare * 1e3, model * 1e3)


def _is_tensor(images: Any) -> bool:
    """Return whether images are a PyTorch tensor, without importing PyTorch."""
    if isinstance(images, np.ndarray):
        return False
    if type(images).__module__.partition(".")[0] == "torch":
        return True
    raise ValueError(
        f"images are {type(images).__name__}, expected a NumPy array or a PyTorch tensor"
    )


def _described(images: Any) -> str:
    kind = "tensor" if _is_tensor(images) else "array"
    return f"a {kind} {_dtype(images)} {tuple(images.shape)}"


def _dtype(images: Any) -> str:
    return str(images.dtype).removeprefix("torch.")


def _check(visible: Any, infrared: Any) -> None:
    """Raise ValueError unless shapes and dtypes are those of a batch."""
    if visible.ndim != 4 or visible.shape[3] != 3 or _dtype(visible) != "uint8":
        hint = ""
        if visible.ndim == 4 and visible.shape[1] == 3:
            call = "permute" if _is_tensor(visible) else "transpose"
            hint = f"; channels come last: visible.{call}(0, 2, 3, 1)"
        elif visible.ndim == 3:
            hint = "; one image is a batch of one: visible[None]"
        raise ValueError(f"visible is {_described(visible)}, expected uint8 {_LAYOUT}{hint}")
    if infrared.ndim != 3 or _dtype(infrared) not in _DTYPES:
        hint = "; one channel needs no axis: infrared[..., 0]" if infrared.ndim == 4 else ""
        raise ValueError(
            f"infrared is {_described(infrared)}, expected uint8, uint16 or float32 N x h x w{hint}"
        )
    if len(visible) != len(infrared) or not len(visible):
        raise ValueError(
            f"visible has {len(visible)} images and infrared {len(infrared)}, "
            "expected as many of each, at least one"
        )
    for name, images in (("visible", visible), ("infrared", infrared)):
        height, width = images.shape[1:3]
        if min(height, width) < MINIMUM_SIZE:
            raise ValueError(
                f"{name} images are {width}x{height}, expected at least "
                f"{MINIMUM_SIZE}x{MINIMUM_SIZE}"
            )
