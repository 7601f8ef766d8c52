"""Methods that are compared: folders of fused images and masks, or weights to run."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from ivf_core.class_sets import STREET, STREET_MAPPINGS, ClassMapping, ClassSet
from ivf_core.images.files import list_images
from ivf_core.inference import FusionPipeline

__all__ = [
    "Method",
    "add_masks",
    "check_names",
    "file_stem",
    "open_fused",
    "open_weights",
    "split_name",
    "unused_images",
]


@dataclass(frozen=True)
class Method:
    """A fusion method under the name that tables show.

    Attributes:
        name: unique among the methods compared.
        source: folder or weights, as the user gave them.
        fused: files of fused images by the pair's name; empty where a pipeline makes them.
        masks: files of class ids by the pair's name.
        pipeline: makes the fused images and, where its weights have a head, the masks.
        class_set: class set of the masks; None without masks, or where it is not known.
    """

    name: str
    source: str
    fused: Mapping[str, Path] = field(default_factory=dict)
    masks: Mapping[str, Path] = field(default_factory=dict)
    pipeline: FusionPipeline | None = None
    class_set: ClassSet | None = None

    @cached_property
    def street(self) -> ClassMapping | None:
        """Mapping of the masks' ids onto `STREET`; None without a class set."""
        if self.class_set is None:
            return None
        published = STREET_MAPPINGS.get(self.class_set.name)
        if published is not None and published.source.names == self.class_set.names:
            return published
        names = {name: name if name in STREET.names else None for name in self.class_set.names}
        return ClassMapping(self.class_set, STREET, names)

    @property
    def street_names(self) -> frozenset[str]:
        """Classes of `STREET` that the masks can have."""
        if self.street is None:
            return frozenset()
        return frozenset(name for name in self.street.names.values() if name is not None)

    def street_ids(self, mask: np.ndarray) -> np.ndarray:
        """Map a mask onto the ids of `STREET`, `UNLABELED` where it has no such class.

        Args:
            mask: H x W uint8 ids of `class_set`.

        Raises:
            ValueError: the class set is not known.
        """
        if self.street is None:
            raise ValueError(f"masks of '{self.name}': their class set is not known")
        return self.street.apply(mask, f"mask of '{self.name}'")


def split_name(text: str) -> tuple[str | None, str]:
    """Split `NAME=PATH` into its two parts; a text that is an existing path has no name.

    Raises:
        ValueError: the name or the path is empty.
    """
    name, equals, path = text.partition("=")
    if not equals or Path(text).exists():
        return None, text
    if not name or not path:
        raise ValueError(f"'{text}': expected NAME=PATH or PATH")
    return name, path


def open_fused(text: str) -> Method:
    """Open a folder of fused images, `NAME=DIR` or `DIR`, whose name is then the folder's.

    Raises:
        ValueError: no such folder, or no image in it.
    """
    name, folder = split_name(text)
    return Method(name or Path(folder).resolve().name, folder, fused=_images(folder))


def open_weights(text: str, *, engine: str, device: str, precision: str) -> Method:
    """Open weights to run, `NAME=WEIGHTS` or `WEIGHTS`: a shipped name or a file.

    Args:
        text: the weights, with or without a name.
        engine: as for `FusionPipeline`.
        device: as for `FusionPipeline`.
        precision: as for `FusionPipeline`.

    Raises:
        WeightsError: see `FusionPipeline`.
    """
    name, weights = split_name(text)
    pipeline = FusionPipeline(weights, engine=engine, device=device, precision=precision)
    return Method(
        name or Path(weights).stem, weights, pipeline=pipeline, class_set=pipeline.class_set
    )


def add_masks(
    methods: Sequence[Method], texts: Iterable[str], class_set: ClassSet | None = None
) -> list[Method]:
    """Add folders of class ids, `NAME=DIR`, to the methods of these names.

    Args:
        methods: methods that are open.
        texts: folders; a name that no method has makes a new method.
        class_set: class set of the ids, where it is known.

    Raises:
        ValueError: no such folder, or the method has masks already.
    """
    named = {method.name: method for method in methods}
    for text in texts:
        name, folder = split_name(text)
        name = name or Path(folder).resolve().name
        method = named.get(name, Method(name, folder))
        if method.masks or method.class_set is not None:
            raise ValueError(f"--masks {text}: '{name}' has masks already")
        named[name] = replace(method, masks=_images(folder), class_set=class_set)
    return list(named.values())


def check_names(methods: Iterable[Method]) -> None:
    """Raise where two methods have the same name, or names that give the same file name.

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
    """Return a method's name with characters that file names should not have replaced by _."""
    return re.sub(r"[^\w.+-]+", "_", name)


def _images(folder: str) -> dict[str, Path]:
    images = list_images(folder)
    if not images:
        raise ValueError(f"'{folder}': no images in it")
    return images


def unused_images(method: Method, pairs: Iterable[str]) -> list[str]:
    """Return one line for each of the method's images that has no pair's name.

    Args:
        method: a method with folders.
        pairs: names of the pairs.

    Raises:
        ValueError: no image of a folder has a pair's name.
    """
    known = set(pairs)
    lines = []
    for images in (method.fused, method.masks):
        unmatched = [path for stem, path in images.items() if stem not in known]
        if unmatched and len(unmatched) == len(images):
            raise ValueError(
                f"'{unmatched[0].parent}' ({len(unmatched)} images): none is named as a pair, "
                f"such as '{min(known)}'"
            )
        lines += [f"{path}: no pair of that name" for path in unmatched]
    return lines
