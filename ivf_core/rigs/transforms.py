"""Rigid transforms between named frames, as ROS publishes them on /tf_static."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np

from ivf_core.system.short_text import short_text

__all__ = ["FrameTree", "matrix_of_quaternion"]

_MOST_FRAMES = 10_000


def matrix_of_quaternion(quaternion: Sequence[float]) -> np.ndarray:
    """Return the rotation matrix of a quaternion.

    Args:
        quaternion: x, y, z, w, of a length that is not 0.

    Returns:
        3 x 3 float64.

    Raises:
        ValueError: the quaternion has no length, or is not finite.
    """
    x, y, z, w = (float(value) for value in quaternion)
    length = x * x + y * y + z * z + w * w
    if not 1e-12 < length < 1e12:
        raise ValueError(f"quaternion: [{x:g}, {y:g}, {z:g}, {w:g}], expected length 1")
    s = 2 / length
    return np.array(
        [
            [1 - s * (y * y + z * z), s * (x * y - z * w), s * (x * z + y * w)],
            [s * (x * y + z * w), 1 - s * (x * x + z * z), s * (y * z - x * w)],
            [s * (x * z - y * w), s * (y * z + x * w), 1 - s * (x * x + y * y)],
        ]
    )


class FrameTree:
    """Static transforms by parent and child frame.

    Any number of them may be added; a later one of the same child replaces the earlier one.
    """

    def __init__(self) -> None:
        self._parents: dict[str, tuple[str, np.ndarray]] = {}

    def __len__(self) -> int:
        return len(self._parents)

    def add(
        self, parent: str, child: str, translation: Sequence[float], quaternion: Sequence[float]
    ) -> None:
        """Add the pose of a frame in its parent.

        Args:
            parent: name of the parent frame; a leading slash does not count.
            child: name of the frame.
            translation: of the child's origin, in metres.
            quaternion: x, y, z, w.

        Raises:
            ValueError: values or names that are no transform, or more frames than 10,000; names
                both frames.
        """
        parent, child = parent.lstrip("/"), child.lstrip("/")
        name = f"transform from '{short_text(parent, 80)}' to '{short_text(child, 80)}'"
        if not parent or not child or parent == child:
            raise ValueError(f"{name}: expected the names of two frames")
        pose = np.eye(4)
        try:
            pose[:3, :3] = matrix_of_quaternion(quaternion)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        pose[:3, 3] = translation
        if not np.isfinite(pose).all():
            raise ValueError(f"{name}: translation is not finite")
        if child not in self._parents and len(self._parents) >= _MOST_FRAMES:
            raise ValueError(f"more than {_MOST_FRAMES} frames")
        self._parents[child] = parent, pose

    def between(self, source: str, target: str) -> tuple[np.ndarray, np.ndarray] | None:
        """Return rotation and translation that map points of one frame to another.

        Args:
            source: frame of the points.
            target: frame of the result.

        Returns:
            R (3 x 3) and t (metres) with X_target = R X_source + t; None if the two frames
            are not connected.
        """
        source, target = source.lstrip("/"), target.lstrip("/")
        # Poses of the frames that are connected with the source, in its coordinates.
        neighbours: dict[str, list[tuple[str, np.ndarray]]] = {}
        for child, (parent, pose) in self._parents.items():
            neighbours.setdefault(parent, []).append((child, pose))
            neighbours.setdefault(child, []).append((parent, np.linalg.inv(pose)))
        found, waiting = {source: np.eye(4)}, deque([source])
        while waiting and target not in found:
            frame = waiting.popleft()
            for other, pose in neighbours.get(frame, []):
                if other not in found:
                    found[other] = found[frame] @ pose
                    waiting.append(other)
        if target not in found:
            return None
        back = np.linalg.inv(found[target])
        return back[:3, :3], back[:3, 3]
