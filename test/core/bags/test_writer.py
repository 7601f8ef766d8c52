from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from small_bags import STORAGES, drive_frames, pixels, random_image

from ivf_core.bags.convert import (
    write_drive_bag,
)
from ivf_core.bags.info import BagError
from ivf_core.bags.reader import BagReader, bag_info
from ivf_core.bags.writer import BagWriter


def test_16_bit_images_are_lossless(tmp_path: Path) -> None:
    image = random_image((7, 9), np.uint16)
    with BagWriter(tmp_path / "bag") as writer:
        writer.write_image("/raw", 1, image, "mono16", "thermal")
        # A view with gaps between its rows.
        writer.write_image("/view", 2, image[:, ::2], "mono16", "thermal")
        writer.write_compressed("/png", 3, image, "mono16", "thermal", "png")
    with BagReader(tmp_path / "bag") as reader:
        messages = {m.topic: m.message for m in reader.messages()}
    assert messages["/raw"].step == 18
    np.testing.assert_array_equal(pixels(messages["/raw"], np.uint16), image)
    np.testing.assert_array_equal(pixels(messages["/view"], np.uint16), image[:, ::2])
    assert messages["/png"].format == "mono16; png compressed mono16"
    decoded = cv2.imdecode(messages["/png"].data, cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(decoded, image)


def test_float_images_cannot_be_compressed(tmp_path: Path) -> None:
    image = np.linspace(-40, 60, 30, dtype=np.float32).reshape(5, 6)
    with BagWriter(tmp_path / "bag") as writer:
        writer.write_image("/raw", 1, image, "32FC1", "thermal")
        with pytest.raises(BagError, match="/png: png cannot hold 32FC1"):
            writer.write_compressed("/png", 1, image, "32FC1", "thermal", "png")
    with BagReader(tmp_path / "bag") as reader:
        (message,) = (m.message for m in reader.messages())
    np.testing.assert_array_equal(pixels(message, np.float32), image)


def test_compressed_colour_keeps_its_channel_order(tmp_path: Path) -> None:
    red = np.zeros((8, 8, 3), np.uint8)
    red[..., 0] = 255
    with BagWriter(tmp_path / "bag") as writer:
        writer.write_compressed("/rgb/compressed", 1, red, "rgb8", "rgb", "png")
    with BagReader(tmp_path / "bag") as reader:
        (message,) = (m.message for m in reader.messages())
    assert message.format == "rgb8; png compressed bgr8"
    bgr = cv2.imdecode(message.data, cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(bgr[..., ::-1], red)


@pytest.mark.parametrize(
    ("array", "encoding", "expected"),
    [
        (np.zeros((4, 4), np.uint8), "rgb8", r"H x W x 3 uint8, got \(4, 4\) uint8"),
        (np.zeros((4, 4), np.uint16), "mono8", "H x W uint8"),
        (np.zeros((0, 4), np.uint8), "mono8", "H x W uint8"),
        (np.zeros((4, 4), np.uint8), "mono12", "expected one of rgb8"),
    ],
)
def test_arrays_that_do_not_suit_the_encoding_are_rejected(
    tmp_path: Path, array: np.ndarray, encoding: str, expected: str
) -> None:
    with (
        pytest.raises(BagError, match=expected) as error,
        BagWriter(tmp_path / "bag") as writer,
    ):
        writer.write_image("/topic", 1, array, encoding, "frame")
    assert "/topic" in str(error.value)
    assert not list(tmp_path.iterdir())


def test_jpeg_rejects_16_bit_images(tmp_path: Path) -> None:
    with (
        pytest.raises(BagError, match="jpeg cannot hold mono16"),
        BagWriter(tmp_path / "bag") as writer,
    ):
        writer.write_compressed("/topic", 1, np.ones((4, 4), np.uint16), "mono16", "frame")


@pytest.mark.parametrize("storage", STORAGES)
def test_exception_leaves_no_files(tmp_path: Path, storage: str) -> None:
    def broken():
        yield from drive_frames(2)
        raise RuntimeError("camera unplugged")

    with pytest.raises(RuntimeError, match="camera unplugged"):
        write_drive_bag(tmp_path / "drive", broken(), 10.0, storage=storage)
    assert not list(tmp_path.iterdir())


def test_bag_appears_only_when_complete(tmp_path: Path) -> None:
    with BagWriter(tmp_path / "bag") as writer:
        writer.write_image("/topic", 1, np.zeros((4, 4), np.uint8), "mono8", "frame")
        assert not (tmp_path / "bag").exists()
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["bag", "bag.mcap", "metadata.yaml"]


def test_invalid_paths_storages_types_and_rates_are_rejected(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    with pytest.raises(BagError, match="exists already"), BagWriter(tmp_path / "old"):
        pass
    with pytest.raises(BagError, match=r"leave out '\.mcap'"):
        BagWriter(tmp_path / "new.mcap")
    with pytest.raises(BagError, match="expected mcap or sqlite3"):
        BagWriter(tmp_path / "new", "rosbag3")
    with pytest.raises(BagError, match="no message was written"):
        write_drive_bag(tmp_path / "new", [], 10.0)
    with pytest.raises(BagError, match="positive"):
        write_drive_bag(tmp_path / "new", drive_frames(1), 0.0)
    with (
        pytest.raises(BagError, match="unknown message type 'no_msgs/msg/Such'"),
        BagWriter(tmp_path / "new") as writer,
    ):
        writer.write("/topic", "no_msgs/msg/Such", 1, b"\0\1\0\0")
    assert [p.name for p in tmp_path.iterdir()] == ["old"]


def test_second_type_on_a_topic_is_rejected(tmp_path: Path) -> None:
    with BagWriter(tmp_path / "new") as writer:
        writer.write_image("/topic", 1, np.zeros((4, 4), np.uint8), "mono8", "frame")
        with pytest.raises(BagError, match="/topic: holds sensor_msgs/msg/Image, not std_msgs"):
            writer.write("/topic", "std_msgs/msg/String", 2, b"\0\1\0\0")
    assert bag_info(tmp_path / "new").messages == 1
