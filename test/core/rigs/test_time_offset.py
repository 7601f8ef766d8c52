"""Time offsets between cameras that shake together."""

from __future__ import annotations

import numpy as np
import pytest
from shaken_scenes import ShakenScene

from ivf_core.rigs.time_offset import estimate_time_offset


@pytest.mark.parametrize(
    ("offset", "rates"),
    [(0.043, (30.0, 8.7)), (-0.021, (15.0, 25.0))],
    ids=["slow thermal camera", "slow RGB camera"],
)
def test_offset_is_found(offset: float, rates: tuple[float, float]) -> None:
    scene = ShakenScene(3)
    rgb = ((t, scene.rgb(t)) for t in np.arange(0, 12, 1 / rates[0]))
    # A stamp plus the offset is the time of the exposure.
    thermal = ((t, scene.thermal(t + offset)) for t in np.arange(0.2, 11.7, 1 / rates[1]))
    found = estimate_time_offset(rgb, thermal)
    assert abs(found.offset_seconds - offset) < 0.005
    assert found.confidence > 0.5


def test_vibration_faster_than_the_slower_camera_is_no_error() -> None:
    """Images of a camera of 9 Hz do not show what happened between them, but its ends."""
    scene, offset = ShakenScene(8, vibration_pixels=3.0), 0.033
    found = estimate_time_offset(
        ((t, scene.rgb(t)) for t in np.arange(0, 12, 1 / 30)),
        ((t, scene.thermal(t + offset)) for t in np.arange(0.2, 11.7, 1 / 9)),
    )
    assert abs(found.offset_seconds - offset) < 0.005
    assert found.confidence > 0.5


def test_pauses_are_left_out() -> None:
    scene = ShakenScene(4)
    times = np.arange(0, 14, 1 / 20)
    thermal_times = times[(times < 5) | (times > 6.5)]  # the shutter of the thermal camera closed
    found = estimate_time_offset(
        ((t, scene.rgb(t)) for t in times), ((t, scene.thermal(t - 0.03)) for t in thermal_times)
    )
    assert abs(found.offset_seconds + 0.03) < 0.005


def test_standing_cameras_tell_nothing() -> None:
    scene = ShakenScene(5)
    rng = np.random.default_rng(0)

    def still(t: float, image: np.ndarray) -> tuple[float, np.ndarray]:
        noisy = image + rng.normal(0, 2, image.shape)
        return t, np.clip(noisy, 0, 255).astype(np.uint8)

    found = estimate_time_offset(
        (still(t, scene.rgb(1.0)) for t in np.arange(0, 6, 0.05)),
        (still(t, scene.thermal(1.0)) for t in np.arange(0, 6, 0.05)),
    )
    assert found.confidence < 0.5


def test_few_images_tell_nothing() -> None:
    scene = ShakenScene(5)
    found = estimate_time_offset([(0.0, scene.rgb(0.0))], [(0.0, scene.thermal(0.0))])
    assert (found.offset_seconds, found.confidence) == (0.0, 0.0)
