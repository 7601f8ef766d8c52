"""Tests of the report of a replay: its page in a real browser, offline, and its findings."""

from __future__ import annotations

import base64
import csv
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from replay_reports import STAMP_STEP, START, write_replay

from ivf_core.html.chart_data import numbers
from ivf_core.html.embedding import embed_images
from ivf_core.html.filters import utc
from ivf_core.images.files import write_image
from ivf_core.inference import FusionPipeline
from ivf_core.models.checkpoints import FusionModel
from ivf_core.replay.report.charts import report_data
from ivf_core.replay.report.findings import metric_rows, sentences
from ivf_core.replay.report.page import write_report
from ivf_core.replay.saved_replay import ReplayDirectory, ReplayDirectoryError
from ivf_core.scenes import SyntheticDrive

PAIRS = 12
HOSTILE = "/rgb/<script>document.title='run'</script>"
BANDS = {
    "VIF": {"p5": 0.2, "p25": 0.3, "median": 0.4, "p75": 0.5, "p95": 0.6},
    "SD": {"p5": 200.0, "p25": 210.0, "median": 220.0, "p75": 230.0, "p95": 240.0},
}


@pytest.fixture(scope="module")
def replay(tiny_model: FusionModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Replay with its report."""
    folder = tmp_path_factory.mktemp("replay")
    pipeline = FusionPipeline(tiny_model, engine="torch", device="cpu")
    drive = SyntheticDrive(seed=3, size=(160, 120), rate_hz=4.0, seconds=PAIRS / 4)
    write_replay(folder, pipeline, drive, HOSTILE)
    write_report(folder, bands=BANDS)
    return folder


@pytest.fixture(scope="module")
def rows(replay: Path) -> list[dict[str, str]]:
    with (replay / "frames.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def copy(replay: Path, tmp_path: Path) -> Path:
    """Copy of the replay that a test may change."""
    return Path(shutil.copytree(replay, tmp_path / "copy"))


class Opened:
    """Page in the browser, with its requests and its messages on the console."""

    def __init__(self, browser: Any, path: Path) -> None:
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.page = browser.new_page(viewport={"width": 1400, "height": 900})
        self.page.context.set_offline(True)
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.goto(path.as_uri())
        self.page.wait_for_selector(".now >> nth=0", state="attached")

    def shown(self) -> int:
        """Return the number of the pair on display."""
        match = re.match(r"Pair (\d+),", self.page.inner_text("#which"))
        assert match
        return int(match[1])

    def value(self, column: str) -> str:
        return self.page.inner_text(f'#values dd[data-column="{column}"]')


@pytest.fixture
def opened(browser: Any, replay: Path) -> Iterator[Opened]:
    opened = Opened(browser, replay / "report.html")
    yield opened
    opened.page.close()


def assert_shows(opened: Opened, row: dict[str, str]) -> None:
    """Check that the page shows the pair of a row, and its numbers to four digits."""
    assert opened.shown() == int(row["index"])
    for column in ("SD", "VIF", "offset_ms", "rgb_dark"):
        text = opened.value(column)
        if row[column]:
            assert float(text.split()[0]) == pytest.approx(float(row[column]), rel=1e-3), column
        else:
            assert text == "–"  # noqa: RUF001
    flips = opened.value("flip_share")
    if row["flip_share"]:
        assert float(flips.split()[0]) == pytest.approx(100 * float(row["flip_share"]), rel=1e-2)


def test_page_opens_without_network_and_without_errors(opened: Opened, replay: Path) -> None:
    opened.page.keyboard.press("End")
    for figure in opened.page.query_selector_all("figure.chart"):
        canvas = figure.query_selector("canvas")
        assert canvas
        # Something is drawn: not every pixel is transparent.
        assert canvas.evaluate(
            "c => c.getContext('2d').getImageData(0, 0, c.width, c.height).data.some(v => v > 0)"
        )
    assert opened.complaints == []
    page, *others = opened.requests
    assert page == (replay / "report.html").as_uri()
    assert all(url.startswith("data:") for url in others)


def test_the_page_names_no_address(replay: Path) -> None:
    text = (replay / "report.html").read_text(encoding="utf-8")
    assert "default-src 'none'" in text, "the browser blocks requests as well"
    for attribute in re.findall(r"""(?:src|href|action)\s*=\s*["']([^"']*)""", text):
        assert attribute.startswith(("data:", "#")), attribute
    assert "@import" not in text
    assert "url(" not in text


def test_the_slider_shows_each_pair(opened: Opened, rows: list[dict[str, str]]) -> None:
    assert_shows(opened, rows[0])
    slider = opened.page.locator("#slider")
    slider.focus()
    for row in rows[1:4]:
        opened.page.keyboard.press("ArrowRight")
        assert_shows(opened, row)
    assert slider.get_attribute("aria-valuetext") == opened.page.inner_text("#which").split(";")[0]
    slider.fill(str(PAIRS - 1))
    assert_shows(opened, rows[-1])
    opened.page.keyboard.press("ArrowRight")
    assert_shows(opened, rows[-1])
    opened.page.keyboard.press("Shift+ArrowLeft")
    assert_shows(opened, rows[9])  # the pair with images before it: every third pair has some


def test_the_images_are_those_of_the_pair(opened: Opened, replay: Path) -> None:
    opened.page.locator("#slider").fill("6")
    for kind in ("rgb", "thermal", "fused", "overlay", "other"):
        image = opened.page.locator(f'.strip figure[data-kind="{kind}"] img')
        source = image.get_attribute("src")
        assert source
        data = (replay / f"images/000006_{kind}.jpg").read_bytes()
        assert base64.b64decode(source.split(",")[1]) == data
        assert image.evaluate("i => i.decode().then(() => i.naturalWidth)") == 160
        assert "pair 6" in (image.get_attribute("alt") or "")
    opened.page.locator("#slider").fill("7")
    assert "images of pair 6" in opened.page.inner_text("#which")


def test_a_click_on_a_notable_pair_moves_the_slider(
    opened: Opened, rows: list[dict[str, str]]
) -> None:
    card = opened.page.locator('.frame[data-pair="3"]')
    assert "largest jump of SD" in card.inner_text()
    card.click()
    assert_shows(opened, rows[3])
    assert opened.page.input_value("#slider") == "3"
    assert "largest jump of SD" in opened.page.inner_text("#reasons")
    opened.page.locator('.warnings .jump[data-pair="1"]').click()
    assert_shows(opened, rows[1])
    assert opened.page.inner_text("#reasons") == ""


def test_a_click_on_a_chart_moves_all_cursors(opened: Opened, rows: list[dict[str, str]]) -> None:
    over = opened.page.locator('figure[data-chart="SD"] .u-over')
    box = over.bounding_box()
    assert box
    over.click(position={"x": box["width"] * 8 / (PAIRS - 1), "y": box["height"] / 2})
    assert_shows(opened, rows[8])
    for chart in ("VIF", "shares", "timings", "offset_ms"):
        place, width = opened.page.locator(f'figure[data-chart="{chart}"] .now').evaluate(
            "n => [new DOMMatrix(getComputedStyle(n).transform).e, n.parentElement.clientWidth]"
        )
        assert place / width == pytest.approx(8 / (PAIRS - 1), abs=0.01), chart
    legend = opened.page.inner_text('figure[data-chart="SD"] .legend')
    opened.page.mouse.move(0, 0)
    assert f"{float(rows[8]['SD']):.3g}"[:3] in legend


def test_charts_zoom_together_and_back(opened: Opened) -> None:
    axis = opened.page.locator('figure[data-chart="timings"] .u-over')
    box = axis.bounding_box()
    assert box
    axis.scroll_into_view_if_needed()
    box = axis.bounding_box()
    assert box
    opened.page.locator("#slider").fill("0")
    y = box["y"] + box["height"] / 2
    opened.page.mouse.move(box["x"] + box["width"] / 2, y)
    opened.page.mouse.down()
    opened.page.mouse.move(box["x"] + box["width"] * 0.9, y, steps=4)
    opened.page.mouse.up()
    cursor = opened.page.locator('figure[data-chart="VIF"] .now')
    cursor.wait_for(state="hidden")  # pair 0 is outside
    assert opened.shown() == 0, "dragging is not a click"
    axis.dblclick(position={"x": 5, "y": 5})
    cursor.wait_for(state="visible")


def test_registration_and_the_command_that_mends_it(opened: Opened) -> None:
    text = opened.page.inner_text("#registration")
    assert "No registration: thermal images were stretched" in text
    assert "displaced by 3.2 px" in text
    command = opened.page.inner_text("#registration pre")
    assert command.strip() == "ivf register synthetic_drive --output rig"


def test_foreign_text_is_escaped(opened: Opened) -> None:
    assert opened.page.title().startswith("synthetic_drive")
    assert HOSTILE in opened.page.inner_text("header")
    assert opened.page.locator("header script, main script").count() == 0


def test_dark_mode_and_print(browser: Any, replay: Path) -> None:
    for width in (700, 1400):
        page = browser.new_page(
            viewport={"width": width, "height": 800}, color_scheme="dark", offline=True
        )
        page.goto((replay / "report.html").as_uri())
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert max(map(int, re.findall(r"\d+", background)[:3])) < 60
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.pdf(format="A4").startswith(b"%PDF")
        assert page.get_attribute("html", "data-print") is None
        page.close()


def test_a_replay_without_pairs_has_a_page(browser: Any, copy: Path) -> None:
    for name in ("frames.csv", "timings.csv"):
        header = (copy / name).read_text().splitlines()[0]
        (copy / name).write_text(header + "\n")
    shutil.rmtree(copy / "images")
    summary = json.loads((copy / "summary.json").read_text())
    summary["pairing"] |= {"pairs": 0, "received": {"rgb": 0, "thermal": 5}, "rate": {},
                           "offset_histogram": {}, "suggested_offset_seconds": None}  # fmt: skip
    summary |= {"metrics": {}, "other": None, "segmentation": None, "registration": None,
                "rig": None, "notable": [], "timings": {}, "throughput": None}  # fmt: skip
    (copy / "summary.json").write_text(json.dumps(summary))
    page = browser.new_page(offline=True)
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(write_report(copy, bands=BANDS).as_uri())
    assert "0 RGB and 5 thermal images gave 0 pairs" in page.inner_text("#summary")
    assert complaints == []
    page.close()


def test_figures_of_the_live_graph_are_shown(browser: Any, copy: Path) -> None:
    summary = json.loads((copy / "summary.json").read_text())
    stages = {"median": 12.5, "p95": 20.0, "p99": 31.0}
    summary["live"] = {
        "mode": "live", "pairs_in": 360, "pairs_out": 351,
        "dropped": {"replaced_by_newer": 9}, "frames_without_pair": {"unmatched_visible": 2},
        "images_received": {"rgb": 362, "thermal": 360},
        "latency_ms": {"median": 19.0, "p95": 27.1, "p99": 42.2}, "latency_from": "stamp",
        "timings_ms": {"wait": {"median": 0.1, "p95": 0.2}, "model": stages}, "rate_hz": 29.9,
        "processor": {"node_cores": 0.95}, "memory_mib": 804.0,
    }  # fmt: skip
    (copy / "summary.json").write_text(json.dumps(summary))
    opened = Opened(browser, write_report(copy, bands=BANDS))
    text = opened.page.inner_text("#speed")
    opened.page.close()
    assert "351 of 360 pairs came out, 29.9 a second." in text
    assert "since the stamp: median 19 ms, p95 27.1 ms, p99 42.2 ms." in text
    assert "0.95 cores and 804 MiB" in text
    assert re.search(r"replaced by newer\s+9", text)
    assert re.search(r"without a pair: unmatched visible\s+2", text)
    assert re.search(r"model\s+12.5\s+20", text)


def test_the_same_directory_gives_the_same_page(replay: Path, copy: Path) -> None:
    (copy / "report.html").unlink()
    assert write_report(copy, bands=BANDS).read_bytes() == (replay / "report.html").read_bytes()


def test_read_directory(replay: Path, rows: list[dict[str, str]]) -> None:
    read = ReplayDirectory.read(replay)
    assert read.stamps.tolist() == [START + number * STAMP_STEP for number in range(PAIRS)]
    assert read.frames["SD"][2] == float(rows[2]["SD"])
    assert np.isnan(read.frames["SD"][3])
    assert sorted(read.images) == [0, 3, 6, 9]
    assert sorted(read.images[3]) == ["fused", "other", "overlay", "rgb", "thermal"]
    assert set(read.timings) == {"prepare_ms", "model_ms"}


def test_images_of_older_replays_are_read(replay: Path, copy: Path) -> None:
    (copy / "images").rename(copy / "pictures")  # plain: pictures
    found = ReplayDirectory.read(copy).images
    assert found.keys() == ReplayDirectory.read(replay).images.keys()
    assert found[3]["fused"] == copy / "pictures/000003_fused.jpg"  # plain: pictures
    assert write_report(copy, bands=BANDS).read_bytes() == (replay / "report.html").read_bytes()


def test_timings_follow_the_pairs(copy: Path) -> None:
    header, *lines = (copy / "timings.csv").read_text().splitlines()
    (copy / "timings.csv").write_text("\n".join([header, *lines[:0:-1]]))
    read = ReplayDirectory.read(copy)
    assert np.isnan(read.timings["model_ms"][0])
    assert read.timings["model_ms"][1] == float(lines[1].split(",")[2])


@pytest.mark.parametrize(
    ("name", "spoil", "message"),
    [
        ("summary.json", lambda text: text.replace('"format": 1', '"format": 9'), "format 9"),
        ("summary.json", lambda text: text[:100], "summary.json"),
        ("frames.csv", lambda text: text.replace("stamp_ns", "stamp"), "no column 'stamp_ns'"),
        ("frames.csv", lambda text: text[: text.rindex(",")], "fields, the header has"),
        ("frames.csv", lambda text: text + text.splitlines()[-1], "does not ascend"),
        ("frames.csv", lambda text: text.replace("0.050000", "soon", 1), "column 'seconds'"),
        ("timings.csv", lambda text: "", "timings.csv"),
    ],
)
def test_a_damaged_directory_is_rejected(copy: Path, name: str, spoil: Any, message: str) -> None:
    (copy / name).write_text(spoil((copy / name).read_text()))
    with pytest.raises(ReplayDirectoryError, match=message):
        write_report(copy)


def test_a_folder_without_a_replay_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(ReplayDirectoryError, match="written by ivf replay"):
        write_report(tmp_path)


def test_how_often_a_metric_is_worse_than_the_band(replay: Path) -> None:
    read = ReplayDirectory.read(replay)
    bands = {"VIF": {"p5": float(np.nanmedian(read.frames["VIF"])), "p95": 1.0},
             "Nabf": {"p5": 0.0, "p95": -1.0}, "SD": {"p5": 0.0, "p95": 1.0}}  # fmt: skip
    rows = {row["name"]: row for row in metric_rows(read, bands)}
    assert rows["VIF"]["worse"] == 0.5
    assert rows["Nabf"]["worse"] == 1, "less is better"
    assert rows["SD"]["worse"] == 0, "above the band is not worse"
    assert rows["Qabf"]["worse"] is None
    assert rows["VIF"]["frames"] == PAIRS // 2
    assert any("Nabf (100 %)" in sentence for sentence in sentences(read, bands))


def test_images_enlarge_and_follow_the_pair(opened: Opened) -> None:
    page = opened.page
    page.locator("#slider").fill("6")
    page.locator('.strip figure[data-kind="fused"] img').click()
    large = page.locator("#large")
    assert large.is_visible()
    image = large.locator("img")
    assert image.get_attribute("src") == page.get_attribute(
        '.strip figure[data-kind="fused"] img', "src"
    )
    assert image.evaluate("i => i.clientWidth") > 2 * page.locator(
        '.strip figure[data-kind="fused"] img'
    ).evaluate("i => i.clientWidth / 2")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Shift+ArrowRight")
    assert image.get_attribute("src") == page.get_attribute(
        '.strip figure[data-kind="fused"] img', "src"
    )
    page.keyboard.press("Escape")
    assert not large.is_visible()


def test_classes_of_the_overlay_and_the_band_are_named(opened: Opened, replay: Path) -> None:
    names = ReplayDirectory.read(replay).summary["classes"]["names"]
    shown = [item.inner_text() for item in opened.page.query_selector_all(".classes li")]
    assert shown == [name.replace("_", " ") for name in names]
    text = opened.page.inner_text("#metrics")
    assert text.lower().count("published student") > 3


def test_the_suggested_offset_is_marked_at_the_offset_of_the_stamps(replay: Path) -> None:
    """Thermal stamps are 2 ms late, so that -2 ms must be added to them."""
    charts = {
        chart["id"]: chart for chart in report_data(ReplayDirectory.read(replay), {})["charts"]
    }
    (mark,) = charts["offset_histogram"]["marks"]
    assert mark["x"] == pytest.approx(2)
    assert np.mean(charts["offset_histogram"]["x"]) == pytest.approx(2, abs=0.1)


def test_numbers_have_enough_digits_to_differ() -> None:
    assert numbers([0.123456, float("nan"), 12.0]) == [0.1235, None, 12]
    apart = numbers([3_600_012.25, 3_600_013.5])  # clocks an hour apart
    assert apart == pytest.approx([3_600_012.25, 3_600_013.5], abs=0.001)


LINE_AT = """([chart, place]) => {
    const figure = document.querySelector(`figure[data-chart="${chart}"]`);
    const canvas = figure.querySelector("canvas");
    const over = figure.querySelector(".u-over");
    const scale = canvas.width / canvas.clientWidth;
    const x = Math.round(scale * (over.offsetLeft + place * over.clientWidth));
    const column = canvas.getContext("2d").getImageData(x, 0, 1, canvas.height).data;
    const wanted = [11, 98, 168];  // --line-1 in light
    for (let i = 0; i < column.length; i += 4)
        if (column[i + 3] > 128 && wanted.every((v, k) => Math.abs(v - column[i + k]) < 40))
            return true;
    return false;
}"""


def test_lines_break_at_the_gaps_of_both_cameras(copy: Path, browser: Any) -> None:
    summary = json.loads((copy / "summary.json").read_text())
    summary["pairing"]["gaps"] = [
        {"topic": camera, "start_seconds": start, "seconds": 0.03}
        for camera, start in (("rgb", 0.36), ("thermal", 0.21))
    ]
    (copy / "summary.json").write_text(json.dumps(summary))
    opened = Opened(browser, write_report(copy, bands=BANDS))
    end = (PAIRS - 1) * STAMP_STEP / 1e9
    drawn = {t: opened.page.evaluate(LINE_AT, ["rgb_dark", t / end])
             for t in (0.12, 0.225, 0.32, 0.375, 0.48)}  # fmt: skip
    assert drawn == {0.12: True, 0.225: False, 0.32: True, 0.375: False, 0.48: True}
    opened.page.close()


def test_dates_of_any_stamp() -> None:
    assert utc(START) == "2023-11-14 22:13:20 UTC"
    assert utc(12_500_000_000) == "12.500 s"
    assert utc(-1_000_000_000) == "-1.000 s"
    assert utc(2**63 - 1).startswith("2262-")


def test_images_become_smaller_then_fewer_to_fit_the_budget(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (100, 480, 3), np.uint8)
    files = {}
    for pair in range(40):
        path = tmp_path / f"{pair:06d}_rgb.jpg"
        write_image(path, np.roll(noise, pair, axis=1))
        files[pair] = {"rgb": path}
    size = 4 / 3 * (tmp_path / "000000_rgb.jpg").stat().st_size

    def total(uris: dict[int, dict[str, str]]) -> int:
        return sum(len(uri) for kinds in uris.values() for uri in kinds.values())

    whole = embed_images(files, [], int(45 * size))
    assert len(whole) == 40
    assert base64.b64decode(whole[7]["rgb"].split(",")[1]) == files[7]["rgb"].read_bytes()
    narrow = embed_images(files, [], int(20 * size))
    assert len(narrow) == 40
    assert total(narrow) < 1.05 * 20 * size
    few = embed_images(files, [13, 14], int(2 * size))
    assert 2 < len(few) < 40
    assert {13, 14} <= set(few)
    assert total(few) < 1.05 * 2 * size
