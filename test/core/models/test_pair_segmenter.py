"""Pairs of any size through the interface of pair segmenters."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ivf_core.class_sets import PST900
from ivf_core.models.pair_segmenter import PairLogits, PairSegmenter


class Planes(PairSegmenter):
    """The images themselves at 1/2 of their size as logits."""

    def __init__(self) -> None:
        super().__init__(PST900)
        self.seen: list[tuple[int, ...]] = []

    def segment(self, visible: Tensor, infrared: Tensor) -> PairLogits:
        self.seen.append(tuple(visible.shape[2:]))
        planes = torch.cat((visible, infrared, infrared), 1)
        return PairLogits(F.avg_pool2d(planes, 2), None, visible[:, :1], F.avg_pool2d(infrared, 16))


@pytest.mark.parametrize(
    ("size", "padded"),
    [((32, 32), (32, 32)), ((33, 63), (64, 64)), ((60, 90), (64, 96)), ((96, 65), (96, 96))],
)
def test_any_size(size: tuple[int, int], padded: tuple[int, int]) -> None:
    """Outputs have the size of the images, those of a mirrored copy are the same."""
    torch.manual_seed(0)
    network = Planes()
    visible, infrared = torch.rand(2, 3, *size), torch.rand(2, 1, *size)
    out = network(visible, infrared)
    assert network.seen == [padded]
    assert out.main.shape == (2, 5, *size)
    assert out.auxiliary is None
    assert out.fused is not None
    assert torch.equal(out.fused, visible[:, :1])
    assert out.features is not None
    assert out.features.shape == (2, 1, -(-size[0] // 16), -(-size[1] // 16))
    border = (0, padded[1] - size[1], 0, padded[0] - size[0])
    whole = network(*(F.pad(x, border, mode="reflect") for x in (visible, infrared)))
    assert torch.equal(whole.main[..., : size[0], : size[1]], out.main)


@pytest.mark.parametrize(
    "shapes",
    [
        ((1, 3, 31, 64), (1, 1, 31, 64)),
        ((1, 1, 64, 64), (1, 1, 64, 64)),
        ((1, 3, 64, 64), (1, 3, 64, 64)),
        ((1, 3, 64, 64), (1, 1, 64, 32)),
        ((2, 3, 64, 64), (1, 1, 64, 64)),
        ((3, 64, 64), (1, 64, 64)),
    ],
)
def test_other_shapes(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    with pytest.raises(ValueError, match=r"visible is .* infrared .*: expected N x 3 x H x W and"):
        Planes()(*(torch.rand(shape) for shape in shapes))
