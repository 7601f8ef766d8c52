"""Scores of fused images by what viewers see: burnt areas, contrast of people, flicker."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from ivf_core.data.pairs import PairFiles
from ivf_core.evaluation.box_scores import TIMES, BoxFiles, box_array
from ivf_core.evaluation.folders import PairImages, to_grey
from ivf_core.evaluation.grid import Cell, Grid, Share
from ivf_core.evaluation.methods import Method
from ivf_core.evaluation.pair_lists import VideoFrame
from ivf_core.metrics.appearance import (
    BRIGHTER_LEVELS,
    BURNT_LEVEL,
    MINIMUM_CONTRAST,
    STATIC_LEVELS,
    brighter_pixels,
    burnt_pixels,
    keeps_contrast,
    object_region,
    static_flicker,
)

__all__ = ["AppearanceScorer"]

_ALL = "all"
_Greys = tuple[np.ndarray, np.ndarray, np.ndarray]


class AppearanceScorer:
    """Scorer of the fused images of several methods.

    Args:
        methods: methods; those without fused images have no rows.
        times: time of day by pair, one of `TIMES`, where it is known.
        boxes: boxes of the pairs, or None; the contrast of people needs them.
    """

    needs_masks = False

    def __init__(
        self, methods: Sequence[Method], times: Mapping[str, str], boxes: BoxFiles | None = None
    ) -> None:
        self._methods = [method.name for method in methods]
        self._times = times
        self._boxes = boxes
        self._sums: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
        self._before: dict[str, tuple[VideoFrame, _Greys]] = {}

    def add(self, files: PairFiles, images: PairImages, masks: Mapping[str, np.ndarray]) -> None:
        """Score the fused images of a pair; see `PairScorer`."""
        visible = to_grey(images.visible, "pil")
        regions = self._people(files.name, visible.shape)
        for method, color in images.fused.items():
            greys = visible, images.infrared, to_grey(color, "pil")
            sums = Counter(
                pairs=1,
                pixels=visible.size,
                visible_burnt=burnt_pixels(visible),
                burnt=burnt_pixels(greys[2]),
                brighter=brighter_pixels(*greys),
            )
            for region in regions:
                kept = keeps_contrast(region, *greys)
                if kept is not None:
                    sums["people"] += 1
                    sums["kept"] += kept
            if isinstance(files, VideoFrame):
                self._add_flicker(method, files, greys, sums)
            for time in (_ALL, self._times.get(files.name, "")):
                self._sums[method, time].update(sums)

    def _people(self, name: str, size: tuple[int, ...]) -> list:
        if self._boxes is None or name not in self._boxes:
            return []
        boxes = self._boxes.read(name, size)
        everything = box_array(boxes, lambda _: True)
        regions = [
            object_region(everything[k], np.delete(everything, k, axis=0), size)
            for k, box in enumerate(boxes)
            if box.name == "person"
        ]
        return [region for region in regions if region is not None]

    def _add_flicker(
        self, method: str, files: VideoFrame, greys: _Greys, sums: Counter[str]
    ) -> None:
        before = self._before.get(method)
        self._before[method] = files, greys
        if before is None or before[0].readers is not files.readers:
            return
        if before[0].index + 1 == files.index:
            flicker = static_flicker(before[1], greys)
            sums.update({f"flicker_{k}": v for k, v in flicker._asdict().items()})

    def grids(self) -> list[Grid]:
        """Return the table, a row for each method and time of day."""
        grid = Grid(
            "appearance",
            "Fused images: burnt, too bright, contrast of people, flicker",
            ("method", "time"),
            (
                "pairs", "burnt %", "RGB burnt %", "brighter %", "contrast kept",
                "flicker", "noisier source", "flicker ratio",
            ),
            notes=[
                f"Burnt: pixels of {BURNT_LEVEL} or more. Brighter: pixels over "
                f"{BRIGHTER_LEVELS} levels brighter than both sources.",
                "Contrast kept: people (boxes) that keep half of the better camera's contrast "
                "with its sign; contrast is the mean in the central ellipse of the box minus the "
                f"mean of the ring around it, and people below {MINIMUM_CONTRAST:g} levels in "
                "both cameras are left out.",
                "Flicker: mean difference of successive frames in grey levels where both sources "
                f"differ by less than {STATIC_LEVELS}, beside that of the noisier source there.",
            ],
        )  # fmt: skip
        for method in self._methods:
            for time in (_ALL, *TIMES):
                if (method, time) in self._sums:
                    grid.rows.append((method, time, *_figures(self._sums[method, time])))
        return [grid]


def _figures(sums: Counter[str]) -> Iterable[Cell]:
    pixels, static = sums["pixels"], sums["flicker_pixels"]
    noisier = max(sums["flicker_visible"], sums["flicker_infrared"])
    return (
        sums["pairs"],
        100 * sums["burnt"] / pixels,
        100 * sums["visible_burnt"] / pixels,
        100 * sums["brighter"] / pixels,
        Share(sums["kept"], sums["people"]),
        sums["flicker_fused"] / static if static else math.nan,
        noisier / static if static else math.nan,
        sums["flicker_fused"] / noisier if noisier else math.nan,
    )
