"""Weights files, described without their networks and without PyTorch.

A weights file is a safetensors file with tensors `student.*` and, with a head, `head.*`.
Its metadata describes how to build both networks and contains the class set, so that the
file alone is enough; a digest of the tensors tells whether they were changed. Beside it may lie
its graph, the ONNX file with the same stem that `ivf export` writes: with that, OpenVINO and
ONNX Runtime need no PyTorch. The graph's metadata name the digest of the networks that it was
exported from, so that a graph of other weights is never used.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np

from ivf_core.class_sets import ClassSet
from ivf_core.models.tensor_files import read_metadata, read_tensors
from ivf_core.system.short_text import short_repr, short_text
from ivf_core.system.user_paths import is_file, user_path

__all__ = [
    "DIGEST_KEY",
    "FORMAT",
    "GRAPH_FORMAT",
    "GRAPH_SUFFIX",
    "Calibrated",
    "Ranges",
    "WeightsError",
    "WeightsFile",
    "built_from",
    "calibrated_ranges",
    "digest_networks",
    "find_weights",
    "is_graph",
    "is_graph_of",
    "is_weights",
    "open_weights",
    "shipped_weights",
]

FORMAT = "ivf-weights-1"
"""Entry `ivf_format` of weights files."""

DIGEST_KEY = "ivf_digest"
"""Entry with the digest of the networks, which files of earlier versions lack."""

GRAPH_FORMAT = "ivf-graph-2"
"""Entry `format` of exported graphs; a change makes earlier graphs stale."""

GRAPH_SUFFIX = ".onnx"
"""Suffix of the graph beside a weights file."""

Ranges = dict[str, tuple[float, float]]
"""Lowest and highest input of convolutions, by their names in the network."""

_SHIPPED_DIRECTORY = Path(__file__).resolve().parent.parent / "weights"


class WeightsError(ValueError):
    """Error for a weights file that is missing, damaged or not for these networks."""


@dataclass(frozen=True)
class WeightsFile:
    """Weights file as its header describes it; the networks stay on disk.

    Attributes:
        path: the file.
        name: name or path under which the user asked for it, for logs.
        architecture: architecture of the student, a key of `STUDENTS`.
        class_set: classes of the head's logits, or None without a head.
        metadata: further entries of the file, such as the origin of the weights.
        ranges: input ranges of convolutions that can run in 8 bits; empty if the weights
            have not been calibrated.
        entries: all metadata of the file; empty for SAGE's published checkpoint.
    """

    path: Path
    name: str
    architecture: str
    class_set: ClassSet | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    ranges: Ranges = field(default_factory=dict)
    entries: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of architecture, class set and tensors, as `digest_networks` computes it.

        Raises:
            WeightsError: the file is not a readable safetensors file.
        """
        return digest_networks(self.architecture, self.class_set, self.arrays())

    def arrays(self) -> dict[str, np.ndarray]:
        """Read the tensors by name, as `read_tensors` does, and check them.

        Raises:
            WeightsError: the file is not a readable safetensors file, its tensors are not those
                that its digest was computed from, or a value is not finite.
        """
        with _reading(self.path):
            arrays = read_tensors(self.path)
        digest = self.entries.get(DIGEST_KEY)
        if digest and digest != digest_networks(self.architecture, self.class_set, arrays):
            raise WeightsError(
                f"weights '{self.path}': the tensors are not those that were saved ({DIGEST_KEY} "
                "differs): the file was changed or damaged; copy it again"
            )
        for name, array in arrays.items():
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise WeightsError(
                    f"weights '{self.path}': tensor {short_text(name, 80)} has values that are "
                    "not finite; the training that wrote it has diverged"
                )
        return arrays

    def read_graph(self) -> bytes | None:
        """Return the ONNX graph beside the file, or None if there is none of these weights."""
        if not self.entries:
            return None
        try:
            content = self.path.with_suffix(GRAPH_SUFFIX).read_bytes()
        except OSError:
            return None
        return content if is_graph_of(content, self.digest) else None


def is_graph(path: Path) -> bool:
    """Return whether a file is a graph that `ivf export` has written, of any version.

    Args:
        path: existing file.
    """
    entries = _graph_metadata(path.read_bytes())
    return entries.get("format", "").startswith(GRAPH_FORMAT.rstrip("0123456789"))


def is_weights(path: Path) -> bool:
    """Return whether a file is a weights file of this package, of any version.

    Args:
        path: existing file.
    """
    try:
        return "ivf_format" in read_metadata(path)
    except (OSError, ValueError):  # no safetensors
        return False


def is_graph_of(content: bytes, digest: str) -> bool:
    """Return whether an ONNX file is the graph of networks, by the digest in its metadata.

    Args:
        content: the ONNX file.
        digest: digest of the networks, see `digest_networks`.
    """
    entries = _graph_metadata(content)
    return entries.get("format") == GRAPH_FORMAT and entries.get("digest") == digest


class Calibrated(Protocol):
    """Protocol of what may carry ranges: a `WeightsFile` or a `FusionModel`."""

    @property
    def name(self) -> str:
        """Name for logs."""

    @property
    def ranges(self) -> Ranges:
        """Input ranges of convolutions that can run in 8 bits."""


def calibrated_ranges(weights: Calibrated) -> Ranges:
    """Return the ranges of weights, or raise if they are not calibrated.

    Raises:
        ValueError: there are no ranges.
    """
    if not weights.ranges:
        raise ValueError(
            f"precision 'int8': weights '{weights.name}' are not calibrated (ivf calibrate)"
        )
    return weights.ranges


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
    try:
        path = user_path(name_or_path)
    except ValueError as error:
        raise WeightsError(f"weights: {error}") from error
    if not is_file(path):
        raise WeightsError(
            f"weights '{short_text(name_or_path)}': no such file and no shipped weights of that "
            f"name (shipped: {', '.join(shipped) or 'none'})"
        )
    return path


def open_weights(name_or_path: str | os.PathLike[str]) -> WeightsFile:
    """Read the header of weights by shipped name or path.

    A file that is not safetensors is taken for SAGE's published checkpoint, a pickled state
    dict, which only `load_model` reads.

    Args:
        name_or_path: key of `shipped_weights()`, or path of a file.

    Returns:
        The description of the file.

    Raises:
        WeightsError: the message names the file and what was expected.
    """
    path, name = find_weights(name_or_path), str(name_or_path)
    if path.suffix != ".safetensors":
        return WeightsFile(path, name, "sage")
    with _reading(path):
        entries = read_metadata(path)
    if entries.get("ivf_format") != FORMAT:
        raise WeightsError(
            f"weights '{path}': metadata ivf_format is {entries.get('ivf_format')!r}, "
            f"expected {FORMAT!r}"
        )
    if "ivf_structure" in entries:  # earlier name of the key
        entries["ivf_architecture"] = entries.pop("ivf_structure")
    required = ["ivf_architecture", "ivf_student"]
    if "ivf_head" in entries:
        required.append("ivf_class_set")
    if missing := [key for key in required if key not in entries]:
        raise WeightsError(f"weights '{path}': metadata {', '.join(missing)} is missing")
    class_set = None
    if "ivf_head" in entries:
        with built_from("ivf_class_set", entries["ivf_class_set"], path):
            class_set = ClassSet.from_json(entries["ivf_class_set"])
    written = entries.get("ivf_ranges", "{}")
    with built_from("ivf_ranges", written, path):
        ranges = {key: _checked_range(pair) for key, pair in json.loads(written).items()}
    notes = {key: value for key, value in entries.items() if not key.startswith("ivf_")}
    return WeightsFile(path, name, entries["ivf_architecture"], class_set, notes, ranges, entries)


@contextmanager
def built_from(key: str, value: str, path: Path) -> Iterator[None]:
    """Turn any error while something is built from an entry into a WeightsError.

    Args:
        key: name of the entry.
        value: its value.
        path: the weights file.
    """
    try:
        yield
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        MemoryError,
        TypeError,
        ValueError,
        RuntimeError,
    ) as e:
        raise WeightsError(
            f"weights '{path}': metadata {key} is {short_repr(value)}, expected JSON as "
            f"save_model writes it: {type(e).__name__}: {short_text(e)}"
        ) from e


def _checked_range(pair: object) -> tuple[float, float]:
    """Return lowest and highest input of a convolution, or raise ValueError."""
    if (
        not isinstance(pair, list)
        or len(pair) != 2
        or not all(type(x) in (int, float) and math.isfinite(x) for x in pair)
        or not pair[0] <= pair[1]
    ):
        raise ValueError(f"range {short_repr(pair)}, expected [lowest, highest]")
    return float(pair[0]), float(pair[1])


def digest_networks(
    architecture: str, class_set: ClassSet | None, tensors: Mapping[str, np.ndarray]
) -> str:
    """Compute the SHA-256 of all that determines the function of student and head.

    Args:
        architecture: key of `STUDENTS`.
        class_set: classes of the head, or None.
        tensors: arrays by name, with the prefix "student." or "head.".

    Returns:
        64 hexadecimal digits, the same for networks in memory and in a file.
    """
    digest = hashlib.sha256(architecture.encode())
    digest.update(class_set.to_json().encode() if class_set is not None else b"")
    for name, array in sorted(tensors.items()):
        digest.update(f"{name} {array.shape} {array.dtype.str}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (ValueError, OSError) as error:
        raise WeightsError(
            f"weights '{path}': not a readable safetensors file: {short_text(error)}"
        ) from error


# Field numbers of onnx.proto: ModelProto.metadata_props, StringStringEntryProto.key and value.
_METADATA_FIELD, _KEY_FIELD, _VALUE_FIELD = 14, 1, 2


def _graph_metadata(content: bytes) -> dict[str, str]:
    """Return the metadata of an ONNX file, or nothing if it is not one.

    Reading these alone needs no package; `onnx` would be needed for nothing else here.
    """
    entries = {}
    try:
        for number, value in _fields(memoryview(content)):
            if number == _METADATA_FIELD:
                entry = {key: bytes(text).decode() for key, text in _fields(value)}
                entries[entry.get(_KEY_FIELD, "")] = entry.get(_VALUE_FIELD, "")
    except (IndexError, ValueError):  # truncated, or no protobuf message
        return {}
    return entries


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yield number and content of the fields of a protobuf message that have a length."""
    position = 0

    def varint() -> int:
        nonlocal position
        value = shift = 0
        while True:
            byte = message[position]
            position += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while position < len(message):
        number, kind = divmod(varint(), 8)
        if kind == 0:
            varint()
        elif kind == 2:
            length = varint()
            if position + length > len(message):
                raise ValueError("truncated")
            yield number, message[position : position + length]
            position += length
        elif kind in (1, 5):
            position += 8 if kind == 1 else 4
        else:
            raise ValueError(f"wire type {kind}")
