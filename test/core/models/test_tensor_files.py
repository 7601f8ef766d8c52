"""Tests of the reader of safetensors files."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from ivf_core.models.checkpoints import shipped_weights
from ivf_core.models.tensor_files import read_tensors


@pytest.mark.parametrize("path", shipped_weights().values(), ids=lambda path: path.stem)
def test_reads_what_the_package_reads(path: Path) -> None:
    metadata, tensors = read_tensors(path)
    with safe_open(path, framework="pt") as file:
        assert metadata == file.metadata()
        assert set(tensors) == set(file.keys())
        for name, tensor in tensors.items():
            torch.testing.assert_close(tensor, file.get_tensor(name), rtol=0, atol=0)


@pytest.mark.parametrize("content", [b"", b"\xff" * 8, b"\x02" + bytes(7) + b"[]"])
def test_damaged_files_are_rejected(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=r"header|Error"):
        read_tensors(tmp_path / "x.safetensors")
