"""Cameras that are absent, found in the images themselves, and how much of which it is.

A network that lost one camera needs another operating point: without the thermal image it misses
people that it would find with lower demands. A head can therefore carry offsets of its logits for
pairs without one of the images, a row for each of `ABSENCES`.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["ABSENCES", "absent_cameras"]

ABSENCES = ("thermal absent by day", "thermal absent by night", "RGB absent")
"""Rows of a head's `absent_offsets`. By day the visible image shows people well, by night not."""

# Mean luma in [0, 1]: 95 % of MSRS's training nights are darker than 51 of 255, 95 % of its days
# brighter than 64.
_NIGHT, _DAY = 45 / 255, 65 / 255


def absent_cameras(luma: Tensor, infrared: Tensor) -> Tensor:
    """Return how much each of `ABSENCES` applies to each pair of a batch.

    A camera is absent if its image is zero everywhere, as the image that pipelines and the node
    feed for it; one pixel that is not zero makes it present. Between night and day both rows apply
    in part, so that masks do not jump at dusk.

    Args:
        luma: N x 1 x H x W float32 in [0, 1], of the visible image.
        infrared: N x 1 x H x W float32 in [0, 1].

    Returns:
        N x 3 float32 in [0, 1]; all zero where both cameras are present, or both absent.
    """
    # Means row by row stay far from the largest number of engines that sum in fp16.
    visible, thermal = (x.mean(dim=-1).mean(dim=(1, 2)) for x in (luma, infrared))
    day = ((visible - _NIGHT) / (_DAY - _NIGHT)).clamp(0, 1)
    without_thermal = ((thermal == 0) & (visible > 0)).to(day.dtype)
    without_visible = ((visible == 0) & (thermal > 0)).to(day.dtype)
    return torch.stack((without_thermal * day, without_thermal * (1 - day), without_visible), dim=1)
