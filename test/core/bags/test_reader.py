from __future__ import annotations

import types
from pathlib import Path

import numpy as np
import pytest
from rosbags.rosbag1 import Writer as Writer1
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from small_bags import JAZZY, STORAGES, drive_frames, pixels, random_image, write_rosbag1

from ivf_core.bags.convert import (
    RGB_TOPIC,
    write_drive_bag,
)
from ivf_core.bags.info import IMAGE_TYPE, BagError
from ivf_core.bags.reader import BagReader, bag_info
from ivf_core.bags.writer import BagWriter


@pytest.mark.parametrize("storage", STORAGES)
def test_storage_file_without_its_folder_is_read(tmp_path: Path, storage: str) -> None:
    write_drive_bag(tmp_path / "drive", drive_frames(3), 10.0, storage=storage)
    lone = (tmp_path / "drive" / f"drive{STORAGES[storage]}").rename(
        tmp_path / f"lone{STORAGES[storage]}"
    )
    with BagReader(lone) as reader:
        assert reader.info.format == f"rosbag2 {storage}"
        assert len(list(reader.messages([RGB_TOPIC]))) == 3


def test_raw_yields_the_cdr_of_messages(tmp_path: Path) -> None:
    write_drive_bag(tmp_path / "drive", drive_frames(2, labels=False), 10.0)
    with BagReader(tmp_path / "drive") as reader:
        decoded, raw = list(reader.messages()), list(reader.raw())
    assert len(raw) == 4
    for one, other in zip(decoded, raw, strict=True):
        assert isinstance(other.message, bytes)
        assert bytes(JAZZY.serialize_cdr(one.message, one.type)) == other.message


def test_rosbag1_is_read_and_converted_to_cdr(tmp_path: Path) -> None:
    images = write_rosbag1(tmp_path / "old.bag")
    with BagReader(tmp_path / "old.bag") as reader:
        assert reader.info.format == "rosbag1"
        assert reader.info.duration_seconds == pytest.approx(0.2, abs=1e-8)
        latched = {t.name: t.latched for t in reader.topics}
        decoded = list(reader.messages(["/rgb/image_raw"]))
        raw = list(reader.raw())
        with pytest.raises(BagError, match="layout of visualization_msgs/msg/Marker"):
            list(reader.raw(["/marker"]))
    assert latched == {"/rgb/image_raw": False, "/marker": True}
    assert [m.message.header.seq for m in decoded] == [7000, 7001, 7002]
    assert [m.topic for m in raw] == ["/rgb/image_raw"] * 3  # the marker has no CDR form
    for k, (message, image) in enumerate(zip(raw, images, strict=True)):
        ros2 = JAZZY.deserialize_cdr(message.message, message.type)
        assert (ros2.header.stamp.nanosec, ros2.header.frame_id) == (k, "camera")
        np.testing.assert_array_equal(pixels(ros2), image)


def test_rosbag1_with_a_custom_type(tmp_path: Path) -> None:
    store = get_typestore(Stores.ROS1_NOETIC)
    store.register(get_types_from_msg("uint8 gain\nfloat64 celsius", "my_msgs/msg/Reading"))
    with Writer1(tmp_path / "own.bag") as writer:
        connection = writer.add_connection("/reading", "my_msgs/msg/Reading", typestore=store)
        message = store.types["my_msgs/msg/Reading"](3, 36.6)
        writer.write(connection, 1, store.serialize_ros1(message, "my_msgs/msg/Reading"))
    with BagReader(tmp_path / "own.bag") as reader:
        (decoded,), (raw,) = reader.messages(), reader.raw()
    assert (decoded.message.gain, decoded.message.celsius) == (3, 36.6)
    assert len(raw.message) == 4 + 16  # the float64 is aligned to 8 bytes in CDR


def test_unknown_topics_are_rejected(tmp_path: Path) -> None:
    write_drive_bag(tmp_path / "drive", drive_frames(1), 10.0)
    with BagReader(tmp_path / "drive") as reader:
        with pytest.raises(BagError, match=r"no topic /lidar; it has: /ground_truth/classes"):
            list(reader.raw(["/lidar"]))
        assert list(reader.raw([])) == []


class TestDamage:
    @pytest.mark.parametrize("storage", STORAGES)
    @pytest.mark.parametrize("kept", [0.0, 0.001, 0.3, 0.7, 0.999])
    def test_truncated_storage(self, tmp_path: Path, storage: str, kept: float) -> None:
        frames = [
            types.SimpleNamespace(
                visible=random_image((96, 128, 3), seed=k),
                infrared=random_image((96, 128), seed=k),
                labels=None,
            )
            for k in range(20)
        ]
        write_drive_bag(tmp_path / "drive", frames, 10.0, storage=storage)
        file = tmp_path / "drive" / f"drive{STORAGES[storage]}"
        data = file.read_bytes()
        file.write_bytes(data[: int(len(data) * kept)])
        for path in (tmp_path / "drive", file):
            with pytest.raises(BagError) as error, BagReader(path) as reader:
                list(reader.raw())
            assert str(path) in str(error.value)

    def test_truncated_rosbag1(self, tmp_path: Path) -> None:
        path = tmp_path / "old.bag"
        write_rosbag1(path, count=20)
        data = path.read_bytes()
        path.write_bytes(data[: len(data) // 2])
        remedy = r"old\.bag.*`ivf replay` reads the part"
        with pytest.raises(BagError, match=remedy), BagReader(path) as reader:
            list(reader.raw())

    def test_flipped_bytes_in_a_message(self, tmp_path: Path) -> None:
        with BagWriter(tmp_path / "bag") as writer:
            writer.write("/topic", IMAGE_TYPE, 5, b"\0\1\0\0" + b"\xff" * 60)
        with (
            pytest.raises(BagError, match=r"/topic at 5 ns: damaged"),
            BagReader(tmp_path / "bag") as reader,
        ):
            list(reader.messages())

    @pytest.mark.parametrize("name", ["missing", "missing.bag"])
    def test_missing(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(BagError, match=f"{name}': no such file or folder"):
            bag_info(tmp_path / name)

    def test_empty_folder(self, tmp_path: Path) -> None:
        with pytest.raises(BagError, match=r"neither \.mcap nor \.db3"):
            bag_info(tmp_path)

    def test_empty_file(self, tmp_path: Path) -> None:
        (tmp_path / "a.mcap").touch()
        with pytest.raises(BagError, match=r"a\.mcap': the file is empty"):
            bag_info(tmp_path / "a.mcap")

    @pytest.mark.parametrize(
        ("name", "reason"),
        [
            ("a.mcap", "it does not begin as an MCAP file"),
            ("a.db3", "it is not an SQLite database"),
            ("a.bag", "damaged .*magic is invalid"),
            ("a.bag.active", "damaged .*magic is invalid"),
        ],
    )
    def test_not_a_bag(self, tmp_path: Path, name: str, reason: str) -> None:
        (tmp_path / name).write_text("a shopping list\n" * 50)
        with pytest.raises(BagError, match=f"{name}': {reason}"):
            bag_info(tmp_path / name)

    def test_another_kind_of_file(self, tmp_path: Path) -> None:
        (tmp_path / "drive.mp4").write_bytes(b"x")
        with pytest.raises(BagError, match=r"drive\.mp4': expected a rosbag2 folder"):
            bag_info(tmp_path / "drive.mp4")
