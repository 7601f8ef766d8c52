"""Check of a GPU in one command: equal images, times, several pairs and training steps.

It needs PyTorch, NumPy and OpenCV only; ONNX Runtime and the packages of training are measured
where they are installed. Each part is a child process, which ends when its time is up, and the
results are written after each.
"""

from __future__ import annotations

import argparse
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch

from ivf_core.defaults import DEFAULT_WEIGHTS
from ivf_core.inference.gpu_measurements import Settings
from ivf_core.inference.torch_engine import choose_device
from ivf_core.system.atomic import atomic_path, write_json
from ivf_core.system.child_process import Child

__all__ = ["PARTS", "Part", "check", "main"]

_LARGEST_DIFFERENCE = 1  # of fp32 from the CPU, in grey levels
_POLL_SECONDS = 0.02
_MODULE = "ivf_core.inference.gpu_measurements"

_HEADINGS = {
    "median_ms": "median, ms",
    "p99_ms": "p99, ms",
    "peak_memory_mb": "peak memory, MB",
    "max_diff_255": "largest difference",
    "p999_diff_255": "99.9 % of values",
    "equal_labels": "equal class ids",
}

Results = dict[str, Any]


class Part(NamedTuple):
    """A part of the check.

    Attributes:
        title: heading of its table.
        text: what is measured.
        module: module of the child process.
        seconds: its time; what a part leaves is added to that of the next.
    """

    title: str
    text: str
    module: str
    seconds: float


PARTS = {
    "equality": Part(
        "Equality",
        "Differences from the images of fp32 on the CPU, in grey levels, over three pairs.",
        _MODULE,
        100,
    ),
    "speed": Part(
        "Speed",
        "One pair, with both copies. The published student is the network alone on float "
        "tensors; the others convert, recolour and segment as well.",
        _MODULE,
        150,
    ),
    "several pairs": Part("Several pairs at once", "With both copies.", _MODULE, 80),
    "onnxruntime": Part("ONNX Runtime", "One pair, with both copies.", _MODULE, 60),
    "training": Part(
        "Training",
        "Steps of SAGE's student and of its teacher, each against the other's output, on "
        "synthetic crops that stay on the device, with the small encoder for L_cs and the head "
        "of `fast` for L_seg.",
        "ivf_core.training.step_rate",
        70,
    ),
}
"""Parts by name, 460 seconds together."""


def check(settings: Settings, output: Path, seconds: float = 1.0) -> Results:
    """Run all parts, and write gpu.json and gpu.md after each.

    Args:
        settings: device, weights and extent.
        output: folder of both files.
        seconds: factor of the seconds of all parts.

    Returns:
        Facts about the machine, `parts` with rows and notes by name, and `broken`: broken bounds.
    """
    results: Results = {"machine": _machine(settings), "parts": {}, "broken": []}
    deadline = time.monotonic()
    for name, part in PARTS.items():
        deadline += seconds * part.seconds
        rows: list[Results] = []
        note = _collect(name, part, settings, deadline, rows)
        results["parts"][name] = {"rows": rows, "note": note}
        if name == "equality":
            results["broken"] = _broken(rows, note)
        write_json(output / "gpu.json", results)
        with atomic_path(output / "gpu.md") as temporary:
            temporary.write_text(_markdown(results), encoding="utf-8")
    return results


def _collect(
    name: str, part: Part, settings: Settings, deadline: float, rows: list[Results]
) -> str:
    """Append the rows of a part, and return why some are missing, or ""."""
    if time.monotonic() >= deadline:
        return "not run: the time was up"
    try:
        with Child(part.module, asdict(settings) | {"part": name}, name) as child:
            while True:
                while not child.answered():
                    if time.monotonic() >= deadline:
                        return "stopped: its time was up, further rows were not measured"
                    time.sleep(_POLL_SECONDS)
                answer = child.answer()
                if "end" in answer:
                    return ""
                if "row" in answer:
                    rows.append(answer["row"])
                child.send("next")
    except ValueError as error:  # a part that fails is a result
        return f"failed: {error}"


def _broken(rows: list[Results], note: str) -> list[str]:
    """Return the broken bounds of the rows of equality."""
    broken = [
        f"{row['size']}, {row['what']}: fp32 differs by {row['max_diff_255']} grey levels from "
        f"the CPU, allowed: {_LARGEST_DIFFERENCE}"
        for row in rows
        if row["precision"] == "fp32" and row["max_diff_255"] > _LARGEST_DIFFERENCE
    ]
    return broken + ([f"equality was not measured completely: {note}"] if note else [])


def _machine(settings: Settings) -> Results:
    cuda = settings.cuda
    return {
        "device": torch.cuda.get_device_name(settings.device) if cuda else "cpu",
        "driver": _driver() if cuda else None,
        "CUDA": torch.version.cuda,
        "cuDNN": torch.backends.cudnn.version() if cuda else None,
        "python": platform.python_version(),
        "torch": str(torch.__version__), "numpy": np.__version__, "opencv": cv2.__version__,
        "onnx": _version("onnx"),
        "onnxruntime": _version("onnxruntime-gpu", "onnxruntime"),
        "lightning-fabric": _version("lightning-fabric"),
        "weights": settings.weights,
        "TensorFloat-32": False, "cuDNN searches for kernels": True, "quick": settings.quick,
    }  # fmt: skip


def _driver() -> str | None:
    """Return name, driver version, memory and power limit of all devices, one after another."""
    query = "--query-gpu=name,driver_version,memory.total,power.limit"
    try:
        found = subprocess.run(
            ["nvidia-smi", query, "--format=csv,noheader"],
            capture_output=True, text=True, timeout=20, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return "; ".join(found.stdout.split("\n")).strip("; ")


def _version(*packages: str) -> str:
    """Return the version of the first package that is installed."""
    for package in packages:
        with suppress(PackageNotFoundError):
            return version(package)
    return "not installed"


def _markdown(results: Results) -> str:
    lines = ["# Check of a GPU", ""]
    lines += [f"- {name}: {_cell(value)}" for name, value in results["machine"].items()]
    lines += ["", "Broken bounds: " + ("; ".join(results["broken"]) or "none"), ""]
    for name, part in results["parts"].items():
        lines += [f"## {PARTS[name].title}", "", PARTS[name].text, ""]
        if part["note"]:
            lines += [f"{name}: {part['note']}", ""]
        columns = list(dict.fromkeys(key for row in part["rows"] for key in row))
        columns = [c for c in columns if any(row.get(c) is not None for row in part["rows"])]
        if columns:
            lines += [_line([_heading(c) for c in columns]), "|" + "---|" * len(columns)]
            lines += [_line([_cell(row.get(c, "")) for c in columns]) for row in part["rows"]]
            lines.append("")
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _heading(column: str) -> str:
    return _HEADINGS.get(column, column.replace("_", " "))


def _cell(value: object) -> str:
    """Return the text of a value in a table."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = f"{value:.4g}" if isinstance(value, float) and value < 1000 else str(value)
    if isinstance(value, float) and value >= 1000:
        text = f"{value:.0f}"
    return text.replace("\n", " ").replace("|", "/")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the check and write gpu.json and gpu.md.

    Returns:
        Exit status: 1 if a bound is broken or equality was not measured completely.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="folder of gpu.json and gpu.md")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument(
        "--weights", default=DEFAULT_WEIGHTS, help="shipped name or file with a head (%(default)s)"
    )
    parser.add_argument(
        "--reference", default="", help="weights of the images that are expected: the same"
    )
    parser.add_argument("--quick", action="store_true", help="one small size, few runs")
    chosen = parser.parse_args(arguments)
    settings = Settings(
        str(choose_device(chosen.device)), chosen.weights, chosen.reference, chosen.quick
    )
    results = check(settings, chosen.output)
    for line in results["broken"]:
        print(line, file=sys.stderr)
    print(chosen.output / "gpu.md")
    return int(bool(results["broken"]))


if __name__ == "__main__":
    sys.exit(main())
