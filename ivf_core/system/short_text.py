"""Short texts of values that come from outside, for messages."""

from __future__ import annotations

import reprlib

__all__ = ["short_repr", "short_text"]

_LIMIT = 200

_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = 80
_repr.maxlevel = 3


def short_repr(value: object) -> str:
    """Return the repr of a value, in at most 200 characters.

    The work is bounded as well: lists that contain one another a million times, as a YAML file of a
    few hundred bytes can describe, are not written out.
    """
    return short_text(_repr.repr(value))


def short_text(text: object, limit: int = _LIMIT) -> str:
    """Return the text of a value in one line, cut in the middle if it is long.

    Args:
        text: such as an error, whose text another library wrote.
        limit: largest number of characters, at least 5.
    """
    line = " ".join(str(text).split())
    if len(line) <= limit:
        return line
    head = (limit - 5) * 2 // 3
    return f"{line[:head]} ... {line[len(line) - (limit - 5 - head) :]}"
