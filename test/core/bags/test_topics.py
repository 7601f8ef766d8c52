from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ivf_core.bags.convert import (
    LABELS_TOPIC,
    RGB_TOPIC,
    THERMAL_TOPIC,
)
from ivf_core.bags.info import COMPRESSED_IMAGE_TYPE, IMAGE_TYPE, BagError, TopicInfo
from ivf_core.bags.reader import BagReader
from ivf_core.bags.topics import contradictions, first_kinds, guess_camera_topics
from ivf_core.bags.writer import BagWriter


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


RGB, THERMAL, DEPTH = "/flir_camera/image_raw", "/boson/image_raw", "/d435/depth/image_raw"


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        pytest.param({RGB: "colour", THERMAL: "measured"}, (RGB, THERMAL), id="swapped names"),
        pytest.param({RGB: "measured", THERMAL: "colour"}, (THERMAL, RGB), id="names agree"),
        pytest.param({RGB: "grey", THERMAL: "measured"}, (RGB, THERMAL), id="grey RGB camera"),
        pytest.param({RGB: "colour", THERMAL: "grey"}, (RGB, THERMAL), id="8-bit thermal camera"),
        pytest.param(
            {"/rgb/image_raw": "colour", DEPTH: "measured", THERMAL: "grey"},
            ("/rgb/image_raw", THERMAL),
            id="depth is no thermal camera",
        ),
        pytest.param(
            {"/rgb": "colour", "/thermal/vis": "colour", "/thermal/raw": "measured"},
            ("/rgb", "/thermal/raw"),
            id="a false-colour copy is left",
        ),
        pytest.param(
            {"/rgb": "colour", "/thermal": "colour"}, ("/rgb", "/thermal"), id="false colours only"
        ),
    ],
)
def test_contents_decide_before_names(kinds: dict[str, str], expected: tuple[str, str]) -> None:
    assert guess_camera_topics(images(*kinds), kinds) == expected


@pytest.mark.parametrize(
    "kinds",
    [
        pytest.param({"/rgb/image": "colour", DEPTH: "measured"}, id="depth only"),
        pytest.param({"/rgb/image": "measured", "/thermal/image": "measured"}, id="no colour"),
        pytest.param({"/cam0": "colour", "/cam1": "colour"}, id="two colour cameras"),
    ],
)
def test_contents_without_a_pair_are_rejected(kinds: dict[str, str]) -> None:
    with pytest.raises(BagError, match="cannot tell"):
        guess_camera_topics(images(*kinds), kinds)


def test_contents_are_those_of_the_first_messages(tmp_path: Path) -> None:
    colour = np.zeros((4, 6, 3), np.uint8)
    with BagWriter(tmp_path / "bag") as bag:
        bag.write_image(RGB, 1, colour, "rgb8", "rgb")
        bag.write_image(THERMAL, 2, colour[..., 0].astype(np.uint16), "mono16", "thermal")
        bag.write_image(DEPTH, 3, colour[..., 0].astype(np.float32), "32FC1", "depth")
        for name, image in (("/jpeg", colour), ("/png", colour[..., 0].astype(np.uint16))):
            bag.write_compressed(
                f"{name}/compressed", 4, image, "rgb8" if image is colour else "mono16", "c", "png"
            )
    with BagReader(tmp_path / "bag") as reader:
        assert first_kinds(reader, reader.topics) == {
            RGB: "colour",
            THERMAL: "measured",
            DEPTH: "measured",
            "/jpeg/compressed": "colour",
            "/png/compressed": "measured",
        }


@pytest.mark.parametrize(
    ("rgb", "thermal", "kinds", "expected"),
    [
        ("/rgb", "/thermal", {"/rgb": "colour", "/thermal": "measured"}, []),
        ("/rgb", "/thermal", {"/rgb": "grey", "/thermal": "grey"}, []),
        ("/rgb", "/thermal", {"/rgb": "measured", "/thermal": "measured"}, ["16 bits"]),
        ("/rgb", "/thermal", {"/rgb": "colour", "/thermal": "colour"}, ["false colours"]),
        ("/rgb", DEPTH, {"/rgb": "colour", DEPTH: "measured"}, ["depth"]),
        (RGB, "/rgb", {RGB: "colour", "/rgb": "measured"}, ["despite its name"] * 2),
    ],
)
def test_contradictions_are_said(
    rgb: str, thermal: str, kinds: dict[str, str], expected: list[str]
) -> None:
    found = contradictions(rgb, thermal, kinds)
    assert len(found) == len(expected)
    assert all(word in text for word, text in zip(expected, found, strict=True)), found


def test_topics_without_messages_are_ignored() -> None:
    unused = TopicInfo("/thermal/preview", IMAGE_TYPE, 0)
    assert guess_camera_topics([*images(RGB_TOPIC, THERMAL_TOPIC), unused]) == (
        RGB_TOPIC,
        THERMAL_TOPIC,
    )
