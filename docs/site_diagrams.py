"""Flowcharts of Mermaid as SVG, so that the site draws them without a script from elsewhere.

It knows what the pages use: `flowchart LR` or `TD`, nodes with or without a text in brackets, and
arrows `a --> b & c`. GitHub draws the same source with Mermaid.
"""

from __future__ import annotations

import re
from graphlib import TopologicalSorter
from html import escape

_NODE = re.compile(r'(\w+)(?:[\[(]+"?(.*?)"?[\])]+)?')
_CHARACTER, _HEIGHT, _PAD = 7.4, 28, 10  # of a text in pixels, of a box, and inside it
_GAPS = {"LR": (70, 14), "TD": (44, 18)}  # between ranks, and inside one


def draw(source: str) -> str:
    """Return a flowchart as an HTML element.

    Args:
        source: text between the fences.

    Raises:
        ValueError: a line that is none of the above; names it.
    """
    direction, texts, arrows = parse(source)
    ranks = _ranks(texts, arrows)
    boxes, size = _boxes(direction, texts, ranks)
    lines = [_arrow(direction, boxes[a], boxes[b]) for a, b in arrows]
    for name, (x, y, width) in boxes.items():
        lines.append(
            f'<rect x="{x:.0f}" y="{y:.0f}" width="{width:.0f}" height="{_HEIGHT}" rx="5"/>'
        )
        lines.append(
            f'<text x="{x + width / 2:.0f}" y="{y + 18.5:.1f}" text-anchor="middle">'
            f"{escape(texts[name])}</text>"
        )
    return (
        f'<div class="diagram"><svg viewBox="0 0 {size[0]:.0f} {size[1]:.0f}" '
        f'width="{size[0]:.0f}" role="img"><defs><marker id="head" viewBox="0 0 8 8" refX="8" '
        'refY="4" markerWidth="7" markerHeight="7" orient="auto"><path d="M0 0 8 4 0 8z"/></marker>'
        f"</defs>{''.join(lines)}</svg></div>"
    )


def parse(source: str) -> tuple[str, dict[str, str], list[tuple[str, str]]]:
    """Return the direction of a flowchart, the texts of its nodes by name, and its arrows."""
    head, *lines = [line.strip() for line in source.strip().splitlines()]
    match = re.fullmatch(r"flowchart (LR|TD)", head)
    if match is None:
        raise ValueError(f"diagram begins with '{head}', expected flowchart LR or flowchart TD")
    texts: dict[str, str] = {}
    arrows: list[tuple[str, str]] = []
    for line in filter(None, lines):
        ends = [[_NODE.fullmatch(node.strip()) for node in part.split(" & ")]
                for part in line.split(" --> ")]  # fmt: skip
        if len(ends) != 2 or not all(node for end in ends for node in end):
            raise ValueError(f"diagram has the line '{line}', expected `a --> b & c`")
        names = []
        for end in ends:
            for node in end:
                assert node is not None
                if node[2] is not None or node[1] not in texts:
                    texts[node[1]] = node[2] or node[1]
            names.append([node[1] for node in end if node])
        arrows += [(a, b) for a in names[0] for b in names[1]]
    return match[1], texts, arrows


def _ranks(texts: dict[str, str], arrows: list[tuple[str, str]]) -> list[list[str]]:
    """Return the nodes by the length of the longest way to them, ordered to cross few arrows."""
    before: dict[str, set[str]] = {name: set() for name in texts}
    after: dict[str, set[str]] = {name: set() for name in texts}
    for a, b in arrows:
        before[b].add(a)
        after[a].add(b)
    rank: dict[str, int] = {}
    for name in TopologicalSorter(before).static_order():
        rank[name] = max((1 + rank[other] for other in before[name]), default=0)
    ranks = [[n for n in texts if rank[n] == level] for level in range(1 + max(rank.values()))]
    place = {name: index for row in ranks for index, name in enumerate(row)}
    for neighbours, rows in ((before, ranks), (after, ranks[::-1])) * 4:
        for row in rows:
            wish = {
                name: sum(place[n] for n in neighbours[name]) / len(neighbours[name])
                if neighbours[name]
                else place[name]
                for name in row
            }
            row.sort(key=wish.__getitem__)
            place |= {name: index for index, name in enumerate(row)}
    return ranks


def _boxes(
    direction: str, texts: dict[str, str], ranks: list[list[str]]
) -> tuple[dict[str, tuple[float, float, float]], tuple[float, float]]:
    """Return left, top and width of each box, and the size of the drawing."""
    between, inside = _GAPS[direction]
    width = {name: len(text) * _CHARACTER + 2 * _PAD for name, text in texts.items()}
    if direction == "LR":
        heights = [len(row) * (_HEIGHT + inside) - inside for row in ranks]
        boxes, x = {}, 1.0
        for row, height in zip(ranks, heights, strict=True):
            widest = max(width[name] for name in row)
            top = 1 + (max(heights) - height) / 2
            for index, name in enumerate(row):
                boxes[name] = (x, top + index * (_HEIGHT + inside), widest)
            x += widest + between
        return boxes, (x - between + 2, max(heights) + 2)
    widths = [sum(width[name] + inside for name in row) - inside for row in ranks]
    boxes = {}
    for level, (row, total) in enumerate(zip(ranks, widths, strict=True)):
        x = 1 + (max(widths) - total) / 2
        for name in row:
            boxes[name] = (x, 1.0 + level * (_HEIGHT + between), width[name])
            x += width[name] + inside
    return boxes, (max(widths) + 2, len(ranks) * (_HEIGHT + between) - between + 2)


def _arrow(
    direction: str, start: tuple[float, float, float], end: tuple[float, float, float]
) -> str:
    """Return a curve from one box to another."""
    (x, y, width), (u, v, other) = start, end
    if direction == "LR":
        a, b, c, d = x + width, y + _HEIGHT / 2, u, v + _HEIGHT / 2
        bend = f"{(a + c) / 2:.0f} {b:.0f} {(a + c) / 2:.0f} {d:.0f}"
    else:
        a, b, c, d = x + width / 2, y + _HEIGHT, u + other / 2, v
        bend = f"{a:.0f} {(b + d) / 2:.0f} {c:.0f} {(b + d) / 2:.0f}"
    return f'<path d="M{a:.0f} {b:.0f}C{bend} {c:.0f} {d:.0f}" marker-end="url(#head)"/>'
