"""Hostile command lines of `ivf`: a result or a short message, never a traceback."""

from __future__ import annotations

import contextlib
import io
import shutil
from collections import Counter
from pathlib import Path

import pytest
from hostile.arguments import command_lines, make_files
from hostile.budget import inputs
from hostile.limits import time_limit
from hypothesis import given

from ivf_core.cli import main

LONGEST_LINE = 2000


@pytest.fixture(scope="session")
def files(tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("commands")
    make_files(folder, tiny_weights)
    return folder


@pytest.mark.slow
@inputs(50)
@given(words=command_lines())
def test_command_ends_with_a_status_and_a_message(
    words: list[str],
    files: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    figures: Counter[str],
) -> None:
    figures["command lines"] += 1
    folder = tmp_path / "current"
    shutil.copytree(files, folder)
    # As a terminal's: a name that is not UTF-8 cannot be printed on stdout.
    out = io.TextIOWrapper(io.BytesIO(), "utf-8")
    err = io.TextIOWrapper(io.BytesIO(), "utf-8", errors="backslashreplace")
    try:
        with monkeypatch.context() as patch, time_limit():
            patch.chdir(folder)
            patch.setenv("IVF_DATA", str(folder / "missing"))
            patch.setenv("HOME", str(folder))
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                try:
                    status = main(words)
                except SystemExit as end:
                    status = end.code
                out.flush()
    finally:
        shutil.rmtree(folder)
    err.flush()
    text = err.buffer.getvalue().decode()
    assert status in (0, 1, 2), status
    assert "Traceback" not in text
    assert status == 0 or text.strip(), "failed without a message"
    longest = max(
        (line for line in text.splitlines() if line.startswith("ivf")), key=len, default=""
    )
    assert len(longest) <= LONGEST_LINE, f"{len(longest)} characters: {longest[:200]} ..."
