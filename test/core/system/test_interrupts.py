"""Ctrl-C for processes in the background."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]
START = """
import sys, time
from ivf_core import cli
from ivf_core.commands.command import Command, no_arguments

def wait(args):
    print("ready", flush=True)
    time.sleep(60)

cli.COMMANDS += (Command("wait", "wait", "ivf wait", no_arguments, wait),)
sys.exit(cli.main(["wait"]))
"""


@pytest.mark.parametrize("inherited", [signal.SIG_IGN, signal.default_int_handler])
def test_sigint_ends_a_command(inherited: signal.Handlers) -> None:
    before = signal.signal(signal.SIGINT, inherited)
    try:
        process = subprocess.Popen(
            [sys.executable, "-c", START],
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    finally:
        signal.signal(signal.SIGINT, before)
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        errors = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert errors == ""
