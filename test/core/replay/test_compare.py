"""Tests of the comparison of two replays: intervals, pairs, thresholds and page."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from replay_reports import write_replay

from ivf_core.cli import main
from ivf_core.images.files import read_visible, write_image
from ivf_core.inference import FusionPipeline
from ivf_core.models.checkpoints import FusionModel
from ivf_core.replay.compare.bootstrap import block_length, block_means, interval
from ivf_core.replay.compare.differences import compare
from ivf_core.replay.compare.page import compare_replays
from ivf_core.replay.compare.thresholds import ThresholdsError
from ivf_core.replay.saved_replay import ReplayDirectory
from ivf_core.scenes import SyntheticDrive

STEP = 100_000_000  # ns


def write_directory(
    folder: Path, columns: dict[str, np.ndarray], stamps: np.ndarray | None = None
) -> ReplayDirectory:
    """Write a replay of 10 pairs a second; the column `model_ms` goes to timings.csv."""
    folder.mkdir(parents=True)
    count = len(next(iter(columns.values())))
    stamps = np.arange(count) * STEP if stamps is None else stamps
    base = {"index": range(count), "stamp_ns": stamps.tolist(),
            "seconds": [0.1 * row for row in range(count)]}  # fmt: skip
    times = {name: columns.pop(name) for name in ("model_ms",) if name in columns}
    for name, table in (("frames", base | columns), ("timings", {"index": range(count)} | times)):
        with (folder / f"{name}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(table)
            for row in zip(*table.values(), strict=True):
                writer.writerow("" if value != value else value for value in row)
    summary = {
        "format": 1, "versions": {}, "settings": {"weights": folder.name}, "topics": {},
        "bag": {}, "pairing": {"pairs": count, "unmatched": {"rgb": {"unmatched": 3}}},
    }  # fmt: skip
    (folder / "summary.json").write_text(json.dumps(summary))
    return ReplayDirectory.read(folder)


def correlated(rng: np.random.Generator, count: int, share: float) -> np.ndarray:
    """Return an autoregressive series with mean 0."""
    noise = rng.standard_normal(count + 100)
    for row in range(1, len(noise)):
        noise[row] += share * noise[row - 1]
    return noise[100:]


# ------------------------------------------------------------------ bootstrap


def test_intervals_of_a_correlated_series_hold_its_mean() -> None:
    rng = np.random.default_rng(0)
    trials, count, block = 120, 400, 40
    held = {block: 0, 1: 0}
    for _ in range(trials):
        series = correlated(rng, count, 0.8)
        for length in held:
            found = interval(series.mean(), block_means(series[None], length, 150), count / length)
            held[length] += found.low <= 0 <= found.high
    # Three standard errors of a share of 0.95 are 0.06.
    assert held[block] / trials >= 0.89
    assert held[1] / trials < 0.65, "frames are not independent"


def test_resamples_take_the_same_blocks_of_all_series() -> None:
    series = np.random.default_rng(0).standard_normal(50)
    means = block_means(np.stack((series, series + 3, np.full(50, 7.0))), 8)
    np.testing.assert_allclose(means[:, 1], means[:, 0] + 3)
    np.testing.assert_allclose(means[:, 2], 7)
    assert means[:, 0].std() > 0.01
    # A block as long as the series contains all of it, wherever it begins.
    np.testing.assert_allclose(block_means(series[None], 50), series.mean())
    np.testing.assert_array_equal(block_means(series[None], 8), block_means(series[None], 8))


def test_resampled_means_are_those_of_blocks() -> None:
    series = np.array([[1.0, 10.0, 100.0, 1000.0]])
    # Blocks of 3 and 1 on a circle: three neighbours and any single value.
    possible = {
        (sum(10.0 ** ((start + step) % 4) for step in range(3)) + 10.0**one) / 4
        for start in range(4)
        for one in range(4)
    }
    assert set(block_means(series, 3)[:, 0]) == possible


def test_few_blocks_give_an_infinite_interval() -> None:
    assert interval(1.0, np.array([0.9, 1.1]), 2).high == np.inf
    exact = interval(1.0, np.ones(100), 10)
    assert exact == (1, 1, 1)


def test_block_length_depends_on_the_rate() -> None:
    seconds = np.arange(200) / 10
    assert block_length(seconds, 5) == 50
    assert block_length(seconds[::10], 5) == 5
    assert block_length(seconds, 1e6) == 200
    assert block_length(seconds[:1], 5) == 1


# ------------------------------------------------------------------ comparison


@pytest.fixture
def drives(tmp_path: Path) -> dict[str, ReplayDirectory]:
    """Replays A, B (VIF lower by 0.02, a third dropped, slower), and one of other footage."""
    rng = np.random.default_rng(0)
    count = 600
    scene = 0.4 + 0.1 * np.sin(np.arange(count) / 90)
    luma = 100 + 30 * np.sin(np.arange(count) / 50)
    vif = np.where(np.arange(count) % 2, np.nan, scene)
    times = 10 + rng.random(count)
    a = write_directory(
        tmp_path / "a", {"VIF": vif, "rgb_dark": luma, "flip_share": 0.1 * scene, "model_ms": times}
    )
    keep = np.arange(count) % 3 != 2
    columns = {
        "VIF": vif - 0.02 + 0.005 * rng.standard_normal(count),
        "rgb_dark": luma + 0.3,
        "flip_share": 0.1 * scene,
        "model_ms": 1.2 * times,
    }
    stamps = np.arange(count)[keep] * STEP
    b = write_directory(tmp_path / "b", {k: v[keep] for k, v in columns.items()}, stamps)
    columns["rgb_dark"] = 200 - luma
    other = write_directory(tmp_path / "other", {k: v[keep] for k, v in columns.items()}, stamps)
    return {"a": a, "b": b, "other": other}


def test_pairs_of_the_same_stamp_are_compared(drives: dict[str, ReplayDirectory]) -> None:
    found = compare(drives["a"], drives["b"])
    assert found.same_footage
    assert len(found.matched[0]) == 400
    vif = found.quantities["VIF"]
    assert vif.count == 200, "scored in both"
    assert vif.difference.low < -0.02 < vif.difference.high
    assert vif.difference.high - vif.difference.low < 0.005, "the scene's changes cancel"
    assert vif.verdict == "worse"
    flips = found.quantities["flip_share"]
    assert flips.difference == (0, 0, 0)
    assert flips.verdict == ""
    model = found.quantities["model_ms"]
    assert model.ratio is not None
    assert model.ratio.low < 1.2 + 1e-9
    assert model.ratio.high > 1.2 - 1e-9
    assert model.ratio.high - model.ratio.low < 1e-6, "every pair took 1.2 times as long"
    assert model.verdict == "worse"
    assert found.quantities["pairs"].difference == (-200, -200, -200)
    assert found.quantities["unmatched_rgb"].b == 3


def test_other_footage_with_the_same_stamps_is_not_paired(
    drives: dict[str, ReplayDirectory],
) -> None:
    found = compare(drives["a"], drives["other"])
    assert not found.same_footage
    assert len(found.matched[0]) == 0
    vif = found.quantities["VIF"]
    assert vif.difference.estimate == pytest.approx(-0.02, abs=0.005)
    assert vif.difference.high - vif.difference.low > 0.05, "between scenes, not pairs"
    assert vif.verdict == ""


def test_stamps_that_recur_pair_within_their_loop(tmp_path: Path) -> None:
    loop = np.tile(np.arange(10), 2) * STEP
    a = write_directory(tmp_path / "a", {"VIF": np.arange(20.0)}, loop)
    b = write_directory(tmp_path / "b", {"VIF": np.arange(19.0) + 1}, loop[1:])
    matched = compare(a, b).matched
    np.testing.assert_array_equal(matched, [np.arange(1, 20), np.arange(19)])


def test_live_figures_are_compared(tmp_path: Path) -> None:
    sides = []
    for name, dropped in (("a", {}), ("b", {"replaced_by_newer": 4})):
        folder = write_directory(tmp_path / name, {"VIF": np.arange(20.0)}).path
        summary = json.loads((folder / "summary.json").read_text())
        live = {"mode": "live", "dropped": dropped, "latency_ms": {"p95": 20.0 + len(dropped)}}
        (folder / "summary.json").write_text(json.dumps(summary | {"live": live}))
        sides.append(ReplayDirectory.read(folder))
    found = compare(*sides).quantities
    assert (found["live_dropped"].a, found["live_dropped"].b) == (0, 4)
    assert found["live_latency_ms_p95"].difference == (1, 1, 1)
    assert "live_mode" not in found


def test_negative_blocks_are_rejected(drives: dict[str, ReplayDirectory]) -> None:
    with pytest.raises(ValueError, match="block_seconds is -1"):
        compare(drives["a"], drives["b"], -1)


# ------------------------------------------------------------------ thresholds


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("VIF: {min_difference: -0.03}", 0),
        ("VIF: {min_difference: -0.019}", 1),
        ("flip_share: {max_difference: 0.0}", 0),
        ("model_ms: {max_ratio: 1.21, max: 14}", 0),
        ("model_ms: {max_ratio: 1.1}", 1),
        ("pairs: {min: 400}\nunmatched_rgb: {max: 3}", 0),
        ("pairs: {min: 401}", 1),
        ("VIF: {min_difference: -0.03}\npairs: {min_ratio: 0.9}", 1),
    ],
)
def test_exit_status(
    drives: dict[str, ReplayDirectory], tmp_path: Path, text: str, status: int
) -> None:
    (tmp_path / "limits.yaml").write_text(text)
    a, b = drives["a"].path, drives["b"].path
    assert compare_replays(a, b, tmp_path / "out", tmp_path / "limits.yaml") == status
    written = json.loads((tmp_path / "out/compare.json").read_text())
    assert all(one["holds"] for one in written["thresholds"]) == (status == 0)


def test_a_threshold_that_does_not_hold_is_named_with_its_interval(
    drives: dict[str, ReplayDirectory], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Compare other footage of the same mean: the estimate holds, the interval does not."""
    limits, out = tmp_path / "limits.yaml", tmp_path / "out"
    limits.write_text("VIF: {min_difference: -0.03}")
    assert compare_replays(drives["a"].path, drives["other"].path, out, limits) == 1
    printed = capsys.readouterr().out
    assert "VIF: min_difference -0.03: does not hold, -0.0" in printed
    written = json.loads((out / "compare.json").read_text())["thresholds"][0]["found"]
    assert f"{written['low']:.4g} to {written['high']:.4g}" in printed
    limits.write_text("VIF: {min_difference: -0.03, by: estimate}")
    assert compare_replays(drives["a"].path, drives["other"].path, out, limits) == 0


def test_a_threshold_of_a_quantity_that_one_replay_lacks_does_not_hold(tmp_path: Path) -> None:
    a = write_directory(tmp_path / "a", {"VIF": np.arange(20.0), "SD": np.arange(20.0)})
    b = write_directory(tmp_path / "b", {"VIF": np.arange(20.0)})
    (tmp_path / "limits.yaml").write_text("SD: {min: 0}")
    assert compare_replays(a.path, b.path, tmp_path / "out", tmp_path / "limits.yaml") == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("VIFF: {min: 0}", "'VIFF' is in neither report"),
        ("VIF: {minimum: 0}", "VIF.minimum: unknown"),
        ("VIF: {min: high}", "VIF.min: 'high' is not a finite number"),
        ("VIF: {min: .nan}", "VIF.min"),
        ("VIF: {min: true}", "VIF.min"),
        ("VIF: 0.3", "VIF: expected limits"),
        ("VIF: {by: estimate}", "VIF: no limit"),
        ("VIF: {min: 0, by: hope}", "VIF: by is 'hope'"),
        ("[VIF]", "expected quantities"),
        ("VIF: {min", "limits.yaml"),
        ("since: 2026-13-01", "limits.yaml': month must be in 1..12"),
        ("VIF: " + "[" * 1000 + "]" * 1000, "limits.yaml': nested too deeply"),
        ("", "expected quantities"),
    ],
)
def test_bad_thresholds_are_rejected_by_key(
    drives: dict[str, ReplayDirectory], tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / "limits.yaml").write_text(text)
    out = tmp_path / "out"
    with pytest.raises(ThresholdsError, match=message):
        compare_replays(drives["a"].path, drives["b"].path, out, tmp_path / "limits.yaml")
    assert not out.exists()


def test_exit_status_differs_between_worse_and_invalid(
    drives: dict[str, ReplayDirectory], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    limits, out = tmp_path / "limits.yaml", tmp_path / "out"
    limits.write_text("VIF: {min_difference: 0}")

    def status(*more: str) -> int:
        words = ["--compare", str(drives["a"].path), str(drives["b"].path), "--output", str(out)]
        return main(["replay", *words, *more])

    assert status() == 0
    assert "compare.html" in capsys.readouterr().out
    assert status("--thresholds", str(limits), "--block-seconds", "2") == 1
    assert json.loads((out / "compare.json").read_text())["block_seconds"] == 2
    limits.write_text("VIF: {least: 0}")
    assert status("--thresholds", str(limits)) == 2
    assert "VIF.least" in capsys.readouterr().err
    (drives["b"].path / "frames.csv").unlink()
    assert status() == 2
    assert "frames.csv" in capsys.readouterr().err


def test_bags_or_a_comparison(capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([], ["drive", "--compare", "a", "b"]):
        with pytest.raises(SystemExit) as stopped:
            main(["replay", "--output", "out", *words])
        assert stopped.value.code == 2
        assert "--compare" in capsys.readouterr().err


# ------------------------------------------------------------------ page


@pytest.fixture(scope="module")
def two(tiny_model: FusionModel, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Replay, and a copy in which the fused image and the scores of pair 6 are changed."""
    folder = tmp_path_factory.mktemp("two")
    drive = SyntheticDrive(seed=3, size=(96, 64), rate_hz=4.0, seconds=3.0)
    pipeline = FusionPipeline(tiny_model, engine="torch", device="cpu")
    a = write_replay(folder / "a", pipeline, drive)
    b = Path(shutil.copytree(a, folder / "b"))
    path = b / "images/000006_fused.jpg"
    write_image(path, 255 - read_visible(path))
    lines = (b / "frames.csv").read_text().splitlines()
    fields = lines[7].split(",")
    fields[lines[0].split(",").index("VIF")] = "0.012345"
    lines[7] = ",".join(fields)
    (b / "frames.csv").write_text("\n".join(lines) + "\n")
    return a, b


def test_the_pairs_that_differ_most_are_listed_with_reasons(
    two: tuple[Path, Path], tmp_path: Path
) -> None:
    assert compare_replays(*two, tmp_path) == 0
    (frame,) = json.loads((tmp_path / "compare.json").read_text())["frames"]
    assert frame["frame_a"] == frame["frame_b"] == 6
    assert any("→ 0.01235" in reason or "→ 0.01234" in reason for reason in frame["reasons"])
    assert any("fused images" in reason for reason in frame["reasons"])


def test_the_page_of_a_comparison(browser: Any, two: tuple[Path, Path], tmp_path: Path) -> None:
    compare_replays(*two, tmp_path)
    page = browser.new_page(viewport={"width": 1400, "height": 900}, offline=True)
    seen: list[str] = []
    page.on("request", lambda request: seen.append(request.url))
    page.on("console", lambda message: seen.append(message.text))
    page.on("pageerror", lambda error: seen.append(str(error)))
    path = tmp_path / "compare.html"
    page.goto(path.as_uri())
    assert "12 pairs of the same stamps" in page.inner_text("#summary")
    page.click('.frame[data-pair="6"]')
    assert page.inner_text("#which").startswith("Pair 6, 7 of 12")
    for kind in ("a_fused", "b_fused", "a_overlay", "b_overlay"):
        assert page.locator(f'.strip figure[data-kind="{kind}"] img').evaluate(
            "i => i.decode().then(() => i.naturalWidth)"
        )
    sources = [page.get_attribute(f'figure[data-kind="{s}_fused"] img', "src") for s in "ab"]
    assert sources[0] != sources[1]
    assert page.locator("figure.chart").count() == 1, "one for the column that differs"
    change = float(page.inner_text('#values dd[data-column="change_VIF"]'))
    with (two[0] / "frames.csv").open(newline="") as file:
        vif = float(list(csv.DictReader(file))[6]["VIF"])
    assert change == pytest.approx(0.012345 - vif, rel=1e-3)
    assert page.evaluate("document.documentElement.scrollWidth") <= 1400
    assert [entry for entry in seen if not entry.startswith("data:")] == [path.as_uri()]
    page.close()


def test_the_same_replays_give_the_same_page(two: tuple[Path, Path], tmp_path: Path) -> None:
    compare_replays(*two, tmp_path / "1")
    compare_replays(*two, tmp_path / "2")
    for name in ("compare.html", "compare.json"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()
