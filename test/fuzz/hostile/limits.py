"""Limits of what a hostile input may cause: errors of known types, short, and no endless loop."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_LONGEST_MESSAGE = 2000
_SECONDS = 300


@contextmanager
def short_error(*types: type[Exception], names: str = "") -> Iterator[None]:
    """Allow errors of these types, with a text of one line's length that names the input.

    Args:
        *types: documented types of errors; any other one fails the test.
        names: text that the message must contain.
    """
    try:
        yield
    except types as error:
        text = str(error)
        assert 0 < len(text) <= _LONGEST_MESSAGE, f"{len(text)} characters: {text[:200]} ..."
        assert names in text, f"'{names}' is not named in: {text}"


@contextmanager
def time_limit() -> Iterator[None]:
    """Interrupt an endless loop: small inputs take milliseconds, on a busy machine seconds.

    Effective in the main thread of a process only.
    """

    def stop(*_: object) -> None:
        raise AssertionError(f"runs for more than {_SECONDS} s")

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
