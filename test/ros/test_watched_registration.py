"""Tests of registration:=auto with the real node, on drives of rigs whose cameras move."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from harness import START_NS, START_SECONDS, Graph
from rig_messages import RGB, THERMAL
from sensor_msgs.msg import Image

from ivf_core.bags.writer import BagWriter
from ivf_core.inference import FusionPipeline, ImagePair
from ivf_core.rigs.remap import read_registration
from ivf_core.rigs.rig import Rig
from ivf_core.rigs.rig_files import read_rig, write_rig
from ivf_core.scenes.rig_drive import RigDrive, RigPair
from ivf_ros.conversions import to_visible
from ivf_ros.diagnostics import OK, WARN

pytestmark = [pytest.mark.dds, pytest.mark.slow]

WEIGHTS = "clear"  # random ones do not show where the thermal image is

TRUTH = Rig(RGB, THERMAL, translation=(0.05, 0.0, 0.0))
PAIRS = 12  # of one estimate
APART = 0.6  # seconds between two pairs
NEXT = 100.0  # seconds after which the next estimate may begin


def _turned(rig: Rig, degrees: float) -> Rig:
    """Return a rig whose thermal camera looks further to the right."""
    turn = cv2.Rodrigues(np.array([0.0, np.radians(degrees), 0.0]))[0]
    return replace(rig, rotation=tuple((turn @ np.reshape(rig.rotation, (3, 3))).ravel()))


@pytest.fixture(scope="module")
def moved() -> Rig:
    return _turned(TRUTH, 2.0)


@pytest.fixture(scope="module")
def drive() -> list[RigPair]:
    drive = RigDrive(TRUTH, seed=5)
    return [drive.pair(APART * number) for number in range(PAIRS)]


@pytest.fixture(scope="module")
def moved_drive(moved: Rig) -> list[RigPair]:
    drive = RigDrive(moved, seed=5)
    return [drive.pair(APART * number) for number in range(PAIRS)]


def _write(path: Path, pairs: list[RigPair], later: float = 0.0) -> Path:
    with BagWriter(path) as bag:
        for pair in pairs:
            stamp = START_NS + round((later + pair.seconds) * 1e9)
            bag.write_image("/rgb/image_raw", stamp, pair.visible, "rgb8", "rgb")
            bag.write_image("/thermal/image_raw", stamp, pair.counts, "mono16", "thermal")
    return path


def _start(graph: Graph, saved: Path, **parameters: str) -> None:
    graph.listen("/fusion/fused/image", Image)
    graph.start_fusion(Path(WEIGHTS), mode="replay", registration="auto",
                       registration_save_file=str(saved), **parameters)  # fmt: skip


def _origin(graph: Graph) -> str:
    return graph.values("registration").get("origin", "")


def _error(rig: Rig, truth: Rig) -> float:
    """Return the mean distance in thermal pixels of two rigs where both cameras see."""
    pixels = np.stack(np.meshgrid(np.arange(60, 270, 15), np.arange(40, 210, 15)), -1)
    return float(np.linalg.norm(
        rig.resized(RGB.size, THERMAL.size).thermal_pixels(pixels) - truth.thermal_pixels(pixels),
        axis=-1,
    ).mean())  # fmt: skip


def _fused(rig: Path, pairs: list[RigPair]) -> np.ndarray:
    """Return what the pipeline makes of the last pair of a drive with a rig file."""
    pipeline = FusionPipeline(WEIGHTS, engine="torch", device="cpu", precision="fp32",
                              registration=read_registration(rig))  # fmt: skip
    result = None
    for pair in pairs:
        result = pipeline(ImagePair(pair.visible, pair.counts, pair.seconds))
    assert result is not None
    assert result.fused is not None
    return result.fused


def test_a_wrong_rig_file_is_reported_and_corrected_when_asked(
    graph: Graph,
    tmp_path: Path,
    moved: Rig,
    drive: list[RigPair],
) -> None:
    wrong, saved = tmp_path / "wrong.yaml", tmp_path / "saved.yaml"
    write_rig(moved, wrong)
    _start(graph, saved, registration_file=str(wrong))
    graph.play(_write(tmp_path / "first", drive))
    graph.settle(PAIRS)
    graph.until(lambda: "suggested" in graph.values("registration"), START_SECONDS)
    status, values = graph.status("registration"), graph.values("registration")
    assert status.level == WARN
    assert status.message.startswith("off by ")
    assert "~/save_registration writes the suggested rig file" in status.message
    assert float(values["estimate.drift_pixels"]) > 4
    assert values["origin"] == f"file {wrong}"
    fused = to_visible(graph.messages["/fusion/fused/image"][-1])
    assert cv2.absdiff(fused, _fused(wrong, drive)).max() <= 1

    answer = graph.trigger("save_registration")
    assert answer.success, answer.message
    assert answer.message.startswith("suggested rig written")
    assert saved.read_text(encoding="utf-8") == values["suggested"]
    suggested = read_rig(saved)
    assert (suggested.rgb, suggested.thermal) == (RGB, THERMAL)
    assert _error(suggested, TRUTH) < 0.4 * _error(moved, TRUTH)
    saved.unlink()

    assert graph.set(registration_update="apply")[0].successful
    graph.until(lambda: _origin(graph).startswith("corrected by "))
    assert graph.status("registration").level == OK
    answer = graph.trigger("save_registration")
    assert answer.message.startswith("rig in use written")
    assert read_rig(saved) == suggested
    graph.messages["/fusion/fused/image"].clear()
    graph.play(_write(tmp_path / "second", drive, NEXT))
    graph.settle(2 * PAIRS)
    graph.until(lambda: len(graph.messages["/fusion/fused/image"]) == PAIRS)
    fused = to_visible(graph.messages["/fusion/fused/image"][-1])
    corrected = _fused(saved, drive)
    assert cv2.absdiff(fused, corrected).max() <= 1
    assert cv2.absdiff(corrected, _fused(wrong, drive)).max() > 10


def test_an_estimate_is_used_and_a_rig_that_moves_is_followed_where_asked(
    graph: Graph,
    tmp_path: Path,
    moved: Rig,
    drive: list[RigPair],
    moved_drive: list[RigPair],
) -> None:
    saved = tmp_path / "saved.yaml"
    _start(graph, saved, registration_update="apply")
    assert not graph.trigger("save_registration").success
    graph.play(_write(tmp_path / "first", drive))
    graph.until(lambda: _origin(graph).startswith("estimated from the images"), START_SECONDS)
    assert graph.trigger("save_registration").success
    first = read_rig(saved)
    assert first.homography is not None
    assert _error(first, TRUTH) < 3
    graph.play(_write(tmp_path / "second", moved_drive, NEXT))
    graph.until(lambda: _origin(graph).startswith("corrected by "), START_SECONDS)
    assert graph.status("registration").level == OK
    assert graph.trigger("save_registration").success
    second = read_rig(saved)
    assert _error(second, moved) < 0.5 * _error(first, moved)
    assert graph.values("registration")["kind"] == "homography"
