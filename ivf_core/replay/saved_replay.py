"""What `ivf replay` writes beside its bag, read back for the report and for comparison.

DIR/frames.csv holds a row a pair and DIR/timings.csv its milliseconds by stage;
DIR/summary.json what concerns the whole bag; DIR/pictures NNNNNN_KIND.jpg of some pairs.
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

__all__ = ["FORMAT", "PICTURE_KINDS", "ReplayDirectory", "ReplayDirectoryError"]

FORMAT = 1
"""The layout that is read: `format` in summary.json."""

PICTURE_KINDS = ("rgb", "thermal", "fused", "overlay", "other")

_PICTURE = re.compile(rf"(\d+)_({'|'.join(PICTURE_KINDS)})\.jpg")
_NEEDED = ("index", "stamp_ns", "seconds")


class ReplayDirectoryError(ValueError):
    """A directory that `ivf replay` did not write, or not to its end."""


@dataclass(frozen=True)
class ReplayDirectory:
    """One replay.

    Attributes:
        path: the directory.
        summary: summary.json.
        index: N int64, pair numbers, ascending.
        stamps: N int64, stamps of the RGB images in ns.
        seconds: N float64, since the first message of the bag.
        frames: the other columns of frames.csv by name, N float64 each; NaN where the file
            is empty, as a metric is for pairs that were not scored.
        timings: columns of timings.csv but `index`, N float64 each in ms, NaN alike.
        pictures: by pair number and kind, of PICTURE_KINDS, the files that there are.
    """

    path: Path
    summary: Mapping[str, Any]
    index: np.ndarray
    stamps: np.ndarray
    seconds: np.ndarray
    frames: Mapping[str, np.ndarray]
    timings: Mapping[str, np.ndarray]
    pictures: Mapping[int, Mapping[str, Path]]

    def __len__(self) -> int:
        return len(self.index)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> ReplayDirectory:
        """Read a directory.

        Raises:
            ReplayDirectoryError: names the file and what is wrong with it.
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
            pictures=_find_pictures(path / "pictures"),
        )

    def columns(self) -> dict[str, np.ndarray]:
        """What was measured of each pair: `frames` and `timings` together."""
        return {**self.frames, **self.timings}


def _read_summary(path: Path) -> dict[str, Any]:
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ReplayDirectoryError(
            f"'{path.parent}': no {path.name}, expected a directory written by ivf replay"
        ) from error
    except (OSError, ValueError) as error:
        raise ReplayDirectoryError(f"'{path}': {error}") from error
    found = summary.get("format") if isinstance(summary, dict) else None
    if found != FORMAT:
        raise ReplayDirectoryError(f"'{path}': format {found!r}, this version reads {FORMAT}")
    return summary


def _read_table(path: Path) -> dict[str, list[str]]:
    """The columns of a CSV file as text."""
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
    # Not by way of float64, which keeps stamps of today to 256 ns.
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
    """The columns of timings.csv in the order of `index`."""
    texts = _read_table(path)
    if "index" not in texts:
        raise ReplayDirectoryError(f"'{path}': no column 'index'")
    rows = {
        int(number): row for row, number in enumerate(_integers(path, "index", texts.pop("index")))
    }
    places = [rows.get(number, -1) for number in index.tolist()]
    # The row past the last is for pairs without timings.
    return {
        name: np.append(_numbers(path, name, values), np.nan)[places]
        for name, values in texts.items()
    }


def _find_pictures(folder: Path) -> dict[int, dict[str, Path]]:
    found: dict[int, dict[str, Path]] = {}
    if folder.is_dir():
        for path in sorted(folder.iterdir()):
            if match := _PICTURE.fullmatch(path.name):
                found.setdefault(int(match[1]), {})[match[2]] = path
    return found
