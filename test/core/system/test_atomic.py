"""Tests of files that are written under a temporary name."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ivf_core.system.atomic import (
    atomic_path,
    holds_files,
    remove_leftovers,
    remove_leftovers_of,
    write_json,
)

WRITE = """
import sys
from ivf_core.system.atomic import atomic_path
with atomic_path(sys.argv[1]) as temporary:
    temporary.write_text("half")
    print(temporary, flush=True)
    sys.stdin.read()
"""


def test_atomic_path_keeps_the_old_file_after_an_error(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "file.txt"
    with atomic_path(path) as temporary:
        temporary.write_text("old")
        assert not path.exists()
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:  # noqa: PT012
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


def test_json_ends_with_a_line_break_and_replaces_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "record.json"
    write_json(path, {"old": True})
    write_json(path, {"name": "ä", "values": [1, 2.5, None]})
    text = path.read_text(encoding="utf-8")
    assert text.endswith("}\n")
    assert json.loads(text) == {"name": "ä", "values": [1, 2.5, None]}
    assert path.stat().st_mode & 0o777 == 0o644
    assert list(path.parent.iterdir()) == [path]


def test_value_that_is_no_json_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    write_json(path, 1)
    with pytest.raises(TypeError, match="not JSON serializable"):
        write_json(path, {"path": path})
    assert path.read_text(encoding="utf-8") == "1\n"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_holds_more_than_temporary_files(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    assert not holds_files(folder)
    with atomic_path(folder / "record.json"):
        assert list(folder.iterdir())
        assert not holds_files(folder)
    assert holds_files(folder)


def test_leftovers_of_killed_writers_are_removed(tmp_path: Path) -> None:
    """A file of a running process stays, and is removed when that process is killed."""
    path = tmp_path / "record.json"
    with subprocess.Popen(
        [sys.executable, "-c", WRITE, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        text=True,
    ) as writer:  # fmt: skip
        assert writer.stdout is not None
        temporary = Path(writer.stdout.readline().strip())
        remove_leftovers_of([path])
        assert temporary.read_text() == "half"
        writer.kill()
    assert temporary.exists()
    remove_leftovers_of([tmp_path / "other.json"])
    assert temporary.exists()
    remove_leftovers_of([path])
    assert list(tmp_path.iterdir()) == []


def test_leftovers_are_files_of_our_names(tmp_path: Path) -> None:
    """Final names, other hidden files, folders and links stay; so does what a writer writes."""
    names = (
        "7.png", ".7.png", "7.abcdefgh.png", ".7.abcdefg.png", ".7.ABCDEFGH.png",
        ".notes.original.png", ".7.abcdefgh.npz",
    )  # fmt: skip
    for name in (*names, ".7.abc_e0gh.png"):
        (tmp_path / name).touch()
    (tmp_path / ".8.abcdefgh.png").mkdir()
    (tmp_path / ".9.abcdefgh.png").symlink_to(tmp_path / "7.png")
    os.mkfifo(tmp_path / ".6.abcdefgh.png")
    before = {path.name for path in tmp_path.iterdir()}
    with atomic_path(tmp_path / "5.png") as temporary:
        temporary.write_bytes(b"new")
        remove_leftovers(tmp_path, re.compile(r"\d\.png").fullmatch)
    after = {path.name for path in tmp_path.iterdir()}
    assert after == before - {".7.abc_e0gh.png"} | {"5.png"}
    assert (tmp_path / "5.png").read_bytes() == b"new"
    remove_leftovers(tmp_path / "missing", str.isprintable)


def test_a_name_without_suffix_has_leftovers(tmp_path: Path) -> None:
    (tmp_path / ".README.abcdefgh").touch()
    remove_leftovers_of([tmp_path / "README"])
    assert list(tmp_path.iterdir()) == []
