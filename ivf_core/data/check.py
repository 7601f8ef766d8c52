"""Check of a data set: contents, and broken files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ivf_core.class_sets import UNLABELED, ClassSet
from ivf_core.data.boxes import read_boxes
from ivf_core.data.datasets import find_layout
from ivf_core.data.layouts import Layout
from ivf_core.data.pairs import PairFiles

__all__ = ["DatasetReport", "SplitReport", "check_dataset", "format_report"]

_SIZES_SHOWN = 5


@dataclass
class SplitReport:
    """Contents of one split.

    Attributes:
        name: "train", "val", "test" or "all".
        pairs: number of complete pairs.
        published: number of pairs that the split should have, None if that is not known.
        sizes: number of undamaged pairs by (width, height).
        pixels: 256 counts of pixels by class id.
        images: 256 counts of the images in which an id occurs.
        objects: number of boxes by name.
        left_out: files that belong to no pair, one line each.
        broken: missing, damaged or wrong files, one line each.
    """

    name: str
    pairs: int
    published: int | None
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    pixels: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))
    images: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))
    objects: Counter[str] = field(default_factory=Counter)
    left_out: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class DatasetReport:
    """Contents of a data set.

    Attributes:
        root: directory of the data set.
        layout: layout in which it was read.
        splits: one report for each split.
    """

    root: Path
    layout: Layout
    splits: list[SplitReport]

    @property
    def broken(self) -> list[str]:
        """Broken files of all splits, one line each."""
        return [line for split in self.splits for line in split.broken]


def check_dataset(
    root: str | Path,
    dataset: str | None = None,
    *,
    labels: str | None = None,
    class_set: ClassSet | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> DatasetReport:
    """Read every file of a data set.

    Args:
        root: directory of the data set.
        dataset: see `open_dataset`.
        labels: see `open_dataset`.
        class_set: see `open_dataset`.
        progress: called with the number of pairs read so far and their total.

    Returns:
        Counts and broken files by split.

    Raises:
        LayoutError: no pair is complete.
        ValueError: see `find_layout`.
    """
    root = Path(root)
    layout = find_layout(root, dataset, labels=labels, class_set=class_set)
    found = {split: layout.scan(root, split) for split in layout.splits(root)}
    total = sum(len(scan.files) for scan in found.values())
    if not total:
        layout.find(root)  # raises
    reports, done = [], 0
    for split, scan in found.items():
        report = SplitReport(
            split, len(scan.files), layout.published.get(split), left_out=scan.left_out
        )
        report.broken.extend(f"'{path}': missing" for path in scan.missing)
        for files in scan.files:
            _check_pair(files, layout, report)
            done += 1
            if progress is not None:
                progress(done, total)
        reports.append(report)
    return DatasetReport(root, layout, reports)


def _check_pair(files: PairFiles, layout: Layout, report: SplitReport) -> None:
    def attempt(read: Callable[[], np.ndarray | None]) -> np.ndarray | None:
        try:
            return read()
        except ValueError as error:
            # Both images of a four-channel file have the same error.
            if str(error) not in report.broken[-1:]:
                report.broken.append(str(error))
            return None

    visible, infrared = attempt(files.read_visible), attempt(files.read_infrared)
    labels = attempt(lambda: files.read_labels(layout.class_set))
    if labels is not None:
        counts = np.bincount(labels.ravel(), minlength=256)
        report.pixels += counts
        report.images += counts > 0
    if files.boxes is not None:
        try:
            report.objects.update(box.name for box in read_boxes(files.boxes, layout.objects))
        except ValueError as error:
            report.broken.append(str(error))
    if visible is None or infrared is None:
        return
    try:
        files.check_sizes(visible, infrared, labels)
    except ValueError as error:
        report.broken.append(str(error))
    else:
        report.sizes[visible.shape[1], visible.shape[0]] += 1


def format_report(report: DatasetReport) -> str:
    """Return the report as text: counts and sizes by split, classes, then broken files."""
    layout = report.layout
    pairs = sum(split.pairs for split in report.splits)
    lines = [f"{report.root}: {layout.dataset}, {pairs} pairs"]
    for split in report.splits:
        count = f"{split.pairs} pairs"
        if split.published is not None:
            count += f" of {split.published} published"
        lines.append(f"  {split.name:<6} {count}; {_sizes(split.sizes)}")
    lines += _table(
        "class",
        _class_names(report),
        [split.name for split in report.splits],
        [split.pixels for split in report.splits],
        [split.images for split in report.splits],
    )
    lines += _object_lines(report)
    left_out = [line for split in report.splits for line in split.left_out]
    for title, entries in (("left out", left_out), ("broken", report.broken)):
        if entries:
            lines += [f"  {title}: {len(entries)}", *(f"    {entry}" for entry in entries)]
    return "\n".join(lines)


def _sizes(sizes: Counter[tuple[int, int]]) -> str:
    common = sizes.most_common(_SIZES_SHOWN)
    text = ", ".join(f"{width}x{height} ({count})" for (width, height), count in common)
    if len(sizes) > _SIZES_SHOWN:
        text += f" and {len(sizes) - _SIZES_SHOWN} other sizes"
    return text or "no size"


def _class_names(report: DatasetReport) -> dict[int, str]:
    """Return the names by id: all of the class set, and other ids that occur."""
    class_set = report.layout.class_set
    names = dict(enumerate(class_set.names)) if class_set is not None else {}
    pixels = sum((split.pixels for split in report.splits), np.zeros(256, np.int64))
    if not pixels.any():
        return {}
    for value in np.flatnonzero(pixels):
        names.setdefault(int(value), "(none)" if value == UNLABELED else "")
    return {value: f"{value} {name}".rstrip() for value, name in names.items()}


def _table(
    title: str,
    names: dict[int, str],
    splits: list[str],
    pixels: list[np.ndarray],
    images: list[np.ndarray],
) -> list[str]:
    """Format the share of pixels and the number of images by class, two columns per split."""
    if not names:
        return []
    width = max(len(title), *map(len, names.values()))
    header = "".join(f"  {split + ' pixels':>13}  {'images':>8}" for split in splits)
    lines = [f"  {title:<{width}}{header}"]
    for value, name in names.items():
        cells = "".join(
            f"  {counts[value] / max(1, counts.sum()):>13.3%}  {occurs[value]:>8}"
            for counts, occurs in zip(pixels, images, strict=True)
        )
        lines.append(f"  {name:<{width}}{cells}")
    return lines


def _object_lines(report: DatasetReport) -> list[str]:
    total: Counter[str] = sum((split.objects for split in report.splits), Counter())
    if not total:
        return []
    width = max(map(len, report.layout.objects))
    return [
        f"  {name:<{width}}  {total[name]:>7} boxes  {total[name] / total.total():>7.2%}"
        for name in report.layout.objects
    ]
