"""Tests of boxes as messages: with the definitions of vision_msgs, and as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("std_msgs", reason="ROS 2's std_msgs is not installed")

import numpy as np
from rosbags.interfaces import Nodetype
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore
from std_msgs.msg import Header

from ivf_core.images.object_boxes import ObjectBox
from ivf_ros import object_messages
from ivf_ros.object_messages import to_detections, to_json

# vision_msgs 4.1.1, without the comments.
DEFINITIONS = {
    "Point2D": "float64 x\nfloat64 y\n",
    "Pose2D": "vision_msgs/Point2D position\nfloat64 theta\n",
    "BoundingBox2D": "vision_msgs/Pose2D center\nfloat64 size_x\nfloat64 size_y\n",
    "ObjectHypothesis": "string class_id\nfloat64 score\n",
    "ObjectHypothesisWithPose": (
        "vision_msgs/ObjectHypothesis hypothesis\ngeometry_msgs/PoseWithCovariance pose\n"
    ),
    "Detection2D": (
        "std_msgs/Header header\nvision_msgs/ObjectHypothesisWithPose[] results\n"
        "vision_msgs/BoundingBox2D bbox\nstring id\n"
    ),
    "Detection2DArray": "std_msgs/Header header\nvision_msgs/Detection2D[] detections\n",
}
BOXES = [
    ObjectBox(8, "person", 0.75, 10.0, 20.0, 31.0, 64.0),
    ObjectBox(3, "bicycle", 1 / 3, 0.0, 1.0, 2.0, 3.0),
]


@pytest.fixture
def header() -> Header:
    header = Header(frame_id="rgb")
    header.stamp.sec, header.stamp.nanosec = 12, 345
    return header


def constructor(store: Typestore, name: str) -> Callable[..., Any]:
    """Return a constructor as in rclpy: fields by name, and defaults for those not given."""

    def default(field: Any) -> Any:
        kind, detail = field
        if kind == Nodetype.NAME:
            return construct_type(str(detail))()
        if kind == Nodetype.BASE:
            return "" if detail[0] == "string" else 0.0
        return np.zeros(detail[1]) if kind == Nodetype.ARRAY else []

    def construct_type(name: str) -> Callable[..., Any]:
        return constructor(store, name)

    def construct(**given: Any) -> Any:
        fields = {field: default(kind) for field, kind in store.fielddefs[name][1]}
        assert given.keys() <= fields.keys()
        return store.types[name](**{**fields, **given})

    return construct


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Typestore:
    """Use the definitions of vision_msgs, which is not installed everywhere."""
    store = get_typestore(Stores.ROS2_JAZZY)
    types: Any = {}
    for name, definition in DEFINITIONS.items():
        types |= get_types_from_msg(definition, f"vision_msgs/msg/{name}")
    store.register(types)
    for name in DEFINITIONS:
        if hasattr(object_messages, name):
            monkeypatch.setattr(
                object_messages, name, constructor(store, f"vision_msgs/msg/{name}")
            )
    return store


def test_detections_have_the_fields_of_vision_msgs(store: Typestore, header: Header) -> None:
    kind = "vision_msgs/msg/Detection2DArray"
    serialized = store.serialize_cdr(to_detections(BOXES, header), kind)
    found: Any = store.deserialize_cdr(serialized, kind)
    assert len(found.detections) == len(BOXES)
    for detection, box in zip(found.detections, BOXES, strict=True):
        for part in (found, detection):
            assert (part.header.stamp.sec, part.header.stamp.nanosec) == (12, 345)
            assert part.header.frame_id == "rgb"
        (result,) = detection.results
        assert (result.hypothesis.class_id, result.hypothesis.score) == (box.name, box.score)
        bounds = detection.bbox
        assert (bounds.size_x, bounds.size_y, bounds.center.theta) == (box.width, box.height, 0)
        assert bounds.center.position.x - bounds.size_x / 2 == box.left
        assert bounds.center.position.y - bounds.size_y / 2 == box.top
    assert not store.deserialize_cdr(  # type: ignore[attr-defined]
        store.serialize_cdr(to_detections([], header), kind), kind
    ).detections


def test_json(header: Header) -> None:
    assert json.loads(to_json(BOXES, header, (480, 640))) == {
        "stamp": {"sec": 12, "nanosec": 345},
        "frame_id": "rgb",
        "width": 640,
        "height": 480,
        "detections": [
            {
                "name": "person", "class_id": 8, "score": 0.75,
                "box": {"left": 10, "top": 20, "width": 31, "height": 64},
            },
            {
                "name": "bicycle", "class_id": 3, "score": 0.3333,
                "box": {"left": 0, "top": 1, "width": 2, "height": 3},
            },
        ],
    }  # fmt: skip
