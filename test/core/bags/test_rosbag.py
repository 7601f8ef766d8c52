from __future__ import annotations

import types
from pathlib import Path

import cv2
import numpy as np
import pytest
from rosbags.rosbag1 import Writer as Writer1
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from ivf_core.bags.convert import (
    LABELS_TOPIC,
    RGB_TOPIC,
    START_NS,
    THERMAL_TOPIC,
    from_video,
    write_drive_bag,
)
from ivf_core.bags.info import COMPRESSED_IMAGE_TYPE, IMAGE_TYPE, BagError, TopicInfo
from ivf_core.bags.reader import BagReader, bag_info
from ivf_core.bags.topics import guess_camera_topics
from ivf_core.bags.writer import BagWriter
from ivf_core.images.files import VideoWriter

JAZZY = get_typestore(Stores.ROS2_JAZZY)
STORAGES = {"mcap": ".mcap", "sqlite3": ".db3"}


def random_image(shape: tuple[int, ...], dtype: type = np.uint8, seed: int = 0) -> np.ndarray:
    high = np.iinfo(dtype).max + 1
    return np.random.default_rng(seed).integers(0, high, shape).astype(dtype)


def drive_frames(count: int, labels: bool = True) -> list[types.SimpleNamespace]:
    return [
        types.SimpleNamespace(
            visible=random_image((12, 16, 3), seed=k),
            infrared=random_image((12, 16), seed=100 + k),
            labels=np.full((12, 16), k, np.uint8) if labels else None,
        )
        for k in range(count)
    ]


def pixels(message: object, dtype: type = np.uint8) -> np.ndarray:
    return message.data.view(dtype).reshape(message.height, message.width, -1).squeeze()


def stamp_ns(message: object) -> int:
    return message.header.stamp.sec * 10**9 + message.header.stamp.nanosec


def write_rosbag1(path: Path, count: int = 3) -> list[np.ndarray]:
    """Images with a header, its `seq` filled, and a type that ROS 2 laid out anew."""
    store = get_typestore(Stores.ROS1_NOETIC)
    header = store.types["std_msgs/msg/Header"]
    time = store.types["builtin_interfaces/msg/Time"]
    images = [random_image((3, 5, 3), seed=k) for k in range(count)]
    with Writer1(path) as writer:
        camera = writer.add_connection("/rgb/image_raw", IMAGE_TYPE, typestore=store)
        marker = "visualization_msgs/msg/Marker"
        markers = writer.add_connection("/marker", marker, typestore=store, latching=1)
        for k, image in enumerate(images):
            message = store.types[IMAGE_TYPE](
                header(7000 + k, time(100, k), "camera"),  # odd length: alignment matters
                3, 5, "rgb8", 0, 15, image.reshape(-1),
            )  # fmt: skip
            now = 100 * 10**9 + k * 10**8
            writer.write(camera, now, store.serialize_ros1(message, IMAGE_TYPE))
        geometry = {n: store.types[f"geometry_msgs/msg/{n}"] for n in ("Point", "Vector3")}
        quaternion = store.types["geometry_msgs/msg/Quaternion"](0, 0, 0, 1)
        pose = store.types["geometry_msgs/msg/Pose"](geometry["Point"](0, 0, 0), quaternion)
        message = store.types[marker](
            header(0, time(100, 0), "map"), "ns", 1, 0, 0, pose, geometry["Vector3"](1, 1, 1),
            store.types["std_msgs/msg/ColorRGBA"](1, 1, 1, 1),
            store.types["builtin_interfaces/msg/Duration"](0, 0),
            False, [], [], "text", "", False,
        )  # fmt: skip
        writer.write(markers, 100 * 10**9, store.serialize_ros1(message, marker))
    return images


@pytest.mark.parametrize("storage", STORAGES)
def test_drive_bag_gives_back_pixels_stamps_and_order(tmp_path: Path, storage: str) -> None:
    frames = drive_frames(5)
    assert write_drive_bag(tmp_path / "drive", frames, 30.0, storage=storage) == 5

    info = bag_info(tmp_path / "drive")
    assert info.format == f"rosbag2 {storage}"
    assert info.messages == 15
    assert info.start_ns == START_NS
    assert info.duration_seconds == pytest.approx(4 / 30, abs=1e-8)
    assert {(t.name, t.type, t.count) for t in info.topics} == {
        (name, IMAGE_TYPE, 5) for name in (RGB_TOPIC, THERMAL_TOPIC, LABELS_TOPIC)
    }
    assert all(t.rate_hz == pytest.approx(30.0) for t in info.topics)

    with BagReader(tmp_path / "drive") as reader:
        messages = list(reader.messages())
    assert [m.time_ns for m in messages] == sorted(m.time_ns for m in messages)
    for topic, encoding, name in (
        (RGB_TOPIC, "rgb8", "visible"),
        (THERMAL_TOPIC, "mono8", "infrared"),
        (LABELS_TOPIC, "mono8", "labels"),
    ):
        found = [m.message for m in messages if m.topic == topic]
        assert [m.encoding for m in found] == [encoding] * 5
        for k, (message, frame) in enumerate(zip(found, frames, strict=True)):
            assert stamp_ns(message) == START_NS + round(k * 1e9 / 30)
            np.testing.assert_array_equal(pixels(message), getattr(frame, name))


@pytest.mark.parametrize("storage", STORAGES)
def test_the_storage_file_alone_is_read(tmp_path: Path, storage: str) -> None:
    write_drive_bag(tmp_path / "drive", drive_frames(3), 10.0, storage=storage)
    lone = (tmp_path / "drive" / f"drive{STORAGES[storage]}").rename(
        tmp_path / f"lone{STORAGES[storage]}"
    )
    with BagReader(lone) as reader:
        assert reader.info.format == f"rosbag2 {storage}"
        assert len(list(reader.messages([RGB_TOPIC]))) == 3


def test_raw_is_the_cdr_of_the_message(tmp_path: Path) -> None:
    write_drive_bag(tmp_path / "drive", drive_frames(2, labels=False), 10.0)
    with BagReader(tmp_path / "drive") as reader:
        decoded, raw = list(reader.messages()), list(reader.raw())
    assert len(raw) == 4
    for one, other in zip(decoded, raw, strict=True):
        assert isinstance(other.message, bytes)
        assert bytes(JAZZY.serialize_cdr(one.message, one.type)) == other.message


def test_labels_are_optional_and_progress_is_told(tmp_path: Path) -> None:
    calls = []
    write_drive_bag(
        tmp_path / "drive",
        drive_frames(2, labels=False),
        10.0,
        progress=lambda done, total: calls.append((done, total)),
    )
    assert calls == [(1, 2), (2, 2)]
    assert {t.name for t in bag_info(tmp_path / "drive").topics} == {RGB_TOPIC, THERMAL_TOPIC}


def test_sixteen_bits_survive(tmp_path: Path) -> None:
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


def test_float_images_are_raw_only(tmp_path: Path) -> None:
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
def test_an_array_that_does_not_suit_the_encoding(
    tmp_path: Path, array: np.ndarray, encoding: str, expected: str
) -> None:
    with (
        pytest.raises(BagError, match=expected) as error,
        BagWriter(tmp_path / "bag") as writer,
    ):
        writer.write_image("/topic", 1, array, encoding, "frame")
    assert "/topic" in str(error.value)
    assert not list(tmp_path.iterdir())


def test_jpeg_refuses_sixteen_bits(tmp_path: Path) -> None:
    with (
        pytest.raises(BagError, match="jpeg cannot hold mono16"),
        BagWriter(tmp_path / "bag") as writer,
    ):
        writer.write_compressed("/topic", 1, np.ones((4, 4), np.uint16), "mono16", "frame")


@pytest.mark.parametrize("storage", STORAGES)
def test_an_exception_leaves_nothing_behind(tmp_path: Path, storage: str) -> None:
    def broken():
        yield from drive_frames(2)
        raise RuntimeError("camera unplugged")

    with pytest.raises(RuntimeError, match="camera unplugged"):
        write_drive_bag(tmp_path / "drive", broken(), 10.0, storage=storage)
    assert not list(tmp_path.iterdir())


def test_the_bag_appears_only_when_complete(tmp_path: Path) -> None:
    with BagWriter(tmp_path / "bag") as writer:
        writer.write_image("/topic", 1, np.zeros((4, 4), np.uint8), "mono8", "frame")
        assert not (tmp_path / "bag").exists()
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["bag", "bag.mcap", "metadata.yaml"]


def test_what_a_writer_refuses(tmp_path: Path) -> None:
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


def test_a_topic_has_one_type(tmp_path: Path) -> None:
    with BagWriter(tmp_path / "new") as writer:
        writer.write_image("/topic", 1, np.zeros((4, 4), np.uint8), "mono8", "frame")
        with pytest.raises(BagError, match="/topic: holds sensor_msgs/msg/Image, not std_msgs"):
            writer.write("/topic", "std_msgs/msg/String", 2, b"\0\1\0\0")
    assert bag_info(tmp_path / "new").messages == 1


def test_rosbag1_is_read_and_converted(tmp_path: Path) -> None:
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
    assert [m.topic for m in raw] == ["/rgb/image_raw"] * 3  # the marker cannot be converted
    for k, (message, image) in enumerate(zip(raw, images, strict=True)):
        ros2 = JAZZY.deserialize_cdr(message.message, message.type)
        assert (ros2.header.stamp.nanosec, ros2.header.frame_id) == (k, "camera")
        np.testing.assert_array_equal(pixels(ros2), image)


def test_rosbag1_with_a_type_of_its_own(tmp_path: Path) -> None:
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


def test_topics_that_are_not_there(tmp_path: Path) -> None:
    write_drive_bag(tmp_path / "drive", drive_frames(1), 10.0)
    with BagReader(tmp_path / "drive") as reader:
        with pytest.raises(BagError, match=r"no topic /lidar; it has: /ground_truth/labels"):
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
        with pytest.raises(BagError, match=r"old\.bag.*rosbag reindex"), BagReader(path) as reader:
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

    @pytest.mark.parametrize("name", ["a.mcap", "a.db3", "a.bag"])
    def test_not_a_bag(self, tmp_path: Path, name: str) -> None:
        (tmp_path / name).write_text("a shopping list\n" * 50)
        with pytest.raises(BagError, match=f"{name}': damaged"):
            bag_info(tmp_path / name)

    def test_another_kind_of_file(self, tmp_path: Path) -> None:
        (tmp_path / "drive.mp4").write_bytes(b"x")
        with pytest.raises(BagError, match=r"drive\.mp4': expected a rosbag2 folder"):
            bag_info(tmp_path / "drive.mp4")

    @pytest.mark.parametrize("storage", STORAGES)
    def test_metadata_missing(self, tmp_path: Path, storage: str) -> None:
        write_drive_bag(tmp_path / "drive", drive_frames(1), 10.0, storage=storage)
        (tmp_path / "drive" / "metadata.yaml").unlink()
        with pytest.raises(BagError, match=r"metadata\.yaml is missing.*ros2 bag reindex") as error:
            bag_info(tmp_path / "drive")
        remedy = str(error.value).split("'")[-2]  # the storage file that the message names
        assert bag_info(remedy).messages == 3

    @pytest.mark.parametrize("text", ["", "a: [", "rosbag2_bagfile_information: {version: 5}"])
    def test_metadata_damaged(self, tmp_path: Path, text: str) -> None:
        write_drive_bag(tmp_path / "drive", drive_frames(1), 10.0)
        (tmp_path / "drive" / "metadata.yaml").write_text(text)
        with pytest.raises(BagError, match="drive': damaged"):
            bag_info(tmp_path / "drive")


def images(*names: str) -> list[TopicInfo]:
    return [
        TopicInfo(n, COMPRESSED_IMAGE_TYPE if n.endswith("compressed") else IMAGE_TYPE, 1)
        for n in names
    ]


@pytest.mark.parametrize(
    ("topics", "expected"),
    [
        (images(RGB_TOPIC, THERMAL_TOPIC, LABELS_TOPIC), (RGB_TOPIC, THERMAL_TOPIC)),
        (images("/flir/image_raw", "/zed/color/image"), ("/zed/color/image", "/flir/image_raw")),
        # FLIR's colour cameras.
        (images("/flir/color", "/boson_ir/image"), ("/flir/color", "/boson_ir/image")),
        (images("/cam0/image_raw", "/LWIR/image"), ("/cam0/image_raw", "/LWIR/image")),
        (images("/visible/image_raw", "/cam1"), ("/visible/image_raw", "/cam1")),
        (
            images("/rgb/image", "/rgb/image/compressed", "/ir/image/compressed"),
            ("/rgb/image", "/ir/image/compressed"),
        ),
        (
            images("/rgb/image_raw", "/rgb/image_rect", "/thermal/image_raw", "/thermal/image_vis"),
            ("/rgb/image_raw", "/thermal/image_raw"),
        ),
    ],
)
def test_camera_topics_are_told(topics: list[TopicInfo], expected: tuple[str, str]) -> None:
    assert guess_camera_topics(topics) == expected
    assert guess_camera_topics(reversed(topics)) == expected


@pytest.mark.parametrize(
    "topics",
    [
        images("/cam0/image_raw", "/cam1/image_raw"),
        images("/rgb/image_raw"),
        images("/left/rgb/image_raw", "/right/rgb/image_raw", "/thermal/image_raw"),
        # "fir" and "iris" are not infrared.
        images("/fir/image", "/iris/image"),
    ],
)
def test_camera_topics_that_cannot_be_told(topics: list[TopicInfo]) -> None:
    with pytest.raises(BagError, match="cannot tell") as error:
        guess_camera_topics([*topics, TopicInfo("/thermal/camera_info", "sensor_msgs/X", 9)])
    assert all(topic.name in str(error.value) for topic in topics)
    assert "camera_info" not in str(error.value)


def test_topics_without_messages_are_no_cameras() -> None:
    unused = TopicInfo("/thermal/preview", IMAGE_TYPE, 0)
    assert guess_camera_topics([*images(RGB_TOPIC, THERMAL_TOPIC), unused]) == (
        RGB_TOPIC,
        THERMAL_TOPIC,
    )


class TestFromVideo:
    @pytest.fixture
    def folders(self, tmp_path: Path) -> tuple[Path, Path]:
        for name, shape in (("visible", (24, 32, 3)), ("infrared", (24, 32))):
            (tmp_path / name).mkdir()
            for k in range(3):
                image = np.full(shape, 10 * k + 5, np.uint8)
                assert cv2.imwrite(str(tmp_path / name / f"{k}.png"), image)
        return tmp_path / "visible", tmp_path / "infrared"

    def test_folders_with_an_offset(self, tmp_path: Path, folders: tuple[Path, Path]) -> None:
        (folders[1] / "lonely.png").write_bytes((folders[1] / "0.png").read_bytes())
        converted = from_video(
            *folders, tmp_path / "bag", rate_hz=5.0, infrared_offset_seconds=0.01
        )
        assert converted.pairs == 3
        assert converted.unmatched == [f"{folders[1] / 'lonely.png'}: no partner"]
        with BagReader(tmp_path / "bag") as reader:
            messages = list(reader.messages())
        rgb = [m.message for m in messages if m.topic == RGB_TOPIC]
        thermal = [m.message for m in messages if m.topic == THERMAL_TOPIC]
        assert [stamp_ns(m) - START_NS for m in rgb] == [0, 200_000_000, 400_000_000]
        assert [stamp_ns(m) - START_NS for m in thermal] == [10**7, 21 * 10**7, 41 * 10**7]
        assert [m.data[0] for m in rgb] == [m.data[0] for m in thermal] == [5, 15, 25]

    def test_folders_need_a_rate(self, tmp_path: Path, folders: tuple[Path, Path]) -> None:
        with pytest.raises(BagError, match="no frame rate"):
            from_video(*folders, tmp_path / "bag")

    def test_sixteen_bit_pictures_compressed(
        self, tmp_path: Path, folders: tuple[Path, Path]
    ) -> None:
        deep = random_image((24, 32), np.uint16)
        for k in range(3):
            assert cv2.imwrite(str(folders[1] / f"{k}.png"), deep)
        from_video(*folders, tmp_path / "bag", rate_hz=5.0, compressed=True)
        with BagReader(tmp_path / "bag") as reader:
            types = {t.name: t.type for t in reader.topics}
            thermal = next(iter(reader.messages([f"{THERMAL_TOPIC}/compressed"]))).message
        assert types == {
            f"{RGB_TOPIC}/compressed": COMPRESSED_IMAGE_TYPE,
            f"{THERMAL_TOPIC}/compressed": COMPRESSED_IMAGE_TYPE,
        }
        decoded = cv2.imdecode(thermal.data, cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(decoded, deep)

    def test_videos_bring_their_rate_and_tell_what_is_left(self, tmp_path: Path) -> None:
        for name, count in (("visible.mp4", 4), ("infrared.mp4", 6)):
            with VideoWriter(tmp_path / name, 12.5, (24, 32)) as video:
                for k in range(count):
                    video.write(np.full((24, 32, 3), 40 * k, np.uint8))
        converted = from_video(
            tmp_path / "visible.mp4", tmp_path / "infrared.mp4", tmp_path / "bag"
        )
        assert converted.pairs == 4
        assert "infrared.mp4" in converted.unmatched[0]
        info = bag_info(tmp_path / "bag")
        assert info.messages == 8
        assert info.duration_seconds == pytest.approx(3 / 12.5, abs=1e-6)
