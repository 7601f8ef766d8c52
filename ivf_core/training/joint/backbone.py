"""Weights of YOLOX-nano for the architecture `street`, whose encoder has the same layers.

The detector (Ge et al., "YOLOX: Exceeding YOLO Series in 2021"; Apache-2.0) was trained on COCO's
photographs. Its file has BatchNorm folded into the convolutions, and the stem takes four pixels
of BGR in 0..255: it is summed over the colours, and shared out to both cameras.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ivf_core.models.street import StreetHead, StreetStudent

__all__ = ["load_backbone", "standardize_norms"]

_CONVOLUTIONS = 61  # of the backbone and of the top-down half of the pyramid, in file order
# Order of the four pixels of a 2x2 block in YOLOX's stem, as rows of ours.
_PIXELS = (0, 2, 1, 3)


def load_backbone(
    path: str | Path, student: StreetStudent, head: StreetHead, seed: int
) -> list[nn.BatchNorm2d]:
    """Fill the layers that YOLOX-nano has, too.

    BatchNorm gets no statistics from the file: call `standardize_norms` afterwards.

    Args:
        path: ONNX file of YOLOX-nano.
        student: filled in place.
        head: filled in place.
        seed: seed of each filter's shares of the two cameras, 0.15 to 0.85, which add up to 1.

    Returns:
        The norms of these layers, for `standardize_norms`.

    Raises:
        ValueError: the file is not YOLOX-nano, or the networks have other widths.
    """
    folded = _read_convolutions(Path(path))
    stem, down4 = student.stem, student.down4
    shares = np.random.default_rng(seed).uniform(0.15, 0.85, student.widths[0])
    weight, bias = folded[0]
    gray = 255 * weight.reshape(len(weight), 4, 3, 3, 3).sum(axis=2)[:, _PIXELS]
    both = np.concatenate(
        [share[:, None, None, None] * gray for share in (shares, 1 - shares)], axis=1
    )
    folded[0] = (both.astype(np.float32), bias)
    layers = [*_layers(stem), *_layers(down4), *_layers(_encoder(head))]
    for index, ((conv, norm), (weight, bias)) in enumerate(zip(layers, folded, strict=True)):
        if conv.weight.shape != weight.shape:
            raise ValueError(
                f"'{path}': convolution {index} is {weight.shape}, expected "
                f"{tuple(conv.weight.shape)}: the file must be YOLOX-nano, and the networks must "
                "have their default widths"
            )
        with torch.no_grad():
            conv.weight.copy_(torch.tensor(weight))
            norm.bias.copy_(torch.tensor(bias))
    return [norm for _, norm in layers]


@torch.no_grad()
def standardize_norms(
    networks: nn.Module, run: Callable[[], object], loaded: Collection[nn.BatchNorm2d] = ()
) -> None:
    """Give every BatchNorm the statistics of its input on real images.

    Layers of a file keep their function: their norm undoes itself. Others get outputs of mean
    0 and variance 1 (Mishkin and Matas, "All You Need Is a Good Init", ICLR 2016).

    Args:
        networks: in evaluation mode; changed in place.
        run: runs the networks once.
        loaded: norms of layers that `load_backbone` filled.
    """
    known = set(loaded)

    def measure(norm: nn.BatchNorm2d, inputs: tuple[Tensor]) -> None:
        variance, mean = torch.var_mean(inputs[0].float(), dim=(0, 2, 3))
        assert norm.running_mean is not None
        assert norm.running_var is not None
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)
        if norm in known:
            norm.weight.copy_((variance + norm.eps).sqrt())
            norm.bias.add_(mean)

    norms = [module for module in networks.modules() if isinstance(module, nn.BatchNorm2d)]
    hooks = [norm.register_forward_pre_hook(measure) for norm in norms]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()


def _read_convolutions(path: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    import onnx

    try:
        graph = onnx.load(path).graph
    except Exception as error:  # protobuf raises its own kinds
        raise ValueError(f"'{path}': cannot be read as ONNX: {error}") from error
    arrays = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    found = [
        (arrays[node.input[1]], arrays[node.input[2]])
        for node in graph.node
        if node.op_type == "Conv" and len(node.input) == 3
    ]
    if len(found) < _CONVOLUTIONS or found[0][0].shape != (16, 12, 3, 3):
        raise ValueError(f"'{path}': is not YOLOX-nano: its convolutions differ")
    return found[:_CONVOLUTIONS]


def _encoder(head: StreetHead) -> nn.Module:
    return nn.ModuleList(
        [
            head.stage4, head.down8, head.stage8, head.down16, head.stage16, head.down32,
            head.pool32, head.stage32, head.lateral32, head.merge16, head.lateral16, head.merge8,
        ]
    )  # fmt: skip


def _layers(network: nn.Module) -> Iterator[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Yield convolutions with their norms in the file's order: both sides of a split first."""
    modules = list(network.modules())
    for conv, norm in pairwise(modules):
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            yield conv, norm
