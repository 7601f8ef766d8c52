"""View of a recording: frames are computed by the pipeline when the page asks for them."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ivf_core.defaults import OVERLAY_OPACITY
from ivf_core.images.camera_health import CameraHealth
from ivf_core.images.symptoms import REMEDIES, HealthRecord, Severity
from ivf_core.inference import FusionPipeline, FusionResult, ImagePair
from ivf_core.inference.engine import describe
from ivf_core.inference.pipeline import absent_visible
from ivf_core.view.panels import Images, class_legend, class_shares, page_values
from ivf_core.view.protocol import Content
from ivf_core.view.sequences import Sequence, SourceFrame

__all__ = ["RecordedView"]

_KEPT_BYTES = 96 * 2**20
_SKIPPED_SECONDS = 1.0  # between frames of one run
_LABELS = {"rgb": "RGB camera", "thermal": "thermal camera"}


@dataclass(frozen=True)
class _Computed:
    """Frame with its results."""

    images: Images
    values: dict[str, Any]


class RecordedView:
    """View of a recording, with the interface `View`.

    One frame is computed at a time. The latest frames are kept, up to 96 MiB.

    Args:
        sequence: pairs of the recording; closed with the view.
        pipeline: fuses them.
        single_camera: whether one camera is used alone while the other is unusable.
        base: palette of the image under the class colours.
        opacity: opacity of the class colours at first.
    """

    def __init__(
        self,
        sequence: Sequence,
        pipeline: FusionPipeline,
        *,
        single_camera: bool = True,
        base: str = "natural",
        opacity: float = OVERLAY_OPACITY,
    ) -> None:
        self._sequence = sequence
        self._pipeline = pipeline
        self._single_camera = single_camera
        self._base, self._opacity = base, opacity
        self._lock = threading.Lock()  # guards all below, the sequence's files and the pipeline
        self._kept: OrderedDict[int, _Computed] = OrderedDict()
        self._meters = {"rgb": CameraHealth("visible"), "thermal": CameraHealth("infrared")}
        self._rgb_size: tuple[int, ...] | None = None
        self._before = ""
        self._seconds = -_SKIPPED_SECONDS
        self._latest = -1

    def describe(self) -> dict[str, Any]:
        """Return what does not change while the page is open; see `View`."""
        return page_values(
            self._sequence.title,
            live=False,
            facts=[*self._sequence.facts, ("weights", self._pipeline.weights)],
            legend=class_legend(self._pipeline.class_set),
            rate_hz=self._sequence.rate_hz,
            base=self._base,
            opacity=self._opacity,
        )

    def status(self, since: int, after: int) -> dict[str, Any]:
        """Return counters, events and the time line; see `View`."""
        progress = self._sequence.progress()  # before the frames: complete means all of them
        seconds = self._sequence.seconds(since)
        return {
            "seconds": seconds,
            "since": max(0, since),
            "first": 0,
            "duration": self._sequence.duration_seconds,
            "timeline": self._sequence.timeline.to_json(),
            **progress,
        }

    def frame(self, number: int) -> dict[str, Any]:
        """Return the values of a frame, which is computed now; see `View`."""
        return self._computed(number).values

    def content(self, number: int, name: str, options: Mapping[str, str]) -> Content:
        """Return an image of a frame, or all of them in one file; see `View`."""
        computed = self._computed(number)
        if name == "frame.zip":
            stem = _file_stem(computed.values["name"])
            return computed.images.archive(stem, computed.values, options)
        return computed.images.encode(name, options)

    def close(self) -> None:
        """Wait for the frame that is computed, and close the recording."""
        with self._lock:
            self._sequence.close()
            self._kept.clear()

    def _computed(self, number: int) -> _Computed:
        with self._lock:
            if number in self._kept:
                self._kept.move_to_end(number)
                return self._kept[number]
            computed = self._compute(number)
            self._kept[number] = computed
            size = sum(one.images.size_bytes for one in self._kept.values())
            while size > _KEPT_BYTES and len(self._kept) > 1:
                _, dropped = self._kept.popitem(last=False)
                size -= dropped.images.size_bytes
            return computed

    def _compute(self, number: int) -> _Computed:
        try:
            frame = self._sequence.read(number)
            records = self._examine(frame)
            visible, infrared, alone = self._in_use(frame, records)
            result = self._pipeline(ImagePair(visible, infrared, frame.stamp))
        except (ValueError, RuntimeError) as error:  # unreadable, unusable, or of the engine
            return self._failed(number, str(error))
        self._note(number, frame, records)
        class_set = self._pipeline.class_set
        thermal = None if frame.infrared is None else result.infrared
        if alone == "rgb" and frame.infrared is not None:  # shown as it came, not as zeros
            thermal = self._pipeline.normalizer(frame.infrared, frame.stamp)
        rgb = frame.visible
        if rgb is not None and alone != "thermal" and result.visible is not None:
            rgb = result.visible  # undistorted where the registration does that
        images = Images(result.fused, result.labels, thermal, rgb, class_set)
        facts = [list(fact) for fact in frame.facts]
        values = {
            "number": number,
            "name": frame.name,
            "seconds": round(frame.seconds, 4),
            "size": list(visible.shape[1::-1]),
            "panels": images.names(),
            "alone": alone,
            "failed": "",
            "health": _described(records),
            "timings": _timings(result),
            "facts": [*facts, ["engine", describe(self._pipeline.engine)]],
            "shares": class_shares(result.labels, class_set),
        }
        return _Computed(images, values)

    def _examine(self, frame: SourceFrame) -> dict[str, HealthRecord]:
        """Examine both images; images without times have no health."""
        if frame.stamp is None:
            return {}
        images = {"rgb": frame.visible, "thermal": frame.infrared}
        return {
            camera: meter.add(image, frame.stamp)
            for camera, meter in self._meters.items()
            if (image := images[camera]) is not None
        }

    def _in_use(
        self, frame: SourceFrame, records: Mapping[str, HealthRecord]
    ) -> tuple[np.ndarray, np.ndarray | None, str]:
        """Return the images to fuse, and the camera that is used alone, as the node chooses."""
        images = {"rgb": frame.visible, "thermal": frame.infrared}
        good = [
            camera
            for camera, image in images.items()
            if image is not None
            and not (
                self._single_camera
                and records.get(camera, HealthRecord()).severity == Severity.UNUSABLE
            )
        ]
        used = good if len(good) == 1 else [c for c, image in images.items() if image is not None]
        alone = used[0] if len(used) == 1 else ""
        if frame.visible is not None:
            self._rgb_size = frame.visible.shape[:2]
        if alone == "thermal":
            assert frame.infrared is not None
            registration = self._pipeline.registration
            visible = absent_visible(frame.infrared, registration, self._rgb_size)
            return visible, frame.infrared, alone
        assert frame.visible is not None
        return frame.visible, None if alone else frame.infrared, alone

    def _note(self, number: int, frame: SourceFrame, records: Mapping[str, HealthRecord]) -> None:
        """Note the health on the time line, and its changes as events."""
        severity = max((record.severity for record in records.values()), default=Severity.OK)
        skipped = 0 < frame.seconds - self._seconds < _SKIPPED_SECONDS
        before = self._seconds if skipped else None  # as playback leaves frames out
        self._sequence.timeline.examine(frame.seconds, severity, before)
        self._seconds = frame.seconds
        text = "; ".join(
            f"{_LABELS[camera]}: {record.text}" for camera, record in records.items() if record.text
        )
        names = " ".join(name for record in records.values() for name in record.names)
        if text and names != self._before and number > self._latest:
            self._sequence.timeline.add_event(frame.seconds, number, severity, text)
        self._before, self._latest = names, max(number, self._latest)

    def _failed(self, number: int, text: str) -> _Computed:
        values = {
            "number": number, "name": f"frame_{number:06d}",
            "seconds": next(iter(self._sequence.seconds(number)), 0.0), "size": [4, 3],
            "panels": [], "alone": "", "failed": text, "health": [], "timings": [],
            "facts": [], "shares": [],
        }  # fmt: skip
        return _Computed(Images(None, None, None, None, None), values)


def _described(records: Mapping[str, HealthRecord]) -> list[dict[str, str]]:
    """Return the health of each camera for the page.

    Args:
        records: health by camera, "rgb" and "thermal".
    """
    return [
        {
            "camera": _LABELS[camera],
            "severity": record.severity.name.lower(),
            "text": record.text or "in order",
            "remedy": "; ".join(REMEDIES[name] for name in record.names),
        }
        for camera, record in records.items()
    ]


def _timings(result: FusionResult) -> list[list[Any]]:
    return [
        ["prepare", round(result.prepare_ms, 2)],
        ["model", round(result.model_ms, 2)],
    ]


def _file_stem(name: str) -> str:
    """Return a name that is safe in a header and on any file system."""
    kept = "".join(c if c.isascii() and (c.isalnum() or c in "-_.") else "_" for c in name)
    return kept.strip(".")[:80] or "frame"
