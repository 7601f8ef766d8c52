"""Tests of the HTML kit: pages escape foreign text, request nothing, and fit narrow screens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jinja2 import UndefinedError

from ivf_core.html.embedding import data_uri, embed_file
from ivf_core.html.plots import draw_curves
from ivf_core.html.render import write_page
from ivf_core.images.files import write_image

HOSTILE = "<script>document.title='run'</script>\"'&"


def training_page(folder: Path, **changes: Any) -> Path:
    """Write the page of a training run in which every text is hostile."""
    pytest.importorskip("matplotlib")
    write_image(folder / "wide.png", np.zeros((100, 1600, 3), np.uint8))
    curves = {name: (np.arange(50), np.arange(50.0)) for name in ("a", "b", "c", HOSTILE)}
    values: dict[str, Any] = {
        "title": HOSTILE, "finished": False, "steps": HOSTILE, "outcome": HOSTILE,
        "warnings": [HOSTILE], "scores": {HOSTILE: {HOSTILE: HOSTILE}}, "losses": "losses.csv",
        "curves": data_uri(draw_curves(curves), ".svg"),
        "images": {0: embed_file(folder / "wide.png")}, "recipe": HOSTILE,
        "sessions": [{"command": HOSTILE, "versions": "x" * 300}],
    }  # fmt: skip
    page = folder / "page.html"
    write_page(page, "training_run.html.j2", **(values | changes))
    return page


@pytest.mark.parametrize("width", [500, 1400])
def test_a_page_without_scripts_is_safe_and_fits(browser: Any, tmp_path: Path, width: int) -> None:
    path = training_page(tmp_path)
    page = browser.new_page(viewport={"width": width, "height": 900}, offline=True)
    seen: list[str] = []
    page.on("request", lambda request: seen.append(request.url))
    page.on("console", lambda message: seen.append(message.text))
    page.on("pageerror", lambda error: seen.append(str(error)))
    page.goto(path.as_uri())
    assert page.title() == HOSTILE
    assert page.inner_text("#recipe pre") == HOSTILE
    assert page.locator("script").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for image in page.locator("img").all():
        assert image.evaluate("i => i.decode().then(() => i.naturalWidth)") > 0
    assert [entry for entry in seen if not entry.startswith("data:")] == [path.as_uri()]
    page.close()


def test_a_missing_variable_writes_no_page(tmp_path: Path) -> None:
    with pytest.raises(UndefinedError, match="'rows' is undefined"):
        write_page(tmp_path / "index.html", "fleet.html.j2")
    assert list(tmp_path.iterdir()) == []


def test_curves_are_the_same_bytes_every_time() -> None:
    pytest.importorskip("matplotlib")
    curves = {"loss": (np.arange(9), np.linspace(1, 2, 9))}
    assert draw_curves(curves) == draw_curves(curves)
