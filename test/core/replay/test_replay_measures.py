"""Measures of a replay, on images with known answers."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from replays import drive
from textures import texture

from ivf_core.class_sets import MFNET, PST900, STREET, ClassSet
from ivf_core.replay.frames import FusedFrame
from ivf_core.replay.measure.notable import NotableFrames
from ivf_core.replay.measure.scorer import Scorer
from ivf_core.replay.measure.shutters import MotionLag, MotionLagMeter, suggest_offset
from ivf_core.replay.measure.stability import FlipMeter, flip_share

MS = 1_000_000


class TestFlips:
    def test_labels_that_move_along_do_not_flip(self) -> None:
        grey = texture((60, 80))
        labels = np.zeros((60, 80), np.uint8)
        labels[20:40, 30:50] = 3
        before = (grey, labels)
        now = (np.roll(grey, 5, axis=1), np.roll(labels, 5, axis=1))
        flow = np.zeros((60, 80, 2), np.float32)
        flow[..., 0] = -5
        assert flip_share(before, now, flow) == 0
        # Without the flow, the warped image differs, and few pixels count.
        still = flip_share((grey, labels), (grey, now[1]), np.zeros_like(flow))
        assert still == pytest.approx(2 * 5 * 20 / (60 * 80))

    def test_nan_without_pixels_to_compare(self) -> None:
        grey, labels = np.zeros((8, 8), np.uint8), np.zeros((8, 8), np.uint8)
        bright = np.full((8, 8), 200, np.uint8)
        flow = np.zeros((8, 8, 2), np.float32)
        assert np.isnan(flip_share((grey, labels), (bright, labels), flow))

    def test_meter_follows_a_moving_camera(self) -> None:
        meter = FlipMeter()
        wide = texture((240, 400), seed=3)
        classes = (wide > 128).astype(np.uint8)
        classes = cv2.medianBlur(classes, 15)
        shares = [meter(wide[:, x : x + 320], classes[:, x : x + 320]) for x in range(0, 40, 8)]
        assert np.isnan(shares[0])
        moved = np.mean(classes[:, 8:328] != classes[:, :320])
        assert max(shares[1:]) < 0.35 * moved


class TestShutters:
    def stamps(self, offset_ms: float, count: int = 60) -> dict[str, np.ndarray]:
        rgb = (np.arange(count) * 1e9 / 30).astype(np.int64)
        return {"rgb": rgb, "thermal": rgb + round(offset_ms * MS)}

    @pytest.mark.parametrize("delay", [-3, 0, 2])
    def test_delay_is_found_from_motion(self, delay: int) -> None:
        frames = list(drive(170))
        meter = MotionLagMeter()
        for k in range(10, 160):
            images = frames[k].visible[::4, ::4, 0], frames[k - delay].infrared[::4, ::4]
            stamp = k * 100 * MS
            meter.add(*map(np.ascontiguousarray, images), stamp, stamp)
        found = meter.result()
        assert found.seconds == pytest.approx(0.1 * delay, abs=0.03)

    def test_motion_of_different_scenes_gives_no_delay(self) -> None:
        meter = MotionLagMeter()
        random = np.random.default_rng(0)
        for k in range(150):
            images = random.integers(0, 255, (2, 48, 64), np.uint8)
            meter.add(images[0], images[1], k * 100 * MS, k * 100 * MS)
        assert meter.result() is None

    def test_stamps_alone_are_ambiguous_by_whole_periods(self) -> None:
        found = suggest_offset(self.stamps(20), 0.0, None)
        assert found.basis == "stamps"
        assert found.seconds == pytest.approx(1 / 30 - 0.02, abs=1e-4)

    def test_motion_chooses_among_whole_periods(self) -> None:
        motion = MotionLag(0.026, 0.004, 0.5)
        found = suggest_offset(self.stamps(20), 0.0, motion)
        assert found == (-0.02, "stamps and motion")
        motion = MotionLag(0.049, 0.004, 0.5)
        found = suggest_offset(self.stamps(20), 0.0, motion)
        assert found.seconds == pytest.approx(-0.02 - 1 / 30, abs=1e-4)

    def test_free_running_cameras(self) -> None:
        stamps = self.stamps(0)
        stamps["thermal"] = (np.arange(60) * 1e9 / 25).astype(np.int64)
        assert suggest_offset(stamps, 0.0, None) is None
        assert suggest_offset(stamps, 0.0, MotionLag(0.03, 0.002, 0.5)) == (-0.03, "motion")

    def test_clocks_apart(self) -> None:
        stamps = self.stamps(5)
        stamps["thermal"] = stamps["thermal"] + 3600 * 10**9
        found = suggest_offset(stamps, 3600.001, None)
        assert found.basis == "recording"
        assert found.seconds == pytest.approx(-3600.005, abs=1e-3)


class TestNotable:
    def test_worst_frames_are_kept_a_second_apart(self) -> None:
        notable = NotableFrames()
        luma = {0: 50, 1: 10, 2: 5, 3: 15, 40: 12, 70: 18, 80: 17, 110: 19, 150: 3}
        for index, value in luma.items():
            notable.consider(index, index / 30, {"rgb_dark": float(value)})
        # 1 and 3 are near 2, which is darker; of the rest 110 is the least dark.
        assert list(notable.frames()) == [2, 40, 150]

    def test_reasons(self) -> None:
        notable = NotableFrames()
        notable.consider(0, 0.0, {"SSIM": 0.6, "share_car": 0.1})
        notable.consider(40, 2.0, {"SSIM": 0.4, "share_car": 0.5})
        assert notable.frames()[40] == [
            "among the lowest SSIM: 0.4",
            "SSIM jumps from 0.6 to 0.4",
            "share of car jumps from 10% to 50%",
        ]


class TestTruth:
    """True class ids beside masks, of the same class set or of another."""

    @staticmethod
    def score(truth: np.ndarray, labels: np.ndarray, true_set: ClassSet | None) -> Scorer:
        visible = np.zeros((*truth.shape, 3), np.uint8)
        thermal = np.zeros(truth.shape, np.uint8)
        frame = FusedFrame(
            0, 0, 0, "rgb", 0.0, 0.0, visible, thermal, thermal, visible, labels, truth=truth
        )
        scorer = Scorer(STREET, score_every=100, with_truth=True, truth_classes=true_set)
        scorer.measure(frame)
        return scorer

    def test_ids_of_another_set_are_mapped(self) -> None:
        """MFNet's car, person and background, which is no class of a street."""
        truth = np.repeat(np.array([1, 2, 0, 2], np.uint8), 16).reshape(8, 8)
        car, person = STREET.names.index("car"), STREET.names.index("person")
        labels = np.repeat(np.array([car, person, car, car], np.uint8), 16).reshape(8, 8)
        result = self.score(truth, labels, MFNET).segmentation()
        assert result is not None
        assert result["pixels"] == 48
        assert result["iou"]["car"] == pytest.approx(16 / 32)
        assert result["iou"]["person"] == pytest.approx(16 / 32)
        assert result["miou"] == pytest.approx(16 / 32)

    def test_a_class_that_is_never_true_has_no_iou(self) -> None:
        """MFNet knows no road: predicting one is wrong for the car, and no class of the mean."""
        truth = np.ones((8, 8), np.uint8)
        labels = np.full((8, 8), STREET.names.index("car"), np.uint8)
        labels[:2] = STREET.names.index("road")
        result = self.score(truth, labels, MFNET).segmentation()
        assert result is not None
        assert (result["iou"]["road"], result["miou"]) == (None, pytest.approx(48 / 64))

    def test_ids_of_the_same_set_stay(self) -> None:
        truth = np.full((8, 8), STREET.names.index("sky"), np.uint8)
        for true_set in (None, STREET):
            result = self.score(truth, truth, true_set).segmentation()
            assert result is not None
            assert result["iou"]["sky"] == 1

    def test_sets_without_a_mapping_are_an_error(self) -> None:
        with pytest.raises(ValueError, match=r"'pst900' cannot be compared with masks of 'street'"):
            Scorer(STREET, score_every=1, with_truth=True, truth_classes=PST900)
