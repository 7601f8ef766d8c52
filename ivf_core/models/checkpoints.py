"""Weights as data: load and save students with their heads.

A weights file is a safetensors file with tensors `student.*` and, where it has
a head, `head.*`. Its metadata says how to build both networks and carries the
class set, so that nothing has to be remembered beside the file. The checkpoint
published with SAGE (a pickled state dict) is read too, tensors only.
"""

from __future__ import annotations

import json
import os
import pickle
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from ivf_core.class_sets import ClassSet
from ivf_core.images.files import atomic_path
from ivf_core.models.segmentation import SegmentationHead
from ivf_core.models.student import FusionStudent

__all__ = [
    "FusionModel",
    "WeightsError",
    "find_weights",
    "load_model",
    "save_model",
    "shipped_weights",
]

_FORMAT = "ivf-weights-1"
_SHIPPED_DIRECTORY = Path(__file__).resolve().parent.parent / "weights"
_STUDENTS = {"sage": FusionStudent}

# Names in the published file (REFERENCE: module1..module5, ...) and ours.
_PUBLISHED_PREFIXES = {
    **{f"module{n}.": f"stages.{n - 1}." for n in range(1, 6)},
    "adjust_channels4.": "merges.0.",
    "adjust_channels5.": "merges.1.",
    "final_decoder.0.": "decoder.",
}


class WeightsError(ValueError):
    """A weights file that is missing, damaged, or not for these networks."""


@dataclass
class FusionModel:
    """A student and, where the weights have one, its segmentation head.

    Attributes:
        student: in evaluation mode.
        head: in evaluation mode, or None: then there are no masks.
        class_set: the classes of the head's logits, or None without a head.
        name: what the user called the weights, for logs.
        structure: the student's structure, "sage".
    """

    student: FusionStudent
    head: SegmentationHead | None = None
    class_set: ClassSet | None = None
    name: str = "unnamed"
    structure: str = "sage"

    def __post_init__(self) -> None:
        if (self.head is None) != (self.class_set is None):
            raise ValueError("head and class_set go together: give both or neither")


def shipped_weights() -> dict[str, Path]:
    """The weights that come with the package, by name."""
    return {path.stem: path for path in sorted(_SHIPPED_DIRECTORY.glob("*.safetensors"))}


def find_weights(name_or_path: str | os.PathLike[str]) -> Path:
    """The file behind a shipped name or a path.

    Raises:
        WeightsError: neither a shipped name nor a file; lists what ships.
    """
    shipped = shipped_weights()
    if str(name_or_path) in shipped:
        return shipped[str(name_or_path)]
    path = Path(name_or_path).expanduser()
    if not path.is_file():
        raise WeightsError(
            f"weights '{name_or_path}': no such file and no shipped weights of that name "
            f"(shipped: {', '.join(shipped) or 'none'})"
        )
    return path


def load_model(name_or_path: str | os.PathLike[str]) -> FusionModel:
    """Load weights by shipped name, from a file of ours, or from SAGE's published one.

    Every tensor must be present with its shape, and none may be left over.

    Raises:
        WeightsError: names the file and says what was expected.
    """
    path = find_weights(name_or_path)
    if path.suffix == ".safetensors":
        return _load_safetensors(path, str(name_or_path))
    return FusionModel(student=_load_published(path), name=str(name_or_path))


def save_model(model: FusionModel, path: str | os.PathLike[str], **metadata: str) -> None:
    """Write `model` to a safetensors file, under a temporary name first.

    Args:
        metadata: further entries for the file's metadata, such as where the
            weights come from; keys starting with "ivf_" are reserved.
    """
    tensors = {f"student.{k}": v for k, v in model.student.state_dict().items()}
    entries = {
        **metadata,
        "ivf_format": _FORMAT,
        "ivf_structure": model.structure,
        "ivf_student": json.dumps({"channels": model.student.channels}),
    }
    if model.head is not None and model.class_set is not None:
        tensors |= {f"head.{k}": v for k, v in model.head.state_dict().items()}
        entries["ivf_head"] = json.dumps(
            {"feature_channels": model.head.feature_channels, "widths": model.head.widths}
        )
        entries["ivf_class_set"] = model.class_set.to_json()
    tensors = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    with atomic_path(path) as temporary:
        temporary.write_bytes(save(tensors, metadata=entries))


def _load_safetensors(path: Path, name: str) -> FusionModel:
    try:
        with safe_open(path, framework="pt") as file:
            entries = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"weights '{path}': not a readable safetensors file: {error}") from error
    if entries.get("ivf_format") != _FORMAT:
        raise WeightsError(
            f"weights '{path}': metadata ivf_format is {entries.get('ivf_format')!r}, "
            f"expected {_FORMAT!r}"
        )
    structure = entries["ivf_structure"]
    if structure not in _STUDENTS:
        raise WeightsError(
            f"weights '{path}': student structure {structure!r}, known: {', '.join(_STUDENTS)}"
        )
    student = _STUDENTS[structure](**json.loads(entries["ivf_student"]))
    _fill(student, tensors, "student.", path)
    head = class_set = None
    if "ivf_head" in entries:
        class_set = ClassSet.from_json(entries["ivf_class_set"])
        head = SegmentationHead(len(class_set), **json.loads(entries["ivf_head"]))
        _fill(head, tensors, "head.", path)
    return FusionModel(student, head, class_set, name, structure)


def _load_published(path: Path) -> FusionStudent:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        raise WeightsError(
            f"weights '{path}': neither safetensors nor a plain PyTorch state dict: {error}"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise WeightsError(f"weights '{path}': expected a state dict of tensors")
    student = FusionStudent()
    _fill(student, {_our_name(key): value for key, value in state.items()}, "", path)
    return student


def _our_name(published: str) -> str:
    for theirs, ours in _PUBLISHED_PREFIXES.items():
        if published.startswith(theirs):
            return ours + published[len(theirs) :]
    return published


def _fill(module: nn.Module, tensors: dict[str, Tensor], prefix: str, path: Path) -> None:
    """Load `module` strictly from the tensors under `prefix`, and freeze it."""
    state = {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}
    try:
        module.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise WeightsError(
            f"weights '{path}': do not fit {type(module).__name__}: {error}"
        ) from error
    module.eval().requires_grad_(False)
