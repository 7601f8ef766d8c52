"""Page of fused labels: their scores, and for a sample of images each teacher and the result."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import cv2
import numpy as np

from ivf_core.class_sets import STREET, UNLABELED
from ivf_core.html.embedding import data_uri
from ivf_core.html.render import write_page
from ivf_core.images.overlay import draw_overlay
from ivf_core.training.segmentation.fused_labels.evidence import Evidence
from ivf_core.training.segmentation.fused_labels.networks import Boxes
from ivf_core.training.segmentation.fused_labels.scores import FUSED, LabelReport, LabelScores
from ivf_core.training.segmentation.fused_labels.sources import LabelSource

__all__ = ["score_tables", "write_label_page"]

_WIDTH = 280
_OPACITY = 0.6
_SCORE = 0.35


def score_tables(scores: Mapping[str, LabelScores]) -> dict[str, dict[str, dict[str, str]]]:
    """Return the scores as text by table, row and column.

    Args:
        scores: by teacher; those of the fused labels come first.
    """
    names = sorted(scores, key=lambda name: (name != FUSED, name))
    tables: dict[str, dict[str, dict[str, str]]] = {}
    for time in ("day", "night"):
        for kind in ("uniform", "object", "all"):
            rows = {}
            for name in names:
                row = scores[name].point_row(time, kind)
                if row["points"]:
                    rows[name] = {column: _text(value) for column, value in row.items()}
            tables[f"Points by {time}: {kind}"] = rows
    for kind in ("person", "bicycle", "car"):
        rows = {}
        for name in names:
            parts = {time: scores[name].box_row(time, kind) for time in ("day", "night", "all")}
            if parts["all"]["boxes"]:
                rows[name] = {
                    f"{column} {time}": _text(part[column])
                    for column in ("recall", "precision")
                    for time, part in parts.items()
                }
        tables[f"Published boxes: {kind}"] = rows
    return {caption: rows for caption, rows in tables.items() if rows}


def write_label_page(
    path: Path,
    report: LabelReport,
    sample: Iterable[tuple[LabelSource, Evidence, np.ndarray]],
) -> None:
    """Write the page, one file with its images inside.

    Args:
        path: file to write.
        report: counts and scores.
        sample: images with their evidence and fused labels.
    """
    images = [
        {
            "name": f"{source.set_name} {source.stem}",
            "time": "night" if evidence.night else "day",
            "tiles": _tiles(evidence, labels),
        }
        for source, evidence, labels in sample
    ]
    write_page(
        path,
        "fused_labels.html.j2",
        title="Labels of several teachers",
        images=images,
        tables=score_tables(report.scores),
        coverage={name: f"{value:.1%}" for name, value in report.coverage.items()},
        failed=report.failed,
        warnings=report.warnings,
        legend=[
            (name, "#{:02x}{:02x}{:02x}".format(*color))
            for name, color in zip(STREET.names, STREET.colors, strict=True)
        ],
    )


def _text(value: float) -> str:
    if np.isnan(value):
        return ""
    return f"{value:.0f}" if value == int(value) and value > 1 else f"{value:.2f}"


def _tiles(evidence: Evidence, labels: np.ndarray) -> dict[str, str]:
    """Return the sources, each teacher and the fused labels as data URIs by title."""
    visible = evidence.visible
    tiles = {"visible": visible}
    if evidence.infrared is not None:
        tiles["infrared"] = np.repeat(evidence.infrared[..., None], 3, axis=-1)
    tiles["fused labels"] = draw_overlay(visible, labels, STREET, _OPACITY)
    if evidence.published is not None:
        tiles["published boxes"] = _draw(visible, evidence.published)
    for name, votes in evidence.votes.items():
        ids = np.where(votes.max(0) >= 128, votes.argmax(0), UNLABELED).astype(np.uint8)
        tiles[name] = draw_overlay(visible, ids, STREET, _OPACITY)
    for name, boxes in evidence.boxes.items():
        base = tiles["infrared"] if name.endswith(("infrared", "inverted")) else visible
        tiles[name] = _draw(base, boxes.select(boxes.scores >= _SCORE))
    return {title: _jpeg(image) for title, image in tiles.items()}


def _draw(image: np.ndarray, boxes: Boxes) -> np.ndarray:
    drawn = np.ascontiguousarray(image.copy())
    for corners, index in zip(boxes.corners, boxes.classes, strict=True):
        left, top, right, bottom = (int(value) for value in corners)
        color = tuple(min(255, value + 80) for value in STREET.colors[index])
        cv2.rectangle(drawn, (left, top), (right, bottom), color, 2)
    return drawn


def _jpeg(image: np.ndarray) -> str:
    height = max(1, round(image.shape[0] * _WIDTH / image.shape[1]))
    small = cv2.resize(image, (_WIDTH, height), interpolation=cv2.INTER_AREA)
    coded = cv2.imencode(".jpg", small[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 80])[1]
    return data_uri(coded.tobytes(), ".jpg")
