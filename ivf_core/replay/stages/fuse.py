"""Second stage: get the fusion result of each pair."""

from __future__ import annotations

from ivf_core.replay.frames import FusedFrame
from ivf_core.replay.pair_reader import InputPair
from ivf_core.replay.result_sources import NoResultError, ResultSource
from ivf_core.replay.stages.failures import Failures

__all__ = ["FuseStage"]


class FuseStage:
    """Stage that gets the fusion result of each pair; runs in the caller's thread.

    Args:
        results: source of the results.
        start_ns: time of the first message of the bag.

    Attributes:
        failures: pairs that have no result.
    """

    def __init__(self, results: ResultSource, start_ns: int) -> None:
        self._results = results
        self._start = start_ns
        self.failures = Failures()

    def fuse(self, pair: InputPair, read_ms: float) -> FusedFrame | None:
        """Return a pair with its result, or None if there is none.

        Args:
            pair: next pair of the bag.
            read_ms: duration of reading it.
        """
        if pair.failed:
            self.failures.add(pair.failed, pair.detail)
            return None
        try:
            result = self._results(pair)
        except NoResultError as error:
            self.failures.add(error.reason, str(error))
            return None
        assert pair.visible is not None
        assert pair.infrared is not None
        return FusedFrame(
            index=pair.index,
            stamp_ns=pair.stamp_ns,
            time_ns=pair.time_ns,
            frame_id=pair.frame_id,
            seconds=(pair.time_ns - self._start) / 1e9,
            offset_ms=(pair.thermal_stamp_ns - pair.stamp_ns) / 1e6,
            visible=pair.visible,
            infrared=pair.infrared,
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
