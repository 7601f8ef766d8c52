"""Fusion graph that every engine runs: uint8 images in, uint8 images out.

It contains colour conversion, student, head, recolouring and argmax, so that all
engines compute the same function, data is copied to the device and back once, and
an export is a single file.
"""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ivf_core.models.checkpoints import FusionModel
from ivf_core.models.color import luma_chroma, recolor, small_chroma
from ivf_core.models.interface import LABEL_STRIDE
from ivf_core.models.quantization import quantize_convolutions
from ivf_core.models.segmentation import SegmentationHead
from ivf_core.models.street import StreetHead
from ivf_core.models.weights_files import calibrated_ranges

__all__ = ["FusionGraph", "fold_batch_norm"]

Network = TypeVar("Network", bound=nn.Module)


class FusionGraph(nn.Module):
    """Student, head, pre- and post-processing as one function of two uint8 images.

    Args:
        model: the networks, which are copied; BatchNorm is folded into the convolutions of
            the copy.
        dtype: dtype of the networks; colours stay in float32.
        int8: round inputs and weights of the convolutions that can run in 8 bits.

    Raises:
        ValueError: int8 for a model without ranges.
    """

    def __init__(
        self, model: FusionModel, dtype: torch.dtype = torch.float32, *, int8: bool = False
    ) -> None:
        super().__init__()
        self.dtype = dtype
        self.student = fold_batch_norm(model.student).to(dtype)
        self.head: SegmentationHead | StreetHead | None = None
        if model.head is not None:
            self.head = fold_batch_norm(model.head).to(dtype)
        if int8:
            quantize_convolutions(self, calibrated_ranges(model))
        self.requires_grad_(False)

    def forward(
        self, visible: Tensor, infrared: Tensor, want_fused: bool = True, want_labels: bool = True
    ) -> tuple[Tensor | None, Tensor | None]:
        """Fuse and segment a batch.

        Args:
            visible: N x H x W x 3 uint8 RGB, H and W at least `MINIMUM_SIZE`.
            infrared: N x H x W uint8, normalised to the full range.
            want_fused: False skips the recolouring.
            want_labels: False skips the head.

        Returns:
            The fused image, N x H x W x 3 uint8 RGB, and class ids,
            N x H/2 x W/2 uint8 (`LABEL_STRIDE`); None for a result that is not wanted,
            and for the ids without a head.
        """
        rgb = visible.permute(0, 3, 1, 2).float()  # N x 3 x H x W
        luma, cr, cb = luma_chroma(rgb)  # N x 1 x H x W each
        thermal = infrared.unsqueeze(1).float() / 255  # N x 1 x H x W
        out = self.student((luma / 255).to(self.dtype), thermal.to(self.dtype))
        fused = labels = None
        if want_fused:
            fused = recolor(out.fused.float(), cr, cb).to(torch.uint8).permute(0, 2, 3, 1)
            fused = fused.contiguous()  # N x H x W x 3; here all threads share the copying
        if want_labels and self.head is not None:
            labels = self.head.class_ids(
                out.features, small_chroma(cr, cb, self.dtype)
            )  # N x H/2 x W/2, rounded up or down
            height, width = infrared.shape[1:]
            labels = labels[:, : height // LABEL_STRIDE, : width // LABEL_STRIDE]
            labels = labels.contiguous()
        return fused, labels


def fold_batch_norm(module: Network) -> Network:
    """Copy a network and fold its BatchNorms into the convolutions before them.

    Args:
        module: network of `Sequential`s; it is not changed.

    Returns:
        The copy, in evaluation mode.
    """
    module = copy.deepcopy(module).eval()
    for sequence in module.modules():
        if not isinstance(sequence, nn.Sequential):
            continue
        for index in range(len(sequence) - 1):
            conv, norm = sequence[index], sequence[index + 1]
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                sequence[index] = fuse_conv_bn_eval(conv, norm)
                sequence[index + 1] = nn.Identity()
    return module
