"""Tests of files that are written under a temporary name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ivf_core.system.atomic import atomic_path, holds_files, write_json


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
