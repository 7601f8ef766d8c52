"""Command `ivf view` and its page in a real browser."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from replays import write_drive

from ivf_core.cli import main

ROOT = Path(__file__).parents[3]
COUNT = 12
SECONDS = 60.0


def start(*words: object) -> tuple[subprocess.Popen[str], str]:
    """Start `ivf view` on a free port and return the process and the page's address."""
    process = subprocess.Popen(
        [sys.executable, "-m", "ivf_core.cli", "view", *map(str, words), "--port", "0",
         "--no-browser"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert process.stdout is not None
    line = process.stdout.readline()
    match = re.search(r"http://127\.0\.0\.1:\d+/", line)
    if match is None:
        pytest.fail(f"{line}{process.communicate()[1]}")
    return process, match[0]


@pytest.fixture(scope="module")
def url(tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    bag = write_drive(tmp_path_factory.mktemp("bags") / "drive", COUNT)
    words = (bag, "--weights", tiny_weights, "--engine", "torch", "--precision", "fp32")
    process, url = start(*words)
    yield url
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=SECONDS)
    assert (process.returncode, output, errors) == (0, "", "")  # a clean end


class Opened:
    """Page in the browser, with its requests and complaints."""

    def __init__(self, browser: Any, url: str, width: int) -> None:
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.page = browser.new_page(viewport={"width": width, "height": 900})
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.goto(url)
        self.wait_for(0)

    def wait_for(self, number: int) -> None:
        self.page.wait_for_selector(f'body[data-frame="{number}"]')

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def brightness(self, panel: str) -> float:
        """Return the mean of a panel's pixels."""
        return self.page.locator(f'[data-panel="{panel}"] canvas').evaluate(
            "c => { const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
            "let sum = 0; for (let i = 0; i < d.length; i += 4) sum += d[i];"
            "return 4 * sum / d.length; }"
        )


@pytest.mark.parametrize("width", [500, 1400])
def test_page_shows_all_panels_and_fits(browser: Any, url: str, width: int) -> None:
    opened = Opened(browser, url, width)
    page = opened.page
    assert page.locator("#stage figure:visible canvas").count() == 5
    for panel in ("fused", "overlay", "thermal", "rgb"):
        assert opened.brightness(panel) > 0, panel
    assert page.locator('[data-panel="mask"] canvas').get_attribute("width") == "96"
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert "in order" in page.inner_text("#health")
    assert "model" in page.inner_text("#timings")
    assert page.locator("#classes li").count() == 9
    assert "pairs\t12" in page.inner_text("#counters")
    assert all(request.startswith(url) for request in opened.requests)
    assert opened.complaints == []
    page.close()


def test_keys_move_and_toggle(browser: Any, url: str) -> None:
    opened = Opened(browser, url, 1400)
    page = opened.page
    opened.press("ArrowRight", "ArrowRight", "ArrowLeft")  # quicker than frames come
    opened.wait_for(1)
    opened.press("End")
    opened.wait_for(COUNT - 1)
    opened.press("ArrowLeft")
    opened.wait_for(COUNT - 2)
    opened.press("Shift+ArrowLeft")  # a second is ten frames
    opened.wait_for(0)
    opened.press("Digit3", "Digit5")
    assert page.locator("#stage figure:visible").count() == 3
    opened.press("Shift+Digit4")
    assert page.get_attribute("#stage figure.large", "data-panel") == "thermal"
    opened.press("f")
    assert page.locator("#stage figure:visible").count() == 1
    opened.press("f", "Digit3", "Digit5")
    assert page.locator("#stage figure:visible").count() == 5
    opened.press("ArrowDown")
    assert page.input_value("#speed") == "0.5"
    opened.press("?")
    assert page.locator("#help").is_visible()
    assert opened.complaints == []
    page.close()


def test_page_plays_to_the_end_and_saves(browser: Any, url: str, tmp_path: Path) -> None:
    opened = Opened(browser, url, 1400)
    page = opened.page
    page.select_option("#speed", "0")
    page.locator("#speed").evaluate("select => select.blur()")
    opened.press("Space")
    opened.wait_for(COUNT - 1)
    page.wait_for_selector("body:not(.playing)")
    page.locator("#line").click(position={"x": 2, "y": 10})
    opened.wait_for(0)
    page.select_option("#palette", "ironbow")
    with page.expect_download() as waiting:
        page.click("#save")
    saved = tmp_path / "saved.zip"
    waiting.value.save_as(saved)
    assert waiting.value.suggested_filename == "drive_000000.zip"
    assert "drive_000000/mask.png" in zipfile.ZipFile(saved).namelist()
    assert opened.complaints == []
    page.close()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "expected a BAG or FOLDER, or --visible with --infrared"),
        (["--visible", "a.mp4"], "belong together"),
        (["none.mcap"], "bag 'none.mcap': no such file"),
        (["none", "--visible", "a", "--infrared", "b"], "expected a BAG or FOLDER"),
        (["--visible", "a.mp4", "--infrared", "b.mp4"], "'a.mp4': no such file"),
    ],
)
def test_bad_input_is_one_line(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["view", "--no-browser", *words]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_folder_of_pairs_and_a_taken_port(tiny_weights: Path, tmp_path: Path, url: str) -> None:
    from replays import drive

    from ivf_core.images.files import write_image

    for number, frame in enumerate(drive(2)):
        write_image(tmp_path / "visible" / f"{number}.png", frame.visible)
        write_image(tmp_path / "infrared" / f"{number}.png", frame.infrared)
    port = url.rstrip("/").rpartition(":")[2]
    words = ["view", str(tmp_path), "--weights", str(tiny_weights), "--engine", "torch"]
    assert main([*words, "--no-browser", "--port", port]) == 1
    process, _ = start(*words[1:])
    process.send_signal(signal.SIGTERM)
    assert process.wait(SECONDS) == 0
