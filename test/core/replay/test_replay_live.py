"""Reports of the node in recordings, by recordings made by hand."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from replays import RATE, drive, write_drive

from ivf_core.bags.convert import START_NS
from ivf_core.bags.reader import BagReader
from ivf_core.bags.stamps import read_stamp
from ivf_core.bags.typestore import header, message
from ivf_core.bags.writer import BagWriter
from ivf_core.replay.live import RecordedStamps, live_warnings, read_live
from ivf_core.replay.run import replay_bag
from ivf_core.replay.settings import ReplaySettings

NODE = "/front/fusion"
DIAGNOSTICS = "diagnostic_msgs/msg/DiagnosticArray"
SECOND = 10**9
PLAYED = START_NS + 10_000 * SECOND  # when the bag was played


def status(name: str, values: Mapping[str, Any]) -> Any:
    pairs = [
        message("diagnostic_msgs/msg/KeyValue", key=key, value=str(value))
        for key, value in values.items()
    ]
    return message(
        "diagnostic_msgs/msg/DiagnosticStatus",
        level=0, name=name, message="", hardware_id="", values=pairs,
    )  # fmt: skip


def report(bag: BagWriter, time_ns: int, parts: Mapping[str, Mapping[str, Any]]) -> None:
    """Write a node's message on /diagnostics."""
    statuses = [status(name, values) for name, values in parts.items()]
    content = message(DIAGNOSTICS, header=header(time_ns, ""), status=statuses)
    bag.write("/diagnostics", DIAGNOSTICS, time_ns, content)


def pairs(count: int, seconds: float, **more: Any) -> dict[str, Any]:
    return {"pairs_in": count, "pairs_out": count, "processor_seconds": seconds, **more}


def record(path: Path, frames: Sequence[int], *, moved_ns: int = 0) -> Path:
    """Write the results of these frames of a drive, as a node would publish them."""
    with BagWriter(path) as bag:
        for k, frame in enumerate(drive(14)):
            stamp = START_NS + round(k * 1e9 / RATE)
            published = stamp + (moved_ns and moved_ns + k % 3 * 1_000_000)
            if moved_ns:
                kind = "std_msgs/msg/Int64MultiArray"
                layout = message("std_msgs/msg/MultiArrayLayout", dim=[], data_offset=0)
                told = message(kind, layout=layout, data=np.array([stamp, published], np.int64))
                bag.write("/player/restamped_ns", kind, published, told)
            if k in frames:
                bag.write_image(f"{NODE}/fused/image", published, frame.visible, "rgb8", "rgb")
    return path


def live_bag(path: Path, latencies: Sequence[float], last: Mapping[str, Any]) -> Path:
    """Write three reports, a second apart, of a node that takes half a second for four pairs."""
    record(path, [0, 1, 2, 3])
    whole = path.with_name(f"{path.name}_live")
    with BagReader(path) as reader, BagWriter(whole) as bag:
        for recorded in reader.raw():
            bag.write(*recorded)
        for k, value in enumerate(latencies):
            content = message("std_msgs/msg/Float64", data=value)
            time_ns = PLAYED + 10**8 * k
            bag.write(f"{NODE}/latency_ms", "std_msgs/msg/Float64", time_ns, content)
        for k, values in enumerate((pairs(0, 5.0), pairs(2, 5.2), pairs(4, 6.0, **last))):
            other = {"/fusion: pairs": pairs(99, 99.0)}
            settings = {f"{NODE}: settings": {"tolerance_seconds": "0.03", "mode": "live"}}
            camera = {f"{NODE}: rgb camera": {"topic": "/rgb/image_raw", "received": 4}}
            parts = {**other, f"{NODE}: pairs": values, **settings, **camera}
            report(bag, PLAYED + k * SECOND, parts)
        report(bag, PLAYED + 9 * SECOND, {"/fusion: pairs": pairs(100, 99.0)})
    return whole


def test_figures(tmp_path: Path) -> None:
    last = {"dropped.replaced_by_newer": 3, "frames.unmatched_visible": 2, "pairs_in": 7}
    last |= {"memory_mib": 512.5, "mode": "live", "model_ms.median": 12.5, "weights": "fast"}
    path = live_bag(tmp_path / "bag", [10.0, math.nan, 30.0, 20.0], last)
    with BagReader(path) as reader:
        live = read_live(reader)
    assert live is not None
    assert live.summary == {
        "mode": "live",
        "pairs_in": 7,
        "pairs_out": 4,
        "dropped": {"replaced_by_newer": 3},
        "frames_without_pair": {"unmatched_visible": 2},
        "images_received": {"rgb": 4},
        "latency_ms": {"median": 20.0, "p95": 29.0, "p99": 29.8},
        "latency_from": "stamp",
        "timings_ms": {"model": {"median": 12.5}},
        "rate_hz": 10.0,
        "processor": {"node_cores": 0.5},  # 5.0 to 6.0 s in 2 s
        "memory_mib": 512.5,
    }
    assert live.weights == "fast"
    settings = live.settings(ReplaySettings(thermal_topic="/mine"))
    assert settings.tolerance_seconds == 0.03
    assert (settings.rgb_topic, settings.thermal_topic) == ("/rgb/image_raw", "/mine")


def test_latency_without_a_common_clock_is_from_arrival(tmp_path: Path) -> None:
    arrival = {"handling_ms.median": 1.5, "handling_ms.p95": 2.5, "handling_ms.p99": 3.5}
    path = live_bag(tmp_path / "bag", [math.nan] * 4, arrival)
    with BagReader(path) as reader:
        live = read_live(reader)
    assert live is not None
    assert live.summary["latency_ms"] == {"median": 1.5, "p95": 2.5, "p99": 3.5}
    assert live.summary["latency_from"] == "arrival"


def test_recorded_parameter_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    path = live_bag(tmp_path / "bag", [], {})
    with BagReader(path) as reader:
        live = read_live(reader)
    assert live is not None
    live.parameters = {"queue_size": "many"}
    with pytest.raises(ValueError, match="queue_size is 'many', expected int"):
        live.settings(ReplaySettings())


def test_rig_of_the_node_that_the_recording_lacks_is_named(tmp_path: Path) -> None:
    path = live_bag(tmp_path / "bag", [], {})
    with BagReader(path) as reader:
        live = read_live(reader)
    assert live is not None
    rig = tmp_path / "rig.yaml"
    live.parameters = {"registration": "file", "registration_file": str(rig)}
    with pytest.raises(ValueError, match=r"registered by '.*rig.yaml', which is not here"):
        live.settings(ReplaySettings())
    rig.touch()
    assert live.settings(ReplaySettings()).registration == rig
    assert live.registration_warnings(ReplaySettings()) == []
    live.parameters = {"registration": "auto", "registration_file": str(rig)}
    (found,) = live.registration_warnings(ReplaySettings())
    assert "registration:=auto" in found["text"]
    assert "~/save_registration" in found["text"]
    assert live.registration_warnings(ReplaySettings(registration=rig)) == []


def test_recording_without_diagnostics_has_no_reports(tmp_path: Path) -> None:
    with BagReader(record(tmp_path / "bag", [0])) as reader:
        assert read_live(reader) is None


def test_shifted_stamps_are_restored(tmp_path: Path) -> None:
    path = record(tmp_path / "moved", [1, 3, 4], moved_ns=5 * SECOND)
    with BagReader(path) as reader:
        recorded = RecordedStamps(reader)
        stamps = [read_stamp(m.message) for m in recorded.raw([f"{NODE}/fused/image"])]
    assert stamps == [START_NS + round(k * 1e9 / RATE) for k in (1, 3, 4)]


def test_scores_with_shifted_stamps_equal_those_without(tmp_path: Path) -> None:
    source = write_drive(tmp_path / "drive")
    frames = [0, 1, 4, 5, 9, 13]
    tables = []
    for name, shift in (("there", 0), ("moved", 7_000 * SECOND)):
        output = tmp_path / name
        record(output / "bag", frames, moved_ns=shift)
        settings = ReplaySettings(recorded=str(output / "bag"), score_every=1)
        summary = replay_bag(source, output, settings)
        assert summary["failed"] == {"not_recorded": 14 - len(frames)}
        assert summary["live"] is None
        assert summary["asked"]["recorded"] == str(output / "bag")
        with BagReader(output / "bag") as reader:  # which is the input, too
            assert reader.info.messages >= len(frames)
        tables.append((output / "frames.csv").read_text())
    assert tables[0] == tables[1]
    indices = [int(row.split(",")[0]) for row in tables[0].splitlines()[1:]]
    assert indices == frames


def test_live_figures_are_in_the_summary(tmp_path: Path) -> None:
    source = write_drive(tmp_path / "drive")
    last = {"dropped.replaced_by_newer": 3, "pairs_in": 7, "engine": "torch on cpu in fp32"}
    recording = live_bag(tmp_path / "bag", [10.0] * 4, last)
    summary = replay_bag(source, tmp_path / "out", ReplaySettings(recorded=str(recording)))
    assert json.loads((tmp_path / "out" / "summary.json").read_text()) == summary
    assert summary["live"]["pairs_out"] == 4
    assert summary["settings"]["engine"] == "torch on cpu in fp32"
    assert summary["settings"]["tolerance_seconds"] == 0.03
    assert summary["asked"]["tolerance_seconds"] == ReplaySettings().tolerance_seconds
    codes = {warning["code"]: warning["text"] for warning in summary["warnings"]}
    assert codes["live_images_lost"].startswith("4 of 14 RGB images reached the node")
    assert codes["live_dropped"] == "The node dropped pairs, of 7: 3 replaced by newer"


def test_no_warning_if_nothing_was_lost() -> None:
    live = {"images_received": {"rgb": 28, "thermal": 14}, "dropped": {}, "pairs_in": 14}
    assert live_warnings(live, {"rgb": 14, "thermal": 14}) == []
