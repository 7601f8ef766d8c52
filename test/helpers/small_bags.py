"""Small random bags, and helpers to look into their messages."""

from __future__ import annotations

import types
from pathlib import Path

import numpy as np
from rosbags.rosbag1 import Writer as Writer1
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from ivf_core.bags.info import IMAGE_TYPE, BagMessage

JAZZY = get_typestore(Stores.ROS2_JAZZY)
STORAGES = {"mcap": ".mcap", "sqlite3": ".db3"}


def random_image(shape: tuple[int, ...], dtype: type = np.uint8, seed: int = 0) -> np.ndarray:
    """Return an image of random pixels over the full range of its type."""
    high = np.iinfo(dtype).max + 1
    return np.random.default_rng(seed).integers(0, high, shape).astype(dtype)


def drive_frames(count: int, labels: bool = True) -> list[types.SimpleNamespace]:
    """Return frames of 12 x 16 random pixels, with the frame number as label."""
    return [
        types.SimpleNamespace(
            visible=random_image((12, 16, 3), seed=k),
            infrared=random_image((12, 16), seed=100 + k),
            labels=np.full((12, 16), k, np.uint8) if labels else None,
        )
        for k in range(count)
    ]


def pixels(message: object, dtype: type = np.uint8) -> np.ndarray:
    """Return the pixels of a raw image without row padding."""
    return message.data.view(dtype).reshape(message.height, message.width, -1).squeeze()


def stamp_ns(message: object) -> int:
    """Return the header stamp in ns."""
    return message.header.stamp.sec * 10**9 + message.header.stamp.nanosec


def write_rosbag1(path: Path, count: int = 3) -> list[np.ndarray]:
    """Write images with a header, its `seq` filled, and a type whose layout ROS 2 has changed."""
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


def write_compressed(
    path: Path, messages: list[BagMessage], storage: StoragePlugin, mode: CompressionMode
) -> None:
    """Write a rosbag2 bag with chunks or messages in zstd."""
    writer = Writer(path, version=8, storage_plugin=storage)
    writer.set_compression(mode, CompressionFormat.ZSTD)
    with writer:
        cameras = {
            topic: writer.add_connection(topic, IMAGE_TYPE, typestore=JAZZY)
            for topic in dict.fromkeys(message.topic for message in messages)
        }
        for message in messages:
            writer.write(cameras[message.topic], message.time_ns, message.message)
