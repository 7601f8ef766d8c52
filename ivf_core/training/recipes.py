"""Recipes: one YAML file an experiment, read strictly into a dataclass."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

__all__ = ["RecipeError", "data_directory", "load_recipe"]

Recipe = TypeVar("Recipe")


class RecipeError(ValueError):
    """A recipe with an unknown, missing or impossible option; names file and option."""


def load_recipe(kind: type[Recipe], path: str | Path, changes: Sequence[str] = ()) -> Recipe:
    """Read a recipe and apply `key=value` changes, values in YAML syntax.

    Raises:
        RecipeError: names the file and the option.
    """
    path = Path(path)
    try:
        options = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise RecipeError(f"recipe {path}: {error}") from error
    if not isinstance(options, dict):
        raise RecipeError(f"recipe {path}: expected a mapping of options")
    for change in changes:
        key, equals, value = change.partition("=")
        if not equals:
            raise RecipeError(f"--set {change}: expected key=value")
        options[key.strip()] = yaml.safe_load(value)
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(set(options) - set(fields))
    if unknown:
        raise RecipeError(
            f"recipe {path}: unknown option {', '.join(unknown)}; known: {', '.join(fields)}"
        )
    try:
        return kind(**{key: _plain(value) for key, value in options.items()})
    except (TypeError, ValueError) as error:
        raise RecipeError(f"recipe {path}: {error}") from error


def data_directory() -> Path:
    """Where the data sets lie: the environment variable IVF_DATA, else ../shared/data."""
    return Path(os.environ.get("IVF_DATA", "../shared/data"))


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
