from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from small_bags import STORAGES, drive_frames, pixels, random_image, stamp_ns

from ivf_core.bags.convert import (
    CLASSES_TOPIC,
    LABELS_TOPIC,
    RGB_TOPIC,
    START_NS,
    THERMAL_TOPIC,
    from_video,
    write_drive_bag,
)
from ivf_core.bags.info import COMPRESSED_IMAGE_TYPE, IMAGE_TYPE, BagError
from ivf_core.bags.reader import BagReader, bag_info
from ivf_core.images.videos import VideoWriter


@pytest.mark.parametrize("storage", STORAGES)
def test_drive_bag_round_trip_keeps_pixels_stamps_and_order(tmp_path: Path, storage: str) -> None:
    frames = drive_frames(5)
    assert write_drive_bag(tmp_path / "drive", frames, 30.0, storage=storage) == 5

    info = bag_info(tmp_path / "drive")
    assert info.format == f"rosbag2 {storage}"
    assert info.messages == 16
    assert info.start_ns == START_NS
    assert info.duration_seconds == pytest.approx(4 / 30, abs=1e-8)
    assert {(t.name, t.type, t.count) for t in info.topics} == {
        *((name, IMAGE_TYPE, 5) for name in (RGB_TOPIC, THERMAL_TOPIC, LABELS_TOPIC)),
        (CLASSES_TOPIC, "std_msgs/msg/String", 1),
    }
    assert all(t.rate_hz == pytest.approx(30.0) for t in info.topics if t.is_image)

    with BagReader(tmp_path / "drive") as reader:
        messages = list(reader.messages())
    assert [m.time_ns for m in messages] == sorted(m.time_ns for m in messages)
    for topic, encoding, name in (
        (RGB_TOPIC, "rgb8", "visible"),
        (THERMAL_TOPIC, "mono8", "infrared"),
        (LABELS_TOPIC, "mono8", "labels"),
    ):
        found = [m.message for m in messages if m.topic == topic]
        assert [m.encoding for m in found] == [encoding] * 5
        for k, (message, frame) in enumerate(zip(found, frames, strict=True)):
            assert stamp_ns(message) == START_NS + round(k * 1e9 / 30)
            np.testing.assert_array_equal(pixels(message), getattr(frame, name))


def test_labels_are_optional_and_progress_is_reported(tmp_path: Path) -> None:
    calls = []
    write_drive_bag(
        tmp_path / "drive",
        drive_frames(2, labels=False),
        10.0,
        progress=lambda done, total: calls.append((done, total)),
    )
    assert calls == [(1, 2), (2, 2)]
    assert {t.name for t in bag_info(tmp_path / "drive").topics} == {RGB_TOPIC, THERMAL_TOPIC}


class TestFromVideo:
    @pytest.fixture
    def folders(self, tmp_path: Path) -> tuple[Path, Path]:
        for name, shape in (("visible", (24, 32, 3)), ("infrared", (24, 32))):
            (tmp_path / name).mkdir()
            for k in range(3):
                image = np.full(shape, 10 * k + 5, np.uint8)
                assert cv2.imwrite(str(tmp_path / name / f"{k}.png"), image)
        return tmp_path / "visible", tmp_path / "infrared"

    def test_folders_with_an_offset(self, tmp_path: Path, folders: tuple[Path, Path]) -> None:
        (folders[1] / "lonely.png").write_bytes((folders[1] / "0.png").read_bytes())
        converted = from_video(
            *folders, tmp_path / "bag", rate_hz=5.0, infrared_offset_seconds=0.01
        )
        assert converted.pairs == 3
        assert converted.unmatched == [f"{folders[1] / 'lonely.png'}: no partner"]
        with BagReader(tmp_path / "bag") as reader:
            messages = list(reader.messages())
        rgb = [m.message for m in messages if m.topic == RGB_TOPIC]
        thermal = [m.message for m in messages if m.topic == THERMAL_TOPIC]
        assert [stamp_ns(m) - START_NS for m in rgb] == [0, 200_000_000, 400_000_000]
        assert [stamp_ns(m) - START_NS for m in thermal] == [10**7, 21 * 10**7, 41 * 10**7]
        assert [m.data[0] for m in rgb] == [m.data[0] for m in thermal] == [5, 15, 25]

    def test_folders_need_a_rate(self, tmp_path: Path, folders: tuple[Path, Path]) -> None:
        with pytest.raises(BagError, match="no frame rate"):
            from_video(*folders, tmp_path / "bag")

    def test_compressed_16_bit_images(self, tmp_path: Path, folders: tuple[Path, Path]) -> None:
        deep = random_image((24, 32), np.uint16)
        for k in range(3):
            assert cv2.imwrite(str(folders[1] / f"{k}.png"), deep)
        from_video(*folders, tmp_path / "bag", rate_hz=5.0, compressed=True)
        with BagReader(tmp_path / "bag") as reader:
            types = {t.name: t.type for t in reader.topics}
            thermal = next(iter(reader.messages([f"{THERMAL_TOPIC}/compressed"]))).message
        assert types == {
            f"{RGB_TOPIC}/compressed": COMPRESSED_IMAGE_TYPE,
            f"{THERMAL_TOPIC}/compressed": COMPRESSED_IMAGE_TYPE,
        }
        decoded = cv2.imdecode(thermal.data, cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(decoded, deep)

    def test_rate_comes_from_videos_and_unmatched_frames_are_reported(self, tmp_path: Path) -> None:
        for name, count in (("visible.mp4", 4), ("infrared.mp4", 6)):
            with VideoWriter(tmp_path / name, 12.5, (24, 32)) as video:
                for k in range(count):
                    video.write(np.full((24, 32, 3), 40 * k, np.uint8))
        converted = from_video(
            tmp_path / "visible.mp4", tmp_path / "infrared.mp4", tmp_path / "bag"
        )
        assert converted.pairs == 4
        assert "infrared.mp4" in converted.unmatched[0]
        info = bag_info(tmp_path / "bag")
        assert info.messages == 8
        assert info.duration_seconds == pytest.approx(3 / 12.5, abs=1e-6)
