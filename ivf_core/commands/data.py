"""Command `ivf data`."""

from __future__ import annotations

import argparse
from pathlib import Path

from tqdm import tqdm

from ivf_core.commands.command import Command

__all__ = ["COMMANDS"]


def _data_check(args: argparse.Namespace) -> int:
    from ivf_core.class_sets import CLASS_SETS
    from ivf_core.data.check import check_dataset, format_report

    with tqdm(desc="check", unit="pair", disable=None) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        report = check_dataset(
            args.directory,
            args.dataset,
            labels=args.labels,
            class_set=CLASS_SETS[args.classes] if args.classes else None,
            progress=progress,
        )
    print(format_report(report))
    return 1 if report.broken else 0


def _add_data_check(parser: argparse.ArgumentParser) -> None:
    from ivf_core.class_sets import CLASS_SETS

    parser.add_argument("directory", type=Path, metavar="DIR", help="directory of the data set")
    parser.add_argument(
        "--dataset",
        metavar="NAME",
        help="fmb, mfnet, m3fd, msrs, pst900, roadscene, tno, camvid, or folder for a folder of "
        "pairs; by default the one that the directory looks like",
    )
    parser.add_argument(
        "--labels", metavar="FOLDER", help="folder of labels in a plain folder of pairs (labels)"
    )
    parser.add_argument(
        "--classes", choices=CLASS_SETS, help="class set of the labels in a plain folder of pairs"
    )


COMMANDS = (
    Command(
        "data check",
        "read a complete data set: counts, sizes, classes, broken files",
        "ivf data check MSRS",
        _add_data_check,
        _data_check,
    ),
)
