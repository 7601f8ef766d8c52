"""Measurements of `gpu_check`: each part runs as a child process that returns row by row."""

from __future__ import annotations

import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import cv2
import numpy as np
import torch

from ivf_core.defaults import DEFAULT_WEIGHTS
from ivf_core.inference.cuda_graph import RecordedGraph
from ivf_core.inference.options import EngineOptions
from ivf_core.inference.torch_engine import TorchEngine
from ivf_core.models.checkpoints import load_model
from ivf_core.models.graph import FusionGraph
from ivf_core.models.interface import OutputChoice
from ivf_core.models.student import commute_merges
from ivf_core.models.weights_files import open_weights
from ivf_core.scenes import random_scene
from ivf_core.system.child_process import Answer, serve

__all__ = ["PARTS", "Settings", "fix_arithmetic", "serve_rows", "time_calls"]

_SIZES = ((640, 480), (1024, 768), (1920, 1080))
_PAIRS = 3  # of the comparison with a CPU
_SEED = 7
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

Images = tuple[np.ndarray, np.ndarray]
Row = dict[str, Any]


@dataclass(frozen=True)
class Settings:
    """Settings of the measurements.

    Attributes:
        device: "cpu", "cuda" or "cuda:N".
        weights: shipped name or file, with a head.
        reference: weights of the images that are expected, by default the same.
        quick: one small size and few runs.
    """

    device: str
    weights: str = DEFAULT_WEIGHTS
    reference: str = ""
    quick: bool = False

    @property
    def cuda(self) -> bool:
        """True for a CUDA device."""
        return self.device != "cpu"

    @property
    def sizes(self) -> Sequence[tuple[int, int]]:
        """Widths and heights in pixels."""
        return ((128, 96),) if self.quick else _SIZES

    @property
    def precisions(self) -> Sequence[str]:
        """Precisions of the engine on the device."""
        return ("fp32", "fp16", "bf16") if self.cuda else ("fp32", "bf16")

    def engine(self, precision: str) -> TorchEngine:
        """Return an engine on the device."""
        options = EngineOptions(device=self.device, precision=precision)
        return TorchEngine(open_weights(self.weights), options)


def fix_arithmetic() -> None:
    """Set what changes the results or times of all rows: no TensorFloat-32, cuDNN's search."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = True


def time_calls(settings: Settings, call: Callable[[], object]) -> Row:
    """Measure a function that waits for its result.

    Args:
        settings: device and extent.
        call: the function.

    Returns:
        Number of runs, at most 200 and those of 6 seconds; median and p99 of the time of one
        call in milliseconds; largest memory that PyTorch allocated on the device in MB, else
        None.
    """
    warm_up, runs, seconds = (1, 5, 1.0) if settings.quick else (10, 200, 6.0)
    _repeat(call, warm_up, seconds / 2)
    if settings.cuda:
        torch.cuda.reset_peak_memory_stats(settings.device)
    times = sorted(_repeat(call, runs, seconds))
    peak = torch.cuda.max_memory_allocated(settings.device) / 2**20 if settings.cuda else None
    return {
        "runs": len(times), "median_ms": statistics.median(times),
        "p99_ms": times[math.ceil(0.99 * len(times)) - 1], "peak_memory_mb": peak,
    }  # fmt: skip


def _repeat(call: Callable[[], object], runs: int, seconds: float) -> list[float]:
    """Return milliseconds of each call, at least one."""
    times: list[float] = []
    end = time.perf_counter() + seconds
    while not times or (len(times) < runs and time.perf_counter() < end):
        start = time.perf_counter()
        call()
        times.append((time.perf_counter() - start) * 1e3)
    return times


def _equality(settings: Settings) -> Iterator[Row]:
    """Compare images with those of fp32 on a CPU: pair by pair, and as one batch."""
    model = load_model(settings.reference or settings.weights)
    expect = TorchEngine(model, EngineOptions(device="cpu", precision="fp32"))
    for size in settings.sizes:
        pairs = [_pair(size, _SEED + number) for number in range(_PAIRS)]
        expected = [expect(*pair) for pair in pairs]
        for precision in settings.precisions:
            engine = settings.engine(precision)
            found = [engine(*pair) for pair in pairs]
            yield _compare(size, "engine", precision, found, expected)
            if settings.cuda:
                images, ids, _ = _recorded_batch(settings, precision, pairs)()
                batch = list(zip(images, ids, strict=True))
                yield _compare(size, f"batch of {_PAIRS}, CUDA graph", precision, batch, expected)


def _compare(
    size: tuple[int, int], what: str, precision: str, found: Sequence[Any], expected: Sequence[Any]
) -> Row:
    pairs = list(zip(found, expected, strict=True))
    differences = np.stack([cv2.absdiff(fused, other) for (fused, *_), (other, *_) in pairs])
    return {
        "size": _text(size), "what": what, "precision": precision, "pairs": len(pairs),
        "max_diff_255": int(differences.max()),
        "p999_diff_255": float(np.percentile(differences, 99.9)),
        "equal_labels": float(np.mean([ids == other for (_, ids, *_), (_, other, *_) in pairs])),
    }  # fmt: skip


def _speed(settings: Settings) -> Iterator[Row]:
    """Measure the engine, its plain kernels and the published student alone."""
    for size in settings.sizes:
        images = _pair(size)

        def row(what: str, precision: str, call: Any, size: Any = size) -> Row:
            head = {"size": _text(size), "what": what, "precision": precision}
            return head | time_calls(settings, call)

        for precision in settings.precisions:
            eager = _eager(settings, precision, images)
            yield row("published student, eager", precision, eager)
            yield row("plain kernels", precision, _plain(settings, precision, [images]))
            engine = settings.engine(precision)
            recorded = engine._recording(images[1].shape, OutputChoice()) is not None
            what = "engine, CUDA graph" if recorded else "engine, no CUDA graph"
            yield row(what, precision, partial(engine, *images))


def _several(settings: Settings) -> Iterator[Row]:
    """Measure several pairs at once: one engine and thread for each, and one batch."""
    size = settings.sizes[min(1, len(settings.sizes) - 1)]
    images, precision = _pair(size), settings.precisions[1]
    for count in (1, 2) if settings.quick else (1, 2, 4, 8):

        def row(what: str, call: Any, count: int = count) -> Row:
            head = {"size": _text(size), "pairs": count, "what": what, "precision": precision}
            times = time_calls(settings, call)
            return head | times | {"pairs_per_second": count / times["median_ms"] * 1e3}

        engines = [settings.engine(precision) for _ in range(count)]
        for engine in engines:
            engine(*images)  # CUDA graphs are recorded one after another
        with ThreadPoolExecutor(count) as pool:

            def at_once(engines: list[TorchEngine] = engines, pool: Any = pool) -> None:
                list(pool.map(lambda chosen: chosen(*images), engines))

            yield row("engine and thread for each", at_once)
        pairs = [images] * count
        yield row("one batch, plain kernels", _plain(settings, precision, pairs))
        if settings.cuda:
            yield row("one batch, CUDA graph", _recorded_batch(settings, precision, pairs))


def _onnxruntime(settings: Settings) -> Iterator[Row]:
    """Measure ONNX Runtime's engines on the device, or return which are not installed."""
    kinds = {"cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}
    if not settings.cuda:
        kinds = {"cpu": "CPUExecutionProvider"}
    try:
        import onnxruntime

        from ivf_core.inference.onnxruntime_engine import OnnxRuntimeEngine

        installed = onnxruntime.get_available_providers()
    except ImportError as error:
        yield {"provider": "ONNX Runtime", "note": f"not installed: {error}"}
        return
    weights, index = open_weights(settings.weights), settings.device.partition(":")[2]
    for kind, provider in kinds.items():
        if provider not in installed:
            yield {"provider": kind, "note": "not installed"}
            continue
        # TensorRT builds an engine for every size, which takes minutes.
        sizes = settings.sizes[:1] if kind == "tensorrt" else settings.sizes
        for precision in ("fp32", "fp16") if settings.cuda else ("fp32",):
            device = f"{kind}:{index}" if index else kind
            head = {"provider": kind, "precision": precision}
            try:
                engine = OnnxRuntimeEngine(weights, EngineOptions(device, precision))
                for size in sizes:
                    times = time_calls(settings, partial(engine, *_pair(size)))
                    yield head | {"size": _text(size)} | times | {"peak_memory_mb": None}
            except Exception as error:  # its errors have no common base; the next may work
                yield head | {"note": f"failed: {error}"}


PARTS: dict[str, Callable[[Settings], Iterator[Row]]] = {
    "equality": _equality,
    "speed": _speed,
    "several pairs": _several,
    "onnxruntime": _onnxruntime,
}
"""Measurements by name, each a generator of rows."""


def _plain(settings: Settings, precision: str, pairs: list[Images]) -> Callable[[], Any]:
    """Return the fusion graph with kernels launched one by one, with both copies."""
    graph = _graph(settings, precision)
    visible, infrared = (torch.from_numpy(np.stack(x)) for x in zip(*pairs, strict=True))

    def call() -> list[np.ndarray]:
        with torch.inference_mode():
            out = graph(visible.to(settings.device), infrared.to(settings.device))
        return [part.cpu().numpy() for part in out if part is not None]

    return call


def _recorded_batch(settings: Settings, precision: str, pairs: list[Images]) -> Callable[[], Any]:
    """Return the fusion graph of a batch as one CUDA graph, with both copies."""
    visible, infrared = (np.stack(x) for x in zip(*pairs, strict=True))
    height, width = infrared.shape[1:]
    recorded = RecordedGraph(
        _graph(settings, precision), torch.device(settings.device), (height, width),
        OutputChoice(), pairs=len(pairs),
    )  # fmt: skip
    return partial(recorded.batch, visible, infrared)


def _graph(settings: Settings, precision: str) -> FusionGraph:
    graph = FusionGraph(load_model(settings.weights), _DTYPES[precision]).to(settings.device)
    return graph.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _eager(settings: Settings, precision: str, images: Images) -> Callable[[], object]:
    """Return the published student alone, on float tensors, with both copies."""
    where = settings.device, _DTYPES[precision]
    student = load_model("sage").student.to(*where)
    commute_merges(student, False)  # in the published order of operations
    luma, thermal = (torch.rand(1, 1, *images[1].shape) for _ in range(2))

    def call() -> object:
        with torch.inference_mode():
            return student(luma.to(*where), thermal.to(*where)).fused.cpu()

    return call


def _pair(size: tuple[int, int], seed: int = _SEED) -> Images:
    scene = random_scene(seed)
    return cv2.resize(scene.visible, size), cv2.resize(scene.infrared, size)


def _text(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def serve_rows(measure: Callable[[Settings], Iterator[Row]], settings: Settings) -> None:
    """Answer each question on stdin with the next row, at last with {"end": true}."""

    @contextmanager
    def prepared() -> Iterator[tuple[Answer, Callable[..., Answer]]]:
        fix_arithmetic()
        rows = measure(settings)
        yield {}, lambda *_: {"row": row} if (row := next(rows, None)) else {"end": True}

    serve(prepared)


if __name__ == "__main__":
    _options = json.loads(sys.argv[1])
    serve_rows(PARTS[_options.pop("part")], Settings(**_options))
