"""The `ivf` command."""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from ivf_core import __version__
from ivf_core.defaults import DEFAULT_WEIGHTS, ENGINES, PICTURES, PRECISIONS

__all__ = ["add_candidates", "add_node_options", "build_parser", "main"]

# Heavy modules are imported by the commands that use them: `ivf --help` is quick.


def _fuse(args: argparse.Namespace) -> int:
    from ivf_core.images.files import open_pairs
    from ivf_core.images.registration import Registration
    from ivf_core.images.thermal import ThermalNormalizer
    from ivf_core.inference import FusionPipeline
    from ivf_core.inference.engine import describe
    from ivf_core.inference.fuse_files import fuse_files
    from ivf_core.memory import keep_freed_memory
    from ivf_core.models.checkpoints import load_model

    keep_freed_memory()
    source = open_pairs(args.visible, args.infrared)
    registration = (
        Registration.from_yaml(args.registration) if args.registration else Registration()
    )
    pipeline = FusionPipeline(
        load_model(args.weights),
        engine=args.engine,
        device=args.device,
        precision=args.precision,
        normalizer=ThermalNormalizer(args.thermal_mode),
        registration=registration,
    )
    with tqdm(total=source.length, desc="fuse", unit="pair", disable=None) as bar:
        done = fuse_files(
            source,
            pipeline,
            args.output,
            opacity=args.opacity,
            palette=args.palette,
            progress=lambda _: bar.update(),
        )
    for line in [*source.unmatched, *done.failed]:
        print(f"ivf fuse: left out: {line}", file=sys.stderr)
    if not done.pairs:
        raise ValueError(f"no pair of {args.visible} and {args.infrared} could be fused")
    print(
        f"{done.pairs} pairs fused with '{pipeline.weights}', {describe(pipeline.engine)}, "
        f"model {statistics.median(done.model_ms):.1f} ms at the median"
    )
    for path in done.written:
        print(f"  {path}")
    if pipeline.class_set is None:
        print("  these weights have no segmentation head: no masks")
    return 1 if done.failed else 0


def _add_weights(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--weights", default=DEFAULT_WEIGHTS, help="shipped name or file (%(default)s)"
    )


def _add_engine(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--engine", default="auto", choices=("auto", *ENGINES), help="runs the model (%(default)s)"
    )
    parser.add_argument(
        "--device",
        default="auto",
        help="auto, cpu, cuda or cuda:N, openvino's gpu, onnxruntime's tensorrt (%(default)s)",
    )
    parser.add_argument(
        "--precision", default="auto", choices=("auto", *PRECISIONS), help="(%(default)s)"
    )


def _add_fuse(parser: argparse.ArgumentParser) -> None:
    from ivf_core.images.overlay import OVERLAY_PALETTES
    from ivf_core.images.thermal import THERMAL_MODES

    parser.add_argument(
        "--visible", required=True, type=Path, help="picture, folder of pictures, or video"
    )
    parser.add_argument(
        "--infrared", required=True, type=Path, help="the same kind; folders match by file name"
    )
    parser.add_argument("--output", required=True, type=Path, help="folder for the results")
    _add_weights(parser)
    _add_engine(parser)
    parser.add_argument(
        "--thermal-mode", default="auto", choices=THERMAL_MODES, help="gain control (%(default)s)"
    )
    parser.add_argument(
        "--registration", type=Path, help="YAML file with the homography from thermal to RGB"
    )
    parser.add_argument(
        "--palette", default="natural", choices=OVERLAY_PALETTES, help="overlay (%(default)s)"
    )
    parser.add_argument(
        "--opacity", default=0.5, type=float, help="of the class colours, 0 to 1 (%(default)s)"
    )


def _bag_from_video(args: argparse.Namespace) -> int:
    from ivf_core.data.rosbag import bag_info, from_video

    with tqdm(desc="write", unit="pair", disable=None) as bar:

        def progress(done: int, total: int | None) -> None:
            bar.total = total
            bar.update(done - bar.n)

        converted = from_video(
            args.visible,
            args.infrared,
            args.output,
            rate_hz=args.rate,
            compressed=args.compressed,
            infrared_offset_seconds=args.offset_seconds,
            storage=args.storage,
            progress=progress,
        )
    for line in converted.unmatched:
        print(f"ivf bag from-video: left out: {line}", file=sys.stderr)
    _print_bag(bag_info(args.output))
    return 0


def _add_bag_from_video(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--visible", required=True, type=Path, help="video or folder of pictures")
    parser.add_argument("--infrared", required=True, type=Path, help="the same kind")
    parser.add_argument("--output", required=True, type=Path, help="bag folder to make")
    parser.add_argument("--rate", type=float, help="frames a second; folders need it")
    parser.add_argument(
        "--offset-seconds", type=float, default=0.0, help="added to thermal stamps (%(default)s)"
    )
    parser.add_argument("--compressed", action="store_true", help="write JPEG or 16-bit PNG")
    parser.add_argument(
        "--storage", default="mcap", choices=("mcap", "sqlite3"), help="(%(default)s)"
    )


def _bag_info(args: argparse.Namespace) -> int:
    from ivf_core.data.rosbag import bag_info

    _print_bag(bag_info(args.bag))
    return 0


def _add_bag_info(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bag", type=Path, help="rosbag2 folder or file, or rosbag1 file")


def _print_bag(info: object) -> None:
    from ivf_core.data.rosbag import BagInfo

    assert isinstance(info, BagInfo)
    print(f"{info.path}: {info.format}, {info.duration_seconds:.2f} s, {info.messages} messages")
    width = max((len(topic.name) for topic in info.topics), default=0)
    for topic in info.topics:
        rate = f"{topic.rate_hz:.1f} Hz" if topic.rate_hz else ""
        print(f"  {topic.name:<{width}}  {topic.count:>7}  {rate:>9}  {topic.type}")


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

    parser.add_argument("directory", type=Path, metavar="DIR", help="of the data set")
    parser.add_argument(
        "--dataset",
        metavar="NAME",
        help="fmb, mfnet, m3fd, msrs, pst900, roadscene, tno, or folder for a plain one; "
        "by default what it looks like",
    )
    parser.add_argument(
        "--labels", metavar="FOLDER", help="folder of labels in a plain one (labels)"
    )
    parser.add_argument("--classes", choices=CLASS_SETS, help="class set of labels in a plain one")


def _weights(_args: argparse.Namespace) -> int:
    from ivf_core.models.checkpoints import load_model, shipped_weights

    for name, path in shipped_weights().items():
        model = load_model(name)
        head = f"masks: {', '.join(model.class_set.names)}" if model.class_set else "no masks"
        size = path.stat().st_size / 1e6
        print(f"{name}  {size:.1f} MB  student '{model.structure}'  {head}")
        print(f"  {path}\n  model card: {path.with_suffix('.md')}")
    return 0


def _benchmark(args: argparse.Namespace) -> int:
    from dataclasses import asdict

    from ivf_core.images.files import write_json
    from ivf_core.inference.benchmark import Candidate, run, table

    if args.node:
        return _benchmark_node(args)
    _refuse(args, _OF_NODE, "needs --node")
    rounds = 10 if args.rounds is None else args.rounds
    candidates = [
        Candidate(weights, head, engine, precision, size, args.device, args.threads)
        for size in args.size
        for weights in args.weights
        for head in {"no": (False,), "yes": (True,), "both": (False, True)}[args.head or "both"]
        for engine in args.engine
        for precision in args.precision
    ]
    rows = run(candidates, rounds=rounds)
    print(table(rows))
    if args.json is not None:
        write_json(args.json, [asdict(row) for row in rows])
    return 0


def _benchmark_node(args: argparse.Namespace) -> int:
    """Become the program that measures the node: this package knows no ROS."""
    _refuse(args, _OF_ENGINES, "does not go with --node, see --outputs and --seconds")
    probe = subprocess.run(
        [sys.executable, "-c", "import rclpy, ivf_ros"], capture_output=True, text=True, check=False
    )
    if probe.returncode != 0:
        reason = (probe.stderr.strip().splitlines() or ["no message"])[-1]
        raise ValueError(
            "ivf benchmark --node needs ROS 2: its wheels (make setup) or a sourced distribution. "
            f"{sys.executable} says {reason}"
        )
    words = [sys.executable, "-m", "ivf_ros.benchmark"]
    for name in (*_OF_BOTH, *_OF_NODE):
        value = getattr(args, name)
        if value is not None:
            words += [f"--{name}", *map(_word, value if isinstance(value, list) else [value])]
    sys.stdout.flush()
    os.execv(sys.executable, words)  # so that Ctrl-C reaches what ends its processes in order


_OF_BOTH = ("weights", "engine", "precision", "device", "threads", "size", "json")
_OF_ENGINES = ("head", "rounds")
_OF_NODE = ("rate", "seconds", "outputs")


def _word(value: object) -> str:
    """A value as it is written on the command line."""
    return "x".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _refuse(args: argparse.Namespace, names: Sequence[str], reason: str) -> None:
    """Raises ValueError for an option that is given."""
    for name in names:
        if getattr(args, name) is not None:
            raise ValueError(f"--{name} {reason}")


def add_candidates(parser: argparse.ArgumentParser) -> None:
    """Options of both benchmarks: what is measured."""

    def size(text: str) -> tuple[int, int]:
        width, _, height = text.partition("x")
        return int(width), int(height)

    parser.add_argument("--weights", nargs="+", default=[DEFAULT_WEIGHTS], help="names or files")
    parser.add_argument(
        "--engine", nargs="+", default=["auto"], choices=("auto", *ENGINES), help="(auto)"
    )
    parser.add_argument(
        "--precision", nargs="+", default=["auto"], choices=("auto", *PRECISIONS), help="(auto)"
    )
    parser.add_argument("--device", default="auto", help="(%(default)s)")
    parser.add_argument("--threads", type=int, default=0, help="of the CPU; 0: the engine's choice")
    parser.add_argument(
        "--size", nargs="+", type=size, default=[(640, 480)], metavar="WxH", help="(640x480)"
    )
    parser.add_argument("--json", type=Path, help="also write the rows to this file")


def add_node_options(parser: argparse._ActionsContainer) -> None:
    """Options of the node's benchmark: how it is measured."""
    parser.add_argument(
        "--rate", nargs="+", type=float, default=[30.0], metavar="HZ",
        help="pairs a second that the cameras publish (30)",
    )  # fmt: skip
    parser.add_argument("--seconds", type=float, default=20.0, help="of each measured run (20)")
    parser.add_argument(
        "--outputs", nargs="+", default=list(PICTURES), choices=PICTURES, help="subscribed to (all)"
    )


def _add_benchmark(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--node", action="store_true", help="measure the node over DDS instead of the engines"
    )
    add_candidates(parser)
    engines = parser.add_argument_group("without --node")
    engines.add_argument("--head", choices=("yes", "no", "both"), help="(both)")
    engines.add_argument("--rounds", type=int, help="turns of each (10)")
    node = parser.add_argument_group("with --node")
    add_node_options(node)
    parser.set_defaults(**dict.fromkeys(_OF_NODE))


def _export(args: argparse.Namespace) -> int:
    from ivf_core.images.files import atomic_path
    from ivf_core.models.checkpoints import load_model

    try:
        from ivf_core.inference.export import export_onnx
    except ModuleNotFoundError as error:
        raise ValueError(f"ivf export needs a package more: pip install {error.name}") from error
    model = load_model(args.weights)
    content = export_onnx(model, fused=not args.no_fused, labels=not args.no_labels, int8=args.int8)
    with atomic_path(args.output) as temporary:
        temporary.write_bytes(content)
    print(f"{args.output}: {len(content) / 1e6:.1f} MB, weights '{model.name}'")
    return 0


def _add_export(parser: argparse.ArgumentParser) -> None:
    _add_weights(parser)
    parser.add_argument("--output", required=True, type=Path, help="ONNX file to write")
    parser.add_argument("--no-fused", action="store_true", help="leave the picture out")
    parser.add_argument("--no-labels", action="store_true", help="leave the head out")
    parser.add_argument(
        "--int8", action="store_true", help="8-bit convolutions, of calibrated weights"
    )


def _calibrate(args: argparse.Namespace) -> int:
    from ivf_core.data.pairs import read_pair_folder
    from ivf_core.models.checkpoints import load_model, save_model
    from ivf_core.training.calibration import calibrate

    pairs = [pair for folder in args.pairs for pair in read_pair_folder(folder)]
    model = calibrate(load_model(args.weights), pairs)
    save_model(model, args.output)
    print(f"{args.output}: weights '{model.name}', {len(model.ranges)} convolutions in 8 bits")
    return 0


def _add_calibrate(parser: argparse.ArgumentParser) -> None:
    _add_weights(parser)
    parser.add_argument(
        "--pairs",
        required=True,
        nargs="+",
        type=Path,
        metavar="FOLDER",
        help="with visible/ and infrared/ in it, matched by file name; 64 pairs of all are used",
    )
    parser.add_argument("--output", required=True, type=Path, help="safetensors file to write")


def _no_arguments(_parser: argparse.ArgumentParser) -> None:
    pass


def _train_student(args: argparse.Namespace) -> int:
    from ivf_core.memory import keep_freed_memory
    from ivf_core.training.distillation import StudentRecipe, train_student
    from ivf_core.training.recipes import load_recipe

    keep_freed_memory()
    recipe = load_recipe(StudentRecipe, args.config, args.set)
    print("PSNR against the reference on pairs kept out of training:")
    for folder, decibel in train_student(recipe).items():
        print(f"  {folder}: {decibel:.2f} dB")
    print(f"written to {recipe.output}")
    return 0


def _train_head(args: argparse.Namespace) -> int:
    from ivf_core.memory import keep_freed_memory
    from ivf_core.training.recipes import load_recipe
    from ivf_core.training.segmentation import HeadRecipe, train_head

    keep_freed_memory()
    recipe = load_recipe(HeadRecipe, args.config, args.set)
    for title, scores in train_head(recipe).items():
        print(title)
        for name, value in scores.items():
            print(f"  {name:<12} {value:.3f}")
    print(f"written to {recipe.output}")
    return 0


def _train_priors(args: argparse.Namespace) -> int:
    from ivf_core.training.priors import PriorRecipe, make_priors
    from ivf_core.training.recipes import load_recipe

    report = make_priors(load_recipe(PriorRecipe, args.config, args.set))
    for line in report.failed:
        print(f"ivf train priors: left out: {line}", file=sys.stderr)
    pictures = report.made + report.kept
    print(
        f"masks of {report.made} pictures made, of {report.kept} kept, "
        f"{report.masks / max(1, pictures):.1f} a picture"
    )
    print(f"written to {report.directory}")
    return 1 if report.failed else 0


def _add_train(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", required=True, type=Path, help="recipe, a YAML file")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change an option of it"
    )


# What is the fault of an input or of the machine, and is told in one line.
_BAD_INPUT = (ValueError, OSError)
# A run that diverges, or for which memory is too small (torch: a RuntimeError).
_BAD_RUN = (*_BAD_INPUT, FloatingPointError, MemoryError, RuntimeError)


class _Command(NamedTuple):
    """One command: its words, what it does, an example, its options, and the function.

    Of the exceptions in `failures` the user sees the message, of others the traceback.
    """

    words: str
    help: str
    example: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]
    failures: tuple[type[Exception], ...] = _BAD_INPUT


_COMMANDS = (
    _Command(
        "fuse",
        "fuse a picture, a folder or a video",
        "ivf fuse --visible rgb.mp4 --infrared thermal.mp4 --output fused",
        _add_fuse,
        _fuse,
    ),
    _Command(
        "bag from-video",
        "make a bag of two videos or folders",
        "ivf bag from-video --visible rgb.mp4 --infrared thermal.mp4 --output drive",
        _add_bag_from_video,
        _bag_from_video,
    ),
    _Command("bag info", "show what a bag holds", "ivf bag info drive", _add_bag_info, _bag_info),
    _Command(
        "data check",
        "read a data set whole: counts, sizes, classes, broken files",
        "ivf data check MSRS",
        _add_data_check,
        _data_check,
    ),
    _Command("weights", "list the weights that ship", "ivf weights", _no_arguments, _weights),
    _Command(
        "benchmark",
        "time engines beside the published student, or the node over DDS",
        "ivf benchmark --weights sage --precision fp32 auto --json benchmark.json",
        _add_benchmark,
        _benchmark,
    ),
    _Command(
        "export",
        "write student and head as an ONNX file",
        "ivf export --weights sage --output sage.onnx",
        _add_export,
        _export,
    ),
    _Command(
        "calibrate",
        "find the ranges that weights need to run in 8 bits",
        "ivf calibrate --weights mine.safetensors --pairs msrs --output mine_int8.safetensors",
        _add_calibrate,
        _calibrate,
    ),
    _Command(
        "train priors",
        "make the masks that guide a teacher",
        "ivf train priors --config training/priors_msrs.yaml --set source=superpixels",
        _add_train,
        _train_priors,
        _BAD_RUN,
    ),
    _Command(
        "train student",
        "distil a student from a reference",
        "ivf train student --config training/student_sage.yaml --set steps=100",
        _add_train,
        _train_student,
        _BAD_RUN,
    ),
    _Command(
        "train head",
        "train a segmentation head",
        "ivf train head --config training/head_sage.yaml",
        _add_train,
        _train_head,
        _BAD_RUN,
    ),
)

_GROUPS = {
    "bag": "make bags, look into them",
    "data": "look into data sets",
    "train": "make priors, train students and heads",
}


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="ivf", description="Infrared and visible image fusion with semantic masks."
    )
    parser.add_argument("--version", action="version", version=f"ivf {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    groups = {
        group: commands.add_parser(group, help=text, description=text.capitalize() + ".")
        .add_subparsers(metavar="COMMAND", required=True)
        for group, text in _GROUPS.items()
    }  # fmt: skip
    for command in _COMMANDS:
        *group, word = command.words.split()
        parent = groups[group[0]] if group else commands
        sub = parent.add_parser(
            word,
            help=command.help,
            description=command.help.capitalize() + ".",
            epilog=f"example:\n  {command.example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_arguments(sub)
        sub.set_defaults(run=command.run, failures=command.failures)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status: 1 where input or run is bad, 2 for bad options."""
    args = build_parser().parse_args(arguments)
    try:
        return args.run(args)
    except args.failures as error:
        lines = (str(error) or type(error).__name__).splitlines()
        print(f"ivf: {' '.join(line.strip() for line in lines)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
