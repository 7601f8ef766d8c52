"""What a replay leaves: the output bag, a video, pictures, tables."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

import cv2
import numpy as np

from ivf_core.bags.info import BagMessage
from ivf_core.bags.typestore import header, message
from ivf_core.bags.writer import BagWriter
from ivf_core.class_sets import ClassSet
from ivf_core.images.files import VideoWriter
from ivf_core.images.overlay import draw_overlay, side_by_side
from ivf_core.replay.measure.scorer import Scene

__all__ = ["FUSED", "MASK", "Album", "Film", "OutputBag", "Table"]

FUSED, MASK, OVERLAY = "/fusion/fused/image", "/fusion/mask/image", "/fusion/overlay/image"
LABELS, LABEL_INFO = "/fusion/labels", "/fusion/label_info"

_PICTURE_WIDTH = 480
_JPEG_QUALITY = 85
_TITLES = ("RGB", "thermal", "fused", "overlay")


class OutputBag:
    """Writes results as the node would publish them; a context manager.

    Messages are recorded at the time of their RGB image: the same input gives the same
    bag. Where nothing is written there is no bag.

    Args:
        path, storage: as for `BagWriter`.
        class_set: of the masks, or None.
    """

    def __init__(self, path: Path, storage: str, class_set: ClassSet | None) -> None:
        self._new = BagWriter(path, storage)
        self._opened: BagWriter | None = None
        self._class_set = class_set
        self._announced = False

    def __enter__(self) -> OutputBag:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._opened is not None:
            self._opened.__exit__(exc_type, exc, traceback)

    @property
    def _writer(self) -> BagWriter:
        if self._opened is None:
            self._opened = self._new.__enter__()
        return self._opened

    def copy(self, recorded: BagMessage) -> None:
        """Append a message as it was recorded."""
        self._writer.write(*recorded)

    def write(
        self,
        time_ns: int,
        stamp_ns: int,
        frame_id: str,
        fused: np.ndarray | None,
        mask: np.ndarray | None,
        overlay: np.ndarray | None,
    ) -> None:
        """Append one result; what is None is left out.

        Args:
            time_ns: of recording.
            stamp_ns, frame_id: of the RGB image.
            fused, overlay: H x W x 3 uint8 RGB.
            mask: H x W uint8.
        """
        if not self._announced:
            self._announce(time_ns, stamp_ns)
        pictures = ((FUSED, fused, "rgb8"), (MASK, mask, "mono8"), (OVERLAY, overlay, "rgb8"))
        for topic, picture, encoding in pictures:
            if picture is not None:
                self._writer.write_image(
                    topic, stamp_ns, picture, encoding, frame_id, time_ns=time_ns
                )

    def _announce(self, time_ns: int, stamp_ns: int) -> None:
        self._announced = True
        if self._class_set is None:
            return
        text = message("std_msgs/msg/String", data=self._class_set.to_json())
        self._writer.write(LABELS, "std_msgs/msg/String", time_ns, text, latched=True)
        classes = [
            message("vision_msgs/msg/VisionClass", class_id=number, class_name=name)
            for number, name in enumerate(self._class_set.names)
        ]
        info = message(
            "vision_msgs/msg/LabelInfo",
            header=header(stamp_ns, ""),
            class_map=classes,
            threshold=0.0,
        )
        self._writer.write(LABEL_INFO, "vision_msgs/msg/LabelInfo", time_ns, info, latched=True)


class Film:
    """The side-by-side video; opens with its first frame."""

    def __init__(self, path: Path, rate_hz: float) -> None:
        self._path = path
        self._rate = float(np.clip(rate_hz, 1, 1000))
        self._writer: VideoWriter | None = None

    def write(self, scene: Scene, overlay: np.ndarray | None) -> None:
        pictures = (scene.visible, scene.registered, scene.fused, overlay)
        shown = [(p, t) for p, t in zip(pictures, _TITLES, strict=True) if p is not None]
        row = side_by_side([picture for picture, _ in shown], [title for _, title in shown])
        if self._writer is None:
            self._writer = VideoWriter(self._path, self._rate, row.shape[:2]).__enter__()
        height, width = self._writer.size
        if row.shape[:2] != (height, width):
            row = cv2.resize(row, (width, height), interpolation=cv2.INTER_AREA)
        self._writer.write(row)

    def __enter__(self) -> Film:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._writer is not None:
            self._writer.__exit__(exc_type, exc, traceback)


class Album:
    """Pictures of some pairs, NNNNNN_KIND.jpg.

    Args:
        folder: to make.
        class_set, opacity, palette: of the overlay.
    """

    def __init__(
        self, folder: Path, class_set: ClassSet | None, opacity: float, palette: str
    ) -> None:
        self._folder = folder
        self._class_set = class_set
        self._opacity = opacity
        self._palette = palette
        self._kept: dict[int, dict[str, bytes]] = {}
        self.written: set[int] = set()
        folder.mkdir(parents=True)

    def write(self, scene: Scene) -> None:
        """Write the pictures of a pair."""
        self._store(scene.index, self._pictures(scene))

    def keep(self, scene: Scene) -> None:
        """Remember the pictures of a pair that may be wanted in the end."""
        if scene.index not in self.written and scene.index not in self._kept:
            self._kept[scene.index] = self._pictures(scene)

    def keep_only(self, indices: set[int]) -> None:
        """Forget what is no longer wanted."""
        self._kept = {index: kept for index, kept in self._kept.items() if index in indices}

    def write_kept(self) -> None:
        for index, pictures in self._kept.items():
            self._store(index, pictures)
        self._kept = {}

    def _store(self, index: int, pictures: Mapping[str, bytes]) -> None:
        for kind, data in pictures.items():
            (self._folder / f"{index:06d}_{kind}.jpg").write_bytes(data)
        self.written.add(index)

    def _pictures(self, scene: Scene) -> dict[str, bytes]:
        pictures = {
            "rgb": scene.visible,
            "thermal": scene.registered,
            "fused": scene.fused,
            "other": scene.other,
        }
        small = {kind: _small(picture) for kind, picture in pictures.items() if picture is not None}
        if scene.labels is not None and self._class_set is not None:
            base = small.get("fused", small["rgb"])
            size = base.shape[1], base.shape[0]
            labels = cv2.resize(scene.labels, size, interpolation=cv2.INTER_NEAREST)
            small["overlay"] = draw_overlay(
                base, labels, self._class_set, self._opacity, self._palette
            )
        return {kind: _jpeg(picture) for kind, picture in small.items()}


class Table:
    """A CSV file that grows by the row."""

    def __init__(self, file: TextIO, columns: Sequence[str]) -> None:
        self.columns = list(columns)
        self._writer = csv.writer(file, lineterminator="\n")
        self._writer.writerow(self.columns)

    def write(self, values: Mapping[str, Any]) -> None:
        """Append a row; floats with six significant digits, missing values empty."""
        self._writer.writerow([_text(values.get(name, "")) for name in self.columns])


def _text(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:.6g}" if math.isfinite(value) else ""


def _small(picture: np.ndarray) -> np.ndarray:
    height, width = picture.shape[:2]
    if width <= _PICTURE_WIDTH:
        return picture
    size = (_PICTURE_WIDTH, max(1, round(height * _PICTURE_WIDTH / width)))
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)


def _jpeg(picture: np.ndarray) -> bytes:
    if picture.ndim == 3:
        picture = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    _, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    return data.tobytes()
