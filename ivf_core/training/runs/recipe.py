"""Recipes: one YAML file per experiment, read strictly into a dataclass with bounds."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from ivf_core.system.revision import git_revision
from ivf_core.system.short_text import short_repr, short_text
from ivf_core.system.yaml_text import parse_yaml

__all__ = [
    "Bounds",
    "Recipe",
    "RecipeError",
    "bounds_of",
    "data_directory",
    "load_recipe",
    "option",
    "provenance",
]

T = TypeVar("T")


class RecipeError(ValueError):
    """Error for a recipe with an unknown, missing or impossible option; names file and option."""


@dataclass(frozen=True)
class Bounds:
    """Allowed values of one option; of a tuple or a dataclass, those of each entry.

    Attributes:
        minimum, maximum: smallest and largest number.
        above, below: numbers that must be exceeded, or not be reached.
        multiple_of: divisor of the number.
        ascending: whether the entries of a tuple must ascend.
        nonempty: whether the option needs at least one entry or character.
        choices: allowed words; none allows any.
        changeable: whether a resumed run may have another value: it does not change the result.
        former: name of the option in earlier releases.
        former_values: words for values in earlier releases, with those of today.
    """

    minimum: float | None = None
    maximum: float | None = None
    above: float | None = None
    below: float | None = None
    multiple_of: int | None = None
    ascending: bool = False
    nonempty: bool = False
    choices: Collection[str] = ()
    changeable: bool = False
    former: str = ""
    former_values: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        if None not in (self.minimum, self.maximum):
            words = [f"in [{self.minimum}, {self.maximum}]"]
        else:
            limits = {"at least": self.minimum, "at most": self.maximum, "above": self.above,
                      "below": self.below, "a multiple of": self.multiple_of}  # fmt: skip
            words = [f"{word} {limit}" for word, limit in limits.items() if limit is not None]
        return " and ".join(words + ["in ascending order"] * self.ascending)

    def check(self, name: str, value: Any) -> None:
        """Raise ValueError if `value` of the option `name` is out of bounds."""
        if is_dataclass(value):
            for entry in fields(value):
                self.check(f"{name}.{entry.name}", getattr(value, entry.name))
            return
        if self.nonempty and not value:
            raise ValueError(f"{name} must not be empty")
        if self.choices and value not in self.choices:
            raise ValueError(f"{name} {short_repr(value)}, known: {', '.join(self.choices)}")
        parts = value if isinstance(value, tuple) else (value,)
        if (self.ascending and list(parts) != sorted(parts)) or not all(map(self._allows, parts)):
            raise ValueError(f"{name} must be {self}, got {short_repr(value)}")

    def _allows(self, number: Any) -> bool:
        return (
            (self.minimum is None or number >= self.minimum)
            and (self.maximum is None or number <= self.maximum)
            and (self.above is None or number > self.above)
            and (self.below is None or number < self.below)
            and (self.multiple_of is None or number % self.multiple_of == 0)
        )


def option(
    default: Any = MISSING, *, factory: Callable[[], Any] | Any = MISSING, **bounds: Any
) -> Any:
    """Declare an option of a recipe.

    Args:
        default: value where the recipe does not name the option; required without.
        factory: function that makes the default.
        bounds: fields of `Bounds`.
    """
    metadata = {"bounds": Bounds(**bounds)}
    if factory is not MISSING:
        return field(default_factory=factory, metadata=metadata)
    return field(default=default, metadata=metadata)


def bounds_of(entry: dataclasses.Field[Any]) -> Bounds:
    """Return the bounds of a field, which may have been declared without `option`."""
    return entry.metadata.get("bounds", Bounds())


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Base of all recipes: checks the bounds of its options when it is built.

    Subclasses whose options can contradict each other extend `__post_init__`.
    """

    def __post_init__(self) -> None:
        for entry in fields(self):
            bounds_of(entry).check(entry.name, getattr(self, entry.name))

    def changeable(self) -> tuple[str, ...]:
        """Return the names of the options that may change when a run is resumed."""
        return tuple(entry.name for entry in fields(self) if bounds_of(entry).changeable)


def load_recipe(kind: type[T], path: str | Path, changes: Sequence[str] = ()) -> T:
    """Read a recipe and apply changes to it.

    Values must have the type of their option. Numbers may be written in forms that YAML 1.1
    reads as text, such as 3e-3. Options may have the names of earlier releases.

    Args:
        kind: dataclass of the recipe.
        path: YAML or JSON file.
        changes: options as `key=value`, values in YAML syntax.

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
    changed = {}
    for change in changes:
        key, equals, value = change.partition("=")
        if not equals:
            raise RecipeError(f"--set {change}: expected key=value")
        changed[key.strip()] = _parse_yaml(value, f"--set {change}")
    try:
        return _build(kind, {**_rename(kind, options), **_rename(kind, changed)})
    except (TypeError, ValueError) as error:
        raise RecipeError(f"recipe {path}: {error}") from error


def data_directory() -> Path:
    """Return the folder of data sets: environment variable IVF_DATA, or data."""
    return Path(os.environ.get("IVF_DATA", "data"))


def provenance(part: str, recipe: object) -> dict[str, str]:
    """Return metadata for weights: the resolved recipe, as JSON, and the revision of the code.

    Call it before training: the files may change meanwhile.

    Args:
        part: name of the trained part, such as "student" or "head".
        recipe: a dataclass.

    Returns:
        `{part}_recipe`, which `load_recipe` reads again, and `{part}_revision`.
    """
    options = dataclasses.asdict(recipe)  # type: ignore[call-overload]
    return {f"{part}_recipe": json.dumps(options), f"{part}_revision": git_revision()}


def _parse_yaml(text: str, where: str) -> Any:
    try:
        return parse_yaml(text)
    except ValueError as error:
        raise RecipeError(f"{where}: {error}") from error


def _rename(kind: type, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options with today's names and words in place of those of earlier releases."""
    known = {entry.name: bounds_of(entry) for entry in fields(kind)}
    names = {bounds.former: name for name, bounds in known.items() if bounds.former}
    renamed: dict[str, Any] = {}
    for key, value in options.items():
        name = names.get(key, key)
        if name in renamed:
            raise ValueError(f"{name} is given twice: {key} is its name in earlier releases")
        renamed[name] = known[name].former_values.get(str(value), value) if name in known else value
    return renamed


def _build(kind: type[T], options: Mapping[str, Any], prefix: str = "") -> T:
    """Build a dataclass from a mapping; options that are dataclasses are mappings, too."""
    known = [entry.name for entry in fields(kind)]  # type: ignore[arg-type]
    unknown = [f"{prefix}{key}" for key in options if key not in known]
    if unknown:
        raise ValueError(
            f"unknown option {short_text(', '.join(unknown))}; known: {', '.join(known)}"
        )
    hints = get_type_hints(kind)
    return kind(
        **{key: _convert(prefix + key, value, hints[key]) for key, value in options.items()}
    )


def _convert(name: str, value: Any, hint: Any) -> Any:
    """Return `value` as the type that the dataclass states; raise ValueError naming the option."""
    if get_origin(hint) is tuple:
        kinds = get_args(hint)
        if isinstance(value, list):
            if kinds[-1] is Ellipsis:
                kinds = kinds[:1] * len(value)
            if len(kinds) == len(value):
                return tuple(
                    _convert(name, part, kind) for part, kind in zip(value, kinds, strict=True)
                )
    elif is_dataclass(hint):
        if isinstance(value, dict):
            return _build(hint, value, f"{name}.")  # type: ignore[arg-type]
        raise ValueError(f"{name}: expected a mapping of options, got {short_repr(value)}")
    elif hint is float:
        number = _finite(value)
        if number is not None:
            return number
    elif type(value) is hint:  # not isinstance: True is no step count
        return value
    expected = str(hint) if get_origin(hint) else hint.__name__
    raise ValueError(f"{name}: expected {expected}, got {short_repr(value)}")


def _finite(value: Any) -> float | None:
    """Return a finite number, also from text (YAML 1.1 reads 3e-3 as text), or None."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
