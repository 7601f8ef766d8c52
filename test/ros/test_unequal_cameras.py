"""Test of the node with cameras as they are: a small slow thermal one beside a large fast one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from harness import START_NS, Graph
from rclpy.serialization import serialize_message
from rig_messages import camera_info
from sensor_msgs.msg import CameraInfo, Image

from ivf_core.bags.writer import BagWriter
from ivf_core.defaults import MINIMUM_INTERVAL_SECONDS, TOLERANCE_SECONDS
from ivf_core.inference import FusionPipeline, ImagePair
from ivf_core.pairing import pair_streams
from ivf_core.rigs.camera import CameraModel
from ivf_core.rigs.remap import RigRegistration
from ivf_core.rigs.rig import Rig
from ivf_core.rigs.rig_files import write_rig
from ivf_core.scenes.rig_drive import RigDrive
from ivf_ros.conversions import to_visible
from ivf_ros.diagnostics import OK
from ivf_ros.synchronizer import stamp_to_ns

# A quarter of 1920 x 1080 at 30 Hz, and a Lepton of 8.7 Hz.
RGB = CameraModel((480, 270), (380.0, 380.0), (240.0, 137.0), "plumb_bob",
                  (-0.2, 0.05, 0.001, 0.0))  # fmt: skip
THERMAL = CameraModel((160, 120), (170.0, 170.0), (79.0, 60.0), "plumb_bob",
                      (-0.1, 0.02, 0.0, 0.0))  # fmt: skip
RIG = Rig(RGB, THERMAL, translation=(0.04, 0.0, 0.0), time_offset_seconds=0.011)
SECONDS = 2.0


def _times(rate: float, start: float) -> list[float]:
    return [start + k / rate for k in range(int(SECONDS * rate))]


def _ns(seconds: float) -> int:
    return START_NS + round(seconds * 1e9)


def _write(path: Path) -> tuple[list[tuple[int, int]], dict[int, Any]]:
    """Write a bag with camera_info beside each image; return its pairs and all images by stamp."""
    drive = RigDrive(RIG, seed=5)
    rgb, thermal = _times(30.0, 0.02), _times(8.7, 0.05)
    images: dict[int, Any] = {_ns(t): drive.visible(t) for t in rgb}
    # The stamp of a thermal image is too early by the rig's offset.
    counts = {_ns(t): drive.infrared(t + RIG.time_offset_seconds)[1] for t in thermal}
    with BagWriter(path) as bag:
        for stamp, (camera, model) in sorted(
            [*((s, ("rgb", RGB)) for s in images), *((s, ("thermal", THERMAL)) for s in counts)],
            key=lambda entry: entry[0],
        ):
            info = camera_info(model, camera)
            info.header.stamp.sec, info.header.stamp.nanosec = divmod(stamp, 10**9)
            kind = "sensor_msgs/msg/CameraInfo"
            bag.write(f"/{camera}/camera_info", kind, stamp, serialize_message(info))
            image, encoding = (
                (images[stamp], "rgb8") if camera == "rgb" else (counts[stamp], "mono16")
            )
            bag.write_image(f"/{camera}/image_raw", stamp, image, encoding, camera)
    streams = list(images), list(counts)
    found, _ = pair_streams(
        *streams,
        tolerance_ns=round(TOLERANCE_SECONDS * 1e9),
        offset_ns=round(RIG.time_offset_seconds * 1e9),
        minimum_interval_ns=round(MINIMUM_INTERVAL_SECONDS * 1e9),
    )
    return [(streams[0][i], streams[1][j]) for i, j in found], {**images, **counts}


@pytest.mark.dds
@pytest.mark.parametrize("source", ["file", "camera_info"])
def test_a_slow_small_thermal_camera_beside_a_fast_large_one(
    graph: Graph, tmp_path: Path, source: str
) -> None:
    """Check pairs, counters, sizes and stamps; camera_info with the extrinsics of a file."""
    pairs, images = _write(tmp_path / "bag")
    assert len(pairs) in (16, 17)  # all thermal images but perhaps the last one
    lenses = Rig(RGB.undistorted(), THERMAL.undistorted())  # wrong: camera_info has the right ones
    written = RIG if source == "file" else replace(RIG, rgb=lenses.rgb, thermal=lenses.thermal)
    write_rig(written, tmp_path / "rig.yaml")
    for name, kind in (("fused/image", Image), ("mask/image", Image),
                       ("fused/camera_info", CameraInfo)):  # fmt: skip
        graph.listen(f"/fusion/{name}", kind)
    graph.start_fusion(Path("clear"), mode="replay", registration=source,
                       registration_file=str(tmp_path / "rig.yaml"))  # fmt: skip
    graph.play(tmp_path / "bag")
    graph.settle(len(pairs))

    def received(topic: str) -> list[Any]:
        return graph.messages[f"/fusion/{topic}"]

    graph.until(lambda: len(received("fused/image")) == len(received("mask/image")) == len(pairs))
    stamps = [rgb for rgb, _ in pairs]
    for topic in ("fused/image", "mask/image"):
        assert [stamp_to_ns(message.header.stamp) for message in received(topic)] == stamps
        assert {(m.width, m.height) for m in received(topic)} == {RGB.size}
    graph.until(lambda: received("fused/camera_info"))
    info = received("fused/camera_info")[-1]
    assert (info.width, info.height) == RGB.size
    assert info.distortion_model == "plumb_bob"
    np.testing.assert_allclose(info.d, RGB.distortion)

    pipeline = FusionPipeline("clear", engine="torch", device="cpu", precision="fp32",
                              registration=RigRegistration(RIG))  # fmt: skip
    result = None
    for rgb, thermal in pairs:
        result = pipeline(ImagePair(images[rgb], images[thermal], thermal / 1e9))
    assert result is not None
    assert result.coverage is not None  # the thermal camera sees a part
    fused = to_visible(received("fused/image")[-1])
    assert cv2.absdiff(fused, result.fused).max() <= 1

    came_in, out, dropped = graph.counts()
    assert (came_in, out, dropped) == (len(pairs), len(pairs), {})
    cameras = {camera: graph.values(f"{camera} camera") for camera in ("rgb", "thermal")}
    assert {c: values["received"] for c, values in cameras.items()} == {
        "rgb": "60",
        "thermal": "17",
    }
    assert {values["lost_share_estimate"] for values in cameras.values()} == {"0.000"}
    values = graph.values("registration")
    assert (values["kind"], values["time_offset_seconds"]) == ("two cameras", "0.011")
    assert (values["rgb_size"], values["thermal_size"]) == ("480 x 270", "160 x 120")
    for part in ("registration", "pairing", "pairs"):
        assert graph.status(part).level == OK, graph.status(part)
