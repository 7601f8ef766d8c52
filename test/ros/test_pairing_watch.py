"""Causes of few pairs, from the real pairing of simulated arrivals."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from diagnostic_msgs.msg import DiagnosticStatus

from ivf_core.pairing import TimePairer
from ivf_ros.pairing_watch import PairingSettings, PairingWatch

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR
EPOCH = 1_700_000_000.0

Camera = Callable[[int], tuple[float, float]]  # stamp and arrival of a frame


def camera(
    rate: float = 30.0, shift: float = 0.0, delay: float = 0.01, phase: float = 0.0
) -> Camera:
    """Return a camera whose stamps are `shift` off, and whose images arrive after `delay`."""
    return lambda n: (EPOCH + n / rate + phase + shift, n / rate + phase + delay)


def watch(
    rgb: Camera,
    thermal: Camera,
    *,
    tolerance: float = 0.02,
    offset: float = 0.0,
    seconds: float = 6,
) -> tuple[bytes, str]:
    """Return the finding after some seconds of both cameras."""
    settings = PairingSettings(tolerance, offset, 10)
    pairer: TimePairer[int] = TimePairer(
        round(tolerance * 1e9), 10, round(offset * 1e9), 15_000_000
    )
    found = PairingWatch()
    arrivals = sorted(
        (arrival, name, stamp)
        for name, frames in (("rgb", rgb), ("thermal", thermal))
        for stamp, arrival in (frames(n) for n in range(300))
        if arrival < seconds
    )
    result, checked = (OK, ""), 0.0
    for now, name, stamp in arrivals:
        add = pairer.add_visible if name == "rgb" else pairer.add_infrared
        found.image(name, stamp, now)
        for _ in add(round(stamp * 1e9), 0):
            found.delivered(now)
        if now - checked >= 0.5:
            checked = now
            result = found.check(now, 0.0, 2.0, pairer.counters(), settings, {})
    return result


def test_cameras_that_pair() -> None:
    level, text = watch(camera(), camera(phase=0.004))
    assert level == OK
    assert "pairs of" in text


@pytest.mark.parametrize(
    ("thermal", "words"),
    [
        pytest.param(
            lambda n: (0.0, n / 30), ["all thermal stamps are zero", "header.stamp"], id="zero"
        ),
        pytest.param(
            camera(shift=10 - EPOCH),
            ["behind RGB stamps (thermal stamps count from a start", "one clock"],
            id="since boot",
        ),
        pytest.param(
            camera(shift=3600.0), ["3600.000 s ahead of RGB stamps: let both"], id="another clock"
        ),
        pytest.param(
            camera(delay=1.51),
            ["thermal images arrive 1.500 s after", "queue_size:=51", "offset_seconds:=1.500"],
            id="late beyond the queue",
        ),
        pytest.param(
            camera(shift=1.5), ["rgb images arrive 1.500 s after", "offset_seconds:=-1.500"],
            id="ahead beyond the queue",
        ),
    ],
)  # fmt: skip
def test_cause_of_no_pair_at_30_hz(thermal: Camera, words: list[str]) -> None:
    level, text = watch(camera(), thermal)
    assert level == ERROR
    assert all(word in text for word in words), text


@pytest.mark.parametrize(
    ("thermal", "offset", "words"),
    [
        (
            camera(10, shift=-0.045),
            0.0,
            ["45.0 ms behind", "offset_seconds:=0.045", "tolerance_seconds:=0.046"],
        ),
        (camera(10, shift=0.03), 0.0, ["30.0 ms ahead of", "offset_seconds:=-0.030"]),
        (camera(10, shift=-0.045), 0.01, ["35.0 ms behind", "offset_seconds:=0.045"]),
    ],
)
def test_shift_beyond_the_tolerance(thermal: Camera, offset: float, words: list[str]) -> None:
    level, text = watch(camera(10), thermal, offset=offset)
    assert level == ERROR
    assert all(word in text for word in words), text


def test_the_value_that_is_named_mends_it() -> None:
    assert watch(camera(10), camera(10, shift=-0.045), offset=0.045)[0] == OK
    assert watch(camera(10), camera(10, shift=-0.045), tolerance=0.047)[0] == OK


def test_a_stamp_a_second_is_a_warning() -> None:
    level, text = watch(camera(), lambda n: (EPOCH + n // 30, n / 30))
    assert level == WARN
    assert "thermal stamps repeat themselves" in text


def test_few_pairs_are_a_warning() -> None:
    """Cameras of 10 Hz and 9.3 Hz that run freely meet now and then."""
    level, text = watch(camera(10), camera(9.3, phase=0.02), tolerance=0.01, seconds=12)
    assert level == WARN
    assert "the nearest stamps are up to" in text
    assert "set tolerance_seconds:=0.0" in text


def test_silence_is_no_matter_of_pairing_until_nothing_comes() -> None:
    found = PairingWatch()
    counters = TimePairer[int](0).counters()
    settings = PairingSettings(0.02, 0.0, 10)
    assert found.check(1.0, 0.0, 2.0, counters, settings, {})[0] == OK
    found.image("rgb", 2.4, 2.5)
    level, text = found.check(3.0, 0.0, 2.0, counters, settings, {})
    assert (level, text) == (ERROR, "nothing to fuse for 3.0 s: no images of thermal")
    found.delivered(3.0)  # RGB alone
    assert found.check(3.5, 0.0, 2.0, counters, settings, {})[0] == OK
