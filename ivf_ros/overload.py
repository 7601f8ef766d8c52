"""Load policy of the fusion node: its levels put in force, prepared, logged and reported."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from ivf_core.inference import FusionPipeline
from ivf_ros.diagnostics import OK, WARN, Finding
from ivf_ros.load_control import TOO_HIGH, Level, LoadControl, levels_below
from ivf_ros.outputs import Wanted

__all__ = ["EngineUse", "LoadPolicy", "Plan"]

_REPLACED_TO_REPORT = 0.05
_REMEDY = (
    "set load_policy:=adaptive, a larger mask_interval or a lower fusion_scale, or use smaller "
    "images or a faster engine or precision"
)


class EngineUse(NamedTuple):
    """Call of an engine that is compiled on its own.

    Attributes:
        scale: factor of height and width of the images that the model receives.
        fused: whether the fused image is computed.
        labels: whether the class ids are computed.
        confidence: whether the confidence in these is computed.
    """

    scale: float
    fused: bool
    labels: bool
    confidence: bool = False


class Plan(NamedTuple):
    """Extent of the computation for one pair.

    Attributes:
        level: level in force.
        use: call of the engine; neither fused nor labels if nothing is to be computed.
    """

    level: Level
    use: EngineUse


class _Twins(Protocol):
    """Interface of the holder of the pipelines, which `ModelSlot` implements."""

    def make_twin(self, use: EngineUse, size: tuple[int, int]) -> FusionPipeline: ...

    def install(self, twins: Mapping[EngineUse, FusionPipeline]) -> None: ...


class LoadPolicy:
    """Load policy of a node from activation to deactivation.

    The executor's thread reports arrivals and calls `check`, `finding` and `close`; the
    worker's thread asks for a plan for each pair and reports its cost. Before a level comes
    into force, a thread of its own compiles the engines that it needs for the size of the
    images, while pairs are processed at the level before.

    Args:
        settings: returns the node's parameters by name.
        model: holder of the pipelines.
        logger: logger of the node.
    """

    def __init__(
        self, settings: Callable[[], Mapping[str, Any]], model: _Twins, logger: Any
    ) -> None:
        self._settings = settings
        self._model = model
        self._logger = logger
        self._lock = threading.Lock()
        self._wanted = Wanted(fused=True, mask=True)
        self._control = LoadControl(self._levels())
        self._fused_pairs = 0  # since the level came into force
        self._changes = 0
        self._size: tuple[int, int] | None = None
        self._compiled: set[EngineUse] = set()
        self._next: tuple[Sequence[Level], int] | None = None
        self._preparation: _Preparation | None = None
        self._failure = ""
        if self._replay and self._settings()["load_policy"] == "adaptive":
            logger.info("load_policy adaptive is not applied in replay mode: each pair is fused")

    # The executor's thread

    def arrived(self, now: float) -> bool:
        """Count a pair that arrives, and return whether to take it.

        Args:
            now: time in seconds; all methods use the same clock.
        """
        with self._lock:
            return self._control.arrived(now) or self._replay

    def replaced(self, now: float) -> None:
        """Count a pair that a newer one has replaced before its turn.

        Args:
            now: time in seconds.
        """
        with self._lock:
            self._control.replaced(now)

    def keeps_up(self, now: float) -> bool:
        """Return whether pairs are known to be fused faster than they come.

        Args:
            now: time in seconds.
        """
        with self._lock:
            utilization = self._control.utilization(now)
        return utilization is not None and utilization <= TOO_HIGH

    def check(self, now: float) -> None:
        """Change the level if load or parameters ask for it; call it regularly.

        Args:
            now: time in seconds.
        """
        with self._lock:
            if self._preparation is not None:
                if self._preparation.is_alive():
                    return
                self._take_over(self._preparation)
                self._preparation = None
            change = self._next or self._change(now)
            self._next = None
            if change is None or self._failure:
                return
            levels, index = change
            missing = self._uses(levels[index]) - self._compiled
            if missing and self._size is not None:
                self._next = change
                self._preparation = _Preparation(self._model, missing, self._size)
                self._preparation.start()
                return
            self._enter(levels, index, now)

    def forget_engines(self) -> None:
        """Forget which engines are compiled: the model was replaced."""
        with self._lock:
            self._compiled.clear()
            if self._preparation is not None:
                self._preparation.outdated = True

    def finding(self, now: float) -> Finding:
        """Return level, message and values for diagnostics.

        Args:
            now: time in seconds.
        """
        with self._lock:
            control = self._control
            rate, cost = control.input_hz(now), control.cost()
            full = control.cost(0)
            level, text = OK, "no pair was fused yet"
            values = {
                "load.policy": "replay" if self._replay else self._settings()["load_policy"],
                "load.level": str(control.index),
                "load.level_text": str(control.level),
                "load.level_changes": str(self._changes),
                "load.mask_interval": str(control.level.mask_interval),
                "load.fusion_scale": f"{control.level.scale:.4g}",
                "load.pair_interval": str(control.level.pair_interval),
                "load.input_hz": f"{rate:.2f}",
            }
            if cost and full:
                utilization = cost * rate / control.level.pair_interval
                values |= {
                    "load.pair_ms": f"{cost * 1e3:.2f}",
                    "load.full_pair_ms": f"{full * 1e3:.2f}",
                    "load.utilization": f"{utilization:.3f}",
                    "load.capacity_hz": f"{1 / cost:.2f}",
                }
                level, text = self._judge(now, rate, cost, full)
            if self._failure:
                level, text = WARN, f"{text}; {self._failure}"
            return level, text, values

    def close(self) -> None:
        """Wait for the thread that compiles engines."""
        if self._preparation is not None:
            self._preparation.join()

    # The worker's thread

    def plan(self, wanted: Wanted, *, everything: bool, has_head: bool) -> Plan:
        """Return what to compute for the next pair.

        Args:
            wanted: images that have a subscriber.
            everything: whether all results are needed, as for a snapshot.
            has_head: whether the model computes masks at all.
        """
        with self._lock:
            self._wanted = wanted if has_head else Wanted(wanted.fused_images)
            level = self._control.level
            due = self._fused_pairs % level.mask_interval == 0
            labels = everything or (due and self._wanted.masks)
            fused = everything or wanted.fused_images or (labels and self._wanted.overlays)
            confidence = labels and self._wanted.scores
            self._fused_pairs += 1
            return Plan(level, EngineUse(level.scale, fused, labels, confidence))

    def hold(self, now: float, arrival: float, plan: Plan) -> float:
        """Return the seconds to wait before the results of a pair are published.

        Args:
            now: time in seconds, when the results are ready.
            arrival: time given to `arrived`.
            plan: plan of the pair.
        """
        with self._lock:
            if plan.use.labels or plan.level != self._control.level:
                return 0.0
            return self._control.hold(now, arrival)

    def processed(
        self, now: float, plan: Plan, seconds: float, size: tuple[int, int] | None
    ) -> None:
        """Take over the cost of a pair.

        Args:
            now: time at its end.
            plan: its plan.
            seconds: time from decode to publish, without the hold.
            size: height and width of its RGB image; None if it needed no computation.
        """
        with self._lock:
            self._control.processed(now, plan.level, seconds, masks=plan.use.labels)
            if size is not None:
                if size != self._size:
                    self._size = size
                    self._compiled.clear()
                self._compiled.add(plan.use)

    # Inside, with the lock held

    @property
    def _replay(self) -> bool:
        return self._settings()["mode"] == "replay"

    def _levels(self) -> tuple[Level, ...]:
        """Return the levels that the parameters allow."""
        settings = self._settings()
        highest = Level(settings["mask_interval"], settings["fusion_scale"])
        if settings["load_policy"] == "full" or self._replay:
            return (highest,)
        return levels_below(highest, masks=self._wanted.masks)

    def _change(self, now: float) -> tuple[Sequence[Level], int] | None:
        """Return the levels and the index that should be in force, if others are."""
        levels = self._levels()
        if levels != self._control.levels:
            return levels, self._control.most_like(self._control.level, levels)
        index = self._control.target(now)
        return None if index == self._control.index else (levels, index)

    def _uses(self, level: Level) -> set[EngineUse]:
        """Return the calls of the engine that a level needs for the wanted images."""
        uses, wanted = set(), self._wanted
        if wanted.masks:
            fused = wanted.fused_images or wanted.overlays
            uses.add(EngineUse(level.scale, fused, True, wanted.scores))
        if wanted.fused_images and (level.mask_interval > 1 or not wanted.masks):
            uses.add(EngineUse(level.scale, True, False))
        return uses

    def _take_over(self, done: _Preparation) -> None:
        """Use the engines that were compiled, or stay at the level if that failed."""
        if done.error is not None:
            self._failure = f"the level stays: {type(done.error).__name__}: {done.error}"
            self._logger.error(f"load: {self._failure}")
        elif done.size == self._size and not done.outdated:
            self._model.install(done.twins)
            self._compiled |= done.twins.keys()

    def _enter(self, levels: Sequence[Level], index: int, now: float) -> None:
        """Put a level in force, and log it."""
        control, before = self._control, self._control.level
        full, rate = control.cost(0), control.input_hz(now)
        if levels != control.levels:
            control.set_levels(levels, now)
        else:
            control.enter(index, now)
        self._fused_pairs = 0
        if control.level == before:
            return
        self._changes += 1
        cause = "as the parameters say"
        if full is not None:
            cause = f"{rate:.1f} pairs a second at {full * 1e3:.0f} ms each at the set quality"
        lower = control.level.work / control.level.pair_interval < (
            before.work / before.pair_interval
        )
        text = f"load: {cause}; now {control.level} (before: {before})"
        if lower:  # rclpy allows one severity for each place of a call
            self._logger.warning(text)
        else:
            self._logger.info(text)

    def _judge(self, now: float, rate: float, cost: float, full: float) -> tuple[bytes, str]:
        """Return level and message of the finding."""
        control = self._control
        utilization = cost * rate / control.level.pair_interval
        replaced = control.replaced_share(now)
        overloaded = replaced > _REPLACED_TO_REPORT
        now_text = f"{cost * 1e3:.1f} ms each, utilization {utilization:.2f}"
        arrive = f"{rate:.1f} pairs a second arrive"
        if control.index:
            lowest = control.index == len(control.levels) - 1 and overloaded
            return WARN, (
                f"lowered by load_policy to {control.level}: {arrive}, which take "
                f"{full * 1e3:.1f} ms each at the set quality (utilization {full * rate:.2f}); "
                f"now {now_text}" + ("; no lower level is left" if lowest else "")
            )
        if not overloaded or self._replay:
            return OK, f"{arrive}, {now_text}: {control.level}"
        text = f"overloaded: {arrive}, {now_text}; {replaced:.0%} are replaced by newer ones"
        adaptive = len(control.levels) > 1 and not self._failure
        return WARN, f"{text}; {'a lower level follows' if adaptive else _REMEDY}"


class _Preparation(threading.Thread):
    """Thread that compiles engines for a size, each in a pipeline of its own.

    Attributes:
        size: height and width of the images.
        twins: pipelines that are ready, after the thread has ended.
        error: exception that ended the thread, or None.
        outdated: whether the model was replaced in the meantime.
    """

    def __init__(self, model: _Twins, uses: Iterable[EngineUse], size: tuple[int, int]) -> None:
        super().__init__(name="prepare engines", daemon=True)
        self._model = model
        self._uses = tuple(uses)
        self.size = size
        self.twins: dict[EngineUse, FusionPipeline] = {}
        self.error: Exception | None = None
        self.outdated = False

    def run(self) -> None:
        """Compile the engines."""
        try:
            self.twins = {use: self._model.make_twin(use, self.size) for use in self._uses}
        except Exception as error:
            self.error = error
