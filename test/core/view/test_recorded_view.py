"""View of recordings: the same results as a replay, in any order of frames."""

from __future__ import annotations

import io
import json
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from replays import drive, moved, rewrite, write_drive
from small_bags import write_rosbag1

from ivf_core.bags.info import BagError
from ivf_core.images.files import write_image
from ivf_core.images.pair_sources import open_pairs
from ivf_core.images.videos import VideoWriter
from ivf_core.inference import FusionPipeline, ImagePair
from ivf_core.models.checkpoints import FusionModel
from ivf_core.replay.settings import ReplaySettings
from ivf_core.view.bag_pairs import BagPairs
from ivf_core.view.recorded import RecordedView
from ivf_core.view.sequences import FilePairs, Sequence, UnreadableFrameError

COUNT = 14


@pytest.fixture(scope="module")
def pipeline(tiny_model: FusionModel) -> FusionPipeline:
    return FusionPipeline(tiny_model, engine="torch", device="cpu", precision="fp32")


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_drive(tmp_path_factory.mktemp("bags") / "drive", COUNT)


def indexed(sequence: Sequence) -> Sequence:
    """Wait until all frames are known."""
    deadline = time.monotonic() + 30
    while not sequence.progress()["complete"]:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return sequence


@pytest.fixture
def pairs(bag: Path) -> Iterator[BagPairs]:
    pairs = BagPairs(bag, ReplaySettings())
    indexed(pairs)
    yield pairs
    pairs.close()


def counters(sequence: Sequence) -> dict[str, int]:
    return dict(sequence.progress()["counters"])


class TestBag:
    def test_frames_in_any_order_are_those_of_the_drive(self, pairs: BagPairs) -> None:
        frames = list(drive(COUNT))
        assert len(pairs.seconds(0)) == COUNT
        for number in (0, 1, 2, 9, 3, 13, 0, 7, 6, 5):
            frame = pairs.read(number)
            np.testing.assert_array_equal(frame.visible, frames[number].visible)
            np.testing.assert_array_equal(frame.infrared, frames[number].infrared)
            assert frame.seconds == pytest.approx(number / 10)
        assert pairs.seconds(COUNT - 2) == pytest.approx([1.2, 1.3])
        with pytest.raises(LookupError, match="frame 14: 14 are indexed"):
            pairs.read(COUNT)

    @pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
    def test_messages_since_a_time(self, storage: str, tmp_path: Path) -> None:
        from ivf_core.bags.reader import BagReader

        path = write_drive(tmp_path / "drive", 6, storage=storage)
        with BagReader(path) as reader:
            every = list(reader.raw(["/rgb/image_raw"]))
            for since in (0, every[2].time_ns, every[2].time_ns + 1, every[-1].time_ns + 1):
                late = list(reader.raw(["/rgb/image_raw"], since))
                assert late == [message for message in every if message.time_ns >= since]

    def test_rosbag1_since_a_time(self, tmp_path: Path) -> None:
        from ivf_core.bags.reader import BagReader

        write_rosbag1(tmp_path / "drive.bag")
        with BagReader(tmp_path / "drive.bag") as reader:
            every = list(reader.raw(["/rgb/image_raw"]))
            assert list(reader.raw(["/rgb/image_raw"], every[1].time_ns)) == every[1:]

    def test_lost_images_are_counted_where_they_are(self, bag: Path, tmp_path: Path) -> None:
        numbers = {"n": 0}

        def drop(message):  # type: ignore[no-untyped-def]
            if message.topic.startswith("/thermal"):
                numbers["n"] += 1
                if numbers["n"] in (5, 6):
                    return None
            return message

        pairs = BagPairs(rewrite(bag, tmp_path / "lossy", drop), ReplaySettings())
        try:
            indexed(pairs)
            assert counters(pairs)["pairs"] == COUNT - 2
            assert counters(pairs)["RGB unmatched"] == 2
            timeline = pairs.timeline.to_json()
            lost = np.flatnonzero(timeline["lost"]) * timeline["bin_seconds"]
            assert sum(timeline["lost"]) == 2
            assert lost.min() > 0.35
            assert lost.max() < 0.85
            assert any("no thermal image" in event["text"] for event in timeline["events"])
        finally:
            pairs.close()

    def test_a_silent_camera_leaves_the_other_alone(self, tmp_path: Path) -> None:
        source = write_drive(tmp_path / "long", 40)
        silent = rewrite(
            source,
            tmp_path / "silent",
            lambda m: None if m.topic.startswith("/rgb") and m.time_ns > 1_700_000_001e9 else m,
        )
        pairs = BagPairs(silent, ReplaySettings())
        try:
            indexed(pairs)
            assert counters(pairs)["of one camera alone"] > 5
            last = pairs.read(len(pairs.seconds(0)) - 1)
            assert last.visible is None
            assert last.infrared is not None
            assert any(
                "thermal camera alone" in e["text"] for e in pairs.timeline.to_json()["events"]
            )
        finally:
            pairs.close()

    def test_images_recorded_apart_and_damaged_bags(self, bag: Path, tmp_path: Path) -> None:
        late = rewrite(
            bag,
            tmp_path / "late",
            lambda m: (
                moved(m, 0.0)
                if m.topic.startswith("/rgb")
                else m._replace(time_ns=m.time_ns + 400_000_000)
            ),
        )
        (file,) = (path for path in late.iterdir() if path.suffix != ".yaml")
        frames = list(drive(COUNT))
        for cut in (None, file.stat().st_size * 3 // 4):
            if cut is not None:
                file.write_bytes(file.read_bytes()[:cut])
            pairs = BagPairs(late, ReplaySettings())
            try:
                indexed(pairs)
                count = len(pairs.seconds(0))
                assert count == COUNT if cut is None else 4 < count < COUNT
                for number in (count - 1, 0, 1):
                    np.testing.assert_array_equal(
                        pairs.read(number).infrared, frames[number].infrared
                    )
                assert ("read without its index" in pairs.progress()["note"]) == (cut is not None)
            finally:
                pairs.close()

    def test_a_missing_bag_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(BagError, match="no such file"):
            BagPairs(tmp_path / "none", ReplaySettings())


class TestFiles:
    def test_video_frames_in_any_order(self, tmp_path: Path) -> None:
        for name in ("v", "i"):
            with VideoWriter(tmp_path / f"{name}.mp4", 10.0, (64, 80)) as writer:
                for number in range(60):
                    image = np.zeros((64, 80, 3), np.uint8)
                    image[:, number : number + 20] = 200
                    writer.write(image)
        source = open_pairs(tmp_path / "v.mp4", tmp_path / "i.mp4")
        expected = list(source.frames())
        assert [frame.seconds for frame in source.frames(start=37)] == [
            frame.seconds for frame in expected[37:]
        ]
        pairs = FilePairs(source, "v.mp4")
        assert len(pairs.seconds(0)) == 60
        for number in (0, 1, 59, 5, 6, 40, 2):
            frame = pairs.read(number)
            np.testing.assert_array_equal(frame.visible, expected[number].visible)
            np.testing.assert_array_equal(frame.infrared, expected[number].infrared)
            assert frame.stamp == expected[number].seconds
        pairs.close()

    def test_folder_with_a_damaged_image(self, pipeline: FusionPipeline, tmp_path: Path) -> None:
        for number, frame in enumerate(drive(4)):
            write_image(tmp_path / "visible" / f"{number}.png", frame.visible)
            write_image(tmp_path / "infrared" / f"{number}.png", frame.infrared)
        (tmp_path / "visible" / "2.png").write_bytes(b"\x89PNG\r\n\x1a\nno")
        pairs = FilePairs(open_pairs(tmp_path / "visible", tmp_path / "infrared"), "folder")
        with pytest.raises(UnreadableFrameError, match=r"2\.png"):
            pairs.read(2)
        view = RecordedView(pairs, pipeline)
        values = [view.frame(number) for number in (1, 2, 3)]
        assert [value["failed"] != "" for value in values] == [False, True, False]
        assert [value["name"] for value in values] == ["1", "frame_000002", "3"]
        assert values[0]["health"] == []  # images without times
        assert view.status(-1, -1)["counters"] == [["pairs", 4], ["cannot be read", 1]]
        view.close()


class TestView:
    def test_results_are_those_of_the_pipeline(
        self, pairs: BagPairs, pipeline: FusionPipeline
    ) -> None:
        view = RecordedView(pairs, pipeline)
        frame = list(drive(COUNT))[6]
        expected = pipeline(ImagePair(frame.visible, frame.infrared, 0.0))
        values = view.frame(6)
        assert values["panels"] == ["fused", "overlay", "mask", "thermal", "rgb"]
        assert sum(values["shares"]) == pytest.approx(1, abs=0.01)
        archive = zipfile.ZipFile(io.BytesIO(view.content(6, "frame.zip", {}).data))
        stem = archive.namelist()[0].partition("/")[0]
        names = {name.partition("/")[2] for name in archive.namelist()}
        assert names == {
            "fused.png", "overlay.png", "mask.png", "thermal.png", "rgb.png", "class_ids.png",
            "frame.json",
        }  # fmt: skip

        def image(name: str) -> np.ndarray:
            data = np.frombuffer(archive.read(f"{stem}/{name}"), np.uint8)
            read = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
            return read[..., ::-1] if read.ndim == 3 else read

        np.testing.assert_array_equal(image("fused.png"), expected.fused)
        np.testing.assert_array_equal(image("class_ids.png"), expected.labels)
        np.testing.assert_array_equal(image("rgb.png"), frame.visible)
        np.testing.assert_array_equal(image("thermal.png"), frame.infrared)
        assert json.loads(archive.read(f"{stem}/frame.json"))["number"] == 6

    def test_memory_is_bounded_and_kept_frames_are_not_computed_again(
        self, pairs: BagPairs, pipeline: FusionPipeline, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        view = RecordedView(pairs, pipeline)
        first = view.frame(0)
        assert view.frame(0) is first
        monkeypatch.setattr("ivf_core.view.recorded._KEPT_BYTES", 3 * 168 * 192 * 8)
        for number in range(8):
            view.frame(number)
        assert view.frame(7) is view.frame(7)
        assert view.frame(0) is not first
        assert sum(kept.images.size_bytes for kept in view._kept.values()) <= 3 * 168 * 192 * 8

    def test_options_change_the_panels_and_bad_ones_are_named(
        self, pairs: BagPairs, pipeline: FusionPipeline
    ) -> None:
        view = RecordedView(pairs, pipeline)
        plain = view.content(0, "thermal.png", {}).data
        assert view.content(0, "thermal.png", {"palette": "ironbow"}).data != plain
        assert view.content(0, "overlay.jpg", {"opacity": "1"}).data[:2] == b"\xff\xd8"
        for options in ({"opacity": "nan"}, {"opacity": "2"}, {"base": "x"}):
            with pytest.raises(ValueError, match=r"opacity|palette"):
                view.content(0, "overlay.png", options)
        with pytest.raises(ValueError, match="palette is 'x'"):
            view.content(0, "thermal.png", {"palette": "x"})
        with pytest.raises(LookupError, match=r"no depth\.png"):
            view.content(0, "depth.png", {})

    def test_a_black_camera_is_left_out_and_becomes_an_event(
        self, pipeline: FusionPipeline, tmp_path: Path
    ) -> None:
        frames = list(drive(16))
        for frame in frames[4:]:
            frame.visible = np.zeros_like(frame.visible)
        for number, frame in enumerate(frames):
            write_image(tmp_path / "visible" / f"{number:02d}.png", frame.visible)
            write_image(tmp_path / "infrared" / f"{number:02d}.png", frame.infrared)
        source = open_pairs(tmp_path / "visible", tmp_path / "infrared")
        view = RecordedView(FilePairs(source, "night", 10.0), pipeline)
        values = [view.frame(number) for number in range(16)]
        assert values[0]["alone"] == ""
        assert values[15]["alone"] == "thermal"
        assert values[15]["health"][0]["severity"] == "unusable"
        assert "lens cap" in values[15]["health"][0]["remedy"]
        timeline = view.status(-1, -1)["timeline"]
        assert max(timeline["severity"]) == 3
        assert min(timeline["severity"][:200]) == 0  # frames of one run, without a gap
        assert [event["severity"] for event in timeline["events"]] == [3]
        view.close()
