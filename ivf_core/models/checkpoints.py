"""Networks of weights files: load and save students with their segmentation heads.

`weights_files` describes the format. The checkpoint published with SAGE (a pickled state
dict) is read as well, tensors only.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from ivf_core.class_sets import ClassSet
from ivf_core.models.architectures import HEADS, STUDENTS, Head, Student
from ivf_core.models.student import FusionStudent
from ivf_core.models.weights_files import (
    DIGEST_KEY,
    FORMAT,
    Ranges,
    WeightsError,
    WeightsFile,
    built_from,
    digest_networks,
    open_weights,
)
from ivf_core.system.atomic import atomic_path
from ivf_core.system.short_text import short_repr, short_text

__all__ = ["FusionModel", "load_model", "save_model"]

Network = TypeVar("Network", bound=nn.Module)

# Tensor names in SAGE's published file, and ours.
_PUBLISHED_PREFIXES = {
    **{f"module{n}.": f"stages.{n - 1}." for n in range(1, 6)},
    "adjust_channels4.": "merges.0.",
    "adjust_channels5.": "merges.1.",
    "final_decoder.0.": "decoder.",
}


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

    student: Student
    head: Head | None = None
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

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors of both networks by their names in weights files."""
        tensors = {f"student.{key}": value for key, value in self.student.state_dict().items()}
        if self.head is not None:
            tensors |= {f"head.{key}": value for key, value in self.head.state_dict().items()}
        return tensors

    def digest(self) -> str:
        """Compute the digest of the networks as they are now, see `digest_networks`."""
        arrays: dict[str, np.ndarray] = {
            key: value.detach().cpu().numpy() for key, value in self.tensors().items()
        }
        return digest_networks(self.architecture, self.class_set, arrays)


def load_model(weights: str | os.PathLike[str] | WeightsFile) -> FusionModel:
    """Load the networks of a safetensors file or of SAGE's published file.

    Every tensor must be present with its shape, and the file must contain no others.

    Args:
        weights: key of `shipped_weights()`, path of a file, or an opened file.

    Returns:
        The networks in evaluation mode, on the CPU, with frozen parameters.

    Raises:
        WeightsError: the message names the file and what was expected.
    """
    file = weights if isinstance(weights, WeightsFile) else open_weights(weights)
    if file.entries:
        return _load_safetensors(file)
    return FusionModel(student=_load_published(file.path), name=file.name)


def save_model(model: FusionModel, path: str | os.PathLike[str], **metadata: str) -> None:
    """Write a model to a safetensors file, under a temporary name first.

    Args:
        model: the networks, with their class set, ranges and metadata.
        path: file to write.
        metadata: further entries of the file's metadata, such as the origin of the weights.

    Raises:
        ValueError: a key of the metadata starts with "ivf_", which is reserved.
    """
    from safetensors.torch import save  # reading needs no such package

    notes = {**model.metadata, **metadata}
    if reserved := [key for key in notes if key.startswith("ivf_")]:
        raise ValueError(f"metadata {', '.join(reserved)}: keys with ivf_ are reserved")
    entries = {
        **notes,
        "ivf_format": FORMAT,
        "ivf_architecture": model.architecture,
        "ivf_student": json.dumps(model.student.options()),
        DIGEST_KEY: model.digest(),
    }
    if model.ranges:
        entries["ivf_ranges"] = json.dumps(model.ranges)
    if model.head is not None and model.class_set is not None:
        entries["ivf_head"] = json.dumps(model.head.options())
        entries["ivf_class_set"] = model.class_set.to_json()
    tensors = {k: v.detach().cpu().contiguous() for k, v in model.tensors().items()}
    with atomic_path(path) as temporary:
        temporary.write_bytes(save(tensors, metadata=entries))


def _load_safetensors(file: WeightsFile) -> FusionModel:
    path, entries = file.path, file.entries
    if file.architecture not in STUDENTS:
        raise WeightsError(
            f"weights '{path}': student architecture {short_repr(file.architecture)}, "
            f"known: {', '.join(STUDENTS)}"
        )
    tensors = {key: torch.from_numpy(array) for key, array in file.arrays().items()}

    def build_student() -> Student:
        return STUDENTS[file.architecture](**json.loads(entries["ivf_student"]))

    student = _build("ivf_student", build_student, tensors, "student.", file)
    head = None
    if file.class_set is not None:
        class_count = len(file.class_set)

        def build_head() -> Head:
            options = json.loads(entries["ivf_head"])
            return HEADS[file.architecture](class_count, **options, layout=student.layout)

        head = _build("ivf_head", build_head, tensors, "head.", file)
        if head.feature_channels != student.feature_channels:
            raise WeightsError(
                f"weights '{path}': the head expects {head.feature_channels} feature channels, "
                f"the student has {student.feature_channels}"
            )
    known = ("student.",) if head is None else ("student.", "head.")
    if left_over := sorted(key for key in tensors if not key.startswith(known)):
        raise WeightsError(
            f"weights '{path}': expected tensors {' and '.join(f'{k}*' for k in known)} only, "
            f"found {short_text(', '.join(left_over))}"
        )
    return FusionModel(
        student, head, file.class_set, file.name, dict(file.metadata), dict(file.ranges)
    )


def _build(
    key: str,
    build: Callable[[], Network],
    tensors: dict[str, Tensor],
    prefix: str,
    file: WeightsFile,
) -> Network:
    """Build a network of an entry, and fill it with the tensors under `prefix`.

    It is built without memory first: options that do not belong to the tensors could ask for
    any amount.
    """
    with built_from(key, file.entries[key], file.path), torch.device("meta"):
        shapes = build()
    _check_shapes(shapes, tensors, prefix, file.path)
    network = build()
    _fill(network, tensors, prefix, file.path)
    return network


def _check_shapes(module: nn.Module, tensors: dict[str, Tensor], prefix: str, path: Path) -> None:
    """Raise WeightsError unless the tensors under `prefix` are those of `module`."""
    expected = {prefix + name: tuple(value.shape) for name, value in module.state_dict().items()}
    found = {k: tuple(v.shape) for k, v in tensors.items() if k.startswith(prefix)}
    wrong = sorted(k for k in expected.keys() | found.keys() if expected.get(k) != found.get(k))
    if wrong:
        name = wrong[0]
        raise WeightsError(
            f"weights '{path}': do not fit {type(module).__name__}: {short_text(name, 80)} is "
            f"{found.get(name, 'missing')}, expected {expected.get(name, 'no such tensor')}"
            + (f", and {len(wrong) - 1} more" if len(wrong) > 1 else "")
        )


def _load_published(path: Path) -> FusionStudent:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the bytes of a foreign file can make the unpickler raise anything
        raise WeightsError(
            f"weights '{path}': neither safetensors nor a plain PyTorch state dict: "
            f"{type(error).__name__}: {short_text(error)}"
        ) from error
    if not isinstance(state, dict) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()
    ):
        raise WeightsError(f"weights '{path}': expected a state dict of tensors")
    if broken := [key for key, value in state.items() if not value.isfinite().all()]:
        raise WeightsError(
            f"weights '{path}': tensor {short_text(broken[0], 80)} has values that are not finite"
        )
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
    _check_shapes(module, tensors, prefix, path)
    try:
        module.load_state_dict(state, strict=True)
    except RuntimeError as error:  # such as a tensor of another type
        raise WeightsError(
            f"weights '{path}': do not fit {type(module).__name__}: {short_text(error)}"
        ) from error
    module.eval().requires_grad_(False)
