"""Tests of child processes that answer questions."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ivf_core.system.child_process import Child

CHILD = """
import sys
import time
from contextlib import contextmanager
from ivf_core.system.child_process import serve

@contextmanager
def prepared():
    if sys.argv[1] != "{}":
        raise ValueError("no such thing")
    def respond(question, *arguments):
        if question == "wait":
            time.sleep(600)
        while question == "work":
            pass
        return {"asked": [question, *arguments]}
    yield {"ready": True}, respond

serve(prepared)
"""
PARENT = """
import sys
from ivf_core.system.child_process import Child

child = Child("child", {})
child.answer()
print(child.process.pid, flush=True)
child.ask(sys.argv[1])
"""


@pytest.fixture(autouse=True)
def child_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "child.py").write_text(CHILD)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")


def test_questions_and_answers() -> None:
    with Child("child", {}) as child:
        assert child.answer() == {"ready": True}
        assert child.ask("add 1 2") == {"asked": ["add", "1", "2"]}
        assert child.ask("again") == {"asked": ["again"]}
    assert child.process.returncode is not None


def test_an_error_is_reported_and_ends_the_child(capfd: pytest.CaptureFixture[str]) -> None:
    child = Child("child", {"bad": 1}, "mine")
    with pytest.raises(ValueError, match="mine: ValueError: no such thing"):
        child.answer()
    assert child.process.wait() == 0
    child.end()
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("question", ["wait", "work"])
def test_a_busy_child_ends_with_its_parent(question: str, ending: signal.Signals) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, question], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.send_signal(ending)
    parent.wait()
    deadline = time.monotonic() + 60
    while is_running(child):
        assert time.monotonic() < deadline, "the child has outlived its parent"
        time.sleep(0.05)


def is_running(pid: int) -> bool:
    """Return whether a process exists and is no zombie that nobody has waited for."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False
