"""Check of an exported graph: ONNX Runtime runs it beside PyTorch."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import onnxruntime
import torch

from ivf_core.models.checkpoints import FusionModel
from ivf_core.models.graph import FusionGraph
from ivf_core.models.interface import INPUT_NAMES, OUTPUT_NAMES
from ivf_core.scenes import SyntheticDrive

__all__ = ["ExportCheck", "check_export"]

_SIZES = ((120, 160), (97, 131))  # the second one has no whole blocks
_BATCH = 2
_MOST_LEVELS = 2
_LEAST_EQUAL = 0.99


@dataclass(frozen=True)
class ExportCheck:
    """Agreement of an exported graph with the networks that it was exported from.

    Attributes:
        fused_levels: largest difference of the fused image in grey levels, None without one.
        equal_labels: share of equal class ids, None without them.
        confidence_levels: largest difference of the confidence where the ids are equal, or None.
        pairs: number of pairs that were compared.
    """

    fused_levels: int | None
    equal_labels: float | None
    confidence_levels: int | None
    pairs: int

    def __str__(self) -> str:
        parts = []
        if self.fused_levels is not None:
            parts.append(f"fused image within {self.fused_levels} of 255")
        if self.equal_labels is not None:
            parts.append(f"{self.equal_labels:.2%} of class ids equal")
        if self.confidence_levels is not None:
            parts.append(f"confidence within {self.confidence_levels} of 255")
        return f"ONNX Runtime against PyTorch on {self.pairs} pairs: {', '.join(parts)}"


def check_export(content: bytes, model: FusionModel, *, int8: bool = False) -> ExportCheck:
    """Run an exported graph with ONNX Runtime and compare it with PyTorch.

    Batches of two synthetic pairs in two sizes, one of them odd, go through both.

    Args:
        content: the ONNX file.
        model: the networks that it was exported from.
        int8: whether it was exported with 8-bit convolutions.

    Raises:
        ValueError: ONNX Runtime does not take it, its names or sizes are others, or the fused
            image differs by more than 2 grey levels, or more than 1 % of class ids differ.
    """
    try:
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions have no common base class
        raise ValueError(f"ONNX Runtime does not take the graph: {error}") from error
    inputs = [entry.name for entry in session.get_inputs()]
    names = [entry.name for entry in session.get_outputs()]
    if tuple(inputs) != INPUT_NAMES or not set(names) <= set(OUTPUT_NAMES):
        raise ValueError(f"the graph has inputs {inputs} and outputs {names}")
    described = json.loads(session.get_modelmeta().custom_metadata_map["outputs"])
    if list(described) != names:
        raise ValueError(f"the graph has outputs {names}, its metadata describe {list(described)}")
    graph = FusionGraph(model, int8=int8).eval()
    levels: dict[str, list[int]] = {"fused": [], "confidence": []}
    equal: list[float] = []
    for size in _SIZES:
        images = _pairs(size)
        found = dict(
            zip(names, session.run(names, dict(zip(inputs, images, strict=True))), strict=True)
        )
        with torch.inference_mode():
            tensors = (torch.from_numpy(image) for image in images)
            expected = dict(zip(OUTPUT_NAMES, graph(*tensors, True, True, True), strict=True))
        _compare(found, expected, levels, equal)
    check = ExportCheck(
        max(levels["fused"], default=None),
        min(equal, default=None),
        max(levels["confidence"], default=None),
        _BATCH * len(_SIZES),
    )
    too_far = check.fused_levels is not None and check.fused_levels > _MOST_LEVELS
    if too_far or (check.equal_labels is not None and check.equal_labels < _LEAST_EQUAL):
        raise ValueError(f"the graph computes something else: {check}")
    return check


def _compare(
    found: dict[str, np.ndarray],
    expected: dict[str, torch.Tensor | None],
    levels: dict[str, list[int]],
    equal: list[float],
) -> None:
    """Compare the outputs of both; raise ValueError where a shape or dtype differs."""
    same: np.ndarray | None = None
    for name, values in found.items():
        reference = expected[name]
        assert reference is not None
        if values.shape != tuple(reference.shape) or values.dtype != np.uint8:
            raise ValueError(
                f"output {name} is {values.dtype} {values.shape}, "
                f"expected uint8 {tuple(reference.shape)}"
            )
        difference = np.abs(values.astype(int) - reference.numpy().astype(int))
        if name == "labels":
            same = difference == 0
            equal.append(float(same.mean()))
        elif name == "fused" or same is None:
            levels[name].append(int(difference.max()))
        else:
            levels[name].append(int(difference[same].max(initial=0)))


def _pairs(size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return a batch of synthetic pairs."""
    height, width = size
    drive = SyntheticDrive(seed=1, size=(width, height), rate_hz=1.0, seconds=_BATCH)
    frames = list(drive)
    return np.stack([f.visible for f in frames]), np.stack([f.infrared for f in frames])
