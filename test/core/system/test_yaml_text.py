from __future__ import annotations

import pytest

from ivf_core.system.yaml_text import parse_yaml


def test_content() -> None:
    assert parse_yaml("a: [1, 2.5, x]") == {"a": [1, 2.5, "x"]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 5000, "nested too deeply"),
        ("a: {" * 5000, "nested too deeply"),
        ("since: 2026-13-01", "month must be in"),
        ("a: [", "expected the node content"),
        ("? [1]\n: 2", "unhashable key"),
        ("!!python/object/apply:os.getcwd []", "could not determine a constructor"),
        ("a: \x00", "unacceptable character"),
    ],
)
def test_what_is_no_yaml_is_a_value_error(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        parse_yaml(text)
    assert len(str(caught.value)) < 500
