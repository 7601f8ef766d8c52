"""Point labels: the class of single pixels, chosen at random or on objects."""

from __future__ import annotations

import csv
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

__all__ = ["POINT_COLUMNS", "UNSURE", "PointLabel", "read_points"]

POINT_COLUMNS = ("set", "stem", "time", "kind", "x", "y", "label")
"""Columns of a file of points."""

UNSURE = "unsure"
"""Label of points that even the annotator could not tell, which nothing is scored by."""


class PointLabel(NamedTuple):
    """Label of one pixel.

    Attributes:
        time: time of day of the image, such as "day", "dusk" or "night".
        kind: how the pixel was chosen, such as "uniform" or "object".
        x: column of the pixel.
        y: row of the pixel.
        label: name of its class.
    """

    time: str
    kind: str
    x: int
    y: int
    label: str


def read_points(path: Path, stems: Collection[str]) -> dict[str, list[PointLabel]]:
    """Read the points of some images; those labelled `UNSURE` are left out.

    Args:
        path: CSV file with the columns `POINT_COLUMNS`.
        stems: names of the images; points of other images are left out.

    Returns:
        Points by stem, of the images that have any.

    Raises:
        ValueError: a missing column, coordinates that are no numbers, an image of one name
            in two sets, or no point in any of the images; the message names the file.
    """
    points: dict[str, list[PointLabel]] = {}
    sets: dict[str, str] = {}
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = csv.DictReader(file)
            missing = [name for name in POINT_COLUMNS if name not in (rows.fieldnames or ())]
            if missing:
                raise ValueError(f"points '{path}': column {', '.join(missing)} is missing")
            for row in rows:
                stem = row["stem"]
                if stem not in stems:
                    continue
                if sets.setdefault(stem, row["set"]) != row["set"]:
                    raise ValueError(
                        f"points '{path}', line {rows.line_num}: image '{stem}' is of the sets "
                        f"'{sets[stem]}' and '{row['set']}', expected one"
                    )
                try:
                    x, y = int(row["x"]), int(row["y"])
                except (TypeError, ValueError) as error:
                    raise ValueError(
                        f"points '{path}', line {rows.line_num}: "
                        f"x and y are '{row['x']}' and '{row['y']}', expected whole numbers"
                    ) from error
                if row["label"] != UNSURE:
                    point = PointLabel(row["time"], row["kind"], x, y, row["label"])
                    points.setdefault(stem, []).append(point)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"points '{path}': cannot be read: {error}") from error
    if not points:
        raise ValueError(f"points '{path}': no point is in any of the {len(stems)} images")
    return points
