"""Commands `ivf weights`, `ivf export`, `ivf calibrate` and `ivf offsets`."""

from __future__ import annotations

import argparse
from pathlib import Path

from ivf_core.commands.command import Command, add_weights, no_arguments

__all__ = ["COMMANDS"]


def _weights(_args: argparse.Namespace) -> int:
    from ivf_core.models.weights_files import open_weights, shipped_weights

    for name, path in shipped_weights().items():
        file = open_weights(name)
        head = f"masks: {', '.join(file.class_set.names)}" if file.class_set else "no masks"
        size = path.stat().st_size / 1e6
        print(f"{name}  {size:.1f} MB  student '{file.architecture}'  {head}")
        print(f"  {path}\n  model card: {path.with_suffix('.md')}")
    return 0


def _export(args: argparse.Namespace) -> int:
    from ivf_core.models.weights_files import GRAPH_SUFFIX, find_weights, is_graph
    from ivf_core.system.atomic import atomic_path
    from ivf_core.system.results import check_file

    try:
        from ivf_core.inference.export import export_onnx
        from ivf_core.models.checkpoints import load_model
    except ModuleNotFoundError as error:
        raise ValueError(f"ivf export needs another package: pip install {error.name}") from error
    changed = args.no_fused or args.no_labels or args.no_confidence or args.int8
    if args.output is None and changed:
        raise ValueError(
            "--no-fused, --no-labels, --no-confidence and --int8 need --output: "
            "engines choose these"
        )
    source = find_weights(args.weights)
    output = args.output or source.with_suffix(GRAPH_SUFFIX)
    check_file(output, [source], is_graph, "graph that ivf export has written")
    model = load_model(args.weights)
    content = export_onnx(
        model,
        fused=not args.no_fused,
        labels=not args.no_labels,
        confidence=not args.no_confidence,
        int8=args.int8,
    )
    report = f"{output}: {len(content) / 1e6:.1f} MB, weights '{model.name}'"
    if args.check:
        try:
            from ivf_core.inference.export_check import check_export
        except ModuleNotFoundError as error:
            raise ValueError(f"--check needs another package: pip install {error.name}") from error
        report += f"\n  {check_export(content, model, int8=args.int8)}"
    with atomic_path(output) as temporary:
        temporary.write_bytes(content)
    print(report)
    return 0


def _add_export(parser: argparse.ArgumentParser) -> None:
    add_weights(parser)
    parser.add_argument(
        "--output",
        type=Path,
        help="ONNX file to write; by default beside the weights, where engines find it",
    )
    parser.add_argument("--no-fused", action="store_true", help="leave out the fused image")
    parser.add_argument("--no-labels", action="store_true", help="leave out the class ids")
    parser.add_argument(
        "--no-confidence", action="store_true", help="leave out the confidence in the class ids"
    )
    parser.add_argument(
        "--int8", action="store_true", help="use 8-bit convolutions; needs calibrated weights"
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="run the graph with ONNX Runtime, compare it with PyTorch, and write it only if both "
        "agree",
    )


def _calibrate(args: argparse.Namespace) -> int:
    from ivf_core.data.pairs import read_pair_folder
    from ivf_core.models.checkpoints import load_model, save_model
    from ivf_core.models.weights_files import find_weights, is_weights
    from ivf_core.system.results import check_file
    from ivf_core.training.runs.calibration import calibrate
    from ivf_core.training.runs.sensitivity import Bound

    inputs = [find_weights(args.weights), *args.pairs]
    check_file(args.output, inputs, is_weights, "weights file of this package")
    bound = Bound(args.max_deviation, 1 - args.min_label_agreement)
    pairs = [pair for folder in args.pairs for pair in read_pair_folder(folder, color=True)]
    calibration = calibrate(load_model(args.weights), pairs, bound)
    save_model(calibration.model, args.output)
    print(f"{args.output}: weights '{calibration.model.name}'\n{calibration.summary()}")
    return 0


def _add_calibrate(parser: argparse.ArgumentParser) -> None:
    add_weights(parser)
    parser.add_argument(
        "--pairs",
        required=True,
        nargs="+",
        type=Path,
        metavar="FOLDER",
        help="folders with visible/ and infrared/, matched by file name; 64 of all pairs are used",
    )
    parser.add_argument("--output", required=True, type=Path, help="safetensors file to write")
    parser.add_argument(
        "--max-deviation",
        type=float,
        default=1.5,
        metavar="LEVELS",
        help="99.9th percentile of the fused image's difference from fp32 that is accepted on "
        "every pair, in grey levels; inf keeps all convolutions in 8 bits (%(default)s)",
    )
    parser.add_argument(
        "--min-label-agreement",
        type=float,
        default=0.99,
        metavar="SHARE",
        help="share of class ids that must stay, 0..1 (%(default)s)",
    )


def _offsets(args: argparse.Namespace) -> int:
    import json

    from ivf_core.data.boxes import find_box_files
    from ivf_core.data.pairs import hold_out
    from ivf_core.data.points import read_points
    from ivf_core.evaluation.absent_offsets import choose_absent_offsets
    from ivf_core.evaluation.box_scores import BoxFiles
    from ivf_core.evaluation.pair_lists import match_folders
    from ivf_core.evaluation.stress import CameraBoxes
    from ivf_core.models.checkpoints import load_model, save_model
    from ivf_core.models.weights_files import find_weights, is_weights
    from ivf_core.system.results import check_file

    given = (args.boxes, args.boxes_visible, args.boxes_infrared)
    inputs = [find_weights(args.weights), args.pairs, *(path for path in given if path)]
    check_file(args.output, inputs, is_weights, "weights file of this package")
    pairs, _ = match_folders(args.pairs / "visible", args.pairs / "infrared")
    names = [pair.name for pair in pairs]
    pointed = read_points(args.points, names) if args.points else {}
    pairs = [pair for pair in hold_out(pairs, args.hold_out_every)[0] if pair.name not in pointed]
    boxes = CameraBoxes(
        *(BoxFiles(find_box_files(path, names)) if path else None for path in given)
    )
    model, chosen = choose_absent_offsets(
        load_model(args.weights), pairs, boxes, args.classes, args.min_precision, args.max_offset
    )
    left_out = f"1 pair of {args.hold_out_every}" + (" and those with points" if pointed else "")
    origin = {
        "offsets": {f"{one.absence}, {one.name}": one.value for one in chosen},
        "chosen_on": f"{len(pairs)} pairs of {args.pairs.resolve().name}, without {left_out}",
        "min_precision": args.min_precision,
        "max_offset": args.max_offset,
    }
    save_model(model, args.output, absent_offsets=json.dumps(origin))
    print(f"{args.output}: weights '{model.name}'", *chosen, sep="\n  ")
    return 0


def _add_offsets(parser: argparse.ArgumentParser) -> None:
    add_weights(parser)
    parser.add_argument(
        "--pairs",
        required=True,
        type=Path,
        metavar="FOLDER",
        help="folder with visible/ and infrared/, matched by file name: pairs that the weights "
        "were trained on",
    )
    parser.add_argument(
        "--boxes",
        required=True,
        type=Path,
        metavar="DIR",
        help="boxes of what both cameras show, NAME.txt (YOLO) or NAME.xml (Pascal VOC)",
    )
    parser.add_argument(
        "--boxes-visible",
        type=Path,
        metavar="DIR",
        help="boxes of what the visible images show, for the recall without a thermal image",
    )
    parser.add_argument(
        "--boxes-infrared",
        type=Path,
        metavar="DIR",
        help="boxes of what the infrared images show, for the recall without a visible image",
    )
    parser.add_argument("--output", required=True, type=Path, help="safetensors file to write")
    parser.add_argument(
        "--points", type=Path, metavar="FILE", help="leave out pairs with points in this CSV file"
    )
    parser.add_argument(
        "--hold-out-every",
        type=int,
        default=7,
        metavar="N",
        help="leave out each N-th pair, as training does (%(default)s)",
    )
    parser.add_argument(
        "--classes",
        nargs="+",
        default=["person"],
        metavar="CLASS",
        help="classes to raise (person)",
    )
    parser.add_argument(
        "--min-precision",
        type=float,
        default=0.8,
        metavar="SHARE",
        help="precision of pixels that a raised class keeps, 0..1 (%(default)s)",
    )
    parser.add_argument(
        "--max-offset",
        type=float,
        default=3.0,
        metavar="LOGITS",
        help="largest offset of a class's logits (%(default)s)",
    )


COMMANDS = (
    Command("weights", "list the shipped weights", "ivf weights", no_arguments, _weights),
    Command(
        "export",
        "write student and head as an ONNX file, with which engines need no PyTorch",
        "ivf export --weights mine.safetensors",
        _add_export,
        _export,
    ),
    Command(
        "calibrate",
        "choose the convolutions that run in 8 bits, and find their ranges",
        "ivf calibrate --weights mine.safetensors --pairs msrs --output mine_int8.safetensors",
        _add_calibrate,
        _calibrate,
    ),
    Command(
        "offsets",
        "choose what masks add to classes while a camera is absent",
        "ivf offsets --pairs msrs --boxes msrs/boxes/fusion --output mine.safetensors",
        _add_offsets,
        _offsets,
    ),
)
