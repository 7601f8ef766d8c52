"""Recipes: one YAML file an experiment, read strictly into a dataclass."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import yaml

from ivf_core.system.revision import git_revision

__all__ = ["RecipeError", "data_directory", "load_recipe", "provenance"]

Recipe = TypeVar("Recipe")


class RecipeError(ValueError):
    """A recipe with an unknown, missing or impossible option; names file and option."""


def load_recipe(kind: type[Recipe], path: str | Path, changes: Sequence[str] = ()) -> Recipe:
    """Read a recipe and apply `key=value` changes, values in YAML syntax.

    Values must have the type of their option. Numbers may be written as YAML 1.1
    does not take them, such as 3e-3.

    Raises:
        RecipeError: names the file and the option.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"recipe {path}: {error}") from error
    options = _parse_yaml(text, f"recipe {path}")
    if not isinstance(options, dict):
        raise RecipeError(f"recipe {path}: expected a mapping of options")
    for change in changes:
        key, equals, value = change.partition("=")
        if not equals:
            raise RecipeError(f"--set {change}: expected key=value")
        options[key.strip()] = _parse_yaml(value, f"--set {change}")
    try:
        return _build(kind, options)
    except (TypeError, ValueError) as error:
        raise RecipeError(f"recipe {path}: {error}") from error


def data_directory() -> Path:
    """Where the data sets lie: the environment variable IVF_DATA, else ../shared/data."""
    return Path(os.environ.get("IVF_DATA", "../shared/data"))


def provenance(part: str, recipe: object) -> dict[str, str]:
    """Metadata for weights: the resolved recipe, as JSON, and the revision of the code.

    Call it before training: the files may change meanwhile.

    Args:
        part: what is trained, "student" or "head".
        recipe: a dataclass.

    Returns:
        `{part}_recipe`, which `load_recipe` reads again, and `{part}_revision`.
    """
    options = dataclasses.asdict(recipe)  # type: ignore[call-overload]
    return {f"{part}_recipe": json.dumps(options), f"{part}_revision": git_revision()}


def _parse_yaml(text: str, where: str) -> Any:
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date such as 2026-13-01
        raise RecipeError(f"{where}: {' '.join(str(error).split())}") from error


def _build(kind: type[Recipe], options: dict[str, Any], prefix: str = "") -> Recipe:
    """A dataclass of these options; those that are dataclasses themselves are mappings."""
    known = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
    unknown = [f"{prefix}{key}" for key in options if key not in known]
    if unknown:
        raise ValueError(f"unknown option {', '.join(unknown)}; known: {', '.join(known)}")
    hints = get_type_hints(kind)
    return kind(
        **{key: _convert(prefix + key, value, hints[key]) for key, value in options.items()}
    )


def _convert(option: str, value: Any, hint: Any) -> Any:
    """`value` as the type that the dataclass states; raises ValueError naming the option."""
    if get_origin(hint) is tuple:
        kinds = get_args(hint)
        if isinstance(value, list):
            if kinds[-1] is Ellipsis:
                kinds = kinds[:1] * len(value)
            if len(kinds) == len(value):
                return tuple(
                    _convert(option, part, kind) for part, kind in zip(value, kinds, strict=True)
                )
    elif dataclasses.is_dataclass(hint):
        if isinstance(value, dict):
            return _build(hint, value, f"{option}.")  # type: ignore[arg-type]
        raise ValueError(f"{option}: expected a mapping of options, got {value!r}")
    elif hint is float:
        number = _finite(value)
        if number is not None:
            return number
    elif type(value) is hint:  # not isinstance: True is no step count
        return value
    expected = str(hint) if get_origin(hint) else hint.__name__
    raise ValueError(f"{option}: expected {expected}, got {value!r}")


def _finite(value: Any) -> float | None:
    """A finite number, also as text (YAML 1.1 takes 3e-3 for one); else None."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
