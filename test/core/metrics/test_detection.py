"""Tests of counts of objects in masks, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from ivf_core.metrics.detection import count_detections, false_components, pixel_slices

NONE = np.zeros((0, 4))


def test_a_box_is_found_above_a_quarter_of_its_pixels() -> None:
    predicted = np.zeros((10, 20), bool)
    predicted[0:2, 0:2] = True  # 4 of the first box's 16 pixels: not more than a quarter
    predicted[0, 10:15] = True  # 4 of the second box's 8 pixels, and one beside it
    boxes = np.array([[0, 0, 4, 4], [10, 0, 14, 2]], float)
    counts = count_detections(predicted, boxes, NONE)
    assert counts.found.tolist() == [False, True]
    assert (counts.predicted, counts.inside) == (9, 8)
    predicted[2, 2] = True
    assert count_detections(predicted, boxes, NONE).found.tolist() == [True, True]


def test_pixels_in_boxes_of_other_classes() -> None:
    predicted = np.zeros((10, 10), bool)
    predicted[:, 0:4] = True
    own = np.array([[0, 0, 2, 10]], float)
    other = np.array([[1, 0, 3, 5]], float)
    counts = count_detections(predicted, own, other)
    # Of the columns 1 and 2 in the other box, the first is in the own box as well.
    assert (counts.predicted, counts.inside, counts.inside_other) == (40, 20, 5)


def test_false_objects_touch_no_box_and_are_large_enough() -> None:
    predicted = np.zeros((20, 20), bool)
    predicted[0:3, 0:3] = True  # touches the box
    predicted[10:12, 10:12] = True  # 4 pixels
    predicted[12, 12] = True  # a neighbour across the corner: 5 pixels
    predicted[18, 0:4] = True  # too small
    boxes = np.array([[2, 2, 6, 6]], float)
    assert count_detections(predicted, boxes, NONE, minimum_false_pixels=5).false_objects == 1
    inside = np.zeros(predicted.shape, bool)
    inside[2:6, 2:6] = True
    assert false_components(predicted, inside, 5).tolist() == [[10, 10, 13, 13]]
    assert false_components(predicted, inside, 4).tolist() == [[10, 10, 13, 13], [0, 18, 4, 19]]
    assert false_components(np.zeros((4, 4), bool), np.zeros((4, 4), bool), 1).shape == (0, 4)


def test_pixels_of_a_box() -> None:
    assert pixel_slices(np.array([1.4, 2.6, 5.5, 9.0]), (20, 30)) == (slice(3, 9), slice(1, 6))
    # One pixel is the least, and nothing is outside.
    assert pixel_slices(np.array([3.6, 4.6, 3.9, 4.9]), (20, 30)) == (slice(5, 6), slice(4, 5))
    assert pixel_slices(np.array([-5, 18, 4, 40]), (20, 30)) == (slice(18, 20), slice(0, 4))
    with pytest.raises(ValueError, match="no pixel in 30 x 20"):
        pixel_slices(np.array([-9, 0, -5, 4]), (20, 30))
