"""Replays of bags in which one camera is silent or shows nothing for a while."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from replays import drive

from ivf_core.bags.convert import RGB_TOPIC, START_NS, THERMAL_TOPIC
from ivf_core.bags.reader import BagReader
from ivf_core.bags.writer import BagWriter
from ivf_core.cli import main
from ivf_core.inference import FusionPipeline, ImagePair
from ivf_core.models.checkpoints import FusionModel
from ivf_core.replay.run import replay_bag
from ivf_core.replay.settings import ReplaySettings

FRAMES, PERIOD_NS = 50, 10**8
BAD = range(15, 35)


@pytest.fixture(scope="module")
def frames() -> list[Any]:
    return list(drive(FRAMES))


def write(path: Path, frames: list[Any], camera: str, fault: str) -> Path:
    """Write a bag whose camera is silent, black or saturated for two seconds."""
    with BagWriter(path) as bag:
        for k, frame in enumerate(frames):
            stamp = START_NS + k * PERIOD_NS
            images = {"rgb": frame.visible, "thermal": frame.infrared}
            if k in BAD:
                level = {"silent": None, "black": 0, "saturated": 255}[fault]
                images[camera] = None if level is None else np.full_like(images[camera], level)
            if images["rgb"] is not None:
                bag.write_image(RGB_TOPIC, stamp, images["rgb"], "rgb8", "rgb")
            if images["thermal"] is not None:
                bag.write_image(THERMAL_TOPIC, stamp, images["thermal"], "mono8", "thermal")
    return path


def results(output: Path) -> dict[int, Any]:
    """Return the fused images by the number of their frame."""
    with BagReader(output / "bag") as reader:
        found = [message for *_, message in reader.messages(["/fusion/fused/image"])]
    stamps = [m.header.stamp.sec * 10**9 + m.header.stamp.nanosec for m in found]
    assert stamps == sorted(set(stamps))
    return {(s - START_NS) // PERIOD_NS: m for s, m in zip(stamps, found, strict=True)}


@pytest.mark.parametrize("fault", ["silent", "black", "saturated"])
@pytest.mark.parametrize("camera", ["rgb", "thermal"])
def test_the_other_camera_is_fused_alone(
    camera: str, fault: str, frames: list[Any], tiny_model: FusionModel, tiny_weights: Path,
    tmp_path: Path,
) -> None:  # fmt: skip
    bag = write(tmp_path / "bag", frames, camera, fault)
    settings = ReplaySettings(
        weights=str(tiny_weights), engine="torch", precision="fp32", threads=1, score_every=1000
    )
    summary = replay_bag(bag, tmp_path / "out", settings)
    fused, left = results(tmp_path / "out"), "thermal" if camera == "rgb" else "rgb"
    alone = summary["single_camera"]
    assert alone["policy"] == "fuse"
    assert alone["fused"][camera] == 0
    assert alone["fused"][left] >= 10, "0.5 s of silence or 0.3 s of a symptom come first"
    for name, received in summary["pairing"]["received"].items():
        unmatched = sum(summary["pairing"]["unmatched"][name].values())
        assert received == summary["pairing"]["pairs"] + alone["fused"][name] + unmatched
    assert len(fused) == summary["pairing"]["pairs"] + alone["fused"][left]
    # Pairs before and after, and one camera alone in between.
    pipeline = FusionPipeline(tiny_model, engine="torch", precision="fp32")
    for k in (5, 25, 30, 45):
        visible, infrared = frames[k].visible, frames[k].infrared
        pair = ImagePair(visible, infrared)
        if k in BAD:
            pair = ImagePair(visible, None)
            if left == "thermal":
                pair = ImagePair(np.zeros_like(visible), infrared)
        expected = pipeline(pair).fused
        np.testing.assert_array_equal(
            np.asarray(fused[k].data).reshape(expected.shape), expected, str(k)
        )
        assert fused[k].header.frame_id == (left if k in BAD else "rgb")
    (period,) = alone["periods"]
    assert (period["camera"], period["reason"].split(" is ")[0]) == (left, camera)
    assert fault in period["reason"] or fault == "saturated"
    assert 1.5 <= period["start_seconds"] < period["end_seconds"] <= 4.3
    (text,) = [w["text"] for w in summary["warnings"] if w["code"] == "single_camera"]
    assert f"{alone['fused'][left]} {'RGB' if left == 'rgb' else left} images" in text
    assert text in (tmp_path / "out/report.html").read_text()


def test_pairs_only(frames: list[Any], tiny_weights: Path, tmp_path: Path) -> None:
    bag = write(tmp_path / "bag", frames, "rgb", "silent")
    words = ["--weights", tiny_weights, "--engine", "torch", "--precision", "fp32"]
    words = [
        "replay",
        bag,
        "--score-every",
        1000,
        "--output",
        tmp_path / "out",
        "--single-camera",
        "stop",
        *words,
    ]
    assert main(list(map(str, words))) == 0
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert summary["single_camera"]["policy"] == "stop"
    assert summary["single_camera"]["fused"] == {"rgb": 0, "thermal": 0}
    assert results(tmp_path / "out").keys() == set(range(FRAMES)) - set(BAD)


def test_an_unknown_policy_is_named() -> None:
    with pytest.raises(ValueError, match="single_camera is 'go', expected one of fuse, stop"):
        ReplaySettings(single_camera="go")
