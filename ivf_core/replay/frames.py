"""Record of one pair on its way through a replay: images, result, and times."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

__all__ = ["FusedFrame"]


@dataclass
class FusedFrame:
    """A pair, its fusion result, and the reference images of the same moment.

    Attributes:
        index: number of the pair in the bag, from 0.
        stamp_ns: stamp of the RGB image.
        time_ns: time of recording of the RGB image.
        frame_id: frame id of the RGB image.
        seconds: time of recording since the first message of the bag.
        offset_ms: thermal stamp minus RGB stamp.
        visible: H x W x 3 uint8 RGB, undistorted where the registration does that; `truth` and
            `other` as well.
        infrared: h x w uint8, uint16 or float32, as the camera sent it.
        registered: H x W uint8, the thermal image as the model saw it.
        fused: H x W x 3 uint8 RGB, or None.
        labels: class ids, uint8 of any size, or None.
        truth: true class ids, uint8 of any size, or None.
        other: fused image of another method, h x w x 3 uint8, or None.
        stage_ms: duration of each stage so far in ms, by column of timings.csv.
        alone: camera whose image is fused alone, "rgb" or "thermal"; the images of the other one
            are zeros then, and stamp, time and frame id those of this one. "" for a pair.
        coverage: H x W bool, the pixels that the thermal camera sees; None for all.
    """

    index: int
    stamp_ns: int
    time_ns: int
    frame_id: str
    seconds: float
    offset_ms: float
    visible: np.ndarray
    infrared: np.ndarray
    registered: np.ndarray
    fused: np.ndarray | None
    labels: np.ndarray | None
    truth: np.ndarray | None = None
    other: np.ndarray | None = None
    stage_ms: dict[str, float] = field(default_factory=dict)
    alone: str = ""
    coverage: np.ndarray | None = None
