"""L_cs of SAGE for both modalities, with one pass of a frozen encoder for all masked images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ivf_core.training.losses import at_least_float32
from ivf_core.training.runs.devices import sum_over_processes
from ivf_core.training.sage.losses import contrast_quotient
from ivf_core.training.sage.samples import Batch, Place

__all__ = ["Encoder", "MaskContrast"]

Encoder = Callable[[Tensor], Sequence[Tensor]]
"""Encoder of images N x 1 x H x W in [0, 1] that returns N x C x h x w for each layer."""


class _Planes(NamedTuple):
    """Masks of a batch that are not empty.

    Attributes:
        masks: P masks, P x 1 x H x W.
        crops: for each mask the index of its crop in the batch, P.
        slots: for each mask its index among the masks of its crop, P. The masks of the infrared
            image come after those of the visible one.
        sources: for each mask the image of its modality, P x 1 x H x W.
    """

    masks: Tensor
    crops: Tensor
    slots: Tensor
    sources: Tensor


class MaskContrast:
    """L_cs of SAGE, equations (4) and (5) summed over masks, for a batch over all processes.

    The value is the sum of `losses.masked_contrast` over both modalities. Here all masked images
    pass through the encoder together, without the empty ones, and features of the sources are
    computed once: they are stored for the two most recent batches, to which an unrolled step
    returns, or, with `remember`, for every crop.

    Args:
        encode: the frozen encoder.
        remember: keep the features of every crop's sources in main memory, for a pool of crops
            that are used repeatedly.
        per_layer: sum the quotients of the layers, see `losses.contrastive_semantic_loss`.
        epsilon: added to the denominators.
    """

    def __init__(
        self,
        encode: Encoder,
        *,
        remember: bool = False,
        per_layer: bool = False,
        epsilon: float = 1e-7,
    ) -> None:
        self._encode = encode
        self._per_layer = per_layer
        self._remember = remember
        self._epsilon = epsilon
        self._crops: dict[Place, list[Tensor]] = {}
        self._recent: list[tuple[Batch, _Planes, list[Tensor]]] = []

    def __call__(self, fused: Tensor, reference: Tensor, batch: Batch) -> Tensor:
        """Compute L_cs of a batch.

        Args:
            fused: fused images of the network that learns, N x 1 x H x W float.
            reference: fused images of the other network, of the same shape.
            batch: crops with sources and masks.

        Returns:
            A scalar, the same in all processes. It is zero if all masks are empty.
        """
        planes, source = self._sources(batch)
        count = batch.visible_masks.shape[1] + batch.infrared_masks.shape[1]
        if len(planes.masks):
            fused_features, reference_features = (
                # The gradient of image[crops] would be summed by threads in any order.
                self._features(image.index_select(0, planes.crops) * planes.masks)
                for image in (fused, reference)
            )
            near, far = (
                [_squared_distances(f, g) for f, g in zip(fused_features, others, strict=True)]
                for others in (reference_features, source)
            )
            terms = torch.stack([*near, *far])  # 2 L x P
        else:
            # Other processes may have masks, and wait for the sums of this process.
            layers = len(self._features(batch.luma[:1]))
            terms = fused.new_zeros(2 * layers, 0) + 0 * fused.sum()
        sums = terms.new_zeros(len(terms), count).index_add(1, planes.slots, terms)
        near_norms, far_norms = _root(sum_over_processes(sums)).chunk(2)
        return contrast_quotient(
            near_norms, far_norms, self._epsilon, per_layer=self._per_layer
        ).sum()

    def _sources(self, batch: Batch) -> tuple[_Planes, list[Tensor]]:
        """Return the masks of a batch, and features of the masked sources, P x C x h x w each."""
        for seen, planes, features in self._recent:
            if seen is batch:
                return planes, features
        planes = _planes(batch)
        with torch.no_grad():
            if self._remember:
                features = self._remembered(batch, planes)
            elif len(planes.masks):
                features = self._features(planes.sources * planes.masks)
            else:
                features = []
        self._recent = [*self._recent[-1:], (batch, planes, features)]
        return planes, features

    def _remembered(self, batch: Batch, planes: _Planes) -> list[Tensor]:
        """Return features of the masked sources, computed only for crops without stored ones."""
        parts = []
        for number, place in enumerate(batch.places):
            chosen = planes.crops == number
            if not chosen.any():
                continue
            if place not in self._crops:
                # One crop at a time, so that its features do not depend, even in the last bit,
                # on the other crops of its first batch.
                masked = (planes.sources * planes.masks)[chosen]
                self._crops[place] = [layer.cpu() for layer in self._features(masked)]
            parts.append(self._crops[place])
        device = batch.luma.device
        return [torch.cat(layers).to(device) for layers in zip(*parts, strict=True)]

    def _features(self, images: Tensor) -> list[Tensor]:
        """Encode images, and normalise each channel of each image to mean 0 and variance 1."""
        return [F.instance_norm(at_least_float32(layer)) for layer in self._encode(images)]


def _planes(batch: Batch) -> _Planes:
    """Collect the masks of a batch that are not empty."""
    masks = torch.cat((batch.visible_masks, batch.infrared_masks), dim=1)
    crops, slots = masks.flatten(2).any(dim=2).nonzero(as_tuple=True)
    of_visible = (slots < batch.visible_masks.shape[1]).view(-1, 1, 1, 1)
    sources = torch.where(of_visible, batch.luma[crops], batch.infrared[crops])
    return _Planes(masks[crops, slots].unsqueeze(1), crops, slots, sources)


def _squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """Compute ||a - b||^2 for each image: P."""
    return (a - b).square().flatten(1).sum(dim=1)


def _root(x: Tensor) -> Tensor:
    """Compute the square root with a gradient of zero, not infinity, where x is zero."""
    positive = x > 0
    return torch.where(positive, x.where(positive, torch.ones_like(x)).sqrt(), 0.0)
