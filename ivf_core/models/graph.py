"""Fusion graph that every engine runs: uint8 images in, uint8 images out.

It contains colour conversion, student, head, recolouring and argmax, so that all
engines compute the same function, data is copied to the device and back once, and
an export is a single file.
"""

from __future__ import annotations

import copy
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ivf_core.models.absent_cameras import absent_cameras
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
        self.has_absent_offsets = getattr(model.head, "absent_offsets", None) is not None
        if int8:
            quantize_convolutions(self, calibrated_ranges(model))
        self.requires_grad_(False)

    def forward(
        self,
        visible: Tensor,
        infrared: Tensor,
        want_fused: bool = True,
        want_labels: bool = True,
        want_confidence: bool = False,
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Fuse and segment a batch.

        Args:
            visible: N x H x W x 3 uint8 RGB, H and W at least `MINIMUM_SIZE`.
            infrared: N x H x W uint8, normalised to the full range.
            want_fused: False skips the recolouring.
            want_labels: False skips the class ids.
            want_confidence: True adds the confidence in the class ids, see
                `largest_and_confidence`; without it and the ids the head is skipped.

        Returns:
            The fused image, N x H x W x 3 uint8 RGB; class ids and confidence,
            N x H/2 x W/2 uint8 each (`LABEL_STRIDE`). None for a result that is not wanted,
            and for the last two without a head.
        """
        rgb = visible.permute(0, 3, 1, 2).float()  # N x 3 x H x W
        luma, cr, cb = luma_chroma(rgb)  # N x 1 x H x W each
        thermal = infrared.unsqueeze(1).float() / 255  # N x 1 x H x W
        scaled = luma / 255
        out = self.student(scaled.to(self.dtype), thermal.to(self.dtype))
        fused = labels = confidence = None
        if want_fused:
            fused = recolor(out.fused.float(), cr, cb).to(torch.uint8).permute(0, 2, 3, 1)
            fused = fused.contiguous()  # N x H x W x 3; here all threads share the copying
        if self.head is not None and (want_labels or want_confidence):
            seen: tuple[Any, ...] = out.features, small_chroma(cr, cb, self.dtype)
            if self.has_absent_offsets:
                seen = (*seen, absent_cameras(scaled, thermal))
            if want_confidence:
                labels, confidence = self.head.class_ids_and_confidence(*seen)
                confidence = _whole_blocks(confidence, infrared)
            else:
                labels = self.head.class_ids(*seen)
            labels = _whole_blocks(labels, infrared) if want_labels else None
        return fused, labels, confidence


def _whole_blocks(plane: Tensor, infrared: Tensor) -> Tensor:
    """Crop N x H/2 x W/2, rounded up or down, to the whole blocks of the N x H x W input."""
    height, width = infrared.shape[1:]
    return plane[:, : height // LABEL_STRIDE, : width // LABEL_STRIDE].contiguous()


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
