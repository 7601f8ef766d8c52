"""Published networks read from small stand-ins of their clones, and the benchmark with them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from ivf_core.cli import main
from ivf_core.inference.peers import LutFuse, MMDRFuse, find_peer
from ivf_core.models.color import luma_chroma

SIZE = (48, 64)


def mmdrfuse(clone: Path) -> Path:
    """Write a clone of MMDRFuse with random weights."""
    layers = {"conv1.1": nn.Conv2d(2, 4, 3), "conv2.1": nn.Conv2d(4, 1, 3)}
    state = {f"{k}.{n}": v for k, conv in layers.items() for n, v in conv.state_dict().items()}
    (clone / "pretrained_models").mkdir(parents=True)
    torch.save(state, clone / "pretrained_models/student.model")
    return clone


def lut_fuse(clone: Path, table: np.ndarray | None = None) -> Path:
    """Write a clone of LUT-Fuse with a random table, by default, and a random context."""
    if table is None:
        table = np.random.default_rng(0).uniform(0, 1, (16, 16, 16, 16, 1)).astype(np.float32)
    (clone / "ckpts").mkdir(parents=True)
    np.save(clone / "ckpts/fine_tuned_lut.npy", table)
    state = LutFuse(torch.zeros(16, 16, 16, 16, 1)).state_dict()
    del state["table"]
    torch.save(state, clone / "ckpts/generator_context.pth")
    return clone


def images() -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    both = torch.randint(0, 256, (1, *SIZE, 4), generator=random, dtype=torch.uint8)
    return both[..., :3].contiguous(), both[..., 3].contiguous()


def test_mmdrfuse_is_two_convolutions(tmp_path: Path) -> None:
    network = find_peer(mmdrfuse(tmp_path / "clone"))
    assert sum(p.numel() for p in network.parameters()) == 113
    state = torch.load(tmp_path / "clone/pretrained_models/student.model", weights_only=True)
    visible, infrared = images()
    luma, cr, _ = luma_chroma(visible.permute(0, 3, 1, 2).float())
    x = torch.cat((infrared[:, None].float(), luma), dim=1) / 255
    pad = nn.ReflectionPad2d(1)
    x = nn.functional.conv2d(pad(x), state["conv1.1.weight"], state["conv1.1.bias"]).relu()
    x = nn.functional.conv2d(pad(x), state["conv2.1.weight"], state["conv2.1.bias"]).tanh()
    red = torch.floor(((x + 1.403 * (cr / 255 - 0.5)) * 255 + 0.5).clamp(0, 255))
    assert torch.equal(network(visible, infrared)[..., 0], red[:, 0].to(torch.uint8))


def test_lut_fuse_reads_its_table_between_the_entries(tmp_path: Path) -> None:
    """A table that is linear in a coordinate gives that coordinate back, below its last entry."""
    steps = np.arange(16, dtype=np.float32) * 16 / 255
    for axis, name in ((0, "luma"), (3, "infrared")):
        shape = [1] * 5
        shape[axis] = 16
        table = np.broadcast_to(steps.reshape(shape), (16, 16, 16, 16, 1))
        network = find_peer(lut_fuse(tmp_path / name, table))
        infrared = torch.arange(0, 240, dtype=torch.uint8).repeat(16, 1)[None]
        visible = infrared.flip(2)[..., None].repeat(1, 1, 1, 3)
        fused = network(visible, infrared).int()
        wanted = infrared if name == "infrared" else visible[..., 0]
        assert (fused[..., 0] - wanted.int()).abs().max() <= 1, name


def no_weights(clone: Path) -> None:
    clone.mkdir()


def other_layers(clone: Path) -> None:
    mmdrfuse(clone)
    torch.save(
        {"conv1.1.weight": torch.zeros(8, 2, 3, 3)}, clone / "pretrained_models/student.model"
    )


def damaged(clone: Path) -> None:
    mmdrfuse(clone)
    (clone / "pretrained_models/student.model").write_bytes(b"version https://git-lfs.github.com")


def other_table(clone: Path) -> None:
    lut_fuse(clone, np.zeros((17, 17, 17, 17, 1), np.float32))


def no_context(clone: Path) -> None:
    lut_fuse(clone)
    (clone / "ckpts/generator_context.pth").unlink()


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (no_weights, r"clone': neither a clone of MMDRFuse \(pretrained_models/student\.model\)"),
        (other_layers, r"student\.model': not the weights of MMDRFuse: conv1\.1\.bias, "),
        (damaged, r"student\.model': cannot be read as PyTorch weights"),
        (other_table, r"fine_tuned_lut\.npy': an array of \(17, 17, 17, 17, 1\), expected"),
        (no_context, r"generator_context\.pth': no such file, expected LutFuse's weights"),
    ],
)
def test_a_clone_that_is_not_as_expected_is_named(
    write: Callable[[Path], None], message: str, tmp_path: Path
) -> None:
    write(tmp_path / "clone")
    with pytest.raises(ValueError, match=message):
        find_peer(tmp_path / "clone")


@pytest.mark.slow
def test_benchmark_with_peers(
    tiny_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("openvino")
    clones = [mmdrfuse(tmp_path / "a"), lut_fuse(tmp_path / "b")]
    words = ["--size", "64x48", "--rounds", "1", "--json", tmp_path / "rows.json"]
    words = ["benchmark", "--weights", tiny_weights, "--peers", *clones, *words]
    assert main(list(map(str, words))) == 0
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert [(row["student"], row["head"], row["peer"]) for row in rows] == [
        (str(tiny_weights), False, False), (str(tiny_weights), True, False),
        ("MMDRFuse", False, True), ("LutFuse", False, True),
    ]  # fmt: skip
    assert {(row["engine"], row["precision"]) for row in rows} == {("openvino", "fp32")}
    assert rows[2]["params"] == 113
    assert {row["ratio_eager"] for row in rows} == {None}
    assert all(row["max_abs_diff_255"] <= 1 for row in rows)
    out = capsys.readouterr().out
    assert "| x MMDRFuse | x LutFuse |" in out
    ratio = rows[1]["median_ms"] / rows[2]["median_ms"]
    assert f"| {tiny_weights} | yes | " in out
    assert f" {ratio:.2f} | " in out
    assert isinstance(find_peer(clones[0]), MMDRFuse)


def test_peers_run_in_one_engine_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["benchmark", "--peers", str(tmp_path), "--precision", "int8"]) == 1
    assert "--precision int8: --peers compares fp32 only" in capsys.readouterr().err
