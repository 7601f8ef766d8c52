"""Masks as Autoware reads them: its class ids, run-length encoded in an Image.

Read in autoware_universe (commit 2c0c84b): `segmentation_pointcloud_fusion/node.cpp` decodes the
data of an Image as `perception_utils::runLengthEncoder` writes them, and takes each value for an
index into `filter_semantic_label_target_list_` of `segmentation_pointcloud_fusion/node.hpp`.
"""

from __future__ import annotations

import array as buffers
import sys

import numpy as np
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from ivf_core.class_sets import ClassSet

__all__ = ["AUTOWARE_CLASSES", "AUTOWARE_NAMES", "autoware_ids", "to_autoware_mask"]

AUTOWARE_CLASSES = (
    "UNKNOWN", "BUILDING", "WALL", "OBSTACLE", "TRAFFIC_LIGHT", "TRAFFIC_SIGN", "PERSON", "VEHICLE",
    "BIKE", "ROAD", "SIDEWALK", "ROAD_PAINT", "CURBSTONE", "CROSSWALK", "VEGETATION", "SKY",
)  # fmt: skip
"""Semantic classes of Autoware by id, those of its YOLOX segmentation."""

AUTOWARE_NAMES = {
    "building": "BUILDING",
    "barrier": "WALL", "guardrail": "WALL",
    "pole": "OBSTACLE", "lamp": "OBSTACLE", "obstacle": "OBSTACLE", "car_stop": "OBSTACLE",
    "color_cone": "OBSTACLE", "bump": "OBSTACLE",
    "sign": "TRAFFIC_SIGN",
    "person": "PERSON", "survivor": "PERSON",
    "car": "VEHICLE", "truck": "VEHICLE", "bus": "VEHICLE",
    "bicycle": "BIKE", "bike": "BIKE", "motorcycle": "BIKE",
    "road": "ROAD", "sidewalk": "SIDEWALK", "curve": "CURBSTONE",
    "vegetation": "VEGETATION", "sky": "SKY",
}  # fmt: skip
"""Class of Autoware for a class of our sets; all others, and pixels without a class, are UNKNOWN.

Terrain is among these, for which Autoware has no class. A curve of MFNet is a kerb.
"""

_RUN = np.dtype([("value", np.uint8), ("length", np.int32)])  # packed: five bytes


def autoware_ids(class_set: ClassSet) -> np.ndarray:
    """Return the ids of Autoware by class id, 256 uint8.

    Args:
        class_set: classes of the mask.
    """
    ids = np.zeros(256, np.uint8)
    for index, name in enumerate(class_set.names):
        ids[index] = AUTOWARE_CLASSES.index(AUTOWARE_NAMES.get(name, "UNKNOWN"))
    return ids


def to_autoware_mask(labels: np.ndarray, class_set: ClassSet, header: Header) -> Image:
    """Build the message that `segmentation_pointcloud_fusion` subscribes to.

    Args:
        labels: H x W uint8 class ids of the set, with at least one pixel.
        class_set: classes of the mask.
        header: becomes the message's own, not copied.

    Returns:
        A mono8 image whose data are no pixels but runs, row after row: the id as a byte, and
        the number of pixels as an int32 in the byte order of this machine, without padding.
    """
    ids = autoware_ids(class_set)[labels].ravel()
    starts = np.concatenate(([0], np.flatnonzero(ids[1:] != ids[:-1]) + 1))
    runs = np.empty(len(starts), _RUN)
    runs["value"] = ids[starts]
    runs["length"] = np.diff(starts, append=ids.size)
    data = buffers.array("B")
    data.frombytes(runs.tobytes())
    message = Image(header=header, encoding="mono8", data=data)
    message.height, message.width = labels.shape
    message.step = labels.shape[1]
    message.is_bigendian = int(sys.byteorder == "big")
    return message
