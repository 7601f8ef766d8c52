"""Turns of cameras that drive at the same time."""

from __future__ import annotations

import numpy as np
import pytest

from ivf_core.rigs.image_motion import MotionRecorder, camera_turns

ROWS, COLUMNS = 15, 20
RATE = 30.0
FOCUS = np.array([0.05, -0.04])  # of expansion, in image widths from the middle
OMEGA = 2 * np.pi * 1.3
AMPLITUDE = 0.005  # image widths


def driven(expansion: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return times, gaps and flow of a camera that nods and drives.

    Args:
        expansion: N x ROWS x COLUMNS, speed over distance of what each cell shows, a second.
    """
    times = (np.arange(len(expansion)) + 0.5) / RATE
    x, y = np.meshgrid(
        (np.arange(COLUMNS) + 0.5) / COLUMNS - 0.5, (np.arange(ROWS) + 0.5 - ROWS / 2) / COLUMNS
    )
    # The focus nods with the scene.
    place = np.array([0, AMPLITUDE]) * np.sin(OMEGA * times)[:, None]
    away = np.stack((x, y), -1) - FOCUS - place[:, None, None]
    return (
        times,
        np.full(len(times), 1 / RATE),
        nods(times)[:, None, None] + (expansion[..., None] * away),
    )


def nods(times: np.ndarray) -> np.ndarray:
    return np.array([0, AMPLITUDE * OMEGA]) * np.cos(OMEGA * times)[:, None]


def lag_seconds(times: np.ndarray, turns: np.ndarray) -> float:
    """Return by how much the nods are late in N x 2 turns."""
    waves = np.stack((np.cos(OMEGA * times), np.sin(OMEGA * times)), -1)
    (cosine, sine), *_ = np.linalg.lstsq(waves, turns[:, 1], rcond=None)
    return float(np.arctan2(sine, cosine) / OMEGA)


def test_driving_makes_turns_neither_early_nor_late() -> None:
    """Expansion at fixed pixels has a part in phase with the place, not with the rate."""
    times, gaps, flow = driven(np.full((600, ROWS, COLUMNS), 0.5))
    # Seen at fixed pixels, the nods are early by expansion / omega^2: by 7 ms.
    plain = np.median(flow.reshape(len(flow), -1, 2), axis=1)
    assert lag_seconds(times, plain) == pytest.approx(-0.5 / OMEGA**2, rel=0.02)
    assert abs(lag_seconds(times, camera_turns(times, gaps, flow))) < 0.0005


def test_things_that_pass_are_no_turn() -> None:
    rng = np.random.default_rng(0)
    passing = np.zeros((600, ROWS, COLUMNS))
    for start in rng.integers(0, 580, 60):  # near things on one side, for 0.7 s each
        side = np.s_[:, :12] if rng.random() < 0.5 else np.s_[:, 8:]
        passing[start : start + 20][(slice(None), *side)] += rng.uniform(0.3, 1.0)
    times, gaps, flow = driven(0.2 + passing)
    truth = nods(times)
    plain = np.median(flow.reshape(len(flow), -1, 2), axis=1)
    plain -= plain.mean(axis=0)
    off = camera_turns(times, gaps, flow) - truth
    inside = slice(30, -30)  # the trend is one-sided at both ends
    assert np.std(off[inside]) < 0.25 * np.std((plain - truth)[inside])


def test_recorder_leaves_out_pauses_and_images_of_another_size() -> None:
    rng = np.random.default_rng(0)
    scene = rng.integers(0, 255, (80, 120), np.uint8)
    recorder = MotionRecorder(infrared=True)
    assert recorder.motion() is None
    for t in (0.0, 0.1, 0.2, 0.3, 1.3, 1.4, 1.5, 1.5, 1.6):
        recorder.add(t, scene)
    recorder.add(1.7, scene[:40, :60])
    motion = recorder.motion()
    assert motion is not None
    np.testing.assert_allclose(motion.starts, (0.0, 0.1, 0.2, 1.3, 1.4, 1.5))
    np.testing.assert_allclose(motion.stops, (0.1, 0.2, 0.3, 1.4, 1.5, 1.6))
    np.testing.assert_allclose(motion.rates, 0, atol=1e-3)
