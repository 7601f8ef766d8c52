"""Write the diagram and the tables of docs/architecture.md from the imports of the code.

`python test/lint/architecture.py` rewrites what is between the markers `<!-- NAME -->` and
`<!-- end -->`; with `--check` it writes nothing and exits with 1 where the page is stale.
"""

from __future__ import annotations

import ast
import re
import sys
from functools import cache
from graphlib import TopologicalSorter
from importlib.util import find_spec
from pathlib import Path

import grimp

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "architecture.md"

Graph = dict[str, set[str]]
"""Names of packages or modules, and of those that each one imports."""


def main(arguments: list[str]) -> int:
    """Write the page, or check it; 1 where the check fails."""
    text = PAGE.read_text(encoding="utf-8")
    fresh = generated(text)
    if "--check" not in arguments:
        PAGE.write_text(fresh, encoding="utf-8")
        return 0
    if fresh != text:
        print(f"{PAGE.relative_to(ROOT)} is stale: run `make docs`", file=sys.stderr)
    return int(fresh != text)


def generated(text: str) -> str:
    """Return the page with what is between its markers generated again."""

    def block(match: re.Match[str]) -> str:
        name = match[1]
        if name == "diagram":
            body = diagram(imports_between(["ivf_ros", *children("ivf_core")]))
        else:
            extra = ["ivf_ros"] if name == "ivf_core" else []
            body = table(imports_between([*extra, *children(name)]))
        return f"<!-- {name} -->\n{body}\n<!-- end -->"

    return re.sub(r"<!-- (\w[\w.]*) -->\n.*?<!-- end -->", block, text, flags=re.DOTALL)


def diagram(graph: Graph) -> str:
    """Return a Mermaid flowchart without the arrows that a longer way implies."""
    levels(graph)  # a circle has no reduction
    lines = ["```mermaid", "flowchart TD"]
    for name, targets in sorted(without_detours(graph).items()):
        if targets:
            lines.append(f"  {short(name)} --> {' & '.join(sorted(map(short, targets)))}")
    return "\n".join([*lines, "```"])


def table(graph: Graph) -> str:
    """Return a table of packages or modules, top layer first: name, purpose, imports."""
    rows = ["| | | imports |", "| --- | --- | --- |"]
    level = levels(graph)
    for name in sorted(graph, key=lambda name: (-level[name], name)):
        imported = ", ".join(f"`{short(target)}`" for target in sorted(graph[name])) or "none"
        rows.append(f"| `{short(name)}` | {purpose(name)} | {imported} |")
    return "\n".join(rows)


def purpose(module: str) -> str:
    """Return the first line of a module's docstring, without its period."""
    spec = find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    text = ast.get_docstring(ast.parse(Path(spec.origin).read_text(encoding="utf-8"))) or ""
    return text.partition("\n\n")[0].replace("\n", " ").removesuffix(".")


@cache
def module_imports() -> dict[str, frozenset[str]]:
    """Return the names of all modules, and of those that each one imports."""
    graph = grimp.build_graph("ivf_core", "ivf_ros")
    return {
        name: frozenset(graph.find_modules_directly_imported_by(name)) for name in graph.modules
    }


def children(parent: str) -> list[str]:
    """Return the names of the modules and packages directly inside a package."""
    inside = [name for name in module_imports() if name.startswith(f"{parent}.")]
    return sorted({".".join(name.split(".")[: parent.count(".") + 2]) for name in inside})


def imports_between(parts: list[str]) -> Graph:
    """Return the imports between packages or modules, each with all that is inside it."""

    def part_of(module: str) -> str | None:
        return next((part for part in parts if f"{module}.".startswith(f"{part}.")), None)

    found: Graph = {part: set() for part in parts}
    for module, imported in module_imports().items():
        importer = part_of(module)
        if importer is not None:
            found[importer] |= {part for part in map(part_of, imported) if part} - {importer}
    return found


def reached(graph: Graph, start: str) -> set[str]:
    """Return all that a package imports, directly or through others."""
    return graph[start].union(*(reached(graph, target) for target in graph[start]))


def without_detours(graph: Graph) -> Graph:
    """Return the transitive reduction of a graph without circles."""
    return {
        name: targets.difference(*(reached(graph, target) for target in targets))
        for name, targets in graph.items()
    }


def levels(graph: Graph) -> dict[str, int]:
    """Return the number of arrows on the longest way down from each package.

    Raises:
        graphlib.CycleError: the imports run in a circle; names it.
    """
    found: dict[str, int] = {}
    for name in TopologicalSorter(graph).static_order():
        found[name] = max((1 + found[target] for target in graph[name]), default=0)
    return found


def short(name: str) -> str:
    """Return the last part of a dotted name."""
    return name.rpartition(".")[2]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
