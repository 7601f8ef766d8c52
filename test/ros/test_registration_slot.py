"""Tests of the node's registration: from camera_info and transforms, estimated, watched, saved."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from harness import START_NS, Graph, smooth_image
from rig_messages import RGB, RIG, THERMAL, Transforms, camera_info, transform
from sensor_msgs.msg import CameraInfo, Image

from ivf_core.bags.writer import BagWriter
from ivf_core.images.registration import Registration
from ivf_core.inference import FusionPipeline, ImagePair
from ivf_core.models.checkpoints import load_model
from ivf_core.rigs.remap import RigRegistration, read_registration
from ivf_core.rigs.rig import Plane, Rig
from ivf_core.rigs.rig_files import read_rig, write_rig
from ivf_core.scenes.rig_drive import RigDrive
from ivf_ros.conversions import to_visible
from ivf_ros.diagnostics import OK, WARN
from ivf_ros.registration_slot import RegistrationSlot
from ivf_ros.registration_watch import RegistrationWatch


class Settings:
    """Values of parameters by name, as `FusionParameters` gives them."""

    def __init__(self, **values: Any) -> None:
        self.values = {
            "registration": "file", "registration_file": "", "registration_update": "report",
            "registration_drift_pixels": 4.0, "registration_save_file": "", "offset_seconds": 0.0,
            **{name: str(v) if isinstance(v, Path) else v for name, v in values.items()},
        }  # fmt: skip

    def __getitem__(self, name: str) -> Any:
        return self.values[name]


class Log(list):
    """Logger that keeps its lines."""

    info = warning = list.append


def _slot(**values: Any) -> tuple[RegistrationSlot, list[Any]]:
    used: list[Any] = []
    slot = RegistrationSlot(Settings(**values), Log(), used.append)  # type: ignore[arg-type]
    slot.load()
    return slot, used


def test_lenses_of_camera_info_and_extrinsics_of_tf() -> None:
    slot, used = _slot(registration="camera_info")
    assert slot.finding()[0] == WARN
    slot.take_camera_info("rgb", camera_info(RGB, "rgb_optical"))
    slot.take_camera_info("thermal", camera_info(THERMAL, "thermal_optical"))
    level, text, _ = slot.finding()
    assert level == WARN
    assert "thermal images are stretched" in text
    mast = Transforms(
        transform("mast", "rgb_optical", (0.1, 0.0, 0.0)),
        transform("mast", "thermal_optical", (0.15, 0.0, 0.0)),
    )
    slot.take_transforms(mast)
    rig = used[-1].rig
    assert rig.translation == pytest.approx((0.05, 0.0, 0.0))
    assert replace(rig, translation=RIG.translation) == RIG
    level, _, values = slot.finding()
    assert (level, values["kind"], values["plane"]) == (OK, "two cameras", "infinity")
    count = len(used)
    slot.take_camera_info("rgb", camera_info(RGB, "rgb_optical"))  # sent with every image
    slot.take_transforms(mast)
    assert len(used) == count


def test_extrinsics_of_the_file_without_tf(tmp_path: Path) -> None:
    given = replace(RIG, rgb=RGB.resized((640, 480)), plane=Plane("distance", distance=9.0))
    write_rig(given, tmp_path / "rig.yaml")
    slot, used = _slot(registration="camera_info", registration_file=tmp_path / "rig.yaml")
    slot.take_camera_info("rgb", camera_info(RGB, "a"))
    slot.take_camera_info("thermal", CameraInfo(width=200, height=160))
    assert "thermal/camera_info: not calibrated" in slot.finding()[1]
    slot.take_camera_info("thermal", camera_info(THERMAL, "b"))
    assert used[-1].rig == replace(given, rgb=RGB)


def test_published_calibration_has_no_distortion_where_it_is_removed(tmp_path: Path) -> None:
    info = camera_info(RGB, "rgb")
    write_rig(RIG, tmp_path / "rig.yaml")
    assert _slot(registration_file=tmp_path / "rig.yaml")[0].published_info(info) is info
    write_rig(replace(RIG, undistort_rgb=True), tmp_path / "flat.yaml")
    flat = _slot(registration_file=tmp_path / "flat.yaml")[0].published_info(info)
    assert list(flat.d) == [0.0] * 5
    assert list(flat.k) == list(info.k)
    assert (flat.p[0], flat.p[2], flat.p[10]) == (260.0, 160.0, 1.0)
    assert list(info.d) == list(RGB.distortion)


def test_time_offset_of_the_rig_counts_unless_one_is_given(tmp_path: Path) -> None:
    write_rig(replace(RIG, time_offset_seconds=0.02), tmp_path / "rig.yaml")
    assert _slot(registration_file=tmp_path / "rig.yaml")[0].time_offset_seconds == 0.02
    given = _slot(registration_file=tmp_path / "rig.yaml", offset_seconds=-0.1)[0]
    assert given.time_offset_seconds == -0.1
    off = _slot(registration="off", registration_file=tmp_path / "rig.yaml")[0]
    assert off.registration == Registration()


@pytest.fixture(scope="module")
def drive() -> list[tuple[np.ndarray, np.ndarray]]:
    rig = Rig(RGB.undistorted(), THERMAL.undistorted(), translation=(0.05, 0, 0))
    drive = RigDrive(rig, seed=5)
    return [(p.visible, p.counts) for p in (drive.pair(0.8 * n) for n in range(12))]


def _watched(slot: RegistrationSlot, pairs: list, start: float = 0.0) -> None:
    for number, (visible, infrared) in enumerate(pairs):
        slot.offer(visible, infrared, start + 0.8 * number)
    slot.close()
    slot.check()


def test_auto_estimates_and_reports_drift_but_applies_only_when_asked(
    tmp_path: Path, drive: list
) -> None:
    saved = tmp_path / "saved.yaml"
    slot, used = _slot(registration="auto", registration_save_file=saved)
    assert slot.save()[0] is False
    for number, (visible, infrared) in enumerate(drive):
        slot.offer(visible, infrared, 0.8 * number)
    slot._watch._thread.join()
    slot.check()
    first = used[-1]
    assert isinstance(first, RigRegistration)
    assert "estimated from the images" in slot.finding()[1]
    truth = Rig(RGB.undistorted(), THERMAL.undistorted(), translation=(0.05, 0, 0))
    pixels = np.stack(np.meshgrid(np.arange(40, 280, 40), np.arange(40, 220, 40)), -1)
    off = np.linalg.norm(first.rig.thermal_pixels(pixels) - truth.thermal_pixels(pixels), axis=-1)
    assert off.mean() < 4
    # The thermal camera slips by ten of its pixels.
    moved = [(rgb, np.roll(thermal, 10, axis=1)) for rgb, thermal in drive]
    for number, (visible, infrared) in enumerate(moved):
        slot.offer(visible, infrared, 100 + 0.8 * number)
    slot._watch._thread.join()
    slot.check()
    assert used[-1] is first
    level, text, values = slot.finding()
    assert level == WARN
    assert text.startswith("off by ")
    ok, message = slot.save()
    assert ok
    assert "suggested rig" in message
    suggested = read_rig(saved)
    assert values["suggested"] == saved.read_text()
    step = suggested.thermal_pixels(pixels) - first.rig.thermal_pixels(pixels)
    assert np.median(step[..., 0]) == pytest.approx(10, abs=3)


def test_update_off_and_other_modes_estimate_nothing(tmp_path: Path, drive: list) -> None:
    write_rig(RIG, tmp_path / "rig.yaml")
    for options in ({"registration": "auto", "registration_update": "off"}, {}):
        slot, used = _slot(registration_file=tmp_path / "rig.yaml", **options)
        _watched(slot, drive)
        assert len(used) == 1
        assert "estimate.confidence" not in slot.finding()[2]


def test_the_watch_holds_few_small_pairs() -> None:
    watch = RegistrationWatch(60.0)
    visible, infrared = np.zeros((1080, 1920, 3), np.uint8), np.zeros((512, 640), np.uint16)
    for number in range(200):  # a hundred a second: only every half second one is taken
        watch.offer(visible, infrared, number / 100, Registration())
    assert watch.progress() == "4 of 12 pairs collected"
    assert watch._pairs[0][0].shape == (360, 640, 3)
    watch.offer(visible, infrared, 0.0, Registration())  # a bag that starts again
    assert watch.progress() == "1 of 12 pairs collected"


@pytest.mark.dds
def test_node_with_a_rig_file(graph: Graph, tiny_weights: Path, tmp_path: Path) -> None:
    """The node undistorts, registers, pairs by the rig's time offset, and saves the rig."""
    rig = replace(RIG, undistort_rgb=True, time_offset_seconds=0.03,
                  plane=Plane("distance", distance=8.0))  # fmt: skip
    write_rig(rig, tmp_path / "rig.yaml")
    visible, infrared = smooth_image(240, 320, 1), smooth_image(160, 200, 2)[..., 0].copy()
    bag = tmp_path / "bag"
    with BagWriter(bag) as writer:
        writer.write_image("/rgb/image_raw", START_NS, visible, "rgb8", "rgb_0")
        early = START_NS - 30_000_000
        writer.write_image("/thermal/image_raw", early, infrared, "mono8", "thermal")
    publisher = graph.node.create_publisher(CameraInfo, "/rgb/camera_info", 10)
    graph.listen("/fusion/fused/image", Image)
    graph.listen("/fusion/fused/camera_info", CameraInfo)
    saved = tmp_path / "new" / "saved.yaml"
    graph.start_fusion(tiny_weights, mode="replay", registration_file=str(tmp_path / "rig.yaml"),
                       registration_save_file=str(saved))  # fmt: skip
    graph.until(lambda: publisher.get_subscription_count() > 0)
    info = camera_info(RGB, "rgb_0")
    info.header.stamp.sec, info.header.stamp.nanosec = divmod(START_NS, 10**9)
    publisher.publish(info)
    graph.spin(0.5)
    graph.play(bag)
    graph.settle(1)
    graph.until(lambda: graph.messages["/fusion/fused/image"])
    pipeline = FusionPipeline(load_model(tiny_weights), engine="torch", device="cpu",
                              precision="fp32",
                              registration=read_registration(tmp_path / "rig.yaml"))  # fmt: skip
    expected = pipeline(ImagePair(visible, infrared)).fused
    fused = to_visible(graph.messages["/fusion/fused/image"][0])
    assert cv2.absdiff(fused, expected).max() <= 1
    graph.until(lambda: graph.messages["/fusion/fused/camera_info"])
    assert list(graph.messages["/fusion/fused/camera_info"][0].d) == [0.0] * 5
    values = graph.values("registration")
    assert (values["plane"], values["time_offset_seconds"]) == ("distance", "0.03")
    assert float(graph.values()["registration_ms.median"]) > 0
    answer = graph.trigger("save_registration")
    assert answer.success, answer.message
    assert read_rig(saved) == rig
    assert graph.values("settings")["registration"] == "file"
