"""Audit of the dependencies, as far as it goes without the network."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "test" / "lint" / "audit.py"

spec = importlib.util.spec_from_file_location("audit", SCRIPT)
assert spec is not None
assert spec.loader is not None
audit = importlib.util.module_from_spec(spec)
spec.loader.exec_module(audit)


def test_lower_bounds_are_those_of_all_requirements() -> None:
    text = """
setup(name="a", version="1.0", python_requires=">=3.10",
      install_requires=['b>=1.2; python_version < "3.14"', "c>=2,!=2.1.*"],
      extras_require={"d": ["e[f]==7.1.*", "g"]})
"""
    assert audit.lower_bounds(text) == ["b==1.2", "c==2"]
    ours = dict(bound.split("==") for bound in audit.lower_bounds((ROOT / "setup.py").read_text()))
    assert {"torch", "opencv-python-headless", "numpy", "pyyaml"} <= set(ours)


def test_accepted_vulnerabilities_are_left_out() -> None:
    accepted = next(iter(audit.ACCEPTED))
    report = {
        "dependencies": [
            {"name": "a", "version": "1", "vulns": []},
            {"name": "b", "skip_reason": "not on the index"},
            {
                "name": "c",
                "version": "2",
                "vulns": [
                    {"id": "PYSEC-1", "aliases": [accepted], "fix_versions": ["3"]},
                    {"id": "PYSEC-2", "aliases": ["CVE-2"], "fix_versions": ["2.1"]},
                    {"id": "PYSEC-3", "aliases": [], "fix_versions": []},
                ],
            },
        ]
    }
    assert list(audit.findings(report)) == [
        ("c 2", "CVE-2, PYSEC-2; mended in 2.1", True),
        ("c 2", "PYSEC-3; mended in no release yet", False),
    ]


def test_without_network_the_audit_is_skipped_with_the_reason() -> None:
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "HTTPS_PROXY"), "http://127.0.0.1:9")
    done = subprocess.run(
        [sys.executable, SCRIPT],
        cwd=ROOT,
        env={**os.environ, **nowhere, "no_proxy": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines
    assert all(line.startswith("audit ") and " skipped: " in line for line in lines)
