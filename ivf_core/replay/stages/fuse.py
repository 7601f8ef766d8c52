"""Second stage: get the fusion result of each pair."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial

from ivf_core.bags.info import BagMessage
from ivf_core.inference import FusionResult
from ivf_core.replay.frames import FusedFrame
from ivf_core.replay.pair_reader import InputPair
from ivf_core.replay.result_sources import NoResultError, ResultSource
from ivf_core.replay.stages.failures import Failures

__all__ = ["FuseStage", "LeftOutPixels"]

_MESSAGES_A_PAIR = 4  # messages that may wait between pairs, on average
_MOST_FRAMES = 50


@dataclass
class LeftOutPixels:
    """Count of thermal pixels that the gain control took for no scene.

    Attributes:
        pairs: pairs with such pixels.
        most: largest number of them in one image.
        frames: numbers of the first 50 such pairs.
    """

    pairs: int = 0
    most: int = 0
    frames: list[int] = field(default_factory=list)

    def add(self, index: int, pixels: int) -> None:
        """Count the pixels of one pair."""
        if not pixels:
            return
        self.pairs += 1
        self.most = max(self.most, pixels)
        if len(self.frames) < _MOST_FRAMES:
            self.frames.append(index)


class FuseStage:
    """Stage that gets the fusion result of each pair; runs in the caller's thread.

    Args:
        results: source of the results.
        start_ns: time of the first message of the bag.

    Attributes:
        failures: pairs that have no result.
        left_out: thermal pixels that the gain control took for no scene.
    """

    def __init__(self, results: ResultSource, start_ns: int) -> None:
        self._results = results
        self._start_ns = start_ns
        self.failures = Failures()
        self.left_out = LeftOutPixels()

    def fuse(
        self, items: Iterable[tuple[InputPair | BagMessage, float]]
    ) -> Iterator[FusedFrame | BagMessage | None]:
        """Yield pairs with their results, and messages as they are, in the order of the items.

        The source starts a few pairs ahead of the one that is yielded. A pair without a
        result gives None.

        Args:
            items: pairs of the bag and messages, with the duration of reading each in ms.
        """
        most_pairs = self._results.most_started
        most = most_pairs * (1 + _MESSAGES_A_PAIR) if most_pairs > 1 else 1
        waiting: deque[BagMessage | Callable[[], FusedFrame | None]] = deque()
        pairs = 0

        def oldest() -> FusedFrame | BagMessage | None:
            nonlocal pairs
            item = waiting.popleft()
            if isinstance(item, BagMessage):
                return item
            pairs -= 1
            return item()

        for item, read_ms in items:
            if isinstance(item, BagMessage):
                waiting.append(item)
            else:
                waiting.append(self._start(item, read_ms))
                pairs += 1
            while pairs >= most_pairs or len(waiting) >= most:
                yield oldest()
        while waiting:
            yield oldest()

    def _start(self, pair: InputPair, read_ms: float) -> Callable[[], FusedFrame | None]:
        """Start a pair; return a function that waits for its frame, and counts a failure."""
        result = None if pair.failed else self._results.start(pair)
        return partial(self._frame, pair, read_ms, result)

    def _frame(
        self, pair: InputPair, read_ms: float, wait: Callable[[], FusionResult] | None
    ) -> FusedFrame | None:
        if wait is None:
            self.failures.add(pair.failed, pair.detail)
            return None
        try:
            result = wait()
        except NoResultError as error:
            self.failures.add(error.reason, str(error))
            return None
        assert pair.visible is not None
        self.left_out.add(pair.index, result.left_out_pixels)
        return FusedFrame(
            index=pair.index,
            stamp_ns=pair.stamp_ns,
            time_ns=pair.time_ns,
            frame_id=pair.frame_id,
            seconds=(pair.time_ns - self._start_ns) / 1e9,
            offset_ms=(pair.thermal_stamp_ns - pair.stamp_ns) / 1e6,
            visible=pair.visible if result.visible is None else result.visible,
            infrared=result.infrared if pair.infrared is None else pair.infrared,
            alone=pair.alone,
            coverage=result.coverage,
            registered=result.infrared,
            fused=result.fused,
            labels=result.labels,
            truth=pair.references.get("truth"),
            other=pair.references.get("other"),
            stage_ms={
                "read_ms": read_ms,
                "prepare_ms": result.prepare_ms,
                "model_ms": result.model_ms,
            },
        )
