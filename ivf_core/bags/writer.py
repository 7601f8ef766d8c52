"""Write rosbag2 bags (mcap, sqlite3) without ROS.

Bags hold Jazzy's message definitions and rosbag2 metadata of version 8, which every
distribution from Humble on reads. Each message is written as it comes: memory stays flat.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from contextlib import suppress
from pathlib import Path
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
from rosbags.rosbag2 import CompressionMode, StoragePlugin, Writer
from rosbags.rosbag2.storage_sqlite3 import Sqlite3Writer

from ivf_core.bags import typestore
from ivf_core.bags.info import COMPRESSED_IMAGE_TYPE, IMAGE_TYPE, BagError
from ivf_core.images.encodings import check_encoding

__all__ = ["BagWriter"]

_STORAGES = {"mcap": StoragePlugin.MCAP, "sqlite3": StoragePlugin.SQLITE3}
_FILE_DTYPES = {"jpeg": ("uint8",), "png": ("uint8", "uint16")}
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


class _DatabaseWriter(Sqlite3Writer):
    """Writer of databases of any name: rosbags gives the name as a URI, in which # ? % count."""

    def __init__(self, path: Path, _compression: CompressionMode) -> None:
        self.path = path / f"{path.name}.db3"
        # The thread that closes it may be another than the one that writes; they take turns.
        self.conn = sqlite3.connect(self.path, check_same_thread=False)
        self.conn.executescript(self.SQLITE_SCHEMA)
        self.cursor = self.conn.cursor()


class _Writer(Writer):
    STORAGE_PLUGINS = {**Writer.STORAGE_PLUGINS, StoragePlugin.SQLITE3: _DatabaseWriter}  # noqa: RUF012


class BagWriter:
    """Context manager that writes a new rosbag2 bag.

    The bag grows under a temporary name next to `path` and takes its own name
    when the block ends; after an exception nothing is left. One thread at a time may use it.

    Args:
        path: folder to create; must not exist.
        storage: "mcap" or "sqlite3".

    Raises:
        BagError: the path exists or has a file's suffix, the storage or a message type is
            unknown, or nothing was written.
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
        self._check_is_new()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # The bag's own folder inside a temporary one: the storage file and the
        # metadata bear the folder's name, so it cannot be renamed afterwards.
        self._temporary = Path(tempfile.mkdtemp(dir=self.path.parent, prefix=f".{self.path.name}."))
        try:
            self._writer = _Writer(
                self._temporary / self.path.name, version=8, storage_plugin=self._storage
            )
            self._writer.open()
        except BaseException:
            shutil.rmtree(self._temporary)
            raise
        return self

    def __exit__(self, exc_type: type[BaseException] | None, *_error: object) -> None:
        try:
            if exc_type is not None:
                with suppress(Exception):  # must not hide the error that ended the block
                    self._writer.close()
                return
            self._writer.close()
            if not self._written:
                raise BagError(f"bag '{self.path}': no message was written, no bag is created")
            self._check_is_new()
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
            time_ns: time of recording in ns since the epoch.
            message: CDR bytes, or an object with the fields of the type.
            latched: when the bag is played, late subscribers get the last message of the
                topic; only the value given with the topic's first message counts.

        Raises:
            BagError: Jazzy's packages lack the type, or the topic has messages of another
                type.
        """
        types = typestore.jazzy_types()
        connection = self._connections.get(topic)
        if connection is None:
            if msgtype not in types.fielddefs:
                raise BagError(f"topic {topic}: unknown message type '{msgtype}'")
            connection = self._writer.add_connection(
                topic, msgtype, typestore=types, offered_qos_profiles=[_LATCHED] if latched else []
            )
            self._connections[topic] = connection
        if msgtype != connection.msgtype:
            raise BagError(f"topic {topic}: holds {connection.msgtype}, not {msgtype}")
        if not isinstance(message, bytes | bytearray | memoryview):
            message = types.serialize_cdr(message, msgtype)
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
            topic: absolute name.
            stamp_ns: header stamp in ns since the epoch.
            array: H x W x 3 uint8 for "rgb8"; H x W uint8 for "mono8", uint16
                for "mono16" and "16UC1", float32 for "32FC1".
            encoding: one of `WRITTEN_ENCODINGS`.
            frame_id: of the header.
            time_ns: time of recording; by default the stamp.

        Raises:
            BagError: the array does not suit the encoding.
        """
        _check(topic, array, encoding)
        message = _image(typestore.header(stamp_ns, frame_id), array, encoding)
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
            topic: absolute name.
            stamp_ns: header stamp in ns since the epoch.
            array: image as for `write_image`.
            encoding: one of `WRITTEN_ENCODINGS` that the format can hold.
            frame_id: of the header.
            file_format: "jpeg" (8 bits) or "png" (lossless, 8 or 16 bits).

        Raises:
            BagError: the array does not suit the encoding or the format.
        """
        _check(topic, array, encoding)
        if file_format not in _FILE_DTYPES:
            raise BagError(f"topic {topic}: image format '{file_format}', expected jpeg or png")
        if array.dtype.name not in _FILE_DTYPES[file_format]:
            raise BagError(f"topic {topic}: {file_format} cannot hold {encoding}")
        header = typestore.header(stamp_ns, frame_id)
        message = _compressed_image(header, array, encoding, file_format)
        self.write(topic, COMPRESSED_IMAGE_TYPE, stamp_ns, message)

    def _check_is_new(self) -> None:
        if self.path.exists():
            raise BagError(f"bag '{self.path}': exists already; remove it or choose another name")


def _image(header: Any, array: np.ndarray, encoding: str) -> Any:
    height, width = array.shape[:2]
    data = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    return typestore.message(
        IMAGE_TYPE,
        header=header,
        height=height,
        width=width,
        encoding=encoding,
        is_bigendian=0,
        step=data.nbytes // height,
        data=data.reshape(-1).view(np.uint8),
    )


def _compressed_image(header: Any, array: np.ndarray, encoding: str, file_format: str) -> Any:
    encoded = "bgr8" if encoding == "rgb8" else encoding
    image = cv2.cvtColor(array, cv2.COLOR_RGB2BGR) if encoded == "bgr8" else array
    _, data = cv2.imencode(f".{file_format}", image)
    return typestore.message(
        COMPRESSED_IMAGE_TYPE,
        header=header,
        # As compressed_image_transport writes it, so that it decodes to `encoding`.
        format=f"{encoding}; {file_format} compressed {encoded}",
        data=data.reshape(-1),
    )


def _check(topic: str, array: np.ndarray, encoding: str) -> None:
    """Raise unless the array is an image of this encoding, with at least one pixel."""
    try:
        expected = check_encoding(array, encoding)
    except ValueError as error:
        raise BagError(f"topic {topic}: {error}") from error
    if not array.size:
        raise BagError(
            f"topic {topic}: {encoding} needs {expected.shape} {expected.dtype} "
            f"with at least one pixel, got {array.shape}"
        )
