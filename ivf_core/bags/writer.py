"""Write rosbag2 bags without ROS."""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np
from rosbags.interfaces import (
    Connection,
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import StoragePlugin, Writer

from ivf_core.bags.info import COMPRESSED_IMAGE_TYPE, IMAGE_TYPE, BagError
from ivf_core.bags.typestore import header, jazzy

__all__ = ["BagWriter"]

_STORAGES = {"mcap": StoragePlugin.MCAP, "sqlite3": StoragePlugin.SQLITE3}
_ENCODINGS = {
    "rgb8": (np.uint8, 3),
    "mono8": (np.uint8, 1),
    "mono16": (np.uint16, 1),
    "32FC1": (np.float32, 1),
}
_LATCHED = Qos(
    QosHistory.KEEP_LAST,
    1,
    QosReliability.RELIABLE,
    QosDurability.TRANSIENT_LOCAL,
    QosTime(0, 0),
    QosTime(0, 0),
    QosLiveliness.AUTOMATIC,
    QosTime(0, 0),
    avoid_ros_namespace_conventions=False,
)


class BagWriter:
    """A new rosbag2 bag, as a context manager.

    The bag grows under a temporary name beside `path` and takes its own name
    when the block ends; after an exception nothing is left.

    Args:
        path: folder to make; must not exist.
        storage: "mcap" or "sqlite3".

    Raises:
        BagError: the path exists or has a file's suffix, an unknown storage or
            message type, or nothing was written.
    """

    def __init__(self, path: str | os.PathLike[str], storage: str = "mcap") -> None:
        self.path = Path(path).expanduser()
        if storage not in _STORAGES:
            raise BagError(f"storage '{storage}': expected {' or '.join(_STORAGES)}")
        if self.path.suffix in (".bag", ".mcap", ".db3"):
            raise BagError(
                f"bag '{self.path}': a rosbag2 bag is a folder; leave out '{self.path.suffix}'"
            )
        self._storage = _STORAGES[storage]
        self._connections: dict[str, Connection] = {}
        self._written = 0

    def __enter__(self) -> BagWriter:
        self._refuse_existing()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # The bag's own folder inside a temporary one: the storage file and the
        # metadata bear the folder's name, so it cannot be renamed afterwards.
        self._temporary = Path(tempfile.mkdtemp(dir=self.path.parent, prefix=f".{self.path.name}."))
        try:
            self._writer = Writer(
                self._temporary / self.path.name, version=8, storage_plugin=self._storage
            )
            self._writer.open()
        except BaseException:
            shutil.rmtree(self._temporary)
            raise
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if exc_type is not None:
                with suppress(Exception):  # must not hide the error that ended the block
                    self._writer.close()
                return
            self._writer.close()
            if not self._written:
                raise BagError(f"bag '{self.path}': no message was written, no bag is made")
            self._refuse_existing()
            (self._temporary / self.path.name).replace(self.path)
        finally:
            shutil.rmtree(self._temporary)

    def write(
        self, topic: str, msgtype: str, time_ns: int, message: Any, *, latched: bool = False
    ) -> None:
        """Append one message.

        Args:
            topic: absolute name, "/rgb/image_raw".
            msgtype: "package/msg/Name".
            time_ns: time of recording since the epoch.
            message: CDR bytes, or an object with the fields of the type.
            latched: late subscribers shall get the last message of the topic when
                the bag is played; holds from the topic's first message on.

        Raises:
            BagError: a type that Jazzy's packages lack, or another type on the
                same topic before.
        """
        connection = self._connections.get(topic)
        if connection is None:
            if msgtype not in jazzy().fielddefs:
                raise BagError(f"topic {topic}: unknown message type '{msgtype}'")
            connection = self._writer.add_connection(
                topic,
                msgtype,
                typestore=jazzy(),
                offered_qos_profiles=[_LATCHED] if latched else [],
            )
            self._connections[topic] = connection
        if msgtype != connection.msgtype:
            raise BagError(f"topic {topic}: holds {connection.msgtype}, not {msgtype}")
        if not isinstance(message, bytes | bytearray | memoryview):
            message = jazzy().serialize_cdr(message, msgtype)
        self._writer.write(connection, time_ns, message)
        self._written += 1

    def write_image(
        self,
        topic: str,
        stamp_ns: int,
        array: np.ndarray,
        encoding: str,
        frame_id: str,
        *,
        time_ns: int | None = None,
    ) -> None:
        """Append a `sensor_msgs/msg/Image`.

        Args:
            array: H x W x 3 uint8 for "rgb8"; H x W uint8 for "mono8", uint16
                for "mono16", float32 for "32FC1".
            time_ns: time of recording; by default the stamp.

        Raises:
            BagError: the array does not suit the encoding.
        """
        _check_encoding(topic, array, encoding)
        height, width = array.shape[:2]
        data = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
        message = jazzy().types[IMAGE_TYPE](
            header=header(stamp_ns, frame_id),
            height=height,
            width=width,
            encoding=encoding,
            is_bigendian=0,
            step=data.nbytes // height,
            data=data.reshape(-1).view(np.uint8),
        )
        self.write(topic, IMAGE_TYPE, stamp_ns if time_ns is None else time_ns, message)

    def write_compressed(
        self,
        topic: str,
        stamp_ns: int,
        array: np.ndarray,
        encoding: str,
        frame_id: str,
        file_format: str = "jpeg",
    ) -> None:
        """Append a `sensor_msgs/msg/CompressedImage`, recorded at its own stamp.

        Args:
            array: as for `write_image`.
            file_format: "jpeg" (8 bits) or "png" (lossless).

        Raises:
            BagError: the array does not suit the encoding or the format.
        """
        _check_encoding(topic, array, encoding)
        if file_format not in ("jpeg", "png"):
            raise BagError(f"topic {topic}: image format '{file_format}', expected jpeg or png")
        if array.dtype not in ((np.uint8,) if file_format == "jpeg" else (np.uint8, np.uint16)):
            raise BagError(f"topic {topic}: {file_format} cannot hold {encoding}")
        inside = "bgr8" if encoding == "rgb8" else encoding
        picture = cv2.cvtColor(array, cv2.COLOR_RGB2BGR) if inside == "bgr8" else array
        _, data = cv2.imencode(f".{file_format}", picture)
        message = jazzy().types[COMPRESSED_IMAGE_TYPE](
            header=header(stamp_ns, frame_id),
            # As compressed_image_transport writes it, so that it decodes to `encoding`.
            format=f"{encoding}; {file_format} compressed {inside}",
            data=data.reshape(-1),
        )
        self.write(topic, COMPRESSED_IMAGE_TYPE, stamp_ns, message)

    def _refuse_existing(self) -> None:
        if self.path.exists():
            raise BagError(f"bag '{self.path}': exists already; remove it or choose another name")


def _check_encoding(topic: str, array: np.ndarray, encoding: str) -> None:
    if encoding not in _ENCODINGS:
        raise BagError(
            f"topic {topic}: encoding '{encoding}', expected one of {', '.join(_ENCODINGS)}"
        )
    dtype, channels = _ENCODINGS[encoding]
    shaped = array.ndim == 2 if channels == 1 else array.ndim == 3 and array.shape[2] == channels
    if array.dtype != dtype or not shaped or not array.size:
        size = "H x W" if channels == 1 else f"H x W x {channels}"
        raise BagError(
            f"topic {topic}: {encoding} expects {size} {np.dtype(dtype)}, "
            f"got {array.shape} {array.dtype}"
        )
