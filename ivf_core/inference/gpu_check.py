"""Check of a GPU in one command: equal images, and times beside the published student.

It needs PyTorch, NumPy and OpenCV only. Every part reports its own error, and the others run.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from ivf_core.inference.options import EngineOptions
from ivf_core.inference.torch_engine import TorchEngine, choose_device
from ivf_core.models.checkpoints import load_model
from ivf_core.models.graph import FusionGraph
from ivf_core.models.student import commute_merges
from ivf_core.scenes import random_scene
from ivf_core.system.atomic import atomic_path, write_json

__all__ = ["PARTS", "Settings", "check", "main"]

_SIZES = ((640, 480), (1024, 768), (1920, 1080))
_SECONDS = 450.0
_LARGEST_DIFFERENCE = 1  # of fp32 from the CPU, in grey levels
_SEED = 7

Images = tuple[np.ndarray, np.ndarray]
Results = dict[str, Any]


@dataclass(frozen=True)
class Settings:
    """Settings of a check.

    Attributes:
        device: "cpu", "cuda" or "cuda:N".
        weights: shipped name or file, with a head.
        quick: one small size and few runs.
    """

    device: str
    weights: str
    quick: bool

    @property
    def sizes(self) -> Sequence[tuple[int, int]]:
        """Widths and heights in pixels."""
        return ((128, 96),) if self.quick else _SIZES

    @property
    def runs(self) -> int:
        """Runs of each measurement."""
        return 5 if self.quick else 200

    @property
    def precisions(self) -> Sequence[str]:
        """Precisions of the engine on the device."""
        return ("fp32", "bf16") if self.device == "cpu" else ("fp32", "fp16", "bf16")

    def engine(self, precision: str, device: str = "") -> TorchEngine:
        """Return an engine."""
        options = EngineOptions(device=device or self.device, precision=precision)
        return TorchEngine(load_model(self.weights), options)


def check(settings: Settings, seconds: float = _SECONDS) -> Results:
    """Run all parts.

    Args:
        settings: device, weights and extent.
        seconds: no part starts later than this after the first.

    Returns:
        Facts about the machine, results of `PARTS` by name, and `broken`: broken bounds.
    """
    start = time.monotonic()
    results: Results = {"machine": _machine(settings), "parts": {}, "broken": []}
    for name, part in PARTS.items():
        if time.monotonic() - start > seconds:
            results["parts"][name] = {"not_run": "the time was up"}
            continue
        try:
            results["parts"][name] = {"rows": part(settings)}
        except Exception as error:  # a part that fails is a result
            results["parts"][name] = {"error": f"{type(error).__name__}: {error}"}
    for row in results["parts"]["equality"].get("rows", ()):
        if row["precision"] == "fp32" and row["max_diff_255"] > _LARGEST_DIFFERENCE:
            results["broken"].append(f"fp32 differs by {row['max_diff_255']} grey levels")
    return results


def _equality(settings: Settings) -> list[Results]:
    """Compare images with those of fp32 on a CPU."""
    images = _pair(settings.sizes[0])
    expected, expected_ids = settings.engine("fp32", "cpu")(*images)
    rows = []
    for precision in settings.precisions:
        fused, ids = settings.engine(precision)(*images)
        assert fused is not None
        assert expected is not None
        difference = cv2.absdiff(fused, expected)
        rows.append({
            "precision": precision,
            "max_diff_255": int(difference.max()),
            "p999_diff_255": float(np.percentile(difference, 99.9)),
            "equal_labels": float(np.mean(ids == expected_ids)),
        })  # fmt: skip
    return rows


def _speed(settings: Settings) -> list[Results]:
    """Measure the engine, its plain kernels and the published student alone."""
    rows = []
    for size in settings.sizes:
        images = _pair(size)
        eager = _eager(settings, images)
        rows.append(_row(settings, size, "published student, eager", "fp32", eager))
        for precision in settings.precisions:
            plain = _plain(settings, precision, [images])
            rows.append(_row(settings, size, "plain kernels", precision, plain))
            engine = settings.engine(precision)
            recorded = engine._recording(images[1].shape, True, True) is not None
            what = "engine, CUDA graph" if recorded else "engine, no CUDA graph"
            rows.append(_row(settings, size, what, precision, partial(engine, *images)))
    return rows


def _several(settings: Settings) -> list[Results]:
    """Measure several pairs at once: one engine and thread for each, and one batch."""
    size = settings.sizes[min(1, len(settings.sizes) - 1)]
    images, precision = _pair(size), settings.precisions[1]
    rows = []
    for count in (1, 2) if settings.quick else (1, 2, 4, 8):
        engines = [settings.engine(precision) for _ in range(count)]
        for engine in engines:
            engine(*images)  # CUDA graphs are recorded one after another
        with ThreadPoolExecutor(count) as pool:

            def at_once(engines: list[TorchEngine] = engines, pool: Any = pool) -> None:
                list(pool.map(lambda chosen: chosen(*images), engines))

            rows.append(_row(settings, size, f"{count} engines", precision, at_once))
        batch = _plain(settings, precision, [images] * count)
        rows.append(_row(settings, size, f"batch of {count}, plain", precision, batch))
    return rows


PARTS: dict[str, Callable[[Settings], list[Results]]] = {
    "equality": _equality,
    "speed": _speed,
    "several pairs": _several,
}
"""Measurements by name."""


def _plain(settings: Settings, precision: str, pairs: list[Images]) -> Callable[[], object]:
    """Return the fusion graph with kernels launched one by one, with both copies."""
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    graph = FusionGraph(load_model(settings.weights), dtype).to(settings.device)
    graph = graph.to(memory_format=torch.channels_last)
    visible, infrared = (torch.from_numpy(np.stack(x)) for x in zip(*pairs, strict=True))

    def call() -> object:
        with torch.inference_mode():
            out = graph(visible.to(settings.device), infrared.to(settings.device), True, True)
        return [part.cpu() for part in out]

    return call


def _eager(settings: Settings, images: Images) -> Callable[[], object]:
    """Return the published student alone, on float tensors, with both copies."""
    student = load_model("sage").student.to(settings.device)
    commute_merges(student, False)  # in the published order of operations
    luma, thermal = (torch.rand(1, 1, *images[1].shape) for _ in range(2))

    def call() -> object:
        with torch.inference_mode():
            return student(luma.to(settings.device), thermal.to(settings.device)).fused.cpu()

    return call


def _row(
    settings: Settings,
    size: tuple[int, int],
    what: str,
    precision: str,
    call: Callable[[], object],
) -> Results:
    """Measure a function that waits for its result; the time is that of one call."""
    cuda = settings.device != "cpu"
    for _ in range(2 if settings.quick else 10):
        call()
    if cuda:
        torch.cuda.reset_peak_memory_stats(settings.device)
    times = []
    for _ in range(settings.runs):
        start = time.perf_counter()
        call()
        times.append((time.perf_counter() - start) * 1e3)
    times.sort()
    peak = torch.cuda.max_memory_allocated(settings.device) / 2**20 if cuda else None
    return {
        "size": f"{size[0]}x{size[1]}", "what": what, "precision": precision,
        "median_ms": statistics.median(times),
        "p99_ms": times[math.ceil(0.99 * len(times)) - 1],
        "peak_memory_mb": peak,
    }  # fmt: skip


def _pair(size: tuple[int, int]) -> Images:
    scene = random_scene(np.random.default_rng(_SEED))
    return cv2.resize(scene.visible, size), cv2.resize(scene.infrared, size)


def _machine(settings: Settings) -> Results:
    cuda = settings.device != "cpu"
    return {
        "device": torch.cuda.get_device_name(settings.device) if cuda else "cpu",
        "torch": str(torch.__version__), "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if cuda else None,
        "numpy": np.__version__, "opencv": cv2.__version__,
        "weights": settings.weights, "quick": settings.quick,
    }  # fmt: skip


def _markdown(results: Results) -> str:
    lines = [", ".join(f"{k} {v}" for k, v in results["machine"].items()), ""]
    for name, part in results["parts"].items():
        rows = part.get("rows") or [part]
        lines += [f"**{name}**", "", "| " + " | ".join(rows[0]) + " |", "|" + "---|" * len(rows[0])]
        for row in rows:
            cells = (f"{v:.3f}" if isinstance(v, float) else str(v) for v in row.values())
            lines.append("| " + " | ".join(c.replace("\n", " ") for c in cells) + " |")
        lines.append("")
    return "\n".join([*lines, *results["broken"]]) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the check and write gpu.json and gpu.md.

    Returns:
        Exit status: 1 if a bound is broken or equality could not be measured.
    """
    parser = argparse.ArgumentParser(description="Check a GPU: equal images, times, memory.")
    parser.add_argument("--output", type=Path, required=True, help="folder of gpu.json and gpu.md")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--weights", default="sage", help="shipped name or file with a head")
    parser.add_argument("--quick", action="store_true", help="one small size, few runs")
    chosen = parser.parse_args(arguments)
    device = str(choose_device(chosen.device))
    results = check(Settings(device, chosen.weights, chosen.quick))
    write_json(chosen.output / "gpu.json", results)
    with atomic_path(chosen.output / "gpu.md") as temporary:
        temporary.write_text(_markdown(results), encoding="utf-8")
    return int(bool(results["broken"]) or "rows" not in results["parts"]["equality"])


if __name__ == "__main__":
    sys.exit(main())
