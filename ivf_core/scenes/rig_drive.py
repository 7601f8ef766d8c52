"""Synthetic drive seen by a rig: two cameras with lenses, a baseline, an offset in time, vibration.

The scene is drawn from the place of each camera with an ideal wide pinhole, and sampled from there
through the camera's lens in its direction, so that lenses, extrinsics and time are exact. The
ground truth is the rig itself: `Rig.thermal_pixels` for its plane, and
`Rig.thermal_pixels_at` for points of known depth.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from ivf_core.rigs.camera import CameraModel
from ivf_core.rigs.rig import Rig
from ivf_core.scenes.camera import Camera
from ivf_core.scenes.canvas import Canvas
from ivf_core.scenes.drive import SPEED, Air, SyntheticDrive
from ivf_core.scenes.world import CONDITIONS

__all__ = ["RigDrive", "RigPair"]

_HEIGHT = 1.5  # metres of the RGB camera above the road, unless the rig's plane is the ground
_SWAY_DEGREES = 1.0  # bound of the car's own motion
_WIDEST = 2.5  # tangent of the largest angle from straight ahead that is drawn
# Frequencies in Hz and shares of the amplitude about the axes x, y and z.
_VIBRATION = ((11.3, 0.7, 0.2, 0.3), (17.9, 0.4, 0.5, 0.2), (29.0, 0.2, 0.3, 0.4))


@dataclass(frozen=True)
class RigPair:
    """Images of both cameras with equal stamps.

    Attributes:
        visible: RGB image, H x W x 3 uint8.
        infrared: thermal image, h x w uint8, warm is bright.
        counts: output of the thermal camera's 14-bit converter, h x w uint16.
        seconds: stamp of both images; the thermal one was taken `time_offset_seconds` later.
    """

    visible: np.ndarray
    infrared: np.ndarray
    counts: np.ndarray
    seconds: float


class RigDrive:
    """Drive along a street, seen by a rig of two cameras.

    A frame depends on the seed and its time alone.

    Args:
        rig: both cameras; with `plane: ground`, they are mounted at its height and pitch,
            otherwise the RGB camera is level and 1.5 m above the road.
        seed: seed of street, traffic and noise; 0 or more.
        seconds: length of the drive.
        vibration_degrees: amplitude of the vibration of the whole rig, faster than its frames.
        condition: one of `CONDITIONS` for the whole drive; None shows all in turn.

    Raises:
        ValueError: the rig is a homography, a lens sees more than the scene shows, or another
            argument is outside its range.
    """

    def __init__(
        self,
        rig: Rig,
        seed: int = 0,
        seconds: float = 20.0,
        vibration_degrees: float = 0.0,
        condition: str | None = "day",
    ) -> None:
        if rig.rgb is None or rig.thermal is None:
            raise ValueError("a drive needs a rig with both cameras, not a homography")
        if condition is not None and condition not in CONDITIONS:
            raise ValueError(f"condition is '{condition}', expected one of {', '.join(CONDITIONS)}")
        self.rig = rig
        self.seconds = seconds
        self._drive = SyntheticDrive(seed, seconds=seconds)
        self._vibration = math.radians(vibration_degrees)
        self._condition = condition
        ground = rig.plane.kind == "ground"
        self._height = rig.plane.height if ground else _HEIGHT
        self._pitch = math.radians(rig.plane.pitch_degrees) if ground else 0.0
        turn = np.reshape(rig.rotation, (3, 3))
        self._views = {
            "visible": _View(rig.rgb, np.eye(3), np.zeros(3)),
            "infrared": _View(rig.thermal, turn, np.array(rig.translation)),
        }
        self._bounds = self._field()

    def pair(self, seconds: float) -> RigPair:
        """Render the images with one stamp.

        Args:
            seconds: the stamp, by the clock of the RGB camera.
        """
        infrared, counts = self.infrared(seconds + self.rig.time_offset_seconds)
        return RigPair(self.visible(seconds), infrared, counts, seconds)

    def visible(self, seconds: float) -> np.ndarray:
        """Render the RGB image of a moment.

        Args:
            seconds: time of the exposure since the start.

        Returns:
            H x W x 3 uint8.
        """
        air = self._air(seconds)
        pixels = self._drawn("visible", seconds, air)[..., :3]
        return self._drive.world.visible_sensor.expose(
            np.ascontiguousarray(pixels),
            air.light.daylight,
            air.smoke,
            air.light.ambient,
            seconds,
            self._rng(3, seconds),
        )

    def infrared(self, seconds: float) -> tuple[np.ndarray, np.ndarray]:
        """Render the thermal image of a moment.

        Args:
            seconds: time of the exposure since the start, by the clock of the RGB camera.

        Returns:
            Image, h x w uint8, and counts, h x w uint16.
        """
        air = self._air(seconds)
        heat = cv2.extractChannel(self._drawn("infrared", seconds, air), 3)
        sensor = self._drive.world.infrared_sensor
        return sensor.expose(heat, air.smoke.density, seconds, self._rng(4, seconds))

    def _rng(self, stream: int, seconds: float) -> np.random.Generator:
        return np.random.default_rng((stream, self._drive.seed, round(max(seconds, 0) * 1e6)))

    def _air(self, seconds: float) -> Air:
        progress = seconds / self.seconds
        if self._condition is not None:
            progress = (CONDITIONS.index(self._condition) + 0.5) / len(CONDITIONS)
        x, z = self._place(seconds)
        return self._drive.air(min(max(progress, 0.0), 1 - 1e-9), seconds, x, z)

    def _place(self, seconds: float) -> tuple[float, float]:
        """Return the position of the RGB camera across and along the road in metres."""
        return -1.3 + 0.2 * math.sin(0.6 * seconds), SPEED * seconds

    def _turn(self, seconds: float) -> np.ndarray:
        """Return the rotation from RGB coordinates to level ones (right, down, along the road)."""
        angles = np.array([
            self._pitch + 0.0016 * math.sin(2 * math.pi * 1.3 * seconds)
            + 0.001 * math.sin(5.1 * seconds),
            0.0133 * math.sin(0.45 * seconds),
            0.0,
        ])  # fmt: skip
        for number, (frequency, *shares) in enumerate(_VIBRATION):
            wave = np.sin(2 * math.pi * frequency * seconds + np.arange(3) + 2 * number)
            angles += self._vibration * np.array(shares) * wave
        # A positive turn about x looks down where y points down.
        turns = [cv2.Rodrigues(axis * angle)[0] for axis, angle in zip(_AXES, angles, strict=True)]
        return turns[1] @ turns[0] @ turns[2]

    def _field(self) -> tuple[float, float, float, float]:
        """Return the range of X/Z and of Y/Z that both cameras see at any time."""
        level = cv2.Rodrigues(_AXES[0] * self._pitch)[0]
        corners = []
        for view in self._views.values():
            rays = view.rays.reshape(-1, 3) @ (level @ view.turn).T
            rays = rays[np.isfinite(rays).all(axis=1)]
            if not (rays[:, 2] > 0).all():
                corners.append(np.full((1, 2), np.inf))
                continue
            corners.append(rays[:, :2] / rays[:, 2:])
        ranges = np.concatenate(corners)
        room = math.radians(_SWAY_DEGREES) + 2 * self._vibration
        margin = room * (1 + np.abs(ranges).max() ** 2)
        left, top = ranges.min(axis=0) - margin
        right, bottom = ranges.max(axis=0) + margin
        if not max(-left, right, -top, bottom) < _WIDEST:
            raise ValueError(
                "a camera of the rig looks more than "
                f"{math.degrees(math.atan(_WIDEST)):.0f} degrees aside, where nothing is drawn"
            )
        return float(left), float(right), float(min(top, -0.05)), float(max(bottom, 0.05))

    def _drawn(self, name: str, seconds: float, air: Air) -> np.ndarray:
        """Return the scene through the lens of a camera: red, green, blue, heat, uint8."""
        view = self._views[name]
        turn = self._turn(seconds)
        place = turn @ view.position
        x, z = self._place(seconds)
        left, right, top, bottom = self._bounds
        focal = 1.1 * max(view.camera.focal)
        pinhole = Camera(
            width=math.ceil((right - left) * focal),
            height=math.ceil((bottom - top) * focal),
            focal=focal,
            horizon=-top * focal,
            center=-left * focal,
            elevation=self._height - place[1],
            x=x + place[0],
            z=z + place[2],
            bend=0.0005 * math.sin(0.35 * seconds + 0.6),
        )
        canvas: Canvas = self._drive.world.draw(pinhole, air.light, air.heat, seconds)
        return view.sampled(canvas.pixels, turn, pinhole)


_AXES = np.array([[-1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0]])


class _View:
    """Camera of the rig, with its pose in RGB coordinates and the rays of its pixels."""

    def __init__(self, camera: CameraModel, turn: np.ndarray, position: np.ndarray) -> None:
        self.camera, self.turn, self.position = camera, turn, position
        pixels = np.stack(np.meshgrid(np.arange(camera.size[0]), np.arange(camera.size[1])), -1)
        self.rays = camera.unproject(pixels)

    def sampled(self, drawn: np.ndarray, turn: np.ndarray, pinhole: Camera) -> np.ndarray:
        """Return the pixels of this camera from those of a pinhole at its place."""
        rays = self.rays @ (turn @ self.turn).T
        # Drawn pixels have their centres at halves.
        at = pinhole.focal * rays[..., :2] / rays[..., 2:] + (pinhole.center, pinhole.horizon)
        x, y = (np.nan_to_num(at[..., axis], nan=-10.0).astype(np.float32) for axis in (0, 1))
        return cv2.remap(drawn, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
