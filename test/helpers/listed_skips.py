"""Pytest plugin: list the skipped tests by reason, and fail where a reason is not on the list.

`expected_skips.yaml` has the reasons that may occur in CI. `--strict-skips` fails a run in which
another one occurs; without it, such a reason is listed and marked.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

EXPECTED = Path(__file__).parents[1] / "expected_skips.yaml"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("skips")
    group.addoption(
        "--strict-skips", action="store_true", help="fail if a test skips for an unlisted reason"
    )
    group.addoption(
        "--expected-skips", type=Path, default=EXPECTED, help="list of reasons (%(default)s)"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(_Skips(read_expected(config.getoption("--expected-skips"))))


def read_expected(path: Path) -> list[re.Pattern[str]]:
    """Read the patterns of a list of `{reason, because}`, which match a reason from its start."""
    entries = yaml.safe_load(path.read_text(encoding="utf-8")) or []
    if not isinstance(entries, list) or any(
        not isinstance(entry, dict) or entry.keys() != {"reason", "because"} for entry in entries
    ):
        raise pytest.UsageError(f"'{path}': expected a list of entries with reason and because")
    return [re.compile(entry["reason"]) for entry in entries]


class _Skips:
    def __init__(self, expected: list[re.Pattern[str]]) -> None:
        self._expected = expected
        self._reasons: Counter[str] = Counter()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._count(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self._count(report)

    def _count(self, report: Any) -> None:
        if report.skipped and not hasattr(report, "wasxfail"):
            self._reasons[report.longrepr[2].removeprefix("Skipped: ")] += 1

    def _unlisted(self) -> list[str]:
        return [r for r in self._reasons if not any(p.match(r) for p in self._expected)]

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        # With xdist the workers report to this process, which decides.
        strict = session.config.getoption("--strict-skips")
        if strict and not hasattr(session.config, "workerinput") and self._unlisted():
            session.exitstatus = session.exitstatus or pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(
        self, terminalreporter: pytest.TerminalReporter, config: pytest.Config
    ) -> None:
        if not self._reasons:
            return
        terminalreporter.section("skipped, by reason")
        unlisted = self._unlisted()
        for reason, count in self._reasons.most_common():
            mark = "  <- not on the list" if reason in unlisted else ""
            terminalreporter.line(f"{count:5} {reason}{mark}", red=bool(mark))
        if unlisted:
            terminalreporter.line(
                "Tests skip here that do not skip in CI: install what they need, or, if they may"
                f" skip there, add the reason to {config.getoption('--expected-skips').name}."
            )
