"""Pixels that show no scene: left out of the gain control, and counted."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pytest

from ivf_core.images.thermal import GainControl, ThermalNormalizer

HEIGHT, WIDTH = 120, 160


def _scene(dtype: type = np.uint16, low: float = 7000, span: float = 500) -> np.ndarray:
    """Make a smooth scene with noise."""
    random = np.random.default_rng(2)
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    smooth = 0.5 + 0.3 * np.sin(x / 17) + 0.2 * np.cos(y / 11)
    return (low + span * (smooth + random.normal(0, 0.01, smooth.shape))).astype(dtype)


def _border(image: np.ndarray) -> np.ndarray:
    image[:, :20] = 0
    return image


def _rotated(image: np.ndarray) -> np.ndarray:
    turn = cv2.getRotationMatrix2D((WIDTH / 2, HEIGHT / 2), 8, 0.8)
    return cv2.warpAffine(image, turn, (WIDTH, HEIGHT), flags=cv2.INTER_LINEAR)


def _dead_row(image: np.ndarray) -> np.ndarray:
    image[60] = 16383
    return image


def _noisy_rows(image: np.ndarray) -> np.ndarray:
    image[40:42] = np.random.default_rng(4).integers(12_000, 15_000, (2, WIDTH))
    return image


def _telemetry(image: np.ndarray) -> np.ndarray:
    image[-3:] = 0
    image[-3:, :90] = np.random.default_rng(3).integers(0, 65_536, (3, 90))
    return image


def _low_bytes(image: np.ndarray) -> np.ndarray:
    image[:2] = np.random.default_rng(3).integers(0, 256, (2, WIDTH))
    return image


def _dead_columns(image: np.ndarray) -> np.ndarray:
    image[:, 80:83] = 65_535
    return image


def _dead_pixels(image: np.ndarray) -> np.ndarray:
    at = np.random.default_rng(5).choice(image.size, image.size // 50, replace=False)
    image.ravel()[at] = np.random.default_rng(6).integers(30_000, 60_000, at.size)
    return image


DAMAGES = [
    _border, _rotated, _dead_row, _noisy_rows, _telemetry, _low_bytes, _dead_columns, _dead_pixels,
]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda f: f.__name__.strip("_"))
def test_pixels_without_scene_do_not_take_the_window(
    damage: Callable[[np.ndarray], np.ndarray],
) -> None:
    clean, damaged = _scene(), damage(_scene())
    control, reference = GainControl(), GainControl()
    control(damaged)
    reference(clean)
    assert control.window == pytest.approx(reference.window, abs=30)  # of about 500 counts
    changed = np.count_nonzero(damaged != clean)
    if damage is not _rotated:  # which moves all pixels
        assert 0.8 * changed <= control.left_out_pixels <= 1.2 * changed


def test_most_of_the_frame_may_be_filled() -> None:
    scene, damaged = _scene()[:, 110:], _scene()
    damaged[:, :110] = 0
    control, reference = GainControl(), GainControl()
    control(damaged)
    reference(scene)
    assert control.window == pytest.approx(reference.window, abs=5)
    assert control.left_out_pixels == 110 * HEIGHT


@pytest.mark.parametrize("value", [-9999.0, 0.0, -32768.0, 1e30, -273.15, np.finfo(np.float32).min])
@pytest.mark.parametrize("share", [0.02, 0.3])
def test_fill_values_of_celsius(value: float, share: float) -> None:
    celsius = _scene(np.float32, 20, 8)
    expected = GainControl()
    expected(celsius)
    celsius[: round(share * HEIGHT)] = value
    control = GainControl()
    with np.errstate(all="raise"):
        mapped = control(celsius)
    assert control.window == pytest.approx(expected.window, abs=0.5)
    assert control.left_out_pixels == round(share * HEIGHT) * WIDTH
    assert mapped[0, 0] == (255 if value > 0 else 0)


def test_large_frames_are_sampled_and_counted_in_full() -> None:
    image = cv2.resize(_scene(), (640, 480), interpolation=cv2.INTER_LINEAR)
    image[:, :7] = 0
    image[3, 50] = 0
    control = GainControl()
    control(image)
    assert control.window[0] > 6900
    assert control.left_out_pixels == 480 * 7 + 1


def test_non_finite_pixels_are_not_counted_as_well() -> None:
    image = _scene(np.float32, 20, 8)
    image[:10], image[10:20], image[20:30] = -9999.0, np.nan, np.inf
    control = GainControl()
    control(image)
    assert control.repaired_pixels == 20 * WIDTH
    assert control.left_out_pixels == 10 * WIDTH
    assert control.window[0] > 15


def _person(image: np.ndarray) -> np.ndarray:
    image[40:100, 70:90] = 8400
    return cv2.GaussianBlur(image, (0, 0), 1)


def _person_on_a_wall(_image: np.ndarray) -> np.ndarray:
    noise = np.random.default_rng(1).normal(0, 5, (HEIGHT, WIDTH))
    return _person((7000 + noise).astype(np.uint16))


def _halves(image: np.ndarray) -> np.ndarray:
    image[:50] -= 6000  # a clear sky
    return image


def _clipped(image: np.ndarray) -> np.ndarray:
    return np.maximum(image, 7200) - 7200


@pytest.mark.parametrize(
    "change", [_person, _person_on_a_wall, _halves, _clipped], ids=lambda f: f.__name__.strip("_")
)
def test_scenes_are_used_in_full(change: Callable[[np.ndarray], np.ndarray]) -> None:
    image = change(_scene())
    control = GainControl()
    control(image)
    assert control.left_out_pixels == 0
    low, high = control.window
    assert np.mean(image < low) <= 0.006
    assert np.mean(image > high) <= 0.006


@pytest.mark.parametrize("value", [0, 7, 65_535])
def test_frame_of_one_value_is_grey(value: int) -> None:
    control = GainControl()
    assert np.isin(control(np.full((40, 50), value, np.uint16)), (127, 128)).all()
    assert control.left_out_pixels == 0


def test_modes_without_gain_control_leave_nothing_out() -> None:
    normalizer = ThermalNormalizer("percentile")
    normalizer(_border(_scene()))
    assert normalizer.left_out_pixels == 20 * HEIGHT
    normalizer.mode = "full_range"
    normalizer(_border(_scene()))
    assert normalizer.left_out_pixels == 0
