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

__all__ = ["write_page"]

_FOLDER = resources.files("ivf_core.html") / "templates"


def write_page(path: Path, template: str, **values: Any) -> None:
    """Render a template; foreign text is escaped, also in JSON by `tojson`."""
    html = _environment().get_template(template).render(**values)
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
    # Our own files, to stand in <style> and <script>, where escapes would be text.
    environment.globals["asset"] = lambda name: Markup(_text(name))
    return environment


def _text(name: str) -> str:
    return _FOLDER.joinpath(name).read_text(encoding="utf-8")
