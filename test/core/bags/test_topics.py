from __future__ import annotations

import pytest

from ivf_core.bags.convert import (
    LABELS_TOPIC,
    RGB_TOPIC,
    THERMAL_TOPIC,
)
from ivf_core.bags.info import COMPRESSED_IMAGE_TYPE, IMAGE_TYPE, BagError, TopicInfo
from ivf_core.bags.topics import guess_camera_topics


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
def test_camera_topics_are_guessed(topics: list[TopicInfo], expected: tuple[str, str]) -> None:
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
def test_ambiguous_camera_topics_are_rejected(topics: list[TopicInfo]) -> None:
    with pytest.raises(BagError, match="cannot tell") as error:
        guess_camera_topics([*topics, TopicInfo("/thermal/camera_info", "sensor_msgs/X", 9)])
    assert all(topic.name in str(error.value) for topic in topics)
    assert "camera_info" not in str(error.value)


def test_topics_without_messages_are_ignored() -> None:
    unused = TopicInfo("/thermal/preview", IMAGE_TYPE, 0)
    assert guess_camera_topics([*images(RGB_TOPIC, THERMAL_TOPIC), unused]) == (
        RGB_TOPIC,
        THERMAL_TOPIC,
    )
