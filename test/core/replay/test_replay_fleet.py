"""Replays of many bags."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from replays import write_drive, write_faulty

from ivf_core.bags.info import BagError
from ivf_core.cli import main
from ivf_core.replay.directory import is_finished
from ivf_core.replay.fleet import find_bags, replay_fleet
from ivf_core.replay.run import replay_bag
from ivf_core.replay.settings import ReplaySettings


@pytest.fixture
def settings(tiny_weights: Path) -> ReplaySettings:
    return ReplaySettings(weights=str(tiny_weights), engine="torch", precision="fp32")


@pytest.fixture
def bags(tmp_path: Path) -> Path:
    """Write a folder with two drives and one bag that cannot be read."""
    folder = tmp_path / "bags"
    write_drive(folder / "first", 4)
    write_drive(folder / "week" / "second", 3)
    write_faulty(folder / "broken")
    return folder


def test_bags_are_found_in_folders(bags: Path) -> None:
    assert find_bags([bags]) == {
        "broken": bags / "broken",
        "first": bags / "first",
        "second": bags / "week" / "second",
    }
    write_drive(bags / "week" / "first", 2)
    assert set(find_bags([bags])) == {"broken", "bags_first", "week_first", "second"}
    assert find_bags([bags / "first" / "first.mcap"]) == {"first": bags / "first" / "first.mcap"}
    with pytest.raises(BagError, match="missing': no such file"):
        find_bags([bags / "missing"])
    (bags / "empty").mkdir()
    with pytest.raises(BagError, match="empty': neither a bag nor a folder with bags"):
        find_bags([bags / "empty"])


def test_broken_bag_does_not_stop_the_rest_and_finished_replays_are_kept(
    bags: Path, settings: ReplaySettings, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    status = main(
        ["replay", str(bags), "--output", str(output), "--weights", settings.weights,
         "--engine", "torch", "--precision", "fp32", "--jobs", "2"]
    )  # fmt: skip
    assert status == 1
    rows = {row["name"]: row for row in json.loads((output / "fleet.json").read_text())["bags"]}
    assert {name: row["status"] for name, row in rows.items()} == {
        "broken": "failed", "first": "done", "second": "done",
    }  # fmt: skip
    assert "broken" in rows["broken"]["error"]
    assert rows["first"]["pairs"] == 4
    assert (output / rows["second"]["page"]).is_file()
    page = (output / "index.html").read_text()
    assert 'href="first/report.html"' in page
    assert "broken" in page

    before = (output / "first" / "summary.json").stat().st_mtime_ns
    again = replay_fleet(find_bags([bags]), output, settings)
    assert [outcome.status for outcome in again] == ["failed", "kept", "kept"]
    assert (output / "first" / "summary.json").stat().st_mtime_ns == before


def test_finished_replay_has_the_same_bag_and_settings(
    settings: ReplaySettings, tmp_path: Path
) -> None:
    bag, output = write_drive(tmp_path / "drive", 3), tmp_path / "out"
    assert not is_finished(bag, output, settings)
    replay_bag(bag, output, settings)
    assert is_finished(bag, output, settings)
    changed = ReplaySettings.from_json({**settings.to_json(), "opacity": 0.3})
    assert not is_finished(bag, output, changed)
    other = write_drive(tmp_path / "other" / "drive", 4)
    assert not is_finished(other, output, settings)
    summary = output / "summary.json"
    summary.write_text(summary.read_text()[:-200])
    assert not is_finished(bag, output, settings)


def test_ray_gives_the_same_frames(bags: Path, settings: ReplaySettings, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="the extra fleet is not installed")
    bags = {"second": bags / "week" / "second", "broken": bags / "broken"}
    settings = ReplaySettings.from_json({**settings.to_json(), "threads": 1})
    outcomes = replay_fleet(bags, tmp_path / "ray", settings, ray="local")
    assert [outcome.status for outcome in outcomes] == ["done", "failed"]
    replay_bag(bags["second"], tmp_path / "alone", settings)
    frames = [(tmp_path / p / "frames.csv").read_bytes() for p in ("ray/second", "alone")]
    assert frames[0] == frames[1]
