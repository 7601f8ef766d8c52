"""Audit of the dependencies: published vulnerabilities of their lower bounds and of the installed.

Run by `make lint`. pip-audit asks the advisory database of the package index over the network;
without it the audit is skipped, and says why. The exit status is 1 only for a vulnerability that
a release mends.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement

ROOT = Path(__file__).resolve().parents[2]

ACCEPTED = {
    "CVE-2025-71176": "pytest's folder in /tmp: tests only, and Ubuntu 24.04 has pytest 7.4",
}
"""Vulnerabilities that we live with, and the reason."""


def lower_bounds(setup: str) -> list[str]:
    """Return the requirements of setup.py at their lower bounds, as `name==version`.

    Args:
        setup: text of setup.py.
    """
    bounds = set()
    for node in ast.walk(ast.parse(setup)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            try:
                requirement = Requirement(node.value)
            except InvalidRequirement:
                continue
            lowest = [s.version for s in requirement.specifier if s.operator == ">="]
            bounds |= {f"{requirement.name}=={version}" for version in lowest}
    return sorted(bounds)


def findings(report: dict[str, Any]) -> Iterator[tuple[str, str, bool]]:
    """Yield name, text and whether a release mends it, of each vulnerability not accepted.

    Args:
        report: pip-audit's report in JSON.
    """
    for package in report["dependencies"]:
        for found in package.get("vulns", ()):
            names = {found["id"], *found.get("aliases", ())}
            if names & ACCEPTED.keys():
                continue
            fixes = found.get("fix_versions") or []
            text = f"{', '.join(sorted(names))}; mended in {', '.join(fixes) or 'no release yet'}"
            yield f"{package['name']} {package['version']}", text, bool(fixes)


def audit(title: str, options: Sequence[str]) -> bool:
    """Run pip-audit, print what it finds, and return whether something has to be done.

    Args:
        title: description of what is audited.
        options: options of pip-audit that choose it.
    """
    command = [sys.executable, "-m", "pip_audit", "--format", "json", "--progress-spinner", "off"]
    done = subprocess.run([*command, *options], cwd=ROOT, capture_output=True, text=True)
    try:
        report = json.loads(done.stdout)
    except ValueError:
        reason = (done.stderr.strip() or "pip-audit says nothing").splitlines()[-1]
        print(f"audit of {title} skipped: {reason[:200]}")
        return False
    audited = [one for one in report["dependencies"] if "skip_reason" not in one]
    if not audited:
        print(f"audit of {title} skipped: the package index has no advisory database")
        return False
    found = list(findings(report))
    for package, text, _ in found:
        print(f"{title}: {package}: {text}")
    left_out = len(report["dependencies"]) - len(audited)
    print(f"audit of {title}: {len(audited)} packages, {left_out} unknown, {len(found)} findings")
    return any(mended for _, _, mended in found)


def main() -> int:
    """Audit both, and return the exit status."""
    if importlib.util.find_spec("pip_audit") is None:
        print("audit skipped: pip-audit is not installed (make develop installs it)")
        return 0
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("\n".join(lower_bounds((ROOT / "setup.py").read_text(encoding="utf-8"))))
        file.flush()
        bounds = audit("lower bounds", ["--requirement", file.name, "--no-deps", "--disable-pip"])
    installed = audit("installed packages", ["--local", "--skip-editable"])
    return int(bounds or installed)


if __name__ == "__main__":
    sys.exit(main())
