"""Conversion of boxes around objects to messages: of vision_msgs, and as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from std_msgs.msg import Header

from ivf_core.images.object_boxes import ObjectBox
from ivf_ros.compat import (
    BoundingBox2D,
    Detection2D,
    Detection2DArray,
    ObjectHypothesis,
    ObjectHypothesisWithPose,
)

__all__ = ["to_detections", "to_json"]


def to_detections(boxes: Sequence[ObjectBox], header: Header) -> Any:
    """Build a vision_msgs/Detection2DArray; vision_msgs must be installed.

    Args:
        boxes: boxes in pixels of the image.
        header: header of the image; the message and each detection refer to it.

    Returns:
        The message. Each detection has one hypothesis, whose `class_id` is the name of the
        object, and no pose and no id.
    """
    return Detection2DArray(header=header, detections=[_to_detection(box, header) for box in boxes])


def _to_detection(box: ObjectBox, header: Header) -> Any:
    bounds = BoundingBox2D(size_x=float(box.width), size_y=float(box.height))
    bounds.center.position.x = box.left + box.width / 2
    bounds.center.position.y = box.top + box.height / 2
    hypothesis = ObjectHypothesis(class_id=box.name, score=box.score)
    return Detection2D(
        header=header, results=[ObjectHypothesisWithPose(hypothesis=hypothesis)], bbox=bounds
    )


def to_json(boxes: Sequence[ObjectBox], header: Header, size: tuple[int, int]) -> str:
    """Describe boxes as JSON, in the form that docs/outputs.md describes.

    Args:
        boxes: boxes in pixels of the image.
        header: header of the image.
        size: height and width of the image.
    """
    return json.dumps(
        {
            "stamp": {"sec": header.stamp.sec, "nanosec": header.stamp.nanosec},
            "frame_id": header.frame_id,
            "width": size[1],
            "height": size[0],
            "detections": [
                {
                    "name": box.name,
                    "class_id": box.class_id,
                    "score": round(box.score, 4),
                    "box": {
                        "left": round(box.left, 2),
                        "top": round(box.top, 2),
                        "width": round(box.width, 2),
                        "height": round(box.height, 2),
                    },
                }
                for box in boxes
            ],
        }
    )
