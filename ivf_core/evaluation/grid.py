"""Tables of any figures, written as text, Markdown, JSON and HTML."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

__all__ = ["Cell", "Grid", "Share", "align_columns", "format_cell"]


class Share(NamedTuple):
    """Share of things with a property, which keeps both counts.

    Attributes:
        hits: number that have it.
        total: number of all.
    """

    hits: int
    total: int

    @property
    def value(self) -> float:
        """Return the share, 0 to 1; NaN of nothing."""
        return self.hits / self.total if self.total else math.nan


Cell = str | int | float | Share


@dataclass
class Grid:
    """Table of figures.

    Attributes:
        key: name in JSON.
        title: heading.
        heads: titles of the columns that say what a row is about.
        columns: titles of the columns of figures.
        rows: cells of all columns, the heads' first.
        notes: sentences that say how the figures were made.
        printed: whether the terminal shows it, which has less room than the files.
    """

    key: str
    title: str
    heads: Sequence[str]
    columns: Sequence[str]
    rows: list[Sequence[Cell]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    printed: bool = True

    def to_text(self, width: int = 120) -> str:
        """Return the table as aligned text.

        Args:
            width: width of the terminal in characters; further columns continue below.
        """
        cells = [[format_cell(cell) for cell in row] for row in self.rows]
        count = len(self.heads)
        labels = [[row[k] for row in cells] for k in range(count)]
        widths = [max(map(len, ["", *column])) for column in labels]
        names = [
            "  ".join(part.ljust(w) for part, w in zip(row, widths, strict=True)).rstrip()
            for row in zip(*labels, strict=True)
        ]
        columns = [
            [title, *(row[count + k] for row in cells)] for k, title in enumerate(self.columns)
        ]
        return f"{self.title}\n{align_columns(['', *names], columns, width)}"

    def to_markdown(self) -> str:
        """Return a heading, the notes and the table."""
        titles = [*self.heads, *self.columns]
        rule = ["---"] * len(self.heads) + ["---:"] * len(self.columns)
        lines = [
            "| " + " | ".join(part.replace("|", "\\|") for part in row) + " |"
            for row in (titles, rule, *([format_cell(c) for c in row] for row in self.rows))
        ]
        notes = [" ".join(self.notes), ""] if self.notes else []
        return "\n".join([f"## {self.title}", "", *notes, *lines, ""])

    def to_json(self) -> dict[str, Any]:
        """Return title, notes, and the rows as objects; null where there is no figure."""
        titles = [*self.heads, *self.columns]
        rows = [
            {title: _json(cell) for title, cell in zip(titles, row, strict=True)}
            for row in self.rows
        ]
        return {"title": self.title, "notes": list(self.notes), "rows": rows}

    def html_rows(self) -> list[list[dict[str, str]]]:
        """Return each cell's text and the counts below it."""
        return [[_html_cell(cell) for cell in row] for row in self.rows]


def format_cell(cell: Cell) -> str:
    """Format a cell: shares with both counts, other numbers to three digits, a dash for none."""
    if isinstance(cell, Share):
        return f"{cell.value:.3f} ({cell.hits}/{cell.total})" if cell.total else "-"
    if isinstance(cell, float):
        return f"{cell:.3f}" if math.isfinite(cell) else "-"
    return str(cell)


def align_columns(names: Sequence[str], columns: Sequence[Sequence[str]], width: int) -> str:
    """Align columns next to the names, in blocks that fit into the width."""
    left = max(map(len, names))
    blocks: list[list[str]] = []
    for column in columns:
        wide = max(map(len, column)) + 2
        if not blocks or len(blocks[-1][0]) + wide > width:
            blocks.append([name.ljust(left) for name in names])
        block = blocks[-1]
        for row, cell in enumerate(column):
            block[row] += cell.rjust(wide)
    return "\n\n".join("\n".join(line.rstrip() for line in block) for block in blocks)


def _html_cell(cell: Cell) -> dict[str, str]:
    if isinstance(cell, Share) and cell.total:
        return {"text": f"{cell.value:.3f}", "note": f"{cell.hits} of {cell.total}"}
    return {"text": format_cell(cell), "note": ""}


def _json(cell: Cell) -> Any:
    if isinstance(cell, Share):
        value = cell.value
        share = value if math.isfinite(value) else None
        return {"share": share, "hits": cell.hits, "total": cell.total}
    if isinstance(cell, float):
        return cell if math.isfinite(cell) else None
    return cell
