"""Replays of damaged bags."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from replays import write_drive

from ivf_core.bags.reader import bag_info
from ivf_core.replay.run import replay_bag
from ivf_core.replay.settings import ReplaySettings


def test_replay_reports_what_was_left_out(tmp_path: Path, tiny_weights: Path) -> None:
    write_drive(tmp_path / "drive", 30)
    file = tmp_path / "drive" / "drive.mcap"
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * 0.7)])
    settings = ReplaySettings(weights=str(tiny_weights), engine="torch", precision="fp32")
    summary = replay_bag(tmp_path / "drive", tmp_path / "out", settings)
    pairs = summary["pairing"]["pairs"]
    assert 10 <= pairs < 30
    assert any("cut off" in line for line in summary["left_out"])
    assert "damaged" in {warning["code"] for warning in summary["warnings"]}
    assert bag_info(tmp_path / "out" / "bag").messages == 3 * pairs + 2
    assert np.isfinite(summary["throughput"]["pairs_per_second"])
