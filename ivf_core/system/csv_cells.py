"""Cells of CSV files that spreadsheets do not take for formulas."""

from __future__ import annotations

__all__ = ["text_cell"]

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def text_cell(text: str) -> str:
    """Return a text from outside (a file name, a topic) as a cell of a CSV file.

    A spreadsheet executes a cell that begins with = + - or @. Such a text gets an apostrophe in
    front, which spreadsheets show as text; a number stays as it is.

    Args:
        text: any text.
    """
    if not text.startswith(_FORMULA):
        return text
    try:
        float(text)
    except ValueError:
        return f"'{text}"
    return text
