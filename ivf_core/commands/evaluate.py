"""Command `ivf evaluate`: score fused images and masks."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from ivf_core.commands.command import Command, add_engine

if TYPE_CHECKING:
    from ivf_core.class_sets import ClassSet
    from ivf_core.data.pairs import PairFiles
    from ivf_core.evaluation.folders import EvaluationResult, PairScorer
    from ivf_core.evaluation.methods import Method
    from ivf_core.evaluation.writer import OutputOptions

__all__ = ["COMMANDS"]

_UNMATCHED_SHOWN = 10


def _evaluate(args: argparse.Namespace) -> int:
    try:
        from ivf_core.evaluation.writer import RESULTS, OutputOptions, write_evaluation
    except ModuleNotFoundError as error:
        raise ValueError(
            f"ivf evaluate needs one more package: pip install {error.name}"
        ) from error
    from ivf_core.evaluation.folders import evaluate
    from ivf_core.evaluation.methods import unused_images
    from ivf_core.evaluation.pair_lists import match_sources
    from ivf_core.evaluation.scores import column_indices, find_metrics
    from ivf_core.system.memory import keep_freed_memory
    from ivf_core.system.results import check_inputs, check_output, new_results

    keep_freed_memory()
    inputs = [
        *args.visible,
        *(args.infrared or ()),
        *(_path_of(text) for kind, text in args.methods or () if kind == "fused"),
        *(_path_of(text) for text in args.masks or ()),
        *(path for path in (args.labels, args.boxes) if path is not None),
    ]
    check_inputs(args.output, inputs)
    check_output(args.output, RESULTS)
    # PyTorch computes no-reference metrics: on the CPU where the engine has a device of its own.
    on_cuda = args.device == "auto" or args.device.startswith("cuda")
    metrics = find_metrics(args.metrics, args.convention, args.device if on_cuda else "cpu")
    column_indices(metrics, args.rank_by)  # raises early for an unknown metric
    if not args.infrared and args.cameras != "visible":
        raise ValueError("--infrared is missing; only --cameras visible needs none")
    pairs, unmatched = match_sources(args.visible, args.infrared or (), args.labels)
    methods = _open_methods(args)
    for method in methods:
        unmatched += unused_images(method, [pair.name for pair in pairs])
    class_set = _class_set(args, methods)
    pairs, scorers = _scorers(args, pairs, methods)
    with tqdm(total=len(pairs), desc="evaluate", unit="pair", disable=None) as bar:
        result = evaluate(
            pairs,
            methods,
            metrics,
            class_set=class_set,
            scorers=scorers,
            cameras=args.cameras,
            grey=args.grey,
            workers=args.workers,
            progress=lambda _: bar.update(),
        )
    options = OutputOptions(
        _settings(args), unmatched, args.labels_are == "pseudo", args.examples, args.rank_by,
        args.cameras,
    )  # fmt: skip
    with new_results(args.output, RESULTS, inputs) as folder:
        files = write_evaluation(result, pairs, methods, options, folder, scorers)
    _show(result, options, [args.output / path.relative_to(folder) for path in files])
    return 1 if result.broken else 0


def _path_of(text: str) -> Path:
    """Return the path in `NAME=PATH` or `PATH`."""
    return Path(text.partition("=")[2] or text)


def _settings(args: argparse.Namespace) -> dict[str, Any]:
    """Return the options that the scores depend on, for the files."""
    settings: dict[str, Any] = {
        "convention": args.convention,
        "grey": args.grey,
        "engine": args.engine,
        "precision": args.precision,
        "device": args.device,
        "cameras": args.cameras,
    }
    chosen = {
        "pairs": args.pairs,
        "every": args.every if args.every > 1 else None,
        "boxes": args.boxes,
        "points": args.points,
        "boxes_visible": args.boxes_visible,
        "boxes_infrared": args.boxes_infrared,
    }
    return settings | {name: str(value) for name, value in chosen.items() if value is not None}


def _show(result: EvaluationResult, options: OutputOptions, files: Sequence[Path]) -> None:
    """Print what was left out, the tables and the names of the files."""
    from ivf_core.evaluation.tables import format_scores, format_segmentation
    from ivf_core.evaluation.writer import PSEUDO_LABELS

    rest = len(options.unmatched) - _UNMATCHED_SHOWN
    more = [f"{rest} more without a partner: all are named in summary.json"] if rest > 0 else []
    for line in [*options.unmatched[:_UNMATCHED_SHOWN], *more, *result.broken, *result.notes]:
        print(f"ivf evaluate: left out: {line}", file=sys.stderr)
    width = shutil.get_terminal_size((120, 24)).columns
    if result.scores.metrics and result.scores.present.any():
        pairs = result.scores.common.sum()
        print(f"means over the {pairs} pairs that all methods have an image of")
        print(format_scores(result.scores, width))
    if result.masked.any():
        note = f" {PSEUDO_LABELS}" if options.pseudo_labels else ""
        print(f"\nmasks of {result.commonly_masked.sum()} pairs; IoU by class.{note}")
        print(format_segmentation(result, width))
    for grid in [grid for grid in result.grids if grid.printed]:
        print(f"\n{grid.to_text(width)}")
        for note in grid.notes:
            print(f"  {note}")
    print(f"\n{len(result.broken)} left out, {len(options.unmatched)} files without a partner")
    for path in files:
        print(f"  {path}")


def _scorers(
    args: argparse.Namespace, pairs: Sequence[PairFiles], methods: Sequence[Method]
) -> tuple[list[PairFiles], list[PairScorer]]:
    """Select the pairs, and open the scorers of what they are annotated with."""
    from ivf_core.data.boxes import find_box_files
    from ivf_core.data.points import read_points
    from ivf_core.evaluation.appearance_scores import AppearanceScorer
    from ivf_core.evaluation.box_scores import BoxFiles, BoxScorer
    from ivf_core.evaluation.pair_lists import read_stems, select_pairs, times_of_day
    from ivf_core.evaluation.point_scores import PointScorer
    from ivf_core.evaluation.stress import CameraBoxes, StressScorer

    names = [pair.name for pair in pairs]

    def open_boxes(folder: Path | None) -> BoxFiles | None:
        return BoxFiles(find_box_files(folder, names)) if folder else None

    boxes = open_boxes(args.boxes)
    points = read_points(args.points, frozenset(names)) if args.points else {}
    if args.annotated and not (args.boxes or args.points):
        raise ValueError("--annotated: give --boxes or --points")
    annotated = {*points, *(boxes.files if boxes else ())} if args.annotated else None
    chosen = select_pairs(
        pairs,
        stems=read_stems(args.pairs) if args.pairs else None,
        every=args.every,
        annotated=annotated,
    )
    if (args.boxes or args.points) and all(method.street is None for method in methods):
        raise ValueError(
            "--boxes and --points: no method has masks; give weights with a head, or --masks and "
            "--classes"
        )
    times = times_of_day([pair.name for pair in chosen], points)
    scorers: list[PairScorer] = []
    if boxes:
        scorers.append(BoxScorer(methods, boxes, times, args.false_pixels))
    if args.sweep is not None:
        from ivf_core.evaluation.operating_points import TARGET_PRECISIONS, OperatingPointScorer

        if boxes is None:
            raise ValueError("--sweep needs --boxes")
        targets = dict(args.sweep) or TARGET_PRECISIONS
        scorers.append(OperatingPointScorer(methods, boxes, times, targets))
    if args.points:
        scorers.append(PointScorer(methods, points))
    scorers.append(AppearanceScorer(methods, times, boxes))
    if args.stress:
        camera_boxes = CameraBoxes(
            boxes, open_boxes(args.boxes_visible), open_boxes(args.boxes_infrared)
        )
        scorers.append(StressScorer(methods, camera_boxes))
    return chosen, scorers


def _open_methods(args: argparse.Namespace) -> list[Method]:
    from ivf_core.evaluation.class_matching import LABEL_SETS
    from ivf_core.evaluation.methods import add_masks, check_names, open_fused, open_weights

    methods = [
        open_fused(text)
        if kind == "fused"
        else open_weights(text, engine=args.engine, device=args.device, precision=args.precision)
        for kind, text in args.methods or ()
    ]
    check_names(methods)
    if args.masks and not (args.labels or args.boxes or args.points):
        raise ValueError("--masks are compared with --labels, --boxes or --points: all are missing")
    found = [method.class_set for method in methods if method.class_set is not None]
    named = args.mask_classes or args.classes
    class_set = LABEL_SETS[named] if named else found[0] if found else None
    methods = add_masks(methods, args.masks or (), class_set)
    if not methods:
        raise ValueError("nothing to evaluate: give --fused DIR or --weights WEIGHTS")
    return methods


def _class_set(args: argparse.Namespace, methods: list[Method]) -> ClassSet | None:
    """Return the class set of the labels: the one named, else that of the first masks."""
    from ivf_core.evaluation.class_matching import LABEL_SETS, check_comparable

    if args.labels is None:
        return None
    found = {m.name: m.class_set for m in methods if m.class_set is not None}
    if args.classes:
        class_set = LABEL_SETS[args.classes]
    elif found:
        class_set = next(iter(found.values()))
    elif any(method.masks for method in methods):
        raise ValueError(f"--classes is missing, one of {', '.join(LABEL_SETS)}")
    else:
        raise ValueError("--labels: no method has masks; give --masks or weights with a head")
    for name, other in found.items():
        check_comparable(name, other, class_set)
    return class_set


def _at_least(smallest: int) -> Callable[[str], int]:
    """Return a parser of whole numbers that rejects those below `smallest`."""

    def number(text: str) -> int:
        if int(text) < smallest:
            raise ValueError
        return int(text)

    return number


def _add_evaluate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--visible", required=True, type=Path, nargs="+", metavar="PATH",
        help="folders of visible images, or videos",
    )  # fmt: skip
    parser.add_argument(
        "--infrared", type=Path, nargs="+", metavar="PATH",
        help="as many folders of infrared images, matched by file name, or videos",
    )  # fmt: skip
    parser.add_argument(
        "--cameras", default="both", choices=("both", "visible", "infrared"),
        help="cameras that the weights see: the image of the other one is black (%(default)s)",
    )  # fmt: skip
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
        "--metrics",
        nargs="*",
        metavar="NAME",
        help="metrics, such as EN SD (all fusion metrics); no name: none",
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
    _add_selection(parser)
    _add_masks(parser)
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


def _class_precision(text: str) -> tuple[str, float]:
    """Parse `CLASS=PRECISION`."""
    name, _, number = text.partition("=")
    if not 0 < float(number) <= 1:
        raise ValueError
    return name, float(number)


def _add_selection(parser: argparse.ArgumentParser) -> None:
    selection = parser.add_argument_group("pairs (all)")
    selection.add_argument(
        "--pairs",
        type=Path,
        metavar="FILE",
        help="score the pairs named in a text file, one a line",
    )
    selection.add_argument(
        "--every", type=_at_least(1), default=1, metavar="N",
        help="score the first of these pairs and then each N-th, those that training with "
        "hold_out_every=N holds out",
    )  # fmt: skip
    selection.add_argument(
        "--annotated", action="store_true", help="leave out pairs with neither boxes nor points"
    )


def _add_masks(parser: argparse.ArgumentParser) -> None:
    from ivf_core.evaluation.class_matching import LABEL_SETS

    masks = parser.add_argument_group("masks")
    masks.add_argument("--labels", type=Path, metavar="DIR", help="images of true class ids")
    masks.add_argument(
        "--labels-are",
        default="truth",
        choices=("truth", "pseudo"),
        help="ground truth, or pseudo-labels, which the results then mention (%(default)s)",
    )
    masks.add_argument(
        "--classes", choices=LABEL_SETS, help="class set of the labels (that of the weights)"
    )
    masks.add_argument(
        "--masks",
        action="append",
        metavar="NAME=DIR",
        help="class ids of a method; may be repeated",
    )
    masks.add_argument(
        "--mask-classes", choices=LABEL_SETS, help="class set of --masks (that of the labels)"
    )
    masks.add_argument(
        "--boxes", type=Path, metavar="DIR",
        help="boxes around people, bicycles and cars, NAME.txt (YOLO) or NAME.xml (Pascal VOC)",
    )  # fmt: skip
    masks.add_argument(
        "--false-pixels", type=_at_least(1), default=100, metavar="N",
        help="smallest connected component that counts as a false object (%(default)s)",
    )  # fmt: skip
    masks.add_argument(
        "--sweep", nargs="*", type=_class_precision, metavar="CLASS=PRECISION",
        help="state the recall of boxes at a precision (person=0.9 bicycle=0.85 car=0.9)",
    )  # fmt: skip
    masks.add_argument(
        "--points", type=Path, metavar="FILE",
        help="class labels of points: CSV with the columns set, stem, time, kind, x, y, label",
    )  # fmt: skip
    masks.add_argument(
        "--stress", action="store_true",
        help="run the weights on damaged images as well, and compare their masks",
    )  # fmt: skip
    masks.add_argument(
        "--boxes-visible", type=Path, metavar="DIR",
        help="boxes of what the visible images show, for --stress",
    )  # fmt: skip
    masks.add_argument(
        "--boxes-infrared", type=Path, metavar="DIR",
        help="boxes of what the infrared images show, for --stress",
    )  # fmt: skip


COMMANDS = (
    Command(
        "evaluate",
        "score fused images and masks of several methods side by side",
        "ivf evaluate --visible vi --infrared ir --weights fast --fused SeAFusion=sea --output out",
        _add_evaluate,
        _evaluate,
    ),
)
