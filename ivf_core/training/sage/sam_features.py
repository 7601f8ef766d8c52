"""Features of SAM's image encoder, between which SAGE's L_cs measures distances."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ivf_core.training.masks.sam import PIXEL_MEAN, PIXEL_STD

__all__ = ["SamFeatures"]

_STRIDE = 16  # side of a patch in pixels
_LARGEST = 1024  # side of SAM's input in pixels


class SamFeatures(nn.Module):
    """Outputs of blocks of SAM's image encoder for grey images.

    Images keep their size. A patch gets the position embedding that it has in SAM, which places
    an image at the top left of 1024 x 1024 pixels; the padding around it is left out.

    Args:
        encoder: segment_anything's `ImageEncoderViT` with its weights; frozen here. Blocks
            after the last one of `layers` do not run.
        layers: indices of the blocks, in ascending order.
        published: use images in [0, 1] without SAM's pixel normalisation and without position
            embeddings, as SAGE's published code does.

    Raises:
        ValueError: `layers` is empty, not in ascending order, or out of the encoder's range.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(
        self, encoder: nn.Module, layers: Sequence[int] = (0, 1), *, published: bool = False
    ) -> None:
        super().__init__()
        depth = len(encoder.blocks)  # type: ignore[arg-type]
        if not layers or sorted({*layers}) != [*layers] or not 0 <= layers[0] <= layers[-1] < depth:
            raise ValueError(f"layers are {layers}, expected ascending ones of 0 to {depth - 1}")
        self.encoder = encoder.eval().requires_grad_(False)
        self.layers = tuple(layers)
        self.published = published
        for name, values in (("mean", PIXEL_MEAN), ("deviation", PIXEL_STD)):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)

    def train(self, mode: bool = True) -> SamFeatures:
        """Keep evaluation mode, whatever `mode` is."""
        return super().train(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Encode a batch of images.

        Args:
            images: N x 1 x H x W float in [0, 1], H and W from 16 to 1024. Rows and columns
                beyond a multiple of 16 are cut off.

        Returns:
            N x C x H/16 x W/16 for each of `layers`.

        Raises:
            ValueError: the images have another shape.
        """
        if (
            images.ndim != 4
            or images.shape[1] != 1
            or min(images.shape[2:]) < _STRIDE
            or max(images.shape[2:]) > _LARGEST
        ):
            raise ValueError(
                f"images are {tuple(images.shape)}, expected N x 1 x H x W, "
                f"H and W from {_STRIDE} to {_LARGEST}"
            )
        rgb = images.expand(-1, 3, -1, -1)
        if not self.published:
            rgb = (255 * rgb - self.mean) / self.deviation
        x = self.encoder.patch_embed(rgb)  # type: ignore[operator]
        positions = self.encoder.pos_embed
        if positions is not None and not self.published:
            x = x + positions[:, : x.shape[1], : x.shape[2]]  # type: ignore[index]
        features = []
        for index in range(self.layers[-1] + 1):
            x = self.encoder.blocks[index](x)  # type: ignore[index, operator]
            if index in self.layers:
                features.append(x.permute(0, 3, 1, 2))  # N x H/16 x W/16 x C before
        return features
