"""Tests of static transforms between frames."""

from __future__ import annotations

import numpy as np
import pytest

from ivf_core.rigs.transforms import FrameTree, matrix_of_quaternion

QUARTER = (0.0, 0.0, np.sqrt(0.5), np.sqrt(0.5))  # a quarter turn about z


def test_quaternions_turn_as_ros_defines_them() -> None:
    np.testing.assert_allclose(matrix_of_quaternion(QUARTER) @ (1, 0, 0), (0, 1, 0), atol=1e-12)
    np.testing.assert_allclose(matrix_of_quaternion((0, 0, 0, 3)), np.eye(3))
    with pytest.raises(ValueError, match="length 1"):
        matrix_of_quaternion((0, 0, 0, float("nan")))


def test_points_pass_through_common_parents() -> None:
    tree = FrameTree()
    tree.add("/base", "mast", (0, 0, 2), (0, 0, 0, 1))
    tree.add("mast", "rgb", (1, 0, 0), (0, 0, 0, 1))
    tree.add("base", "/thermal", (0, 3, 0), QUARTER)
    rotation, translation = tree.between("thermal", "rgb")
    # (1, 0, 0) of thermal is (0, 4, 0) of base, which is (-1, 4, -2) of rgb.
    np.testing.assert_allclose(rotation @ (1, 0, 0) + translation, (-1, 4, -2), atol=1e-12)
    back = tree.between("/rgb", "thermal")
    np.testing.assert_allclose(back[0] @ (-1, 4, -2) + back[1], (1, 0, 0), atol=1e-12)
    same = tree.between("rgb", "rgb")
    np.testing.assert_allclose(same[0], np.eye(3))


def test_frames_without_connection_and_circles_end() -> None:
    tree = FrameTree()
    tree.add("a", "b", (0, 0, 0), (0, 0, 0, 1))
    tree.add("b", "a", (1, 0, 0), (0, 0, 0, 1))
    assert tree.between("a", "c") is None
    assert tree.between("c", "b") is None
    assert len(tree) == 2


def test_bad_transforms_are_rejected() -> None:
    with pytest.raises(ValueError, match="not finite"):
        FrameTree().add("a", "b", (float("inf"), 0, 0), (0, 0, 0, 1))
    for parent, child in (("a", "a"), ("/a", "a"), ("", "a"), ("a", "/")):  # as tf2 does
        with pytest.raises(ValueError, match="expected the names of two frames"):
            FrameTree().add(parent, child, (0, 0, 0), (0, 0, 0, 1))
