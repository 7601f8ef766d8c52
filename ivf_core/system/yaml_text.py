"""Content of YAML texts of unknown origin."""

from __future__ import annotations

from ivf_core.system.short_text import short_text

__all__ = ["parse_yaml"]


def parse_yaml(text: str) -> object:
    """Parse a YAML text, safely.

    Args:
        text: YAML of at most a few kB: with anchors, a few bytes can describe gigabytes, so a
            caller must not copy the content unseen.

    Raises:
        ValueError: the text is not YAML, is nested too deeply, or has a value that cannot be
            (a date such as 2026-13-01, a list as a key); a short text says what.
    """
    import yaml

    try:
        return yaml.safe_load(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    except (ArithmeticError, TypeError, ValueError, yaml.YAMLError) as error:
        raise ValueError(short_text(error)) from error
