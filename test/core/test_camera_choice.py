"""Choice of the cameras in use, from arrivals and health, without ROS nodes."""

from __future__ import annotations

from collections import Counter

from ivf_core.camera_choice import CameraChoice, Route

PERIOD = 1 / 30


def run(
    choice: CameraChoice,
    *,
    until: float,
    start: float = 0.0,
    rgb: bool = True,
    thermal: bool = True,
    thermal_period: float = PERIOD,
    **options: object,
) -> list[tuple[float, str, Route]]:
    """Deliver frames at steady rates; return time, camera and route of each."""
    arrivals = []
    for camera, period, delivers in (
        ("rgb", PERIOD, rgb),
        ("thermal", thermal_period, thermal),
    ):
        first, last = round(start / period), round(until / period)
        arrivals += [(k * period, camera) for k in range(first, last) if delivers]
    options.setdefault("first_seconds", 2.0)
    return [
        (now, camera, choice.take(camera, now, 100 + now, **options))  # type: ignore[arg-type]
        for now, camera in sorted(arrivals)
    ]


def routes(taken: list[tuple[float, str, Route]]) -> Counter[tuple[str, Route]]:
    return Counter((camera, route) for _, camera, route in taken)


def test_both_cameras_make_pairs() -> None:
    choice = CameraChoice()
    assert {route for *_, route in run(choice, until=5)} == {Route.PAIR}
    assert choice.alone == ""
    assert not choice.silent
    assert not choice.beside


def test_silent_camera_and_its_return() -> None:
    choice = CameraChoice()
    run(choice, until=3)
    taken = run(choice, start=3, until=5, thermal=False)
    alone = [now for now, _, route in taken if route is Route.ALONE]
    assert 3.4 < alone[0] < 3.6
    assert len(alone) == sum(now >= alone[0] for now, *_ in taken), "each frame from then on"
    assert choice.alone == "rgb"
    assert choice.silent == {"thermal"}
    assert {route for *_, route in run(choice, start=5, until=6)[1:]} == {Route.PAIR}
    assert choice.alone == ""
    assert not choice.silent


def test_slow_camera_is_not_silent() -> None:
    """Deliver a thermal frame every 0.8 s: longer than 0.5 s, less than three periods."""
    choice = CameraChoice()
    run(choice, until=8, thermal_period=0.8)
    taken = run(choice, start=8, until=16, thermal_period=0.8)
    assert {route for *_, route in taken} == {Route.PAIR}


def test_camera_that_never_came() -> None:
    choice = CameraChoice()
    taken = run(choice, until=4, rgb=False, first_seconds=2.0)
    assert {route for now, _, route in taken if now < 1.9} == {Route.PAIR}
    assert {route for now, _, route in taken if now > 2.1} == {Route.ALONE}
    assert choice.alone == "thermal"


def test_pause_of_both_is_no_silence_of_one() -> None:
    choice = CameraChoice()
    run(choice, until=3)
    assert {route for *_, route in run(choice, start=10, until=12)} == {Route.PAIR}


def test_repeated_stamp_is_silence() -> None:
    """Repeat the last stamp as a dead driver does."""
    choice = CameraChoice()
    run(choice, until=3)
    for k in range(90, 150):
        choice.take("thermal", 89 * PERIOD, 100 + k * PERIOD, first_seconds=2)
        route = choice.take("rgb", k * PERIOD, 100 + k * PERIOD, first_seconds=2)
    assert route is Route.ALONE
    assert choice.silent == {"thermal"}


def test_unusable_camera_is_examined_beside_the_other() -> None:
    choice = CameraChoice()
    run(choice, until=1)
    taken = routes(run(choice, start=1, until=2, unusable={"rgb"}))
    assert taken == {("rgb", Route.BESIDE): 30, ("thermal", Route.ALONE): 30}
    assert choice.beside == {"rgb": 30}
    assert {route for *_, route in run(choice, start=2, until=3)} == {Route.PAIR}


def test_both_unusable_stay_in_pairs() -> None:
    taken = run(CameraChoice(), until=2, unusable={"rgb", "thermal"})
    assert {route for *_, route in taken} == {Route.PAIR}


def test_unusable_camera_is_used_while_the_other_is_silent() -> None:
    choice = CameraChoice()
    run(choice, until=1)
    taken = run(choice, start=1, until=3, thermal=False, unusable={"rgb"})
    assert taken[-1][2] is Route.ALONE, "it is examined, and may recover"


def test_stop_keeps_to_pairs() -> None:
    choice = CameraChoice()
    taken = run(choice, until=1) + run(choice, start=1, until=4, thermal=False, enabled=False)
    assert {route for *_, route in taken} == {Route.PAIR}
    assert choice.silent == {"thermal"}, "which is reported all the same"
