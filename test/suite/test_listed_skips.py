"""The plugin that lists skipped tests and fails where a reason is not on the list."""

from __future__ import annotations

from pathlib import Path

import pytest
from listed_skips import EXPECTED, read_expected

LISTED = "- {reason: needs a (lidar|radar), because: CI has none}\n"
TESTS = """
import pytest
def test_that_passes():
    pass
@pytest.mark.parametrize("n", range(3))
def test_of_a_lidar(n):
    pytest.skip("needs a lidar")
@pytest.mark.xfail(strict=True)
def test_that_fails_as_expected():
    assert False
"""
OTHER = """
import pytest
pytest.importorskip("no_such_module", reason="the other module is missing")
def test_of_it():
    pass
"""
WORKERS = pytest.mark.parametrize("workers", [[], ["-n", "2"]], ids=["alone", "xdist"])


def run(
    pytester: pytest.Pytester, workers: list[str], *options: str, **files: str
) -> pytest.RunResult:
    if workers:
        pytest.importorskip("xdist")
    pytester.makepyfile(**files)
    listed = pytester.path / "listed.yaml"
    listed.write_text(LISTED)
    plugin = ("-p", "listed_skips", "--expected-skips", str(listed))
    return pytester.runpytest(*plugin, *workers, *options)


@WORKERS
def test_reasons_are_listed_once_with_their_counts(
    pytester: pytest.Pytester, workers: list[str]
) -> None:
    result = run(pytester, workers, test_a=TESTS, test_b=OTHER)
    lines = [line.strip() for line in result.outlines]
    assert lines.count("3 needs a lidar") == 1
    assert lines.count("1 the other module is missing  <- not on the list") == 1
    assert result.ret == pytest.ExitCode.OK


@WORKERS
def test_a_strict_run_fails_for_another_reason_only(
    pytester: pytest.Pytester, workers: list[str]
) -> None:
    assert run(pytester, workers, "--strict-skips", test_a=TESTS).ret == pytest.ExitCode.OK
    result = run(pytester, workers, "--strict-skips", test_b=OTHER)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert any(line.endswith("missing  <- not on the list") for line in result.outlines)


def test_a_run_without_skips_lists_none(pytester: pytest.Pytester) -> None:
    result = run(pytester, [], "--strict-skips", test_a="def test_that_passes(): pass")
    assert result.ret == pytest.ExitCode.OK
    assert not any("skipped, by reason" in line for line in result.outlines)


def test_the_list_of_this_package_can_be_read(tmp_path: Path) -> None:
    patterns = read_expected(EXPECTED)
    assert any(pattern.match("needs a CUDA device") for pattern in patterns)
    assert not any(pattern.match("no browser on PATH: chromium") for pattern in patterns)
    listed = tmp_path / "listed.yaml"
    listed.write_text("- {reason: needs a lidar}\n")
    with pytest.raises(pytest.UsageError, match=r"listed\.yaml': expected a list of entries"):
        read_expected(listed)
