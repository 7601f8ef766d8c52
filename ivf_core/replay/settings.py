"""Settings of a replay."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ivf_core.defaults import (
    DEFAULT_WEIGHTS,
    MINIMUM_INTERVAL_SECONDS,
    OVERLAY_OPACITY,
    QUEUE_SIZE,
    SINGLE_CAMERA_POLICIES,
    TOLERANCE_SECONDS,
)

__all__ = ["ReplaySettings"]


_MOST_THREADS = 1024


@dataclass(frozen=True)
class ReplaySettings:
    """Options of a replay; those of the node have the node's defaults.

    Attributes:
        rgb_topic: topic of the RGB camera; None: guessed.
        thermal_topic: topic of the thermal camera; None: guessed.
        labels_topic: images of true class ids, mono8; None: guessed, "": none.
        labels_classes: class set of the true class ids, a key of `CLASS_SETS`; "": that which
            the bag announces on the topic `classes` beside them, or else that of the weights.
        fused_topic: fused images of another method; None: guessed, "": none.
        recorded: bag with the node's fused and mask topics, which are scored in place
            of running the pipeline; "": the replayed bag itself; None runs the pipeline.
        weights: name of shipped weights, or file.
        engine: engine as for `FusionPipeline`.
        device: device as for `FusionPipeline`.
        precision: precision as for `FusionPipeline`.
        threads: CPU threads of all pairs computed at once; 0: as many as there are cores.
        thermal_mode: one of `THERMAL_MODES`.
        low_percentile: low end of the gain, as in `GainControl`.
        high_percentile: high end of the gain, as in `GainControl`.
        gain_smoothing_seconds: time constant of the gain, as in `GainControl`.
        registration: rig file, or None to stretch thermal images to the size of RGB images.
        tolerance_seconds: largest difference of stamps within a pair.
        offset_seconds: added to thermal stamps.
        minimum_interval_seconds: least time between two pairs.
        queue_size: images that may wait for a partner, per camera.
        single_camera: one of `SINGLE_CAMERA_POLICIES`, for a camera that is silent or unusable;
            without effect with `recorded`.
        palette: palette of the image under the class colours.
        opacity: opacity of the class colours, 0 to 1.
        inputs: copy the input topics to the output bag.
        video: write side_by_side.mp4.
        storage: storage of the output bag, "mcap" or "sqlite3".
        score_every: every Nth pair gets the costly metrics; 0 chooses by the
            bag's length.

    Raises:
        ValueError: a value is out of range; names the setting.
    """

    rgb_topic: str | None = None
    thermal_topic: str | None = None
    labels_topic: str | None = None
    labels_classes: str = ""
    fused_topic: str | None = None
    recorded: str | None = None
    weights: str = DEFAULT_WEIGHTS
    engine: str = "auto"
    device: str = "auto"
    precision: str = "auto"
    threads: int = 0
    thermal_mode: str = "auto"
    low_percentile: float = 0.5
    high_percentile: float = 99.5
    gain_smoothing_seconds: float = 0.5
    registration: Path | None = None
    tolerance_seconds: float = TOLERANCE_SECONDS
    offset_seconds: float = 0.0
    minimum_interval_seconds: float = MINIMUM_INTERVAL_SECONDS
    queue_size: int = QUEUE_SIZE
    single_camera: str = "fuse"
    palette: str = "natural"
    opacity: float = OVERLAY_OPACITY
    inputs: bool = False
    video: bool = False
    storage: str = "mcap"
    score_every: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.threads <= _MOST_THREADS:
            raise ValueError(f"threads is {self.threads}, expected 0 to {_MOST_THREADS}")
        if self.score_every < 0:
            raise ValueError(f"score_every is {self.score_every}, expected 0 or more")
        if self.single_camera not in SINGLE_CAMERA_POLICIES:
            raise ValueError(
                f"single_camera is {self.single_camera!r}, "
                f"expected one of {', '.join(SINGLE_CAMERA_POLICIES)}"
            )
        for name in ("tolerance_seconds", "minimum_interval_seconds"):
            if not 0 <= getattr(self, name) < 1e9:
                raise ValueError(f"{name} is {getattr(self, name)}, expected 0 or more")
        if not abs(self.offset_seconds) < 1e9:
            raise ValueError(f"offset_seconds is {self.offset_seconds}, expected a finite number")

    def to_json(self) -> dict[str, Any]:
        """Return the fields by name, with paths as text."""
        return {
            name: str(value) if isinstance(value, Path) else value
            for name, value in asdict(self).items()
        }

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> ReplaySettings:
        """Restore settings from the result of `to_json`.

        Args:
            fields: all fields by name.
        """
        path = fields["registration"]
        return cls(**{**fields, "registration": Path(path) if path is not None else None})
