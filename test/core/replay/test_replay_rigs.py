"""Replays of bags whose cameras have lenses and fields of view of their own."""

from __future__ import annotations

import csv
import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from ivf_core import cli
from ivf_core.bags.convert import LABELS_TOPIC, RGB_TOPIC, THERMAL_TOPIC
from ivf_core.bags.reader import BagReader
from ivf_core.bags.writer import BagWriter
from ivf_core.images.messages import to_infrared, to_visible
from ivf_core.images.registration import covered_rectangle
from ivf_core.inference import FusionPipeline, FusionResult, ImagePair
from ivf_core.inference.pipeline import resize_labels
from ivf_core.metrics.fusion import FUSION_METRICS, fusion_metrics
from ivf_core.replay.run import replay_bag
from ivf_core.replay.settings import ReplaySettings
from ivf_core.rigs.camera import CameraModel
from ivf_core.rigs.remap import RigRegistration, read_registration
from ivf_core.rigs.rig import Plane, Rig
from ivf_core.rigs.rig_files import write_rig
from ivf_core.scenes.rig_drive import RigDrive, RigPair

START_NS = 1_700_000_000_000_000_000
OTHER_TOPIC = "/other/fused"
RGB = CameraModel((480, 360), (360.0, 360.0), (240.0, 183.0), "plumb_bob",
                  (-0.25, 0.07, 0.001, 0.0))  # fmt: skip
# It sees 37 of the RGB camera's 67 degrees.
THERMAL = CameraModel((160, 120), (235.0, 236.0), (79.0, 60.0), "equidistant",
                      (0.01, -0.01, 0.0, 0.0))  # fmt: skip
RIG = Rig(RGB, THERMAL, translation=(0.05, 0.0, 0.0), plane=Plane("distance", distance=20.0),
          time_offset_seconds=0.02)  # fmt: skip
COUNT = 6


@pytest.fixture(scope="module")
def pairs() -> list[RigPair]:
    drive = RigDrive(RIG, seed=5)
    return [drive.pair(0.8 * number) for number in range(COUNT)]


@pytest.fixture(scope="module")
def settings(tiny_weights: Path) -> ReplaySettings:
    return ReplaySettings(weights=str(tiny_weights), engine="torch", precision="fp32", threads=1,
                          score_every=2)  # fmt: skip


def _results(model: Any, rig: Rig, pairs: list[RigPair]) -> list[FusionResult]:
    pipeline = FusionPipeline(model, engine="torch", precision="fp32", threads=1,
                              registration=RigRegistration(rig))  # fmt: skip
    return [pipeline(ImagePair(p.visible, p.counts, p.seconds)) for p in pairs]


def _write(path: Path, pairs: list[RigPair], **extra: list[np.ndarray]) -> Path:
    """Write a bag whose thermal stamps are too early by the rig's offset."""
    with BagWriter(path) as bag:
        for number, pair in enumerate(pairs):
            stamp = START_NS + round(pair.seconds * 1e9)
            early = stamp - round(RIG.time_offset_seconds * 1e9)
            bag.write_image(THERMAL_TOPIC, early, pair.counts, "mono16", "thermal")
            bag.write_image(RGB_TOPIC, stamp, pair.visible, "rgb8", "rgb")
            if "labels" in extra:
                bag.write_image(LABELS_TOPIC, stamp, extra["labels"][number], "mono8", "rgb")
            if "other" in extra:
                bag.write_image(OTHER_TOPIC, stamp, extra["other"][number], "rgb8", "rgb")
    return path


def _rows(output: Path) -> list[dict[str, str]]:
    with (output / "frames.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def _images(output: Path, name: str) -> list[np.ndarray]:
    read = to_infrared if name == "mask" else to_visible
    with BagReader(output / "bag") as bag:
        messages = bag.messages([f"/fusion/{name}/image"])
        return [read(message.message) for message in messages]


def test_pixels_that_one_camera_sees_are_not_scored(
    pairs: list[RigPair], settings: ReplaySettings, tiny_model: Any, tmp_path: Path
) -> None:
    """Give images and labels that are right only where both cameras see: they score fully."""
    write_rig(RIG, tmp_path / "rig.yaml")
    results = _results(tiny_model, RIG, pairs)
    coverage = results[0].coverage
    assert coverage is not None
    assert 0.1 < coverage.mean() < 0.5
    random = np.random.default_rng(0)
    labels, other = [], []
    for result in results:
        assert result.fused is not None
        assert result.labels is not None
        mask = resize_labels(result.labels, coverage.shape)
        labels.append(np.where(coverage, mask, (mask + 1) % 9).astype(np.uint8))
        noise = random.integers(0, 255, result.fused.shape)
        other.append(np.where(coverage[..., None], result.fused, noise).astype(np.uint8))
    bag = _write(tmp_path / "drive", pairs, labels=labels, other=other)
    output = tmp_path / "replayed"
    summary = replay_bag(bag, output, replace(settings, registration=tmp_path / "rig.yaml",
                                              fused_topic=OTHER_TOPIC))  # fmt: skip
    assert summary["pairing"]["pairs"] == COUNT
    assert summary["segmentation"]["miou"] == 1
    assert summary["segmentation"]["pixels"] == COUNT * int(coverage.sum())
    for fused, result in zip(_images(output, "fused"), results, strict=True):
        assert result.fused is not None
        np.testing.assert_array_equal(fused, result.fused)
    assert [mask.shape for mask in _images(output, "mask")] == [coverage.shape] * COUNT

    part = covered_rectangle(coverage, coverage.shape)
    assert part is not None
    scored = [row for row in _rows(output) if row["Qabf"]]
    assert [row["index"] for row in scored] == ["0", "2", "4"]
    for row in scored:
        index = int(row["index"])
        images = (pairs[index].visible, results[index].infrared, results[index].fused)
        luma = [
            cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) if image.ndim == 3 else image
            for image in images
        ]
        names = [name for name in FUSION_METRICS if row[name]]
        assert len(names) > 8
        expected = fusion_metrics(*(image[part] for image in luma), names=names)
        for name in names:
            assert float(row[name]) == pytest.approx(expected[name], rel=1e-5), name
            assert row[f"other_{name}"] == row[name]

    rig = summary["rig"]
    assert (rig["kind"], rig["plane"]) == ("cameras", "distance")
    assert rig["seen_share"] == pytest.approx(coverage.mean(), abs=1e-4)
    assert rig["scored_share"] == pytest.approx(coverage[part].size / coverage.size, abs=1e-4)
    page = (output / "report.html").read_text(encoding="utf-8")
    for text in (
        "lenses: RGB plumb_bob, thermal equidistant",
        "20 ms added to thermal stamps",
        "the plane <em>distance</em>",
        "Fusion metrics are those of the largest",
    ):
        assert text in page  # fmt: skip


def test_references_are_undistorted_as_the_rgb_image_is(
    pairs: list[RigPair], settings: ReplaySettings, tiny_model: Any, tmp_path: Path
) -> None:
    """Mark bright pixels of the distorted image, as labels of the bag do."""
    flat = replace(RIG, undistort_rgb=True)
    write_rig(flat, tmp_path / "rig.yaml")
    labels = [(pair.visible[..., 1] > 100).astype(np.uint8) for pair in pairs]
    bag = _write(tmp_path / "drive", pairs, labels=labels, other=[p.visible for p in pairs])
    output = tmp_path / "replayed"
    chosen = replace(settings, registration=tmp_path / "rig.yaml", fused_topic=OTHER_TOPIC)
    summary = replay_bag(bag, output, chosen)
    assert summary["rig"]["undistort_rgb"]
    results = _results(tiny_model, flat, pairs)
    for fused, result in zip(_images(output, "fused"), results, strict=True):
        assert result.fused is not None
        np.testing.assert_array_equal(fused, result.fused)
    # The mean IoU with the undistorted labels, and metrics of the undistorted other image.
    registration = read_registration(tmp_path / "rig.yaml")
    coverage = results[0].coverage
    assert coverage is not None
    part = covered_rectangle(coverage, coverage.shape)
    assert part is not None
    counts = np.zeros(2, int)
    for given in labels:
        true = registration.undistort_labels(given)
        assert set(np.unique(true)) <= {0, 1, 255}
        counts += np.bincount(true[coverage], minlength=2)[:2]
    rows = np.array(summary["segmentation"]["confusion"]).sum(axis=1)
    assert rows[:2].tolist() == counts.tolist()
    other = results[2].visible
    assert other is not None
    grey = cv2.cvtColor(other, cv2.COLOR_RGB2GRAY)[part]
    expected = fusion_metrics(grey, results[2].infrared[part], grey, names=["SSIM", "SD"])
    row = _rows(output)[2]
    for name, value in expected.items():
        assert float(row[f"other_{name}"]) == pytest.approx(value, rel=1e-5)


def test_cameras_without_a_common_view_are_not_compared(
    pairs: list[RigPair], settings: ReplaySettings, tmp_path: Path
) -> None:
    turn = cv2.Rodrigues(np.array([0.0, np.radians(53.0), 0.0]))[0]
    write_rig(replace(RIG, rotation=tuple(turn.ravel())), tmp_path / "rig.yaml")
    bag = _write(tmp_path / "drive", pairs)
    chosen = replace(settings, registration=tmp_path / "rig.yaml")
    summary = replay_bag(bag, tmp_path / "replayed", chosen)
    assert summary["metrics"].keys() <= {"flip_share"}
    assert summary["rig"]["scored_share"] == 0
    assert 0 < summary["rig"]["seen_share"] < 0.1
    assert any("view that both cameras share is too small" in s for s in summary["left_out"])


@pytest.mark.slow
def test_the_suggested_commands_mend_a_wrong_rig(
    settings: ReplaySettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run the commands as they stand, in the folder of the bag."""
    monkeypatch.chdir(tmp_path)
    wide = replace(THERMAL, focal=(130.0, 130.0))
    turn = cv2.Rodrigues(np.array([0.0, np.radians(1.0), 0.0]))[0]
    true = Rig(RGB, wide, time_offset_seconds=RIG.time_offset_seconds)
    drive = RigDrive(true, seed=5)
    _write(Path("my drive"), [drive.pair(0.8 * number) for number in range(12)])
    write_rig(replace(true, rotation=tuple(turn.ravel())), Path("wrong.yaml"))
    first = replay_bag(Path("my drive"), Path("first"),
                       replace(settings, registration=Path("wrong.yaml")))  # fmt: skip
    codes = [warning["code"] for warning in first["warnings"]]
    assert "misregistered" in codes
    register, again = first["registration"]["commands"]
    assert register == "ivf register 'my drive' --rig wrong.yaml --output rig"
    assert cli.main(shlex.split(register)[1:]) == 0
    options = ["--weights", settings.weights, "--engine", "torch", "--score-every", "2"]
    assert cli.main(shlex.split(again)[1:] + options) == 0
    second = json.loads(Path("registered/summary.json").read_text(encoding="utf-8"))
    assert second["registration"]["median_px"] < 0.5 * first["registration"]["median_px"]
    assert second["registration"]["commands"] == []
    assert second["rig"]["corrected"]
