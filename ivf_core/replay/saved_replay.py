"""Directories that `ivf replay` wrote, read for the report and for comparisons.

DIR/frames.csv has a row per pair, DIR/timings.csv the milliseconds of each pair by stage,
DIR/summary.json the facts about the whole bag, and DIR/images the images of some pairs as
NNNNNN_KIND.jpg.
"""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["FORMAT", "IMAGE_KINDS", "ReplayDirectory", "ReplayDirectoryError"]

FORMAT = 1
"""Version of the layout that is written and read: `format` in summary.json."""

IMAGE_KINDS = ("rgb", "thermal", "fused", "overlay", "other")
"""Kinds of images of a pair, as their file names end."""

_IMAGE_NAME = re.compile(rf"(\d+)_({'|'.join(IMAGE_KINDS)})\.jpg")
_FOLDERS = ("images", "pictures")  # of this and of older versions  # plain: pictures
_NEEDED = ("index", "stamp_ns", "seconds")


class ReplayDirectoryError(ValueError):
    """Raised for a directory that `ivf replay` did not write, or did not finish."""


@dataclass(frozen=True)
class ReplayDirectory:
    """Contents of a directory that `ivf replay` wrote.

    Attributes:
        path: the directory.
        summary: content of summary.json.
        index: pair numbers, N int64, ascending.
        stamps: stamps of the RGB images in ns, N int64.
        seconds: time since the first message of the bag, N float64.
        frames: the other columns of frames.csv by name, N float64 each; NaN where a field is
            empty, such as a metric of a pair that was not scored.
        timings: the columns of timings.csv except `index` by name, N float64 each in ms; NaN
            where a pair has none.
        images: JPEG files by pair number and kind, one of `IMAGE_KINDS`.
    """

    path: Path
    summary: Mapping[str, Any]
    index: np.ndarray
    stamps: np.ndarray
    seconds: np.ndarray
    frames: Mapping[str, np.ndarray]
    timings: Mapping[str, np.ndarray]
    images: Mapping[int, Mapping[str, Path]]

    def __len__(self) -> int:
        return len(self.index)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> ReplayDirectory:
        """Read a directory.

        Images are in its folder `images`, or in that of older replays where that is absent.

        Args:
            path: the directory.

        Raises:
            ReplayDirectoryError: a file is missing or wrong; names it and the error.
        """
        path = Path(path)
        summary = _read_summary(path / "summary.json")
        texts = _read_table(path / "frames.csv")
        for name in _NEEDED:
            if name not in texts:
                raise ReplayDirectoryError(f"'{path / 'frames.csv'}': no column '{name}'")
        index = _integers(path / "frames.csv", "index", texts.pop("index"))
        if (np.diff(index) <= 0).any():
            raise ReplayDirectoryError(f"'{path / 'frames.csv'}': 'index' does not ascend")
        stamps = _integers(path / "frames.csv", "stamp_ns", texts.pop("stamp_ns"))
        frames = {name: _numbers(path / "frames.csv", name, t) for name, t in texts.items()}
        return cls(
            path=path,
            summary=summary,
            index=index,
            stamps=stamps,
            seconds=frames.pop("seconds"),
            frames=frames,
            timings=_read_timings(path / "timings.csv", index),
            images=_find_images(path),
        )

    def columns(self) -> dict[str, np.ndarray]:
        """Return all measures of the pairs by name: `frames` and `timings` together."""
        return {**self.frames, **self.timings}


def _read_summary(path: Path) -> dict[str, Any]:
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ReplayDirectoryError(
            f"'{path.parent}': no {path.name}, expected a directory written by ivf replay"
        ) from error
    except (OSError, RecursionError, ValueError) as error:
        raise ReplayDirectoryError(f"'{path}': {error}") from error
    found = summary.get("format") if isinstance(summary, dict) else None
    if found != FORMAT:
        raise ReplayDirectoryError(f"'{path}': format {found!r}, this version reads {FORMAT}")
    return summary


def _read_table(path: Path) -> dict[str, list[str]]:
    """Read the columns of a CSV file as text."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            header, *rows = csv.reader(file)
    except (OSError, UnicodeDecodeError, csv.Error, ValueError) as error:
        raise ReplayDirectoryError(f"'{path}': no table with a header: {error}") from error
    for number, row in enumerate(rows, 2):
        if len(row) != len(header):
            raise ReplayDirectoryError(
                f"'{path}' line {number}: {len(row)} fields, the header has {len(header)}"
            )
    return {name: [row[column] for row in rows] for column, name in enumerate(header)}


def _integers(path: Path, name: str, texts: list[str]) -> np.ndarray:
    # Directly to integers: float64 rounds today's stamps to multiples of 256 ns.
    try:
        return np.array([int(text) for text in texts], np.int64)
    except ValueError as error:
        raise ReplayDirectoryError(f"'{path}' column '{name}': {error}") from error


def _numbers(path: Path, name: str, texts: list[str]) -> np.ndarray:
    try:
        return np.array([float(text) if text else np.nan for text in texts], np.float64)
    except ValueError as error:
        raise ReplayDirectoryError(f"'{path}' column '{name}': {error}") from error


def _read_timings(path: Path, index: np.ndarray) -> dict[str, np.ndarray]:
    """Read the columns of timings.csv in the order of `index`."""
    texts = _read_table(path)
    if "index" not in texts:
        raise ReplayDirectoryError(f"'{path}': no column 'index'")
    rows = {
        int(number): row for row, number in enumerate(_integers(path, "index", texts.pop("index")))
    }
    places = [rows.get(number, -1) for number in index.tolist()]
    # Index -1, for pairs without timings, selects the NaN that is appended.
    return {
        name: np.append(_numbers(path, name, values), np.nan)[places]
        for name, values in texts.items()
    }


def _find_images(directory: Path) -> dict[int, dict[str, Path]]:
    """Return the files of images by pair number and kind."""
    found: dict[int, dict[str, Path]] = {}
    folder = next((directory / name for name in _FOLDERS if (directory / name).is_dir()), None)
    for path in sorted(folder.iterdir()) if folder is not None else ():
        if match := _IMAGE_NAME.fullmatch(path.name):
            found.setdefault(int(match[1]), {})[match[2]] = path
    return found
