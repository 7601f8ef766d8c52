"""Table of encodings."""

from __future__ import annotations

import numpy as np
import pytest

from ivf_core.images.encodings import (
    ENCODINGS,
    INFRARED_ENCODINGS,
    VISIBLE_ENCODINGS,
    WRITTEN_ENCODINGS,
    check_encoding,
    thermal_encoding,
)


def test_float_and_signed_images_are_thermal_only() -> None:
    assert set(INFRARED_ENCODINGS) - set(VISIBLE_ENCODINGS) == {"16SC1", "32FC1"}
    assert set(WRITTEN_ENCODINGS) <= set(INFRARED_ENCODINGS)
    assert all(ENCODINGS[name].name == name for name in INFRARED_ENCODINGS)


@pytest.mark.parametrize(
    ("dtype", "name"), [("uint8", "mono8"), ("uint16", "mono16"), ("float32", "32FC1")]
)
def test_thermal_images_are_written_in_the_encoding_of_their_type(dtype: str, name: str) -> None:
    assert thermal_encoding(np.dtype(dtype)) == name
    assert check_encoding(np.zeros((2, 3), dtype), name) == ENCODINGS[name]


def test_thermal_type_without_encoding_is_rejected() -> None:
    with pytest.raises(ValueError, match="thermal image is float64, expected uint8, uint16"):
        thermal_encoding(np.dtype("float64"))


def test_arrays_must_suit_the_encoding() -> None:
    with pytest.raises(ValueError, match=r"rgb8 needs H x W x 3 uint8, got \(2, 3\) uint8"):
        check_encoding(np.zeros((2, 3), np.uint8), "rgb8")
    with pytest.raises(ValueError, match="encoding 'bgr8': expected one of rgb8, mono8"):
        check_encoding(np.zeros((2, 3, 3), np.uint8), "bgr8")
