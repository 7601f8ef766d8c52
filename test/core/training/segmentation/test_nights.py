"""Tests of nights made of days."""

from __future__ import annotations

import numpy as np
import pytest

from ivf_core.training.segmentation.nights import night_from_day


def _day() -> np.ndarray:
    """Return a day: bright sky above, a textured road below."""
    image = np.full((120, 160, 3), (170, 200, 235), np.uint8)
    texture = np.random.default_rng(0).integers(70, 130, (60, 160, 1))
    image[60:] = texture.astype(np.uint8)
    return image


def test_nights_are_dark_and_their_sky_is_darkest_of_all() -> None:
    day = _day()
    nights = [night_from_day(day, np.random.default_rng(seed)) for seed in range(30)]
    for night in nights:
        assert night.shape == day.shape
        assert night.dtype == np.uint8
        assert np.median(night) < 0.6 * np.median(day)
    # By day the sky is the brighter half; at night, over all, it has lost more of its light.
    lost = [
        np.median([night[half].mean() for night in nights]) / day[half].mean()
        for half in (slice(0, 60), slice(60, 120))
    ]
    assert lost[0] < lost[1]


def test_nights_differ_are_repeatable_and_leave_the_day_alone() -> None:
    day = _day()
    before = day.copy()
    first, again = (night_from_day(day, np.random.default_rng(5)) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, night_from_day(day, np.random.default_rng(6)))
    np.testing.assert_array_equal(day, before)


def test_lamps_glare_in_some_nights() -> None:
    black = np.zeros((120, 160, 3), np.uint8)
    brightest = [night_from_day(black, np.random.default_rng(seed)).max() for seed in range(30)]
    assert min(brightest) < 60  # a night without a lamp
    assert max(brightest) > 200


def test_other_images_are_rejected() -> None:
    with pytest.raises(ValueError, match=r"\(4, 4\) uint8, expected H x W x 3"):
        night_from_day(np.zeros((4, 4), np.uint8), np.random.default_rng(0))
    with pytest.raises(ValueError, match="float32"):
        night_from_day(np.zeros((4, 4, 3), np.float32), np.random.default_rng(0))
