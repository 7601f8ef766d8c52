"""Tests of the git revision."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from ivf_core.system import revision
from ivf_core.system.revision import git_revision


def test_revision_is_that_of_the_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Test a copy of the helper's file in a new checkout: untracked, committed, changed."""

    def git(*words: str) -> str:
        command = ["git", "-c", "user.name=t", "-c", "user.email=t@t", *words]
        return subprocess.run(
            command, cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout.strip()

    copy = tmp_path / "revision.py"
    copy.write_text("")
    monkeypatch.setattr(revision, "__file__", str(copy))
    git("init")
    assert git_revision() == "unknown"
    git("add", ".")
    git("commit", "-m", "one")
    assert git_revision() == git("rev-parse", "HEAD")
    copy.write_text("changed")
    assert git_revision() == git("rev-parse", "HEAD") + "-dirty"
    monkeypatch.setenv("PATH", "")
    assert git_revision() == "unknown"
