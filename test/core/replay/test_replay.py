from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from replays import HEIGHT, RATE, WIDTH, drive, moved, rewrite, write_drive

from ivf_core.bags.convert import LABELS_TOPIC, RGB_TOPIC, START_NS, THERMAL_TOPIC
from ivf_core.bags.info import BagError
from ivf_core.bags.reader import BagReader
from ivf_core.bags.writer import BagWriter
from ivf_core.class_sets import MFNET, ClassSet
from ivf_core.images.messages import to_infrared, to_visible
from ivf_core.images.overlay import draw_overlay
from ivf_core.inference import FusionPipeline, ImagePair
from ivf_core.inference.pipeline import resize_labels
from ivf_core.metrics.fusion import FUSION_METRICS
from ivf_core.replay.run import replay_bag
from ivf_core.replay.settings import ReplaySettings

COUNT = 14


@pytest.fixture(scope="module")
def settings(tiny_weights: Path) -> ReplaySettings:
    return ReplaySettings(weights=str(tiny_weights), engine="torch", precision="fp32", threads=1)


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_drive(tmp_path_factory.mktemp("bags") / "drive", COUNT, labels=True)


@pytest.fixture(scope="module")
def replayed(bag: Path, settings: ReplaySettings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("replayed") / "drive"
    replay_bag(bag, output, changed(settings, inputs=True))
    return output


def changed(settings: ReplaySettings, **fields: object) -> ReplaySettings:
    return ReplaySettings(**{**settings.__dict__, **fields})


def rows(output: Path, table: str = "frames.csv") -> list[dict[str, str]]:
    with (output / table).open(newline="") as file:
        return list(csv.DictReader(file))


def summary_of(output: Path) -> dict:
    return json.loads((output / "summary.json").read_text())


def codes(summary: dict) -> set[str]:
    return {warning["code"] for warning in summary["warnings"]}


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


class TestOutputs:
    def test_bag_holds_the_messages_of_the_node(self, replayed: Path, tiny_model: object) -> None:
        pipeline = FusionPipeline(tiny_model, engine="torch", precision="fp32", threads=1)
        frames = list(drive(COUNT))
        with BagReader(replayed / "bag") as reader:
            by_topic: dict[str, list] = {}
            for message in reader.messages():
                by_topic.setdefault(message.topic, []).append(message)
            latched = {topic.name for topic in reader.topics if topic.latched}
        for k, frame in enumerate(frames):
            result = pipeline(ImagePair(frame.visible, frame.infrared))
            labels = resize_labels(result.labels, (HEIGHT, WIDTH))
            expected = {
                "fused": result.fused,
                "mask": labels,
                "overlay": draw_overlay(result.fused, labels, MFNET, 0.5),
            }
            for name, expected_image in expected.items():
                recorded = by_topic[f"/fusion/{name}/image"][k]
                image = recorded.message
                read = to_infrared if name == "mask" else to_visible
                np.testing.assert_array_equal(read(image), expected_image)
                assert image.encoding == ("mono8" if name == "mask" else "rgb8")
                assert image.header.frame_id == "rgb_camera"
                stamp = image.header.stamp.sec * 10**9 + image.header.stamp.nanosec
                assert stamp == recorded.time_ns == START_NS + round(k * 1e9 / RATE)
        assert len(by_topic[RGB_TOPIC]) == len(by_topic[THERMAL_TOPIC]) == COUNT
        assert ClassSet.from_json(by_topic["/fusion/labels"][0].message.data) == MFNET
        info = by_topic["/fusion/label_info"][0].message
        assert [one.class_name for one in info.class_map] == list(MFNET.names)
        assert latched == {"/fusion/labels", "/fusion/label_info"}

    def test_frames_csv_has_a_row_per_pair(self, replayed: Path) -> None:
        frames = rows(replayed)
        assert [int(row["index"]) for row in frames] == list(range(COUNT))
        assert frames[3]["stamp_ns"] == str(START_NS + 300_000_000)
        assert frames[3]["seconds"] == "0.300000"
        scored = [row["index"] for row in frames if row["EN"]]
        assert scored == ["0", "10"]
        for row in frames:
            shares = [float(row[f"share_{name}"]) for name in MFNET.names]
            assert sum(shares) == pytest.approx(1, abs=1e-4)
            assert (row["Qabf"] == "") == (row["index"] not in scored)
        assert frames[0]["flip_share"] == ""
        assert all(0 <= float(row["flip_share"]) <= 1 for row in frames[1:])
        assert set(FUSION_METRICS) < set(frames[0])

    def test_summary(self, replayed: Path, bag: Path) -> None:
        summary = summary_of(replayed)
        assert summary["format"] == 1
        assert summary["bag"]["path"] == "drive"
        assert summary["bag"]["messages"] == 3 * COUNT + 1  # and the class set
        assert summary["topics"]["guessed"]
        assert summary["topics"]["rgb"] == RGB_TOPIC
        assert summary["topics"]["labels"] == LABELS_TOPIC
        assert {c["name"] for c in summary["topics"]["candidates"]} == {
            RGB_TOPIC, THERMAL_TOPIC, LABELS_TOPIC,
        }  # fmt: skip
        pairing = summary["pairing"]
        assert pairing["received"] == {"rgb": COUNT, "thermal": COUNT}
        assert pairing["pairs"] == COUNT
        assert pairing["unmatched"] == {"rgb": {}, "thermal": {}}
        assert sum(pairing["offset_histogram"]["counts"]) == COUNT
        assert pairing["suggested_offset_seconds"] == 0
        assert pairing["gaps"] == []
        assert pairing["rate"]["rgb_hz"] == pairing["rate"]["pairs_hz"] == [10.0]
        assert summary["metrics"]["SSIM"]["frames"] == 2
        values = [float(row["SSIM"]) for row in rows(replayed) if row["SSIM"]]
        assert summary["metrics"]["SSIM"]["mean"] == pytest.approx(np.mean(values), rel=1e-4)
        assert summary["classes"]["names"] == list(MFNET.names)
        assert summary["left_out"] == []

    def test_masks_are_compared_with_the_labels_of_the_bag(self, replayed: Path) -> None:
        segmentation = summary_of(replayed)["segmentation"]
        counts = np.array(segmentation["confusion"])
        assert segmentation["pixels"] == counts.sum() == COUNT * HEIGHT * WIDTH
        assert counts[2].sum() == COUNT * 40 * 30  # the square
        hits = np.diag(counts)
        union = counts.sum(0) + counts.sum(1) - hits
        iou = hits[union > 0] / union[union > 0]
        assert segmentation["miou"] == pytest.approx(iou.mean(), abs=1e-5)
        assert segmentation["iou"]["bump"] is None or union[8] > 0
        assert all(row["miou"] for row in rows(replayed))

    def test_images(self, replayed: Path) -> None:
        names = {path.name for path in (replayed / "images").iterdir()}
        for k in range(COUNT):
            for kind in ("rgb", "thermal", "fused", "overlay"):
                assert f"{k:06d}_{kind}.jpg" in names
        image = cv2.imread(str(replayed / "images" / "000003_rgb.jpg"))
        frame = list(drive(4))[3]
        assert np.abs(image[..., ::-1].astype(int) - frame.visible).mean() < 4

    def test_same_bag_gives_the_same_bytes(
        self, replayed: Path, bag: Path, settings: ReplaySettings, tmp_path: Path
    ) -> None:
        replay_bag(bag, tmp_path / "again", changed(settings, inputs=True))
        first, second = digests(replayed), digests(tmp_path / "again")
        assert set(first) == set(second)
        differ = {name for name in first if first[name] != second[name]}
        assert differ <= {"summary.json", "timings.csv", "report.html"}  # times
        summaries = [summary_of(output) for output in (replayed, tmp_path / "again")]
        for summary in summaries:
            for timed in ("timings", "throughput"):
                del summary[timed]
        assert summaries[0] == summaries[1]

    def test_video(self, bag: Path, settings: ReplaySettings, tmp_path: Path) -> None:
        replay_bag(bag, tmp_path / "out", changed(settings, video=True))
        video = cv2.VideoCapture(str(tmp_path / "out" / "side_by_side.mp4"))
        assert int(video.get(cv2.CAP_PROP_FRAME_COUNT)) == COUNT
        assert video.get(cv2.CAP_PROP_FRAME_WIDTH) == 4 * WIDTH

    def test_sqlite3_storage_gives_the_same_messages(
        self, replayed: Path, bag: Path, settings: ReplaySettings, tmp_path: Path
    ) -> None:
        replay_bag(bag, tmp_path / "out", changed(settings, inputs=True, storage="sqlite3"))
        with BagReader(replayed / "bag") as mcap, BagReader(tmp_path / "out" / "bag") as sqlite3:
            assert sqlite3.info.format == "rosbag2 sqlite3"
            assert sorted(mcap.raw()) == sorted(sqlite3.raw())

    def test_earlier_replay_is_replaced(self, settings: ReplaySettings, tmp_path: Path) -> None:
        output = tmp_path / "out"
        replay_bag(write_drive(tmp_path / "long", 6), output, settings)
        (output / "notes.txt").write_text("mine")
        replay_bag(write_drive(tmp_path / "short", 4), output, settings)
        assert len(rows(output)) == 4
        assert not (output / "images" / "000005_rgb.jpg").exists()
        assert (output / "notes.txt").read_text() == "mine"
        assert sorted(path.name for path in tmp_path.iterdir()) == ["long", "out", "short"]


class TestRecorded:
    def test_scores_of_a_recording_equal_those_of_the_run(
        self, replayed: Path, settings: ReplaySettings, tmp_path: Path
    ) -> None:
        # The output bag has inputs and results, as a recording of the node would.
        summary = replay_bag(replayed / "bag", tmp_path / "out", changed(settings, recorded=""))
        assert summary["settings"]["engine"] == "recorded"
        assert not (tmp_path / "out" / "bag").exists()
        mine, run = rows(tmp_path / "out"), rows(replayed)
        for row in run:
            del row["miou"]  # the labels are in the other bag
        for one, other in zip(mine, run, strict=True):
            assert one == other

    def test_pairs_without_a_result_are_counted(
        self, replayed: Path, bag: Path, settings: ReplaySettings, tmp_path: Path
    ) -> None:
        gone = {START_NS + round(k * 1e9 / RATE) for k in (2, 7)}
        recording = rewrite(
            replayed / "bag",
            tmp_path / "recording",
            lambda m: None if "/fused/" in m.topic and m.time_ns in gone else m,
        )
        summary = replay_bag(bag, tmp_path / "out", changed(settings, recorded=str(recording)))
        assert summary["failed"] == {"not_recorded": 2}
        indices = [int(row["index"]) for row in rows(tmp_path / "out")]
        assert indices == [k for k in range(COUNT) if k not in (2, 7)]
        assert summary["segmentation"] is not None

    def test_bag_without_results_is_rejected(
        self, bag: Path, settings: ReplaySettings, tmp_path: Path
    ) -> None:
        with pytest.raises(BagError, match=r"drive': no topic ends in /fused/image"):
            replay_bag(bag, tmp_path / "out", changed(settings, recorded=""))


class TestOtherMethod:
    def test_fused_images_of_another_method_are_scored(
        self, bag: Path, settings: ReplaySettings, tmp_path: Path
    ) -> None:
        def add(target: Path) -> None:
            with BagReader(bag) as reader, BagWriter(target) as writer:
                for message in reader.raw([RGB_TOPIC, THERMAL_TOPIC]):
                    writer.write(*message)
                    if message.topic == RGB_TOPIC:  # the RGB image as it is
                        writer.write("/theirs/fused", *message[1:])

        add(tmp_path / "bag")
        summary = replay_bag(tmp_path / "bag", tmp_path / "out", settings)
        assert summary["topics"]["other_fused"] == "/theirs/fused"
        assert summary["other"]["SSIM"]["frames"] == 2
        row = rows(tmp_path / "out")[0]
        # The other method's image is the RGB image, so EN is that of the RGB image.
        frame = next(drive(1))
        counts = np.bincount(frame.visible[..., 0].ravel(), minlength=256) / (HEIGHT * WIDTH)
        entropy = -(counts[counts > 0] * np.log2(counts[counts > 0])).sum()
        assert float(row["other_EN"]) == pytest.approx(entropy, abs=1e-3)
        assert (tmp_path / "out" / "images" / "000000_other.jpg").exists()


class TestTopics:
    def test_named_topics(self, bag: Path, settings: ReplaySettings, tmp_path: Path) -> None:
        summary = replay_bag(
            bag,
            tmp_path / "out",
            changed(settings, rgb_topic=RGB_TOPIC, thermal_topic=THERMAL_TOPIC, labels_topic=""),
        )
        assert not summary["topics"]["guessed"]
        assert summary["topics"]["labels"] is None
        assert summary["segmentation"] is None

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"rgb_topic": "/missing"}, r"no topic /missing; its image topics: .*thermal"),
            ({"rgb_topic": THERMAL_TOPIC, "thermal_topic": THERMAL_TOPIC}, "as both cameras"),
        ],
    )
    def test_wrong_topics_are_rejected(
        self, bag: Path, settings: ReplaySettings, tmp_path: Path, fields: dict, message: str
    ) -> None:
        with pytest.raises(BagError, match=message):
            replay_bag(bag, tmp_path / "out", changed(settings, **fields))
        assert not (tmp_path / "out").exists()

    def test_one_camera_is_not_enough(
        self, bag: Path, settings: ReplaySettings, tmp_path: Path
    ) -> None:
        only = rewrite(bag, tmp_path / "rgb", lambda m: m if m.topic == RGB_TOPIC else None)
        with pytest.raises(BagError, match="cannot tell which topics"):
            replay_bag(only, tmp_path / "out", settings)


class TestPairing:
    def test_offset_between_the_shutters_is_suggested_with_opposite_sign(
        self, settings: ReplaySettings, tmp_path: Path
    ) -> None:
        late = rewrite(
            write_drive(tmp_path / "drive", 12),
            tmp_path / "late",
            lambda m: moved(m, 0.012) if m.topic == THERMAL_TOPIC else m,
        )
        summary = replay_bag(late, tmp_path / "out", settings)
        assert summary["pairing"]["suggested_offset_seconds"] == pytest.approx(-0.012, abs=1e-4)
        assert {row["offset_ms"] for row in rows(tmp_path / "out")} == {"12.000000"}
        assert "offset" in codes(summary)
        corrected = changed(settings, offset_seconds=-0.012)
        assert "offset" not in codes(replay_bag(late, tmp_path / "out", corrected))

    def test_missing_images_give_gaps_and_unmatched_images(
        self, settings: ReplaySettings, tmp_path: Path
    ) -> None:
        gone = {START_NS + round(k * 1e9 / RATE) for k in (4, 5, 6)}
        gappy = rewrite(
            write_drive(tmp_path / "drive", 12),
            tmp_path / "gappy",
            lambda m: None if m.topic == THERMAL_TOPIC and m.time_ns in gone else m,
        )
        summary = replay_bag(gappy, tmp_path / "out", settings)
        assert summary["pairing"]["pairs"] == 9
        assert summary["pairing"]["unmatched"] == {"rgb": {"unmatched": 3}, "thermal": {}}
        (gap,) = summary["pairing"]["gaps"]
        assert gap == {"topic": "thermal", "start_seconds": 0.3, "seconds": 0.4}
        assert "gaps" in codes(summary)

    def test_clocks_hours_apart(self, settings: ReplaySettings, tmp_path: Path) -> None:
        apart = rewrite(
            write_drive(tmp_path / "drive", 12),
            tmp_path / "apart",
            lambda m: moved(m, 7200.0, recording=False) if m.topic == THERMAL_TOPIC else m,
        )
        summary = replay_bag(apart, tmp_path / "out", settings)
        assert summary["pairing"]["pairs"] == 0
        assert {"clocks_differ", "no_pairs"} <= codes(summary)
        suggested = summary["pairing"]["suggested_offset_seconds"]
        assert suggested == pytest.approx(-7200.0, abs=1e-3)
        again = changed(settings, offset_seconds=suggested)
        summary = replay_bag(apart, tmp_path / "out", again)
        assert summary["pairing"]["pairs"] == 12
        assert not {"clocks_differ", "no_pairs"} & codes(summary)

    def test_stamps_that_go_back(self, settings: ReplaySettings, tmp_path: Path) -> None:
        def loop(message):
            again = message.time_ns >= START_NS + 600_000_000
            return moved(message, -0.6, recording=False) if again else message

        looped = rewrite(write_drive(tmp_path / "drive", 12), tmp_path / "looped", loop)
        summary = replay_bag(looped, tmp_path / "out", settings)
        assert summary["pairing"]["pairs"] == 12
        assert summary["pairing"]["stamps_back"] == {"rgb": 1, "thermal": 1}
        assert "stamps_back" in codes(summary)
        seconds = [float(row["seconds"]) for row in rows(tmp_path / "out")]
        assert seconds == sorted(seconds)

    def test_images_without_a_stamp_are_paired_by_time_of_recording(
        self, settings: ReplaySettings, tmp_path: Path
    ) -> None:
        bare = rewrite(
            write_drive(tmp_path / "drive", 6),
            tmp_path / "bare",
            lambda m: moved(m, -m.time_ns / 1e9, recording=False)._replace(
                message=m.message[:4] + bytes(8) + m.message[12:]
            ),
        )
        summary = replay_bag(bare, tmp_path / "out", settings)
        assert summary["pairing"]["pairs"] == 6
        assert "zero_stamps" in codes(summary)
        assert rows(tmp_path / "out")[0]["stamp_ns"] == str(START_NS)


class TestImages:
    def test_faults_of_the_cameras_give_warnings(
        self, settings: ReplaySettings, tmp_path: Path
    ) -> None:
        frames = list(drive(12))
        with BagWriter(tmp_path / "bag") as writer:
            for k, frame in enumerate(frames):
                stamp = START_NS + k * 100_000_000
                visible = frame.visible // 16 if k == 3 else frame.visible
                infrared = frames[5].infrared if k in (5, 6) else frame.infrared
                if k == 9:
                    infrared = infrared.copy()
                    infrared[: HEIGHT // 4] = 255
                writer.write_image(RGB_TOPIC, stamp, visible, "rgb8", "rgb")
                writer.write_image(THERMAL_TOPIC, stamp, infrared, "mono8", "thermal")
        summary = replay_bag(tmp_path / "bag", tmp_path / "out", settings)
        found = {w["code"]: w["frames"] for w in summary["warnings"]}
        assert found["rgb_dark"] == [3]
        assert found["infrared_frozen"] == [6]
        assert found["infrared_saturated"] == [9]
        reasons = {one["frame"]: " ".join(one["reasons"]) for one in summary["notable"]}
        assert "dark RGB" in reasons[3]
        assert "frozen" in reasons[6]
        assert "saturated" in reasons[9]

    def test_pixels_of_no_scene_give_a_warning(
        self, settings: ReplaySettings, tmp_path: Path
    ) -> None:
        random = np.random.default_rng(0)
        with BagWriter(tmp_path / "bag") as writer:
            for k, frame in enumerate(drive(4)):
                stamp = START_NS + k * 100_000_000
                counts = random.integers(7000, 9000, frame.infrared.shape, np.uint16)
                if k == 2:
                    counts[: HEIGHT // 8] = 0
                writer.write_image(RGB_TOPIC, stamp, frame.visible, "rgb8", "rgb")
                writer.write_image(THERMAL_TOPIC, stamp, counts, "mono16", "thermal")
        summary = replay_bag(tmp_path / "bag", tmp_path / "out", settings)
        found = {w["code"]: w for w in summary["warnings"]}
        assert found["no_scene"]["frames"] == [2]
        assert f"{HEIGHT // 8 * WIDTH} at most" in found["no_scene"]["text"]

    @pytest.mark.parametrize("encoding", ["mono16", "32FC1"])
    def test_thermal_of_other_depths(
        self, settings: ReplaySettings, tmp_path: Path, encoding: str
    ) -> None:
        with BagWriter(tmp_path / "bag") as writer:
            for k, frame in enumerate(drive(4)):
                stamp = START_NS + k * 100_000_000
                counts = frame.infrared.astype(np.uint16 if encoding == "mono16" else np.float32)
                writer.write_compressed(
                    f"{RGB_TOPIC}/compressed", stamp, frame.visible, "rgb8", "rgb"
                )
                writer.write_image(THERMAL_TOPIC, stamp, counts * 9 + 7000, encoding, "thermal")
        summary = replay_bag(tmp_path / "bag", tmp_path / "out", settings)
        assert summary["topics"]["rgb"] == f"{RGB_TOPIC}/compressed"
        assert len(rows(tmp_path / "out")) == 4
        thermal = cv2.imread(str(tmp_path / "out" / "images" / "000000_thermal.jpg"))
        assert thermal.max() > 220  # the gain control has stretched it

    def test_images_that_cannot_be_decoded_are_counted(
        self, settings: ReplaySettings, tmp_path: Path
    ) -> None:
        def spoil(message):
            if message.time_ns == START_NS + 200_000_000 and message.topic == RGB_TOPIC:
                return message._replace(message=message.message.replace(b"rgb8", b"rgb9"))
            if message.time_ns == START_NS + 400_000_000 and message.topic == THERMAL_TOPIC:
                return message._replace(message=message.message[:40])
            return message

        spoilt = rewrite(write_drive(tmp_path / "drive", 6), tmp_path / "spoilt", spoil)
        summary = replay_bag(spoilt, tmp_path / "out", settings)
        assert summary["failed"] == {"rgb_unknown_encoding": 1, "thermal_undecodable": 1}
        assert [row["index"] for row in rows(tmp_path / "out")] == ["0", "1", "3", "5"]
        assert any("rgb9" in line for line in summary["left_out"])
        assert "failed" in codes(summary)

    def test_label_ids_outside_the_classes_do_not_count(
        self, settings: ReplaySettings, tmp_path: Path
    ) -> None:
        frames = list(drive(2))
        with BagWriter(tmp_path / "bag") as writer:
            for k, frame in enumerate(frames):
                stamp = START_NS + k * 100_000_000
                labels = np.where(frame.labels == 2, np.uint8(77), frame.labels)
                writer.write_image(RGB_TOPIC, stamp, frame.visible, "rgb8", "rgb")
                writer.write_image(THERMAL_TOPIC, stamp, frame.infrared, "mono8", "thermal")
                writer.write_image(LABELS_TOPIC, stamp, labels, "mono8", "rgb")
        summary = replay_bag(tmp_path / "bag", tmp_path / "out", settings)
        assert summary["segmentation"]["pixels"] == 2 * (HEIGHT * WIDTH - 40 * 30)
        assert any("id 77" in line for line in summary["left_out"])
