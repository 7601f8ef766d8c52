"""Tests of the reader of safetensors files."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from ivf_core.models.tensor_files import read_metadata, read_tensors
from ivf_core.models.weights_files import WeightsError, open_weights, shipped_weights


@pytest.mark.parametrize("path", shipped_weights().values(), ids=lambda path: path.stem)
def test_reads_what_the_package_reads(path: Path) -> None:
    tensors = read_tensors(path)
    with safe_open(path, framework="np") as file:
        assert read_metadata(path) == file.metadata()
        assert set(tensors) == set(file.keys())
        for name, array in tensors.items():
            expected = file.get_tensor(name)
            assert array.dtype == expected.dtype
            np.testing.assert_array_equal(array, expected)


@pytest.mark.parametrize(
    "dtype",
    [
        torch.float64,
        torch.float16,
        torch.bfloat16,
        torch.bool,
        torch.int64,
        torch.int8,
        torch.uint8,
    ],
)
def test_types(dtype: torch.dtype, tmp_path: Path) -> None:
    tensor = torch.tensor([[0.0, 1.0, 3.14159]]).to(dtype)
    save_file({"x": tensor, "empty": tensor[:0], "scalar": tensor[0, 2].clone()}, tmp_path / "x")
    read = {name: torch.from_numpy(array) for name, array in read_tensors(tmp_path / "x").items()}
    kept = torch.float32 if dtype == torch.bfloat16 else dtype
    torch.testing.assert_close(read["x"], tensor.to(kept), rtol=0, atol=0)
    torch.testing.assert_close(read["scalar"], tensor[0, 2].to(kept), rtol=0, atol=0)
    assert read["empty"].shape == (0, 3)


def test_unknown_types_are_rejected(tmp_path: Path) -> None:
    save_file({"x": torch.zeros(2, dtype=torch.float8_e5m2)}, tmp_path / "x")
    with pytest.raises(ValueError, match="F8_E5M2"):
        read_tensors(tmp_path / "x")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff" * 8,
        (10_000).to_bytes(8, "little") + b"[" * 5000 + b"]" * 5000,  # nested too deeply
        b"\x02" + bytes(7) + b"[]",
        b"\x02" + bytes(7) + b"{]",
        b"\x02" + bytes(7) + b"\xff\xfe",
        b"\x02" + bytes(7) + b"{}rest",
    ],
    ids=["empty", "long header", "nested", "list", "no JSON", "no text", "left over"],
)
def test_damaged_files_are_rejected(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"header|Error|Expecting|decode|tensors"):
        read_tensors(path)
    with pytest.raises(WeightsError, match=re.escape(f"'{path}': not a readable safetensors file")):
        open_weights(path)


def test_truncated_tensors_are_noticed_when_the_header_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(next(iter(shipped_weights().values())).read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"tensors of \d+ bytes, expected"):
        read_metadata(path)
