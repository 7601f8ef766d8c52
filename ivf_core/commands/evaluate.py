"""Command `ivf evaluate`: score fused images and masks."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from ivf_core.commands.command import Command, add_engine

if TYPE_CHECKING:
    from ivf_core.class_sets import ClassSet
    from ivf_core.evaluation.methods import Method

__all__ = ["COMMANDS"]

_UNMATCHED_SHOWN = 10


def _evaluate(args: argparse.Namespace) -> int:
    try:
        from ivf_core.evaluation.writer import PSEUDO_LABELS, OutputOptions, write_evaluation
    except ModuleNotFoundError as error:
        raise ValueError(
            f"ivf evaluate needs one more package: pip install {error.name}"
        ) from error
    from ivf_core.evaluation.folders import evaluate, match_folders
    from ivf_core.evaluation.methods import unused_images
    from ivf_core.evaluation.scores import column_indices, find_metrics
    from ivf_core.evaluation.tables import format_scores, format_segmentation
    from ivf_core.system.memory import keep_freed_memory

    keep_freed_memory()
    # PyTorch computes no-reference metrics: on the CPU where the engine has a device of its own.
    on_cuda = args.device == "auto" or args.device.startswith("cuda")
    metrics = find_metrics(args.metrics, args.convention, args.device if on_cuda else "cpu")
    column_indices(metrics, args.rank_by)  # raises early for an unknown metric
    pairs, unmatched = match_folders(args.visible, args.infrared, args.labels)
    methods = _open_methods(args)
    for method in methods:
        unmatched += unused_images(method, [pair.name for pair in pairs])
    class_set = _class_set(args, methods)
    with tqdm(total=len(pairs), desc="evaluate", unit="pair", disable=None) as bar:
        result = evaluate(
            pairs,
            methods,
            metrics,
            class_set=class_set,
            grey=args.grey,
            workers=args.workers,
            progress=lambda _: bar.update(),
        )
    rest = len(unmatched) - _UNMATCHED_SHOWN
    more = [f"{rest} more without a partner: all are named in summary.json"] if rest > 0 else []
    for line in [*unmatched[:_UNMATCHED_SHOWN], *more, *result.broken, *result.notes]:
        print(f"ivf evaluate: left out: {line}", file=sys.stderr)
    settings = {
        "convention": args.convention,
        "grey": args.grey,
        "engine": args.engine,
        "precision": args.precision,
        "device": args.device,
    }
    pseudo = args.labels_are == "pseudo"
    options = OutputOptions(settings, unmatched, pseudo, args.examples, args.rank_by)
    files = write_evaluation(result, pairs, methods, options, args.output)
    width = shutil.get_terminal_size((120, 24)).columns
    print(f"means over the {result.scores.common.sum()} pairs that all methods have an image of")
    print(format_scores(result.scores, width))
    if result.masked.any():
        note = f" {PSEUDO_LABELS}" if pseudo else ""
        print(f"\nmasks of {result.commonly_masked.sum()} pairs; IoU by class.{note}")
        print(format_segmentation(result, width))
    print(f"\n{len(result.broken)} left out, {len(unmatched)} files without a partner")
    for path in files:
        print(f"  {path}")
    return 1 if result.broken else 0


def _open_methods(args: argparse.Namespace) -> list[Method]:
    from ivf_core.evaluation.methods import add_masks, check_names, open_fused, open_weights

    methods = [
        open_fused(text)
        if kind == "fused"
        else open_weights(text, engine=args.engine, device=args.device, precision=args.precision)
        for kind, text in args.methods or ()
    ]
    check_names(methods)
    if args.masks and not args.labels:
        raise ValueError("--masks are compared with --labels, which are missing")
    methods = add_masks(methods, args.masks or ())
    if not methods:
        raise ValueError("nothing to evaluate: give --fused DIR or --weights WEIGHTS")
    return methods


def _class_set(args: argparse.Namespace, methods: list[Method]) -> ClassSet | None:
    """Return the class set of the labels: the one named, else that of the weights."""
    from ivf_core.class_sets import CLASS_SETS

    if args.labels is None:
        return None
    found = {m.name: m.class_set for m in methods if m.class_set is not None}
    if args.classes:
        class_set = CLASS_SETS[args.classes]
    elif found:
        class_set = next(iter(found.values()))
    elif any(method.masks for method in methods):
        raise ValueError(f"--classes is missing, one of {', '.join(CLASS_SETS)}")
    else:
        raise ValueError("--labels: no method has masks; give --masks or weights with a head")
    for name, other in found.items():
        if other.names != class_set.names:
            raise ValueError(f"'{name}' has the classes '{other.name}', not '{class_set.name}'")
    return class_set


def _at_least(smallest: int) -> Callable[[str], int]:
    """Return a parser of whole numbers that rejects those below `smallest`."""

    def number(text: str) -> int:
        if int(text) < smallest:
            raise ValueError
        return int(text)

    return number


def _add_evaluate(parser: argparse.ArgumentParser) -> None:
    from ivf_core.class_sets import CLASS_SETS

    parser.add_argument("--visible", required=True, type=Path, metavar="DIR", help="visible images")
    parser.add_argument(
        "--infrared",
        required=True,
        type=Path,
        metavar="DIR",
        help="infrared images, matched by file name",
    )
    parser.add_argument(
        "--fused", action="append", dest="methods", metavar="[NAME=]DIR",
        type=lambda text: ("fused", text),
        help="fused images of a method, named as the pairs; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--weights", action="append", dest="methods", metavar="[NAME=]WEIGHTS",
        type=lambda text: ("weights", text),
        help="weights to run on the pairs: a shipped name or a file; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--output", required=True, type=Path, metavar="DIR", help="folder for the results"
    )
    parser.add_argument(
        "--metrics", nargs="+", metavar="NAME", help="metrics, such as EN SD (all fusion metrics)"
    )
    parser.add_argument(
        "--convention", default="mean", choices=("mean", "sum", "ivif_zoo"),
        help="SSIM, MS-SSIM and VIF as the mean over both sources or as their sum; "
        "ivif_zoo: all metrics as IVIF_ZOO's code computes them (%(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--grey", default="pil", choices=("pil", "opencv"),
        help="conversion of colours to grey: PIL's, which IVIF_ZOO uses, or OpenCV's (%(default)s)",
    )  # fmt: skip
    masks = parser.add_argument_group("masks")
    masks.add_argument("--labels", type=Path, metavar="DIR", help="images of true class ids")
    masks.add_argument(
        "--labels-are",
        default="truth",
        choices=("truth", "pseudo"),
        help="ground truth, or pseudo-labels, which the results then mention (%(default)s)",
    )
    masks.add_argument(
        "--classes", choices=CLASS_SETS, help="class set of the labels (that of the weights)"
    )
    masks.add_argument(
        "--masks",
        action="append",
        metavar="NAME=DIR",
        help="class ids of a method; may be repeated",
    )
    report = parser.add_argument_group("report")
    report.add_argument(
        "--examples",
        type=_at_least(0),
        default=4,
        help="number of best and of worst images shown per method (%(default)s)",
    )
    report.add_argument(
        "--rank-by",
        nargs="+",
        default=(),
        metavar="METRIC",
        help="metrics that rank the images (all, by their mean rank)",
    )
    run = parser.add_argument_group("running")
    add_engine(run)
    run.add_argument(
        "--workers", type=_at_least(1), default=2, help="threads that read images (%(default)s)"
    )
    # Scores should depend on the weights, not on the precision that suits a machine.
    parser.set_defaults(precision="fp32")


COMMANDS = (
    Command(
        "evaluate",
        "score fused images and masks of several methods side by side",
        "ivf evaluate --visible vi --infrared ir --weights fast --fused SeAFusion=sea --output out",
        _add_evaluate,
        _evaluate,
    ),
)
