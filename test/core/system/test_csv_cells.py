from __future__ import annotations

import pytest

from ivf_core.system.csv_cells import text_cell


@pytest.mark.parametrize("text", ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\r=1"])
def test_formulas_are_quoted(text: str) -> None:
    assert text_cell(text) == f"'{text}"


@pytest.mark.parametrize("text", ["", "night_01", "-12.5", "+3", "-1e-05", "-inf", "a=b", "/rgb"])
def test_numbers_and_other_texts_stay(text: str) -> None:
    assert text_cell(text) == text
