"""Read and write bags without ROS: rosbag2 (mcap, sqlite3) and rosbag1.

Messages stream one at a time, so that memory stays flat whatever the bag's
length. New bags hold Jazzy's message definitions and rosbag2 metadata of
version 8, which every distribution from Humble on reads.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np
from rosbags.highlevel import AnyReader
from rosbags.interfaces import (
    Connection,
    ConnectionExtRosbag1,
    Nodetype,
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from ivf_core.images.pair_sources import open_pairs

__all__ = [
    "COMPRESSED_IMAGE_TYPE",
    "IMAGE_TYPE",
    "LABELS_TOPIC",
    "RGB_TOPIC",
    "START_NS",
    "THERMAL_TOPIC",
    "BagError",
    "BagInfo",
    "BagMessage",
    "BagReader",
    "BagWriter",
    "ConvertedPairs",
    "TopicInfo",
    "bag_info",
    "decode",
    "from_video",
    "guess_camera_topics",
    "header",
    "message",
    "write_drive_bag",
]

RGB_TOPIC = "/rgb/image_raw"
THERMAL_TOPIC = "/thermal/image_raw"
LABELS_TOPIC = "/ground_truth/labels"

IMAGE_TYPE = "sensor_msgs/msg/Image"
COMPRESSED_IMAGE_TYPE = "sensor_msgs/msg/CompressedImage"

START_NS = 1_700_000_000_000_000_000
"""Stamp of the first frame where there is no clock: zero would mean "no stamp"."""

_HEADER_TYPE = "std_msgs/msg/Header"
_STORAGES = {"mcap": StoragePlugin.MCAP, "sqlite3": StoragePlugin.SQLITE3}
_ENCODINGS = {
    "rgb8": (np.uint8, 3),
    "mono8": (np.uint8, 1),
    "mono16": (np.uint16, 1),
    "32FC1": (np.float32, 1),
}
_THERMAL_ENCODINGS = {"uint8": "mono8", "uint16": "mono16", "float32": "32FC1"}
_REMEDIES = {
    "rosbag2 mcap": "`mcap recover` may repair it",
    "rosbag2 sqlite3": "`ros2 bag reindex` or `sqlite3 FILE .recover` may repair it",
    "rosbag1": "`rosbag reindex` may repair it",
}

_VISION_MSGS = {
    "vision_msgs/msg/VisionClass": "uint16 class_id\nstring class_name\n",
    "vision_msgs/msg/LabelInfo": (
        "std_msgs/Header header\nvision_msgs/VisionClass[] class_map\nfloat32 threshold\n"
    ),
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

_THERMAL_WORDS = {"thermal", "infrared", "ir", "lwir"}
_RGB_WORDS = {"rgb", "color", "colour", "visible"}
_THERMAL_MAKERS = {"flir"}  # sells colour cameras too: counts only where no other word does

Progress = Callable[[int, "int | None"], None]
"""Called with the frames written so far and their total, None where unknown."""


class BagError(ValueError):
    """A bag that is missing, damaged, or not what was asked for."""


@dataclass(frozen=True)
class TopicInfo:
    """One topic of a bag.

    Attributes:
        name: as recorded, "/rgb/image_raw".
        type: "sensor_msgs/msg/Image".
        count: number of messages.
        rate_hz: messages per second over the bag's duration, 0 where there are
            too few messages to tell.
        latched: late subscribers get the last message (rosbag1's latching,
            rosbag2's transient local durability).
    """

    name: str
    type: str
    count: int
    rate_hz: float = 0.0
    latched: bool = False

    @property
    def is_image(self) -> bool:
        return self.type in (IMAGE_TYPE, COMPRESSED_IMAGE_TYPE)


@dataclass(frozen=True)
class BagInfo:
    """What a bag holds.

    Attributes:
        path: the folder or file.
        format: "rosbag2 mcap", "rosbag2 sqlite3" or "rosbag1".
        duration_seconds: from the first message to the last.
        start_ns: time of the first message since the epoch, 0 in an empty bag.
        messages: number of messages.
        topics: sorted by name.
    """

    path: Path
    format: str
    duration_seconds: float
    start_ns: int
    messages: int
    topics: tuple[TopicInfo, ...]


class BagMessage(NamedTuple):
    """One message of a bag.

    Attributes:
        topic: its name.
        type: "package/msg/Name", also for rosbag1.
        time_ns: when it was recorded, since the epoch.
        message: the message as an object, or its CDR bytes.
    """

    topic: str
    type: str
    time_ns: int
    message: Any


def bag_info(path: str | os.PathLike[str]) -> BagInfo:
    """Format, duration and topics of a bag.

    Raises:
        BagError: missing, empty or damaged; names the path.
    """
    with BagReader(path) as reader:
        return reader.info


class BagReader:
    """A bag open for reading, as a context manager.

    Args:
        path: a rosbag2 folder, one of its .mcap or .db3 files, or a rosbag1
            file (.bag).

    Raises:
        BagError: on entry and while reading; names the path and what is wrong.
    """

    info: BagInfo

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).expanduser()

    def __enter__(self) -> BagReader:
        self._format = _find_format(self.path)
        with self._errors_named():
            self._reader = AnyReader([self.path], default_typestore=_jazzy())
            self._reader.open()
        self.info = self._describe()
        self._ros1_to_cdr = _cdr_store(self._reader) if self._format == "rosbag1" else None
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._reader.close()

    @property
    def topics(self) -> tuple[TopicInfo, ...]:
        return self.info.topics

    def messages(self, topics: Iterable[str] | None = None) -> Iterator[BagMessage]:
        """Decoded messages in the order of their times.

        Args:
            topics: names to read, all by default.

        Raises:
            BagError: an unknown topic, or a message that cannot be decoded.
        """
        for connection, time_ns, data in self._read(self._select(topics)):
            with self._errors_named(f"{connection.topic} at {time_ns} ns"):
                message = self._reader.deserialize(data, connection.msgtype)
            yield BagMessage(connection.topic, connection.msgtype, time_ns, message)

    def raw(self, topics: Iterable[str] | None = None) -> Iterator[BagMessage]:
        """Messages as CDR bytes, undecoded, in the order of their times.

        rosbag1 messages are converted to ROS 2's layout byte by byte.

        Args:
            topics: names to read; by default all whose type `has_cdr`.

        Raises:
            BagError: an unknown topic, or one whose type has no CDR form.
        """
        connections = self._select(topics)
        if without := {c.msgtype for c in connections if not self.has_cdr(c.msgtype)}:
            if topics is not None:
                raise BagError(
                    f"bag '{self.path}': ROS 2 changed the layout of {', '.join(sorted(without))}: "
                    "convert the bag with `rosbags-convert`"
                )
            connections = [c for c in connections if c.msgtype not in without]
        store = self._ros1_to_cdr
        for connection, time_ns, data in self._read(connections):
            if store is not None:
                with self._errors_named(f"{connection.topic} at {time_ns} ns"):
                    data = bytes(store.ros1_to_cdr(data, connection.msgtype))
            yield BagMessage(connection.topic, connection.msgtype, time_ns, data)

    def has_cdr(self, msgtype: str) -> bool:
        """Whether `raw` gives this type: not for rosbag1 types that ROS 2 laid out anew."""
        return self._ros1_to_cdr is None or _same_layout(self._ros1_to_cdr, _jazzy(), msgtype)

    def _select(self, topics: Iterable[str] | None) -> list[Connection]:
        connections = list(self._reader.connections)
        if topics is None:
            return connections
        wanted = set(topics)
        if unknown := wanted - {c.topic for c in connections}:
            have = ", ".join(topic.name for topic in self.topics) or "none"
            raise BagError(
                f"bag '{self.path}': no topic {', '.join(sorted(unknown))}; it has: {have}"
            )
        return [c for c in connections if c.topic in wanted]

    def _read(self, connections: Sequence[Connection]) -> Iterator[tuple[Connection, int, bytes]]:
        if not connections:  # rosbags would take this for "all"
            return
        with self._errors_named():
            yield from self._reader.messages(connections=connections)

    @contextmanager
    def _errors_named(self, where: str = "") -> Iterator[None]:
        # A damaged file makes the parsers fail in any way (struct, index, SQL,
        # decompression, assertions), hence the breadth.
        try:
            yield
        except Exception as error:
            what = f"{where}: " if where else ""
            raise BagError(
                f"bag '{self.path}': {what}damaged or incomplete "
                f"({str(error) or type(error).__name__}); {_REMEDIES[self._format]}"
            ) from error

    def _describe(self) -> BagInfo:
        reader = self._reader
        count = reader.message_count
        # rosbags' end is exclusive: one nanosecond after the last message.
        seconds = max(reader.duration - 1, 0) / 1e9 if count else 0.0
        topics: dict[tuple[str, str], TopicInfo] = {}
        for connection in reader.connections:
            key = (connection.topic, connection.msgtype)
            before = topics.get(key, TopicInfo(*key, 0))
            messages = before.count + connection.msgcount
            topics[key] = TopicInfo(
                *key,
                messages,
                (messages - 1) / seconds if messages > 1 and seconds else 0.0,
                before.latched or _is_latched(connection),
            )
        return BagInfo(
            path=self.path,
            format=self._format,
            duration_seconds=seconds,
            start_ns=reader.start_time if count else 0,
            messages=count,
            topics=tuple(topics[key] for key in sorted(topics)),
        )


def guess_camera_topics(topics: Iterable[TopicInfo]) -> tuple[str, str]:
    """The RGB and the thermal topic of a bag, told from types and names.

    Where only one of two image topics has a telling name, the other is taken
    for the other camera; raw images are preferred to compressed ones of the
    same camera, and `image_raw` to processed images.

    Returns:
        Names of the RGB and the thermal topic.

    Raises:
        BagError: cannot tell; lists the image topics.
    """
    images = [topic for topic in topics if topic.is_image and topic.count]
    names = {topic.name for topic in images}
    # A compressed copy beside its raw image is the same camera.
    names -= {f"{topic.name}/compressed" for topic in images if topic.type == IMAGE_TYPE}
    kinds = {name: _camera_kind(name) for name in names}
    rgb, thermal = ({n for n in names if kinds[n] == kind} for kind in ("rgb", "thermal"))
    if len(names) == 2:
        rgb, thermal = rgb or names - thermal, thermal or names - rgb
    rgb, thermal = _prefer_raw(rgb), _prefer_raw(thermal)
    if len(rgb) != 1 or len(thermal) != 1:
        listing = "\n".join(f"  {topic.name} ({topic.type})" for topic in images) or "  none"
        raise BagError(
            "cannot tell which topics are the RGB and the thermal camera: name both. "
            f"Image topics:\n{listing}"
        )
    return rgb.pop(), thermal.pop()


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
            if msgtype not in _jazzy().fielddefs:
                raise BagError(f"topic {topic}: unknown message type '{msgtype}'")
            connection = self._writer.add_connection(
                topic,
                msgtype,
                typestore=_jazzy(),
                offered_qos_profiles=[_LATCHED] if latched else [],
            )
            self._connections[topic] = connection
        if msgtype != connection.msgtype:
            raise BagError(f"topic {topic}: holds {connection.msgtype}, not {msgtype}")
        if not isinstance(message, bytes | bytearray | memoryview):
            message = _jazzy().serialize_cdr(message, msgtype)
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
        message = _jazzy().types[IMAGE_TYPE](
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
        message = _jazzy().types[COMPRESSED_IMAGE_TYPE](
            header=header(stamp_ns, frame_id),
            # As compressed_image_transport writes it, so that it decodes to `encoding`.
            format=f"{encoding}; {file_format} compressed {inside}",
            data=data.reshape(-1),
        )
        self.write(topic, COMPRESSED_IMAGE_TYPE, stamp_ns, message)

    def _refuse_existing(self) -> None:
        if self.path.exists():
            raise BagError(f"bag '{self.path}': exists already; remove it or choose another name")


def decode(cdr: bytes, msgtype: str) -> Any:
    """A message of one of Jazzy's types as an object.

    Raises:
        BagError: bytes that are not such a message.
    """
    try:
        return _jazzy().deserialize_cdr(cdr, msgtype)
    except Exception as error:  # damaged bytes fail in any way
        raise BagError(
            f"not a {msgtype}: {len(cdr)} bytes ({str(error) or type(error).__name__})"
        ) from error


def message(msgtype: str, **fields: Any) -> Any:
    """A new message of one of Jazzy's types, to be written with `BagWriter.write`."""
    return _jazzy().types[msgtype](**fields)


class DriveFrame(Protocol):
    """What `write_drive_bag` takes: arrays of one size.

    Attributes:
        visible: H x W x 3 uint8 RGB.
        infrared: H x W uint8.
        labels: H x W uint8 class ids, or None.
    """

    @property
    def visible(self) -> np.ndarray: ...
    @property
    def infrared(self) -> np.ndarray: ...
    @property
    def labels(self) -> np.ndarray | None: ...


def write_drive_bag(
    path: str | os.PathLike[str],
    frames: Iterable[DriveFrame],
    rate_hz: float,
    *,
    start_ns: int = START_NS,
    storage: str = "mcap",
    progress: Progress | None = None,
) -> int:
    """Write frames with their ground truth to a bag.

    Frame k is stamped start_ns + k / rate_hz on `RGB_TOPIC` (rgb8),
    `THERMAL_TOPIC` (mono8) and, where it has labels, `LABELS_TOPIC` (mono8).

    Returns:
        The number of frames.

    Raises:
        BagError: see `BagWriter`; or a rate that is not positive.
    """
    _check_rate(rate_hz)
    total = len(frames) if isinstance(frames, Sequence) else None
    count = 0
    with BagWriter(path, storage) as writer:
        for count, frame in enumerate(frames, start=1):
            stamp = start_ns + round((count - 1) * 1e9 / rate_hz)
            writer.write_image(RGB_TOPIC, stamp, frame.visible, "rgb8", "rgb_camera")
            writer.write_image(THERMAL_TOPIC, stamp, frame.infrared, "mono8", "thermal_camera")
            if frame.labels is not None:
                writer.write_image(LABELS_TOPIC, stamp, frame.labels, "mono8", "rgb_camera")
            if progress is not None:
                progress(count, total)
    return count


class ConvertedPairs(NamedTuple):
    """What `from_video` wrote.

    Attributes:
        pairs: number of pairs in the bag.
        unmatched: what had no partner and is not in the bag, one line each.
    """

    pairs: int
    unmatched: list[str]


def from_video(
    visible_path: str | os.PathLike[str],
    infrared_path: str | os.PathLike[str],
    bag_path: str | os.PathLike[str],
    *,
    rate_hz: float | None = None,
    compressed: bool = False,
    infrared_offset_seconds: float = 0.0,
    storage: str = "mcap",
    progress: Progress | None = None,
) -> ConvertedPairs:
    """Write two videos, or two folders of pictures, to a bag.

    Pair k is stamped `START_NS` + k / rate_hz.

    Args:
        rate_hz: frames per second; by default the videos' own. Pictures have
            none, so they need it.
        compressed: JPEG (8 bits) and PNG (16 bits) on `.../compressed` topics.
        infrared_offset_seconds: added to the thermal stamps.

    Raises:
        BagError: see `BagWriter`; or no rate, or one that is not positive.
        ImageFileError: from `open_pairs`, for inputs that cannot be read.
    """
    pairs = open_pairs(visible_path, infrared_path)
    if rate_hz is None:
        rate_hz = pairs.rate_hz
    if rate_hz is None:
        raise BagError(f"'{visible_path}': has no frame rate: give one")
    _check_rate(rate_hz)
    offset_ns = round(infrared_offset_seconds * 1e9)
    count = 0
    with BagWriter(bag_path, storage) as writer:
        for count, pair in enumerate(pairs, start=1):
            stamp = START_NS + round((count - 1) * 1e9 / rate_hz)
            thermal = _THERMAL_ENCODINGS[pair.infrared.dtype.name]
            for topic, time_ns, array, encoding, frame_id in (
                (RGB_TOPIC, stamp, pair.visible, "rgb8", "rgb_camera"),
                (THERMAL_TOPIC, stamp + offset_ns, pair.infrared, thermal, "thermal_camera"),
            ):
                if compressed:
                    file_format = "png" if array.dtype == np.uint16 else "jpeg"
                    writer.write_compressed(
                        f"{topic}/compressed", time_ns, array, encoding, frame_id, file_format
                    )
                else:
                    writer.write_image(topic, time_ns, array, encoding, frame_id)
            if progress is not None:
                progress(count, pairs.length)
    return ConvertedPairs(count, pairs.unmatched)


@cache
def _jazzy() -> Typestore:
    store = get_typestore(Stores.ROS2_JAZZY)
    for name, definition in _VISION_MSGS.items():  # not among rosbags' own
        store.register(get_types_from_msg(definition, name))
    return store


def _find_format(path: Path) -> str:
    """The format by name and content of the folder; BagError where there is none."""
    if not path.exists():
        raise BagError(f"bag '{path}': no such file or folder")
    if path.is_file():
        formats = {".bag": "rosbag1", ".mcap": "rosbag2 mcap", ".db3": "rosbag2 sqlite3"}
        if path.suffix not in formats:
            raise BagError(f"bag '{path}': expected a rosbag2 folder or a .mcap, .db3 or .bag file")
        if not path.stat().st_size:
            raise BagError(f"bag '{path}': the file is empty")
        return formats[path.suffix]
    mcap, sqlite3 = sorted(path.glob("*.mcap*")), sorted(path.glob("*.db3*"))
    if not mcap and not sqlite3:
        raise BagError(f"bag '{path}': the folder holds neither .mcap nor .db3 files")
    if not (path / "metadata.yaml").is_file():
        raise BagError(
            f"bag '{path}': metadata.yaml is missing; write it with `ros2 bag reindex {path}` "
            f"or give the storage file itself, '{(mcap or sqlite3)[0]}'"
        )
    return "rosbag2 mcap" if mcap else "rosbag2 sqlite3"


def _cdr_store(reader: AnyReader) -> Typestore:
    """The types of a rosbag1 bag with ROS 2's header, which has no `seq`."""
    store = get_typestore(Stores.EMPTY)
    store.register({**reader.typestore.fielddefs, _HEADER_TYPE: _jazzy().fielddefs[_HEADER_TYPE]})
    return store


def _same_layout(store: Typestore, reference: Typestore, msgtype: str) -> bool:
    """Whether both stores put the same bytes on the wire; yes where only one knows the type."""
    if msgtype not in reference.fielddefs:
        return True
    fields = [field for _, field in store.fielddefs[msgtype][1]]
    if fields != [field for _, field in reference.fielddefs[msgtype][1]]:
        return False
    for field in fields:
        kind, detail = field[1][0] if field[0] in (Nodetype.ARRAY, Nodetype.SEQUENCE) else field
        if kind == Nodetype.NAME and not _same_layout(store, reference, str(detail)):
            return False
    return True


def _is_latched(connection: Connection) -> bool:
    if isinstance(connection.ext, ConnectionExtRosbag1):
        return bool(connection.ext.latching)
    return any(
        qos.durability.name == "TRANSIENT_LOCAL" for qos in connection.ext.offered_qos_profiles
    )


def _camera_kind(topic: str) -> str | None:
    words = set(re.findall("[a-z]+", topic.lower()))
    thermal, rgb = bool(words & _THERMAL_WORDS), bool(words & _RGB_WORDS)
    if thermal != rgb:
        return "thermal" if thermal else "rgb"
    if not thermal and words & _THERMAL_MAKERS:
        return "thermal"
    return None


def _prefer_raw(names: set[str]) -> set[str]:
    raw = {name for name in names if "image_raw" in name.split("/")}
    return raw or set(names)


def header(stamp_ns: int, frame_id: str) -> Any:
    """A std_msgs/Header."""
    types = _jazzy().types
    stamp = types["builtin_interfaces/msg/Time"](*divmod(stamp_ns, 10**9))
    return types[_HEADER_TYPE](stamp=stamp, frame_id=frame_id)


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


def _check_rate(rate_hz: float) -> None:
    if not (np.isfinite(rate_hz) and rate_hz > 0):
        raise BagError(f"frame rate {rate_hz}: expected a positive number of frames per second")
