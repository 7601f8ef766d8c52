"""Writers of a replay's outputs: bag, video, images and tables."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import cv2
import numpy as np

from ivf_core.bags.info import BagMessage
from ivf_core.bags.typestore import header, message
from ivf_core.bags.writer import BagWriter
from ivf_core.class_sets import ClassSet
from ivf_core.images.overlay import draw_overlay, side_by_side
from ivf_core.images.videos import VideoWriter
from ivf_core.replay.frames import FusedFrame
from ivf_core.system.csv_cells import text_cell

__all__ = ["BagOutput", "ImageOutput", "TableOutput", "VideoOutput"]

# Topics of a node named /fusion.
_FUSED, _MASK, _OVERLAY = "/fusion/fused/image", "/fusion/mask/image", "/fusion/overlay/image"
_LABELS, _LABEL_INFO = "/fusion/labels", "/fusion/label_info"

_IMAGE_WIDTH = 480
_JPEG_QUALITY = 85
_TITLES = ("RGB", "thermal", "fused", "overlay")


class BagOutput:
    """Context manager that writes results to a bag as the node would publish them.

    Messages are recorded at the time of their RGB image, so that the same input gives the
    same bag. If nothing is written, there is no bag. The storage is opened, written and
    closed in the thread that uses the object.

    Args:
        path: folder of the bag.
        storage: "mcap" or "sqlite3".
        class_set: class set of the masks, or None.
    """

    def __init__(self, path: Path, storage: str, class_set: ClassSet | None) -> None:
        self._new = BagWriter(path, storage)
        self._opened: BagWriter | None = None
        self._class_set = class_set
        self._announced = False

    def __enter__(self) -> BagOutput:
        return self

    def __exit__(self, *exception: Any) -> None:
        if self._opened is not None:
            self._opened.__exit__(*exception)

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
        frame: FusedFrame,
        mask: np.ndarray | None,
        overlay: np.ndarray | None,
    ) -> None:
        """Append one result; images that are None are left out.

        Args:
            frame: has the fused image, and the stamp, frame id and time of recording of
                the RGB image.
            mask: H x W uint8 class ids.
            overlay: H x W x 3 uint8 RGB.
        """
        if not self._announced:
            self._announce(frame.time_ns, frame.stamp_ns)
        images = (
            (_FUSED, frame.fused, "rgb8"),
            (_MASK, mask, "mono8"),
            (_OVERLAY, overlay, "rgb8"),
        )
        for topic, image, encoding in images:
            if image is not None:
                self._writer.write_image(
                    topic, frame.stamp_ns, image, encoding, frame.frame_id, time_ns=frame.time_ns
                )

    def _announce(self, time_ns: int, stamp_ns: int) -> None:
        """Write the names of the classes."""
        self._announced = True
        if self._class_set is None:
            return
        text = message("std_msgs/msg/String", data=self._class_set.to_json())
        self._writer.write(_LABELS, "std_msgs/msg/String", time_ns, text, latched=True)
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
        self._writer.write(_LABEL_INFO, "vision_msgs/msg/LabelInfo", time_ns, info, latched=True)


class VideoOutput:
    """Context manager that writes the side-by-side video; the file opens with its first frame.

    Args:
        path: file to write.
        rate_hz: frames per second, clipped to 1 to 1000.
    """

    def __init__(self, path: Path, rate_hz: float) -> None:
        self._path = path
        self._rate = float(np.clip(rate_hz, 1, 1000))
        self._writer: VideoWriter | None = None

    def __enter__(self) -> VideoOutput:
        return self

    def __exit__(self, *exception: Any) -> None:
        if self._writer is not None:
            self._writer.__exit__(*exception)

    def write(self, frame: FusedFrame, overlay: np.ndarray | None) -> None:
        """Append the images of a pair, side by side, at the size of the first ones.

        Args:
            frame: has the RGB, thermal and fused images.
            overlay: H x W x 3 uint8 RGB, or None.
        """
        images = (frame.visible, frame.registered, frame.fused, overlay)
        shown = [(i, t) for i, t in zip(images, _TITLES, strict=True) if i is not None]
        row = side_by_side([image for image, _ in shown], [title for _, title in shown])
        if self._writer is None:
            self._writer = VideoWriter(self._path, self._rate, row.shape[:2]).__enter__()
        height, width = self._writer.size
        if row.shape[:2] != (height, width):
            row = cv2.resize(row, (width, height), interpolation=cv2.INTER_AREA)
        self._writer.write(row)


class ImageOutput:
    """Writer of the images of some pairs as NNNNNN_KIND.jpg, at most 480 pixels wide.

    Args:
        folder: folder to create.
        class_set: class set of the labels, or None.
        opacity: opacity of the class colours in the overlay, 0 to 1.
        palette: palette of the overlay.
    """

    def __init__(
        self, folder: Path, class_set: ClassSet | None, opacity: float, palette: str
    ) -> None:
        self._folder = folder
        self._class_set = class_set
        self._opacity = opacity
        self._palette = palette
        self._kept: dict[int, dict[str, bytes]] = {}
        self._written: set[int] = set()
        folder.mkdir(parents=True)

    def write(self, frame: FusedFrame) -> None:
        """Write the images of a pair."""
        self._store(frame.index, self._encoded(frame))

    def keep(self, frame: FusedFrame) -> None:
        """Keep the images of a pair in memory, for it may have to be written at the end."""
        if frame.index not in self._written and frame.index not in self._kept:
            self._kept[frame.index] = self._encoded(frame)

    def keep_only(self, indices: set[int]) -> None:
        """Drop kept images of all other pairs.

        Args:
            indices: numbers of pairs.
        """
        self._kept = {index: kept for index, kept in self._kept.items() if index in indices}

    def write_kept(self) -> None:
        """Write all kept images."""
        for index, images in self._kept.items():
            self._store(index, images)
        self._kept = {}

    def _store(self, index: int, images: Mapping[str, bytes]) -> None:
        for kind, data in images.items():
            (self._folder / f"{index:06d}_{kind}.jpg").write_bytes(data)
        self._written.add(index)

    def _encoded(self, frame: FusedFrame) -> dict[str, bytes]:
        """Return the JPEG files of a pair by kind."""
        images = {
            "rgb": frame.visible,
            "thermal": frame.registered,
            "fused": frame.fused,
            "other": frame.other,
        }
        small = {kind: _small(image) for kind, image in images.items() if image is not None}
        if frame.labels is not None and self._class_set is not None:
            base = small.get("fused", small["rgb"])
            size = base.shape[1], base.shape[0]
            labels = cv2.resize(frame.labels, size, interpolation=cv2.INTER_NEAREST)
            small["overlay"] = draw_overlay(
                base, labels, self._class_set, self._opacity, self._palette
            )
        return {kind: _jpeg(image) for kind, image in small.items()}


class TableOutput:
    """Context manager that writes a CSV file row by row.

    Args:
        path: file to write.
        columns: names of the columns.
    """

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self._path = path
        self._columns = list(columns)
        self._file: TextIO | None = None

    def __enter__(self) -> TableOutput:
        self._file = self._path.open("w", newline="", encoding="utf-8")
        self._write_row(self._columns)
        return self

    def __exit__(self, *_error: object) -> None:
        if self._file is not None:
            self._file.close()

    def write(self, values: Mapping[str, Any]) -> None:
        """Append a row; floats with six significant digits, missing values empty.

        Args:
            values: values by column.
        """
        self._write_row([_text(values.get(name, "")) for name in self._columns])

    def _write_row(self, fields: Sequence[str]) -> None:
        assert self._file is not None
        csv.writer(self._file, lineterminator="\n").writerow(fields)


def _text(value: Any) -> str:
    if not isinstance(value, float):
        return text_cell(str(value))
    return f"{value:.6g}" if math.isfinite(value) else ""


def _small(image: np.ndarray) -> np.ndarray:
    """Shrink an image by halves, which OpenCV does fast, and bilinearly from there."""
    height, width = image.shape[:2]
    if width <= _IMAGE_WIDTH:
        return image
    size = (_IMAGE_WIDTH, max(1, round(height * _IMAGE_WIDTH / width)))
    while width >= 2 * _IMAGE_WIDTH and height >= 2:
        width, height = width // 2, height // 2
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    return cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)


def _jpeg(image: np.ndarray) -> bytes:
    if image.ndim == 3:
        image = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    return data.tobytes()
