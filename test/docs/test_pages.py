"""Pages of the documentation: links, images, the site, and the files that hosts read."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml
from documented_commands import PAGES, ROOT

_CODE = re.compile(r"^```.*?^```$|`[^`\n]+`", re.DOTALL | re.MULTILINE)
LINKED = [*PAGES, ROOT / "CHANGELOG.md", ROOT / ".github/pull_request_template.md"]


def load(path: str) -> ModuleType:
    """Import a script of docs/, which is no package."""
    file = ROOT / path
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def anchors(path: Path) -> set[str]:
    """Return the anchors that GitHub gives to the headings of a page."""
    text = re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.S | re.M)
    found = set()
    for title in re.findall(r"^#+ (.*)$", text, re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title)
        found.add(re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-"))
    return found


def links(path: Path) -> list[str]:
    """Return the targets of a page's links, without those of the web."""
    text = _CODE.sub("", path.read_text(encoding="utf-8"))
    targets = re.findall(r"\]\(([^)\s]+)\)", text)
    return [target for target in targets if not re.match(r"[a-z]+:", target)]


@pytest.mark.parametrize("path", LINKED, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(path: Path) -> None:
    for link in links(path):
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        assert target.is_relative_to(ROOT), link
        assert target.is_file(), link
        if anchor:
            assert anchor in anchors(target), link


def test_links_of_the_web_are_encrypted() -> None:
    for path in LINKED:
        assert "](http://" not in path.read_text(encoding="utf-8"), path


def test_readme_is_two_screens_with_an_image_that_moves() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 110
    image = ROOT / "docs/images/demo.gif"
    assert image.read_bytes().startswith(b"GIF89a")
    assert image.stat().st_size < 2_000_000
    assert any("docs/images/demo.gif" in line for line in lines)


def test_frame_of_the_image_shows_all_four_images() -> None:
    pytest.importorskip("PIL")
    pytest.importorskip("openvino")
    from ivf_core import FusionPipeline
    from ivf_core.defaults import DEFAULT_WEIGHTS
    from ivf_core.scenes import random_scene

    script = load("docs/images/demo_gif.py")
    width, height = script.PANEL
    pipeline = FusionPipeline(DEFAULT_WEIGHTS, engine="openvino", precision="fp32")
    panel = script.panel(pipeline, random_scene(0, (160, 120), "night"))
    assert panel.shape == (2 * height, 2 * width, 3)
    rgb, thermal, fused, mask = (
        panel[y : y + height, x : x + width] for y in (0, height) for x in (0, width)
    )
    below = slice(30, None)  # the titles
    assert (thermal[below] == thermal[below, :, :1]).all()
    assert all(np.ptp(image[below]) > 50 for image in (rgb, thermal, fused))
    assert (mask[below] != fused[below]).any()


class TestDiagrams:
    diagrams = load("docs/site_diagrams.py")

    def test_all_diagrams_of_the_pages_are_drawn(self) -> None:
        sources = [
            source
            for path in PAGES
            for source in re.findall(
                r"^```mermaid\n(.*?)^```$", path.read_text(encoding="utf-8"), re.S | re.M
            )
        ]
        assert len(sources) >= 2
        for source in sources:
            _, texts, arrows = self.diagrams.parse(source)
            drawn = ElementTree.fromstring(self.diagrams.draw(source))
            assert sorted(node.text or "" for node in drawn.iter("text")) == sorted(texts.values())
            assert len(list(drawn.iter("path"))) == len(arrows) + 1  # and the head of an arrow

    def test_boxes_do_not_overlap(self) -> None:
        source = "flowchart TD\n  a[one] --> b & c\n  b --> d\n  c --> d\n  a --> d\n"
        drawn = ElementTree.fromstring(self.diagrams.draw(source))
        boxes = [
            [float(box.get(name, "0")) for name in ("x", "y", "width", "height")]
            for box in drawn.iter("rect")
        ]
        assert len(boxes) == 4
        for index, (x, y, width, height) in enumerate(boxes):
            for u, v, w, h in boxes[:index]:
                assert x >= u + w or u >= x + width or y >= v + h or v >= y + height

    @pytest.mark.parametrize("source", ["graph LR\n  a --> b", "flowchart LR\n  a -- b"])
    def test_what_it_does_not_know_is_named(self, source: str) -> None:
        with pytest.raises(ValueError, match=r"diagram .* expected"):
            self.diagrams.draw(source)


class _Loader(yaml.SafeLoader):
    """Loader that keeps Python's tags of mkdocs.yml as plain values."""


_Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda *_: None)


def leaves(entry: Any) -> list[str]:
    """Return the pages of a navigation."""
    if isinstance(entry, str):
        return [entry]
    values = entry.values() if isinstance(entry, dict) else entry
    return [leaf for value in values for leaf in leaves(value)]


def test_every_page_is_in_the_navigation_of_the_site() -> None:
    site = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), _Loader)
    hooks = (ROOT / "docs/site_hooks.py").read_text(encoding="utf-8")
    added = set(re.findall(r'"[\w/]+\.md": "([\w/]+\.md)"', hooks))
    cards = {f"weights/{card.name}" for card in (ROOT / "ivf_core/weights").glob("*.md")}
    pages = {path.name for path in (ROOT / "docs").glob("*.md")}
    assert set(leaves(site["nav"])) == pages | added | cards


def steps(path: Path) -> list[dict[str, Any]]:
    """Return the steps of all jobs of a workflow."""
    jobs = yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"].values()
    return [step for job in jobs for step in job["steps"]]


WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_steps_of_workflows_are_targets_of_make(path: Path) -> None:
    targets = re.findall(r"^([a-z]+):.*##", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    commands = [step["run"] for step in steps(path) if "run" in step]
    assert commands
    for command in commands:
        *before, last = command.split(" && ")
        assert all(part.startswith("source /opt/ros/") for part in before)
        assert last.split()[0] == "make"
        assert last.split()[1] in targets


def test_workflows_cover_the_pythons_and_the_distributions() -> None:
    def matrix(name: str, job: str, key: str) -> list[str]:
        text = (ROOT / f".github/workflows/{name}.yml").read_text(encoding="utf-8")
        return yaml.safe_load(text)["jobs"][job]["strategy"]["matrix"][key]

    assert matrix("tests", "tests", "python") == [f"3.{minor}" for minor in range(10, 15)]
    assert matrix("ros", "colcon", "distribution") == ["humble", "jazzy", "kilted"]
    assert {path.stem for path in WORKFLOWS} == {"docs", "lint", "ros", "tests", "wheels"}


def test_hooks_before_a_commit_run_what_lint_runs() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    entries = [hook["entry"] for repository in config["repos"] for hook in repository["hooks"]]
    for entry in entries:
        program, *words = entry.split()
        assert program.startswith(".venv/bin/")
        if words[:1] == ["-m"]:
            assert importlib.util.find_spec(words[1]) is not None
        elif words:
            assert (ROOT / words[0]).is_file()
    assert any("plain_language" in entry for entry in entries)


def test_citation_has_the_version_of_the_package() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    manifest = ElementTree.parse(ROOT / "package.xml").getroot()
    assert str(citation["version"]) == manifest.findtext("version")
    assert citation["license"] == manifest.findtext("license")
    assert citation["title"].startswith(f"{manifest.findtext('name')}:")
    assert {"cff-version", "message", "authors", "type"} <= set(citation)


def test_forms_of_issues_ask_for_something() -> None:
    forms = [p for p in (ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml") if p.stem != "config"]
    assert len(forms) == 2
    for path in forms:
        form = yaml.safe_load(path.read_text(encoding="utf-8"))
        assert {"name", "description", "body"} <= set(form)
        fields = [field for field in form["body"] if field["type"] in ("input", "textarea")]
        assert any(field.get("validations", {}).get("required") for field in fields)
        assert len({field["id"] for field in fields}) == len(fields)


@pytest.mark.parametrize(("target", "seen"), [("colcon", "/opt/ros/lib"), ("setup", "")])
def test_only_colcon_sees_the_sourced_distribution(target: str, seen: str, tmp_path: Path) -> None:
    """The environment in .venv has ROS wheels of its own, colcon needs the distribution."""
    probe = tmp_path / "Makefile"
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    head = text[: text.index("\nhelp:")]
    probe.write_text(f'{head}\n{target}:\n\t@echo "<$$PYTHONPATH>"\n', encoding="utf-8")
    done = subprocess.run(
        ["make", "--silent", "-C", str(tmp_path), target],
        env={**os.environ, "ROS_DISTRO": "jazzy", "PYTHONPATH": "/opt/ros/lib"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == f"<{seen}>"
