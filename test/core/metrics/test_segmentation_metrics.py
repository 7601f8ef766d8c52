"""Tests of intersection over union and accuracy by hand."""

from __future__ import annotations

import numpy as np
import pytest

from ivf_core.metrics.segmentation import ConfusionMatrix


def test_by_hand() -> None:
    truth = np.array([[0, 0, 1, 1], [2, 2, 255, 255]])
    predicted = np.array([[0, 1, 1, 1], [0, 2, 2, 0]])
    matrix = ConfusionMatrix(4)
    matrix.update(predicted, truth)
    # class 0: 1 hit, union {2 true + 1 false}; 1: 2 of 3; 2: 1 of 2; 3 occurs nowhere.
    np.testing.assert_allclose(matrix.iou(), [1 / 3, 2 / 3, 1 / 2, np.nan])
    assert matrix.mean_iou() == pytest.approx(0.5)
    np.testing.assert_allclose(matrix.accuracy(), [1 / 2, 1, 1 / 2, np.nan])
    assert matrix.mean_accuracy() == pytest.approx(2 / 3)
    assert matrix.pixel_accuracy() == pytest.approx(4 / 6)
    assert matrix.counts.sum() == 6
    # Class 3 is now predicted but nowhere true; the unlabelled pixel does not count.
    matrix.update(np.full((1, 2), 3), np.array([[0, 255]]))
    np.testing.assert_allclose(matrix.iou(), [1 / 4, 2 / 3, 1 / 2, 0])
    np.testing.assert_allclose(matrix.accuracy(), [1 / 3, 1, 1 / 2, np.nan])
    assert matrix.pixel_accuracy() == pytest.approx(4 / 7)


def test_nothing_labelled() -> None:
    matrix = ConfusionMatrix(2)
    matrix.update(np.zeros((2, 2), np.uint8), np.full((2, 2), 255, np.uint8))
    assert np.isnan(matrix.iou()).all()
    assert np.isnan(matrix.accuracy()).all()
    assert np.isnan([matrix.mean_iou(), matrix.mean_accuracy(), matrix.pixel_accuracy()]).all()


def test_wrong_ids_are_rejected() -> None:
    matrix = ConfusionMatrix(3)
    with pytest.raises(ValueError, match=r"truth has ids 0 to 7, expected 0 to 2"):
        matrix.update(np.zeros(2, np.uint8), np.array([0, 7], np.uint8))
    with pytest.raises(ValueError, match=r"predicted has ids 3 to 3"):
        matrix.update(np.array([3]), np.array([0]))
    with pytest.raises(ValueError, match=r"predicted is \(2,\), truth is \(3,\)"):
        matrix.update(np.zeros(2), np.zeros(3))
    assert not matrix.counts.any()


def test_bytes_and_wider_integers_give_the_same_counts() -> None:
    random = np.random.default_rng(0)
    truth = random.choice(np.array([0, 1, 2, 3, 255], np.uint8), (37, 53))
    predicted = random.integers(0, 4, (53, 37), np.uint8).T
    bytes_, integers = ConfusionMatrix(4), ConfusionMatrix(4)
    bytes_.update(predicted, truth)
    integers.update(predicted.astype(np.int32), truth.astype(np.int32))
    np.testing.assert_array_equal(bytes_.counts, integers.counts)
    assert bytes_.counts.sum() == np.count_nonzero(truth != 255)


@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
def test_wrong_ids_leave_the_counts_as_they_were(dtype: type) -> None:
    matrix = ConfusionMatrix(3)
    right, wrong = np.array([0, 2], dtype), np.array([1, 7], dtype)
    with pytest.raises(ValueError, match="predicted has ids 1 to 7, expected 0 to 2"):
        matrix.update(wrong, right)
    with pytest.raises(ValueError, match="truth has ids 1 to 7, expected 0 to 2"):
        matrix.update(right, wrong)
    assert not matrix.counts.any()
    matrix.update(wrong, np.array([0, 255], dtype))  # a pixel without a true class
    assert matrix.counts.sum() == 1
