"""Contact sheets of the best and worst images of each method."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import cv2
import matplotlib
import numpy as np
from matplotlib.figure import Figure

from ivf_core.data.pairs import PairFiles
from ivf_core.evaluation.folders import read_images, run_weights
from ivf_core.evaluation.methods import Method, file_stem
from ivf_core.evaluation.scores import Scores, column_indices
from ivf_core.evaluation.tables import format_number
from ivf_core.html.plots import DPI, STYLE, save_figure

__all__ = ["draw_sheets"]

_THUMBNAIL_WIDTH = 320  # pixels; all images of a sheet are scaled to it

_Row = tuple[str, Sequence[tuple[str, np.ndarray | None]]]
# A pair's name, and its images (H x W x 3 or H x W uint8) with a caption each, None where missing.


def draw_sheets(
    scores: Scores,
    pairs: Sequence[PairFiles],
    methods: Sequence[Method],
    output: Path,
    *,
    examples: int,
    rank_by: Sequence[str] = (),
    cameras: str = "both",
) -> list[tuple[str, Path]]:
    """Write `best_METHOD.jpg` and `worst_METHOD.jpg` for each method with fused images.

    Args:
        scores: scores of the methods on the pairs.
        pairs: pairs as evaluated.
        methods: methods as evaluated.
        output: folder of the files.
        examples: number of images on each sheet; 0 writes no sheets.
        rank_by: metrics that the images are ranked by; by default all, by their mean rank.
        cameras: as evaluated.

    Returns:
        A heading and the file of each sheet.

    Raises:
        ValueError: `rank_by` names a metric that was not evaluated, or an image can no longer
            be read.
    """
    columns = column_indices(scores.metrics, rank_by)
    criterion = ", ".join(rank_by) or "mean rank over the metrics"
    captioned = columns if rank_by else []
    shown = [method.name for method in methods if method.fused or method.pipeline is not None]
    sheets = []

    @cache
    def thumbnails(pair: int) -> list[np.ndarray | None]:
        return _thumbnails(pairs[pair], methods, shown, cameras)

    for m in np.flatnonzero(scores.present.any(axis=1)) if examples and scores.metrics else ():
        ranks = scores.ranks(int(m), columns)
        known = np.flatnonzero(np.isfinite(ranks))
        ordered = known[np.argsort(ranks[known], kind="stable")].tolist()
        for kind, chosen in (("best", ordered[:examples]), ("worst", ordered[::-1][:examples])):
            rows: list[_Row] = [
                (
                    pairs[p].name,
                    list(zip(_captions(scores, p, shown, captioned), thumbnails(p), strict=True)),
                )
                for p in chosen
            ]
            path = output / f"{kind}_{file_stem(scores.methods[m])}.jpg"
            _draw_sheet(rows, ["visible", "infrared", *shown], path)
            sheets.append((f"{scores.methods[m]}: {kind} images by {criterion}", path))
    return sheets


def _thumbnails(
    files: PairFiles, methods: Sequence[Method], shown: Sequence[str], cameras: str
) -> list[np.ndarray | None]:
    """Return the visible, the infrared and each method's image; None where there is none."""
    images = read_images(files, methods, cameras=cameras)
    if isinstance(images, str):
        raise ValueError(images)  # it was readable when the scores were computed
    run_weights(files.name, images, methods, masks=False)
    height, width = images.infrared.shape
    size = (_THUMBNAIL_WIDTH, round(_THUMBNAIL_WIDTH * height / width))
    fused = (images.fused.get(name) for name in shown)
    return [
        image if image is None else cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        for image in (images.visible, images.infrared, *fused)
    ]


def _captions(
    scores: Scores, pair: int, methods: Sequence[str], columns: Sequence[int]
) -> list[str]:
    """Return the captions of a row: none below the sources, the methods' values of some metrics."""
    captions = ["", ""]
    for method in methods:
        values = scores.values[scores.methods.index(method), pair]
        captions.append(
            ", ".join(f"{scores.metrics[k].name} {format_number(values[k])}" for k in columns)
        )
    return captions


def _draw_sheet(rows: Sequence[_Row], titles: Sequence[str], path: Path) -> None:
    """Write one sheet: a row per pair, a column per source or method, with a title each."""
    # Sizes are in inches.
    left, top, gap, width = 0.25, 0.3, 0.06, _THUMBNAIL_WIDTH / DPI
    below = 0.2 if any(caption for _, row in rows for caption, _ in row) else gap
    heights = [width * _aspect_ratio(row) for _, row in rows]
    size = (left + len(titles) * (width + gap), top + sum(heights) + below * len(rows))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=size)
        edge = size[1] - top
        for place, (name, row) in enumerate(rows):
            height = heights[place]
            edge -= height
            figure.text(
                left / 2 / size[0], (edge + height / 2) / size[1], name,
                rotation=90, ha="center", va="center", fontsize=8,
            )  # fmt: skip
            for column, (caption, image) in enumerate(row):
                across = left + column * (width + gap)
                axis = figure.add_axes(
                    (across / size[0], edge / size[1], width / size[0], height / size[1])
                )
                axis.set(xticks=[], yticks=[])
                axis.spines[:].set_visible(False)
                axis.set_xlabel(caption, fontsize=8, labelpad=2)
                if place == 0:
                    axis.set_title(titles[column], pad=4)
                if image is not None:
                    axis.imshow(image, cmap="gray", vmin=0, vmax=255, aspect="auto")
            edge -= below
        save_figure(figure, [path])


def _aspect_ratio(images: Sequence[tuple[str, np.ndarray | None]]) -> float:
    """Return height by width of a row's images, which all have one size."""
    shape = next(image.shape for _, image in images if image is not None)
    return shape[0] / shape[1]
