"""Weights files: load and save students with their segmentation heads.

A weights file is a safetensors file with tensors `student.*` and, with a head,
`head.*`. Its metadata describes how to build both networks and contains the
class set, so that the file alone is enough. The checkpoint published with SAGE
(a pickled state dict) is read as well, tensors only.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from ivf_core.class_sets import ClassSet
from ivf_core.models.quantization import Ranges
from ivf_core.models.segmentation import SegmentationHead
from ivf_core.models.student import STUDENTS, FastStudent, FusionStudent
from ivf_core.models.tensor_files import read_tensors
from ivf_core.system.atomic import atomic_path

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

# Tensor names in SAGE's published file, and ours.
_PUBLISHED_PREFIXES = {
    **{f"module{n}.": f"stages.{n - 1}." for n in range(1, 6)},
    "adjust_channels4.": "merges.0.",
    "adjust_channels5.": "merges.1.",
    "final_decoder.0.": "decoder.",
}


class WeightsError(ValueError):
    """Error for a weights file that is missing, damaged or not for these networks."""


@dataclass
class FusionModel:
    """Student with its optional segmentation head, as loaded from a weights file.

    Attributes:
        student: the student, in evaluation mode.
        head: the segmentation head, in evaluation mode, or None: then there are no masks.
        class_set: classes of the head's logits, or None without a head.
        name: name or path under which the user loaded the weights, for logs.
        metadata: further entries of the file, such as the origin of the weights.
        ranges: input ranges of convolutions that can run in 8 bits; empty if the weights
            have not been calibrated.

    Raises:
        ValueError: only one of `head` and `class_set` is given.
    """

    student: FusionStudent | FastStudent
    head: SegmentationHead | None = None
    class_set: ClassSet | None = None
    name: str = "unnamed"
    metadata: dict[str, str] = field(default_factory=dict)
    ranges: Ranges = field(default_factory=dict)

    def __post_init__(self) -> None:
        if (self.head is None) != (self.class_set is None):
            raise ValueError("head and class_set go together: give both or neither")

    @property
    def architecture(self) -> str:
        """Architecture of the student, a key of `STUDENTS`."""
        return next(name for name, kind in STUDENTS.items() if type(self.student) is kind)

    def calibrated_ranges(self) -> Ranges:
        """Return `ranges`, or raise if the weights are not calibrated.

        Raises:
            ValueError: there are no ranges.
        """
        if not self.ranges:
            raise ValueError(
                f"precision 'int8': weights '{self.name}' are not calibrated (ivf calibrate)"
            )
        return self.ranges


def shipped_weights() -> dict[str, Path]:
    """Return the paths of the weights in the package, by name."""
    return {path.stem: path for path in sorted(_SHIPPED_DIRECTORY.glob("*.safetensors"))}


def find_weights(name_or_path: str | os.PathLike[str]) -> Path:
    """Return the file for a shipped name or a path.

    Args:
        name_or_path: key of `shipped_weights()`, or path of a file.

    Raises:
        WeightsError: neither a shipped name nor a file; the message lists the shipped names.
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
    """Load weights by shipped name, from a safetensors file, or from SAGE's published file.

    Every tensor must be present with its shape, and the file must contain no others.

    Args:
        name_or_path: key of `shipped_weights()`, or path of a file.

    Returns:
        The networks in evaluation mode, on the CPU, with frozen parameters.

    Raises:
        WeightsError: the message names the file and what was expected.
    """
    path = find_weights(name_or_path)
    if path.suffix == ".safetensors":
        return _load_safetensors(path, str(name_or_path))
    return FusionModel(student=_load_published(path), name=str(name_or_path))


def save_model(model: FusionModel, path: str | os.PathLike[str], **metadata: str) -> None:
    """Write a model to a safetensors file, under a temporary name first.

    Args:
        model: the networks, with their class set, ranges and metadata.
        path: file to write.
        metadata: further entries of the file's metadata, such as the origin of the weights.

    Raises:
        ValueError: a key of the metadata starts with "ivf_", which is reserved.
    """
    from safetensors.torch import save

    notes = {**model.metadata, **metadata}
    if reserved := [key for key in notes if key.startswith("ivf_")]:
        raise ValueError(f"metadata {', '.join(reserved)}: keys with ivf_ are reserved")
    tensors = {f"student.{k}": v for k, v in model.student.state_dict().items()}
    entries = {
        **notes,
        "ivf_format": _FORMAT,
        "ivf_architecture": model.architecture,
        "ivf_student": json.dumps(_options_of(model.student)),
    }
    if model.ranges:
        entries["ivf_ranges"] = json.dumps(model.ranges)
    if model.head is not None and model.class_set is not None:
        tensors |= {f"head.{k}": v for k, v in model.head.state_dict().items()}
        entries["ivf_head"] = json.dumps(
            {"feature_channels": model.head.feature_channels, "widths": model.head.widths}
        )
        entries["ivf_class_set"] = model.class_set.to_json()
    tensors = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    with atomic_path(path) as temporary:
        temporary.write_bytes(save(tensors, metadata=entries))


def _options_of(student: FusionStudent | FastStudent) -> dict[str, object]:
    if isinstance(student, FastStudent):
        return {"widths": student.widths, "convolutions": student.convolutions}
    return {"channels": student.channels}


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Read metadata and tensors, with the package safetensors where it is installed."""
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError:
        try:
            return read_tensors(path)
        except (ValueError, OSError) as error:
            raise _unreadable(path, error) from error
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            return file.metadata() or {}, tensors
    except (SafetensorError, OSError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> WeightsError:
    return WeightsError(f"weights '{path}': not a readable safetensors file: {error}")


def _load_safetensors(path: Path, name: str) -> FusionModel:
    entries, tensors = _read(path)
    if entries.get("ivf_format") != _FORMAT:
        raise WeightsError(
            f"weights '{path}': metadata ivf_format is {entries.get('ivf_format')!r}, "
            f"expected {_FORMAT!r}"
        )
    if "ivf_structure" in entries:  # earlier name of the key
        entries["ivf_architecture"] = entries["ivf_structure"]
    architecture = _entry(entries, "ivf_architecture", path)
    if architecture not in STUDENTS:
        raise WeightsError(
            f"weights '{path}': student architecture {architecture!r}, known: {', '.join(STUDENTS)}"
        )
    options = _entry(entries, "ivf_student", path)
    with _built_from("ivf_student", options, path):
        student = STUDENTS[architecture](**json.loads(options))
    _fill(student, tensors, "student.", path)
    head = class_set = None
    if "ivf_head" in entries:
        classes = _entry(entries, "ivf_class_set", path)
        with _built_from("ivf_class_set", classes, path):
            class_set = ClassSet.from_json(classes)
        options = entries["ivf_head"]
        with _built_from("ivf_head", options, path):
            head = SegmentationHead(len(class_set), **json.loads(options), layout=student.layout)
        if head.feature_channels != student.feature_channels:
            raise WeightsError(
                f"weights '{path}': the head expects {head.feature_channels} feature channels, "
                f"the student has {student.feature_channels}"
            )
        _fill(head, tensors, "head.", path)
    known = ("student.",) if head is None else ("student.", "head.")
    if left_over := sorted(key for key in tensors if not key.startswith(known)):
        raise WeightsError(
            f"weights '{path}': expected tensors {' and '.join(f'{k}*' for k in known)} only, "
            f"found {', '.join(left_over)}"
        )
    notes = {key: value for key, value in entries.items() if not key.startswith("ivf_")}
    written = entries.get("ivf_ranges", "{}")
    with _built_from("ivf_ranges", written, path):
        pairs = json.loads(written).items()
        ranges = {str(name): (float(low), float(high)) for name, (low, high) in pairs}
    return FusionModel(student, head, class_set, name, notes, ranges)


def _entry(entries: dict[str, str], key: str, path: Path) -> str:
    if key not in entries:
        raise WeightsError(f"weights '{path}': metadata {key} is missing")
    return entries[key]


@contextmanager
def _built_from(key: str, value: str, path: Path) -> Iterator[None]:
    """Turn any error while something is built from an entry into a WeightsError."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, RuntimeError) as e:
        raise WeightsError(
            f"weights '{path}': metadata {key} is {value!r}, expected JSON as save_model "
            f"writes it: {type(e).__name__}: {e}"
        ) from e


def _load_published(path: Path) -> FusionStudent:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the bytes of a foreign file can make the unpickler raise anything
        raise WeightsError(
            f"weights '{path}': neither safetensors nor a plain PyTorch state dict: "
            f"{type(error).__name__}: {error}"
        ) from error
    if not isinstance(state, dict) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()
    ):
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
