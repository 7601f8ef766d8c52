"""Robustness of weights: masks of damaged images compared with those of the clean ones."""

from __future__ import annotations

import math
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from ivf_core.class_sets import STREET
from ivf_core.data.boxes import STREET_OBJECTS
from ivf_core.data.pairs import PairFiles
from ivf_core.evaluation.box_scores import BoxFiles, box_array
from ivf_core.evaluation.folders import FROZEN_FRAMES, PairImages, to_grey
from ivf_core.evaluation.grid import Cell, Grid, Share
from ivf_core.evaluation.methods import Method
from ivf_core.inference import ImagePair
from ivf_core.inference.pipeline import resize_labels
from ivf_core.metrics.appearance import BURNT_LEVEL, burnt_pixels
from ivf_core.metrics.detection import count_detections

__all__ = ["CLEAN", "CONDITIONS", "FROZEN", "CameraBoxes", "StressScorer"]

CLEAN = "clean"
FROZEN = "thermal frozen"

_SALT_SHARE = 0.10
_BLUR_SIGMA = 3.0
_JPEG_QUALITY = 20

_Images = tuple[np.ndarray, np.ndarray]
_Damage = Callable[[np.ndarray, np.ndarray, np.random.Generator], _Images]


def _salt(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    return np.where(random.random(image.shape) < _SALT_SHARE, np.uint8(255), image)


def _shift(image: np.ndarray, pixels: int) -> np.ndarray:
    """Move an image to the right; its left column fills the gap."""
    pixels = min(pixels, image.shape[1] - 1)
    moved = image[:, : image.shape[1] - pixels]
    return cv2.copyMakeBorder(moved, 0, 0, pixels, 0, cv2.BORDER_REPLICATE)


def _jpeg(image: np.ndarray) -> np.ndarray:
    quality = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
    bgr = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    decoded = cv2.imdecode(cv2.imencode(".jpg", bgr, quality)[1], cv2.IMREAD_UNCHANGED)
    assert decoded is not None
    return decoded if image.ndim == 2 else cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB)


def _half(image: np.ndarray) -> np.ndarray:
    size = image.shape[1] // 2, image.shape[0] // 2
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


CONDITIONS: Mapping[str, _Damage] = {
    CLEAN: lambda v, i, _: (v, i),
    "thermal black": lambda v, i, _: (v, np.zeros_like(i)),
    "thermal white": lambda v, i, _: (v, np.full_like(i, 255)),
    "thermal black-hot": lambda v, i, _: (v, 255 - i),
    "thermal 10 % salt": lambda v, i, random: (v, _salt(i, random)),
    "thermal shifted 2 px": lambda v, i, _: (v, _shift(i, 2)),
    "thermal shifted 4 px": lambda v, i, _: (v, _shift(i, 4)),
    "thermal shifted 8 px": lambda v, i, _: (v, _shift(i, 8)),
    "thermal shifted 24 px": lambda v, i, _: (v, _shift(i, 24)),
    "thermal blurred": lambda v, i, _: (v, cv2.GaussianBlur(i, (0, 0), _BLUR_SIGMA)),
    "both JPEG 20": lambda v, i, _: (_jpeg(v), _jpeg(i)),
    "RGB black": lambda v, i, _: (np.zeros_like(v), i),
    "RGB saturated": lambda v, i, _: (np.full_like(v, 255), i),
    "both half size": lambda v, i, _: (_half(v), _half(i)),
}
"""Damages by name, functions of the visible and infrared image and a random generator."""


@dataclass(frozen=True)
class CameraBoxes:
    """Boxes of what single cameras show.

    Attributes:
        fusion: boxes of what both cameras together show.
        visible: boxes of what the visible camera shows.
        infrared: boxes of what the infrared camera shows.
    """

    fusion: BoxFiles | None = None
    visible: BoxFiles | None = None
    infrared: BoxFiles | None = None


class StressScorer:
    """Scorer of weights on damaged images.

    Args:
        methods: methods; those without weights or head have no rows.
        boxes: boxes of the pairs, where there are any.
    """

    needs_masks = True

    def __init__(self, methods: Sequence[Method], boxes: CameraBoxes) -> None:
        self._methods = [m for m in methods if m.pipeline is not None and m.street is not None]
        if not self._methods:
            raise ValueError("stress: no method has weights with a head")
        self._boxes = boxes
        self._sums: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)

    def add(self, files: PairFiles, images: PairImages, masks: Mapping[str, np.ndarray]) -> None:
        """Damage a pair in every way and score its masks; see `PairScorer`."""
        sources = images.visible, images.infrared
        for method in self._methods:
            if method.name not in masks:
                continue
            for condition, damage in CONDITIONS.items():
                random = np.random.default_rng(zlib.crc32(f"{files.name} {condition}".encode()))
                self._run(method, condition, files, damage(*sources, random), masks)
            if images.earlier is not None:
                self._run(method, FROZEN, files, (images.visible, images.earlier), masks)

    def _run(
        self,
        method: Method,
        condition: str,
        files: PairFiles,
        images: _Images,
        clean: Mapping[str, np.ndarray],
    ) -> None:
        assert method.pipeline is not None
        result = method.pipeline(ImagePair(*images))
        assert result.labels is not None
        assert result.fused is not None
        size = clean[method.name].shape
        mask = method.street_ids(resize_labels(result.labels, (size[0], size[1])))
        sums = self._sums[method.name, condition]
        person = STREET.names.index("person")
        found, expected = mask == person, clean[method.name] == person
        grey = to_grey(result.fused, "pil")
        sums.update(
            pairs=1,
            union=int((found | expected).sum()),
            intersection=int((found & expected).sum()),
            area=int(found.sum()),
            clean_area=int(expected.sum()),
            pixels=grey.size,
            burnt=burnt_pixels(grey),
        )
        for source in ("fusion", "visible", "infrared"):
            boxes = getattr(self._boxes, source)
            if boxes is None or files.name not in boxes:
                continue
            every = boxes.read(files.name, size)
            for kind in STREET_OBJECTS if source == "fusion" else ("person",):
                own = box_array(every, lambda box, kind=kind: box.name == kind)  # type: ignore[misc]
                counts = count_detections(mask == STREET.names.index(kind), own, own[:0])
                sums[f"{source} {kind}"] += int(counts.found.sum())
                sums[f"{source} {kind} boxes"] += len(own)

    def grids(self) -> list[Grid]:
        """Return the table, a row for each method and damage."""
        grid = Grid(
            "stress",
            "Damaged images",
            ("method", "images"),
            (
                "pairs", "person IoU", "person area",
                *(f"{kind} recall" for kind in STREET_OBJECTS), "RGB's people",
                "RGB's people of clean", "thermal's people",
                "thermal's people of clean", "burnt %",
            ),
            notes=[
                "Person IoU and area: pixels of all pairs together, against the mask of the clean "
                "images. RGB's people: boxes of people that the visible image shows, found with "
                "these images, and that number by the one found with clean images; thermal's "
                "people alike.",
                f"Burnt: pixels of the fused image of {BURNT_LEVEL} or more. Blurred: a Gaussian "
                f"of {_BLUR_SIGMA:g} pixels. Frozen: {FROZEN_FRAMES} frames earlier, videos only.",
            ],
        )  # fmt: skip
        for method in self._methods:
            clean = self._sums.get((method.name, CLEAN), Counter())
            for condition in (*CONDITIONS, FROZEN):
                if sums := self._sums.get((method.name, condition)):
                    grid.rows.append((method.name, condition, *_figures(sums, clean)))
        return [grid]


def _figures(sums: Counter[str], clean: Counter[str]) -> list[Cell]:
    people: list[Cell] = []
    for source in ("visible", "infrared"):
        key = f"{source} person"
        people.append(Share(sums[key], sums[f"{key} boxes"]))
        people.append(_ratio(sums[key], clean[key]))
    return [
        sums["pairs"],
        _ratio(sums["intersection"], sums["union"]),
        _ratio(sums["area"], sums["clean_area"]),
        *(Share(sums[f"fusion {k}"], sums[f"fusion {k} boxes"]) for k in STREET_OBJECTS),
        *people,
        100 * _ratio(sums["burnt"], sums["pixels"]),
    ]


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else math.nan
