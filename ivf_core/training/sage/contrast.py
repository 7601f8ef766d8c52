"""L_cs of both modalities on a frozen encoder, which sees every masked picture once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ivf_core.training.runs.devices import sum_over_processes
from ivf_core.training.sage.samples import Batch, Place

__all__ = ["Encoder", "MaskContrast"]

Encoder = Callable[[Tensor], Sequence[Tensor]]
"""Pictures N x 1 x H x W in [0, 1] to features, layer by layer N x C x h x w."""


class _Planes(NamedTuple):
    """The masks of a batch that show something.

    Attributes:
        masks: P x 1 x H x W.
        crops: which crop of the batch each is of, P.
        slots: its place in its crop, those of the infrared image after the visible ones, P.
        sources: the image of its own modality, P x 1 x H x W.
    """

    masks: Tensor
    crops: Tensor
    slots: Tensor
    sources: Tensor


class MaskContrast:
    """L_cs, equations (4) and (5) of SAGE summed over masks, of a batch of all processes.

    The same as `losses.masked_contrast` of both modalities, but all masked pictures pass
    through the encoder together, empty ones are left out, and what depends on the sources
    alone is computed once: for the two most recent batches, which an unrolled step returns to,
    or with `remember` once and for all, crop by crop.

    Args:
        encode: the frozen encoder.
        remember: keep the features of every crop's sources, in main memory. For a pool of
            crops that come again.
        epsilon: as in `contrastive_semantic_loss`.
    """

    def __init__(self, encode: Encoder, *, remember: bool = False, epsilon: float = 1e-7) -> None:
        self._encode = encode
        self._remember = remember
        self._epsilon = epsilon
        self._crops: dict[Place, list[Tensor]] = {}
        self._recent: list[tuple[Batch, _Planes, list[Tensor]]] = []

    def __call__(self, fused: Tensor, reference: Tensor, batch: Batch) -> Tensor:
        """L_cs.

        Args:
            fused, reference: N x 1 x H x W float of the batch's crops.

        Returns:
            A scalar, the same in all processes; zero where all masks are empty.
        """
        planes, source = self._sources(batch)
        count = batch.visible_masks.shape[1] + batch.infrared_masks.shape[1]
        if len(planes.masks):
            ours, theirs = (
                # Not picture[crops]: its gradient is added up by threads in any order.
                self._features(picture.index_select(0, planes.crops) * planes.masks)
                for picture in (fused, reference)
            )
            near = [_squared_distances(f, r) for f, r in zip(ours, theirs, strict=True)]
            far = [_squared_distances(f, s) for f, s in zip(ours, source, strict=True)]
            terms = torch.stack([*near, *far])  # 2 L x P
        else:
            # Other processes may have masks, and wait for this one's sums.
            layers = len(self._features(batch.luma[:1]))
            terms = fused.new_zeros(2 * layers, 0) + 0 * fused.sum()
        sums = terms.new_zeros(len(terms), count).index_add(1, planes.slots, terms)
        near_norms, far_norms = _root(sum_over_processes(sums)).chunk(2)
        return (near_norms.sum(0) / (far_norms.sum(0) + self._epsilon)).sum()

    def _sources(self, batch: Batch) -> tuple[_Planes, list[Tensor]]:
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
        parts = []
        for number, place in enumerate(batch.places):
            chosen = planes.crops == number
            if not chosen.any():
                continue
            if place not in self._crops:
                # A crop by itself, so that its features do not depend on its first batch's
                # other crops, not even in the last bit.
                masked = (planes.sources * planes.masks)[chosen]
                self._crops[place] = [layer.cpu() for layer in self._features(masked)]
            parts.append(self._crops[place])
        device = batch.luma.device
        return [torch.cat(layers).to(device) for layers in zip(*parts, strict=True)]

    def _features(self, pictures: Tensor) -> list[Tensor]:
        """Normalised to mean 0 and variance 1 over each channel of each picture."""
        return [F.instance_norm(layer.float()) for layer in self._encode(pictures)]


def _planes(batch: Batch) -> _Planes:
    masks = torch.cat((batch.visible_masks, batch.infrared_masks), dim=1)
    crops, slots = masks.flatten(2).any(dim=2).nonzero(as_tuple=True)
    of_visible = (slots < batch.visible_masks.shape[1]).view(-1, 1, 1, 1)
    sources = torch.where(of_visible, batch.luma[crops], batch.infrared[crops])
    return _Planes(masks[crops, slots].unsqueeze(1), crops, slots, sources)


def _squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """||a - b||^2 of each picture: P."""
    return (a - b).square().flatten(1).sum(dim=1)


def _root(x: Tensor) -> Tensor:
    """Square root with a gradient of zero, not infinity, where x is zero."""
    positive = x > 0
    return torch.where(positive, x.where(positive, torch.ones_like(x)).sqrt(), 0.0)
