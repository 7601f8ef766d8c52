"""Where the fused pictures and masks of a method come from: folders, or weights that are run."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ivf_core.class_sets import ClassSet
from ivf_core.images.files import list_images
from ivf_core.inference import FusionPipeline
from ivf_core.models.checkpoints import load_model

__all__ = [
    "Method",
    "add_masks",
    "check_names",
    "file_stem",
    "open_fused",
    "open_weights",
    "split_name",
    "unused_pictures",
]


@dataclass(frozen=True)
class Method:
    """A way to fuse, by the name that tables show.

    Attributes:
        name: unique among the methods compared.
        source: folder or weights, as the user gave them.
        fused: pictures by the pair's name; empty where a pipeline makes them.
        masks: pictures of class ids by the pair's name.
        pipeline: makes the fused pictures and, where its weights have a head, the masks.
        class_set: of the pipeline's masks.
    """

    name: str
    source: str
    fused: Mapping[str, Path] = field(default_factory=dict)
    masks: Mapping[str, Path] = field(default_factory=dict)
    pipeline: FusionPipeline | None = None
    class_set: ClassSet | None = None


def split_name(text: str) -> tuple[str | None, str]:
    """`NAME=PATH` as its two parts; a path that exists as it stands has no name."""
    name, equals, path = text.partition("=")
    if not equals or Path(text).exists():
        return None, text
    if not name or not path:
        raise ValueError(f"'{text}': expected NAME=PATH or PATH")
    return name, path


def open_fused(text: str) -> Method:
    """A folder of fused pictures, `NAME=DIR` or `DIR`, then named as the folder.

    Raises:
        ValueError: no such folder, or no picture in it.
    """
    name, folder = split_name(text)
    return Method(name or Path(folder).resolve().name, folder, fused=_pictures(folder))


def open_weights(text: str, *, engine: str, device: str, precision: str) -> Method:
    """Weights to run, `NAME=WEIGHTS` or `WEIGHTS`: a shipped name or a file.

    Args:
        engine, device, precision: as for `FusionPipeline`.

    Raises:
        WeightsError: see `load_model`.
    """
    name, weights = split_name(text)
    model = load_model(weights)
    pipeline = FusionPipeline(model, engine=engine, device=device, precision=precision)
    return Method(
        name or Path(weights).stem, weights, pipeline=pipeline, class_set=pipeline.class_set
    )


def add_masks(methods: Sequence[Method], texts: Iterable[str]) -> list[Method]:
    """Give methods the folders of class ids `NAME=DIR`; a name that is none of theirs is a new one.

    Raises:
        ValueError: no such folder, or a method that has masks already.
    """
    named = {method.name: method for method in methods}
    for text in texts:
        name, folder = split_name(text)
        name = name or Path(folder).resolve().name
        method = named.get(name, Method(name, folder))
        if method.masks or method.class_set is not None:
            raise ValueError(f"--masks {text}: '{name}' has masks already")
        named[name] = replace(method, masks=_pictures(folder))
    return list(named.values())


def check_names(methods: Iterable[Method]) -> None:
    """Refuse methods whose names, or names of files, are the same.

    Raises:
        ValueError: names the methods.
    """
    seen: dict[str, str] = {}
    for method in methods:
        stem = file_stem(method.name).lower()
        if stem in seen:
            raise ValueError(
                f"methods '{seen[stem]}' and '{method.name}' need names that differ: NAME=PATH"
            )
        seen[stem] = method.name


def file_stem(name: str) -> str:
    """A method's name without what file names should not have."""
    return re.sub(r"[^\w.+-]+", "_", name)


def _pictures(folder: str) -> dict[str, Path]:
    pictures = list_images(folder)
    if not pictures:
        raise ValueError(f"'{folder}': no pictures in it")
    return pictures


def unused_pictures(method: Method, pairs: Iterable[str]) -> list[str]:
    """One line for each of the method's pictures whose name is none of the pairs'.

    Raises:
        ValueError: that is all of them.
    """
    known = set(pairs)
    lines = []
    for pictures in (method.fused, method.masks):
        lonely = [path for stem, path in pictures.items() if stem not in known]
        if lonely and len(lonely) == len(pictures):
            raise ValueError(
                f"'{lonely[0].parent}' ({len(lonely)} pictures): none is named as a pair, "
                f"such as '{min(known)}'"
            )
        lines += [f"{path}: no pair of that name" for path in lonely]
    return lines
