"""Pipeline that computes several pairs at once, for recordings."""

from __future__ import annotations

import os
import queue
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from ivf_core.inference.pipeline import FusionPipeline, FusionResult, ImagePair, PreparedPair
from ivf_core.inference.protocol import Engine

__all__ = ["ConcurrentPipeline"]

_MOST_LANES = 4  # each has the memory of a whole engine
_SINGLE = ("torch",)  # its number of threads is that of the process

_Lanes = queue.SimpleQueue[Engine]


class ConcurrentPipeline:
    """Pipeline that computes several pairs at once; a context manager.

    The threads of one engine wait for each other many times a pair, and actively: where other
    threads share the cores, each thread displaced costs the time of all. Here each pair has
    an engine with its own part of the threads, and engines do not wait for each other. A pair
    takes longer, and more pairs are done in a second. Images are prepared in order in the
    caller's thread, since the gain control depends on earlier ones.

    Args:
        pipeline: prepares the images, and chooses engine and precision.
        threads: CPU threads of all pairs together; 0: as many as there are cores.

    Attributes:
        pipeline: the pipeline given.
        lanes: number of pairs computed at once: up to four on a CPU, and one on other
            devices, with PyTorch and with one thread.
    """

    def __init__(self, pipeline: FusionPipeline, threads: int = 0) -> None:
        threads = threads or len(os.sched_getaffinity(0))
        engine = pipeline.engine
        several = engine.device == "cpu" and engine.name not in _SINGLE
        self.pipeline = pipeline
        self.lanes = min(threads, _MOST_LANES) if several else 1
        self._threads = threads // self.lanes
        self._engines: dict[tuple[str, str], _Lanes] = {}
        self._warm: set[tuple[str, str, tuple[int, ...]]] = set()
        self._executor = ThreadPoolExecutor(self.lanes, thread_name_prefix="fuse")

    def __enter__(self) -> ConcurrentPipeline:
        return self

    def __exit__(self, *_error: object) -> None:
        self._executor.shutdown(cancel_futures=True)

    @property
    def most_started(self) -> int:
        """Largest number of pairs to start before the first result is taken.

        With twice as many as are computed at once, no engine waits for the caller.
        """
        return 2 * self.lanes if self.lanes > 1 else 1

    def warm_up(self, size: tuple[int, int] = (480, 640)) -> None:
        """Run the engines on black images, so that the first pairs do not wait for them.

        Args:
            size: height and width.
        """
        if self.lanes > 1:
            self._lanes_for(size)
        else:
            self.pipeline.warm_up(size)

    def start(self, pair: ImagePair) -> Future[FusionResult]:
        """Start to fuse the next pair.

        With one lane the result is there when this returns.

        Args:
            pair: the images, which must not be changed until the result is there.

        Returns:
            The result to come, with the exceptions of `FusionPipeline.__call__`.
        """
        if self.lanes == 1:
            return _done(lambda: self.pipeline(pair))
        try:
            prepared = self.pipeline.prepare(pair)
            lanes = self._lanes_for(prepared.infrared.shape)
        except (ValueError, RuntimeError) as error:
            return _done(_raising(error))
        return self._executor.submit(self._run, prepared, lanes)

    def _run(self, prepared: PreparedPair, lanes: _Lanes) -> FusionResult:
        engine = lanes.get()
        try:
            return self.pipeline.complete(prepared, engine)
        finally:
            lanes.put(engine)

    def _lanes_for(self, size: tuple[int, ...]) -> _Lanes:
        """Return the idle engines for a size: those that the pipeline would use, times lanes."""
        chosen = self.pipeline.select_engine(size)
        key = chosen.name, chosen.precision
        if key not in self._engines:
            self._engines[key] = queue.SimpleQueue()
            for _ in range(self.lanes):
                self._engines[key].put(self.pipeline.twin(self._threads).engine)
        lanes = self._engines[key]
        if (*key, size) not in self._warm:
            engines = [lanes.get() for _ in range(self.lanes)]  # waits for those that run
            for engine in engines:
                engine(np.zeros((*size, 3), np.uint8), np.zeros(size, np.uint8))
                lanes.put(engine)
            self._warm.add((*key, size))
        return lanes


def _done(function: Callable[[], FusionResult]) -> Future[FusionResult]:
    """Return the result of a function called now, or its exception, as a future."""
    future: Future[FusionResult] = Future()
    try:
        future.set_result(function())
    except Exception as error:
        future.set_exception(error)
    return future


def _raising(error: Exception) -> Callable[[], FusionResult]:
    def function() -> FusionResult:
        raise error

    return function
