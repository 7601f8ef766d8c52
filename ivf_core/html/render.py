"""Pages in one file: templates of this package with style sheets and scripts inlined."""

from __future__ import annotations

from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from ivf_core.html.filters import FILTERS
from ivf_core.system.atomic import atomic_path

__all__ = ["render", "write_page"]

_FOLDER = resources.files("ivf_core.html") / "templates"


def render(template: str, **values: Any) -> str:
    """Render a template.

    Foreign text is escaped, also inside JSON that `tojson` writes.

    Args:
        template: name of a file in `html/templates`.
        values: variables of the template; each one that it uses must be given.
    """
    return _environment().get_template(template).render(**values)


def write_page(path: Path, template: str, **values: Any) -> None:
    """Render a template into a file that opens offline.

    Args:
        path: file to write; its folder is created where it is missing.
        template: as for `render`.
        values: as for `render`.
    """
    html = render(template, **values)
    with atomic_path(path) as temporary:
        temporary.write_text(html, encoding="utf-8")


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FunctionLoader(_text),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(FILTERS)
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    # Files of this package go into <style> and <script>, where escapes would become text.
    environment.globals["asset"] = lambda name: Markup(_text(name))
    return environment


def _text(name: str) -> str:
    return _FOLDER.joinpath(name).read_text(encoding="utf-8")
