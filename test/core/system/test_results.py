"""Output directories: results replace those of an earlier run, and nothing else."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from ivf_core.system.results import (
    LISTING,
    OutputError,
    check_inputs,
    check_output,
    file_names,
    new_results,
    remove_listed,
)

NAMES = ("bag", "images", "frames.csv")


def write(output: Path, text: str = "ours") -> None:
    with new_results(output, NAMES) as folder:
        for name in ("bag/a.mcap", "images/0.jpg", "frames.csv"):
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(text)
        (folder / LISTING).write_text(json.dumps({"outputs": [*file_names(folder), LISTING]}))


def tree(folder: Path) -> dict[str, bytes]:
    names = [name for name in file_names(folder) if not (folder / name).is_symlink()]
    return {name: (folder / name).read_bytes() for name in names}


def test_results_of_an_earlier_run_are_replaced_and_other_files_stay(tmp_path: Path) -> None:
    output = tmp_path / "out"
    write(output)
    for name in ("notes.txt", "images/mine.jpg", "bag/extra/x"):
        (output / name).parent.mkdir(exist_ok=True)
        (output / name).write_text("mine")
    with pytest.raises(OutputError, match="bag/extra/x is there already"):
        write(output, "new")
    (output / "bag" / "extra" / "x").rename(output / "x")
    with pytest.raises(OutputError, match=r"images/mine\.jpg is there already, and no summary"):
        write(output, "new")
    (output / "images" / "mine.jpg").rename(output / "mine.jpg")
    write(output, "new")
    assert (output / "frames.csv").read_text() == "new"
    assert {(output / name).read_text() for name in ("notes.txt", "x", "mine.jpg")} == {"mine"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("name", ["bag", "images", "frames.csv", LISTING])
@pytest.mark.parametrize("kind", ["file", "folder", "empty folder", "link", "broken link"])
def test_what_no_run_has_made_is_never_touched(tmp_path: Path, name: str, kind: str) -> None:
    output, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    output.mkdir()
    elsewhere.mkdir()
    (elsewhere / "photo.jpg").write_text("mine")
    place = output / name
    if kind == "file":
        place.write_text("mine")
    elif kind == "folder":
        (place / "deep").mkdir(parents=True)
        (place / "deep" / "photo.jpg").write_text("mine")
    elif kind == "empty folder":
        place.mkdir()
    else:
        place.symlink_to(elsewhere if kind == "link" else tmp_path / "nowhere")
    before = tree(output), tree(elsewhere), place.is_symlink()
    with pytest.raises(OutputError, match=f"{name}.* is there already"):
        write(output)
    assert (tree(output), tree(elsewhere), place.is_symlink()) == before


def test_folder_replaced_by_a_link_since_the_earlier_run(tmp_path: Path) -> None:
    output, photos = tmp_path / "out", tmp_path / "photos"
    write(output)
    (output / "images").rename(photos)
    (output / "images").symlink_to(photos)
    remove_listed(output)
    assert tree(photos) == {"0.jpg": b"ours"}
    assert not (output / "frames.csv").exists()


@pytest.mark.parametrize("names", [["../mine"], ["/etc/passwd"], "mine", [3], None])
def test_listing_of_another_kind_lists_nothing(tmp_path: Path, names: object) -> None:
    output = tmp_path / "out"
    output.mkdir()
    (tmp_path / "mine").write_text("mine")
    (output / "mine").write_text("mine")
    (output / LISTING).write_text(json.dumps({"outputs": names}))
    if names != ["../mine"] and names != ["/etc/passwd"] and names != [3]:
        with pytest.raises(OutputError):
            check_output(output, [])
    remove_listed(output)
    assert (tmp_path / "mine").exists()
    assert (output / "mine").exists()


@pytest.mark.parametrize("inner", ["", "bag", "deep/bag"])
def test_output_that_contains_an_input(tmp_path: Path, inner: str) -> None:
    path = tmp_path / "out" / inner
    path.mkdir(parents=True)
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "out")
    for output in (tmp_path / "out", link):
        with pytest.raises(OutputError, match="the input"):
            check_inputs(output, [path])
    check_inputs(tmp_path / "out" / "bag" / "report", [path])


def test_what_was_finished_before_an_error_is_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    output = tmp_path / "out"
    write(output)
    before = tree(output)

    def fail(*finished: str) -> None:
        with new_results(output, NAMES) as folder:
            for name in finished:
                (folder / name).write_text("new")
            raise OSError("the disk is full")

    for number in ("", "_2"):
        with caplog.at_level(logging.WARNING), pytest.raises(OSError, match="full"):
            fail("frames.csv")
        assert tree(tmp_path / f"out.unfinished{number}") == {"frames.csv": b"new"}
        assert f"out.unfinished{number}'" in caplog.text
    with pytest.raises(OSError, match="full"):
        fail()
    assert tree(output) == before
    assert len(list(tmp_path.iterdir())) == 3
