"""Bags that are cut off, damaged, empty or without their index."""

from __future__ import annotations

import sqlite3
import sys
from pathlib import Path

import pytest
from replays import drive, write_drive
from rosbags.rosbag1 import Writer as Writer1
from rosbags.rosbag2 import CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
from small_bags import write_compressed

from ivf_core.bags.convert import RGB_TOPIC, START_NS, THERMAL_TOPIC
from ivf_core.bags.info import IMAGE_TYPE, BagError, BagMessage
from ivf_core.bags.reader import BagReader
from ivf_core.bags.salvage import open_bag

FILES = {"mcap": "drive.mcap", "sqlite3": "drive.db3"}
TOPICS = [RGB_TOPIC, THERMAL_TOPIC]
COUNT = 14


def read(path: Path) -> tuple[list[BagMessage], list[str]]:
    left_out: list[str] = []
    with open_bag(path, left_out) as bag:
        return list(bag.raw(TOPICS)), left_out


def contents(path: Path) -> list[BagMessage]:
    with BagReader(path) as reader:
        return list(reader.raw(TOPICS))


def write_rosbag1(path: Path, compression: Writer1.CompressionFormat | None = None) -> None:
    store = get_typestore(Stores.ROS1_NOETIC)
    header, time = (store.types[n] for n in ("std_msgs/msg/Header", "builtin_interfaces/msg/Time"))
    writer = Writer1(path)
    if compression is not None:
        writer.set_compression(compression)
    with writer:
        cameras = [writer.add_connection(t, IMAGE_TYPE, typestore=store) for t in TOPICS]
        for k, frame in enumerate(drive(COUNT)):
            stamp = START_NS + k * 100_000_000
            images = ((frame.visible, "rgb8"), (frame.infrared, "mono8"))
            for camera, (image, encoding) in zip(cameras, images, strict=True):
                height, width = image.shape[:2]
                message = store.types[IMAGE_TYPE](
                    header(k, time(*divmod(stamp, 10**9)), "camera"),
                    height, width, encoding, 0, image.nbytes // height, image.reshape(-1),
                )  # fmt: skip
                writer.write(camera, stamp, store.serialize_ros1(message, IMAGE_TYPE))


@pytest.mark.parametrize("storage", FILES)
@pytest.mark.parametrize("kept", [0.4, 0.75, 0.999])
def test_bag_cut_off_is_read_up_to_the_cut(tmp_path: Path, storage: str, kept: float) -> None:
    write_drive(tmp_path / "drive", COUNT, storage=storage)
    whole = contents(tmp_path / "drive")
    file = tmp_path / "drive" / FILES[storage]
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * kept)])
    for path in (tmp_path / "drive", file):
        messages, left_out = read(path)
        assert messages == whole[: len(messages)]
        assert len(messages) >= (kept - 0.1) * len(whole)
        assert any(str(path) in line for line in left_out)


@pytest.mark.parametrize("compression", [None, *Writer1.CompressionFormat])
def test_rosbag1_that_was_not_closed(
    tmp_path: Path, compression: Writer1.CompressionFormat | None
) -> None:
    path = tmp_path / "drive.bag"
    write_rosbag1(path, compression)
    whole = contents(path)
    data = bytearray(path.read_bytes())
    # The recorder writes the place of the index, and the index, when it closes the bag.
    place = data.index(b"index_pos=") + 10
    end = int.from_bytes(data[place : place + 8], "little")
    data[place : place + 8] = bytes(8)
    path.write_bytes(data[: end - 10])
    messages, left_out = read(path)
    assert messages == whole
    assert left_out


def test_damaged_chunk_loses_only_its_messages(tmp_path: Path) -> None:
    write_drive(tmp_path / "drive", 30)
    whole = contents(tmp_path / "drive")
    write_compressed(tmp_path / "packed", whole, StoragePlugin.MCAP, CompressionMode.STORAGE)
    file = tmp_path / "packed" / "packed.mcap"
    data = bytearray(file.read_bytes())
    start = len(data) // 2
    data[start : start + 200] = bytes(200)
    file.write_bytes(data)
    messages, left_out = read(tmp_path / "packed")
    lost = [message for message in whole if message not in messages]
    assert 0 < len(lost) < len(whole)
    assert [message for message in whole if message not in lost] == messages
    # The messages before and after the damage are read.
    assert messages[0] == whole[0]
    assert messages[-1] == whole[-1]
    assert any("chunk at byte" in line for line in left_out)


def test_messages_compressed_one_by_one(tmp_path: Path) -> None:
    write_drive(tmp_path / "drive", COUNT)
    whole = contents(tmp_path / "drive")
    write_compressed(tmp_path / "packed", whole, StoragePlugin.SQLITE3, CompressionMode.MESSAGE)
    assert read(tmp_path / "packed") == (whole, [])
    (tmp_path / "packed" / "metadata.yaml").unlink()
    messages, _ = read(tmp_path / "packed")
    assert messages == whole


def test_damaged_page_of_a_database(tmp_path: Path) -> None:
    write_drive(tmp_path / "drive", COUNT, storage="sqlite3")
    whole = contents(tmp_path / "drive")
    file = tmp_path / "drive" / "drive.db3"
    with sqlite3.connect(file) as database:
        (page,) = database.execute("PRAGMA page_size").fetchone()
    database.close()
    data = bytearray(file.read_bytes())
    middle = len(data) // 2 // page * page
    data[middle : middle + page] = b"\xff" * page
    file.write_bytes(data)
    messages, _ = read(tmp_path / "drive")
    assert len(whole) - len(messages) <= 1
    assert messages[-1] == whole[-1]


@pytest.mark.parametrize("name", ["a.mcap", "a.db3", "a.bag"])
@pytest.mark.parametrize("content", [b"", b"a shopping list\n" * 50])
def test_files_that_are_no_bags_are_rejected(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BagError, match=f"{name}'"), open_bag(tmp_path / name, []):
        pass


def test_missing_and_empty_bags_are_rejected(tmp_path: Path) -> None:
    store = get_typestore(Stores.ROS2_JAZZY)
    with Writer(tmp_path / "bag", version=8, storage_plugin=StoragePlugin.MCAP) as writer:
        writer.add_connection(RGB_TOPIC, IMAGE_TYPE, typestore=store)
    for path, message in (
        (tmp_path / "missing", "missing': no such file"),
        (tmp_path, r"neither \.mcap nor \.db3"),
        (tmp_path / "bag", "bag': it holds no messages"),
    ):
        with pytest.raises(BagError, match=message), open_bag(path, []):
            pass


@pytest.mark.parametrize("storage", [StoragePlugin.MCAP, StoragePlugin.SQLITE3])
def test_missing_zstd_package_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, storage: StoragePlugin
) -> None:
    write_drive(tmp_path / "drive", COUNT)
    packed = tmp_path / "packed"
    by_message = storage == StoragePlugin.SQLITE3
    write_compressed(
        packed,
        contents(tmp_path / "drive"),
        storage,
        CompressionMode.MESSAGE if by_message else CompressionMode.STORAGE,
    )
    (packed / "metadata.yaml").unlink()
    for module in ("backports.zstd", "compression.zstd"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(BagError, match=r"pip install backports\.zstd"):
        read(packed)


def test_missing_lz4_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_rosbag1(tmp_path / "drive.bag", Writer1.CompressionFormat.LZ4)
    data = (tmp_path / "drive.bag").read_bytes()
    (tmp_path / "drive.bag").write_bytes(data[:-10])
    monkeypatch.setitem(sys.modules, "lz4.frame", None)
    with pytest.raises(BagError, match="pip install lz4"):
        read(tmp_path / "drive.bag")
