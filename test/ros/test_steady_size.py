"""Sizes of a stream: an outlier does not become the size in use."""

from __future__ import annotations

from ivf_ros.steady_size import SteadySize

A, B, C = (480, 640), (512, 640), (4000, 4000)


def _sizes_in_use(sizes: list[tuple[int, int]]) -> list[tuple[int, int] | None]:
    steady = SteadySize()
    used = []
    for size in sizes:
        steady.admit(size)
        used.append(steady.size)
    return used


def test_first_size_is_used_at_once() -> None:
    assert _sizes_in_use([C]) == [C]


def test_outlier_is_not_used() -> None:
    assert _sizes_in_use([A, A, C, A, C, C, A]) == [A] * 7


def test_size_that_lasts_is_used() -> None:
    assert _sizes_in_use([A, B, B, B, B]) == [A, A, A, B, B]


def test_alternating_sizes_keep_the_first() -> None:
    assert _sizes_in_use([A, B, A, B, C, B, A]) == [A] * 7


def test_only_a_change_is_reported() -> None:
    steady = SteadySize()
    assert [steady.admit(size) for size in (A, A, B, B, B, B)] == [False] * 4 + [True, False]
    assert steady.outliers == 2
    assert steady.is_large(C)
    assert not steady.is_large(A)
