"""Damaged files: read, or rejected by a short error that names the file."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hostile.budget import inputs
from hostile.files import Sample, samples
from hostile.limits import short_error, time_limit
from hypothesis import given
from hypothesis import strategies as st

KINDS = ("images", "videos", "bags", "weights", "registrations", "recipes")


@pytest.fixture(scope="session")
def valid(tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Sample]]:
    return samples(tmp_path_factory.mktemp("files"), tiny_weights)


@pytest.mark.parametrize("kind", KINDS)
def test_valid_files_can_be_read(kind: str, valid: dict[str, list[Sample]]) -> None:
    for sample in valid[kind]:
        if sample.path.name == "published.pth":  # stands for any other file
            continue
        for read in sample.readers:
            read(sample.path)


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_file_is_read_or_rejected_in_a_line(
    kind: str, valid: dict[str, list[Sample]], figures: Counter[str]
) -> None:
    @inputs(30)
    @given(data=st.data())
    def check(data: st.DataObject) -> None:
        sample = data.draw(st.sampled_from(valid[kind]), label="sample")
        content = data.draw(sample.contents, label="content")
        figures[f"damaged files: {kind}"] += 1
        intact = sample.file.read_bytes()
        sample.file.write_bytes(content)
        try:
            for read in sample.readers:
                with time_limit(), short_error(ValueError, OSError, names=sample.path.name):
                    read(sample.path)
        finally:
            sample.file.write_bytes(intact)

    check()
