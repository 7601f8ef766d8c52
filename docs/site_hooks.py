"""Hooks of mkdocs: pages and files from outside docs/, diagrams, and a list of external links.

A page that is not in docs/, such as README.md, keeps its place in the repository: `PAGES` names its
place on the site. A link to any other file of the repository copies that file to `files/`.
"""

from __future__ import annotations

import posixpath
import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(Path(__file__).parent))

from site_diagrams import draw  # noqa: E402

PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "reporting.md",
    "training/README.md": "recipes.md",
    **{
        f"ivf_core/weights/{card.name}": f"weights/{card.name}"
        for card in sorted((ROOT / "ivf_core/weights").glob("*.md"))
    },
}
"""Pages from outside docs/: path in the repository, and on the site."""

_ORIGINS = {place: origin for origin, place in PAGES.items()}
_CODE = re.compile(r"^```.*?^```$|`[^`\n]+`", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"(\]\()([^)\s]+)(\))")
_DIAGRAM = re.compile(r"^```mermaid\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_external: dict[str, set[str]] = {}


def on_files(files: Files, config: Any) -> Files:
    """Add the pages from outside docs/, and the files that pages link to."""
    _external.clear()
    for origin, place in PAGES.items():
        files.append(File.generated(config, place, abs_src_path=str(ROOT / origin)))
    linked = {
        target
        for file in list(files.documentation_pages())
        for _, target in _links(file.src_uri, file.content_string)
        if target is not None and _place(target).startswith("files/")
    }
    for target in sorted(linked):
        path = ROOT / target
        if path.is_file():
            files.append(File.generated(config, _place(target), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: Any, files: Files) -> str:
    """Draw diagrams, and lead links to where their targets are on the site."""
    place = page.file.src_uri
    for url, target in _links(place, markdown):
        if target is None and "://" in url:
            _external.setdefault(url, set()).add(place)
    markdown = _DIAGRAM.sub(lambda match: draw(match[1]), markdown)

    def lead(match: re.Match[str]) -> str:
        target = _target(place, match[2])
        if target is None:
            return match[0]
        anchor = match[2].partition("#")[2]
        path = posixpath.relpath(_place(target), posixpath.dirname(place) or ".")
        return f"{match[1]}{path}{'#' + anchor if anchor else ''}{match[3]}"

    return _outside_code(markdown, lambda text: _LINK.sub(lead, text))


def on_post_build(config: Any) -> None:
    """Write the external links with the pages that have them: nothing is fetched."""
    lines = [f"{url}  {' '.join(sorted(pages))}" for url, pages in sorted(_external.items())]
    path = Path(config.site_dir) / "external_links.txt"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{len(lines)} external links, not fetched: {path.name}")


def _links(place: str, markdown: str) -> list[tuple[str, str | None]]:
    """Return the links of a page, each with its target in the repository or None."""
    found: list[tuple[str, str | None]] = []

    def note(text: str) -> str:
        found.extend((match[2], _target(place, match[2])) for match in _LINK.finditer(text))
        return text

    _outside_code(markdown, note)
    return found


def _outside_code(markdown: str, change: Any) -> str:
    """Apply a function to the text between blocks and spans of code."""
    parts, end = [], 0
    for code in _CODE.finditer(markdown):
        parts += [change(markdown[end : code.start()]), code[0]]
        end = code.end()
    return "".join([*parts, change(markdown[end:])])


def _target(place: str, url: str) -> str | None:
    """Return the path in the repository that a link of a page leads to; None for other links."""
    path = url.partition("#")[0]
    if not path or re.match(r"[a-z]+:", path):
        return None
    origin = _ORIGINS.get(place, f"docs/{place}")
    target = posixpath.normpath(posixpath.join(posixpath.dirname(origin), path))
    if target.startswith(".."):
        raise PluginError(f"{origin}: link to '{url}' leaves the repository")
    if (ROOT / target).is_dir():
        raise PluginError(f"{origin}: link to the folder '{url}': link to a file in it")
    return target


def _place(target: str) -> str:
    """Return the place on the site of a file of the repository."""
    if target in PAGES:
        return PAGES[target]
    return target.removeprefix("docs/") if target.startswith("docs/") else f"files/{target}"
