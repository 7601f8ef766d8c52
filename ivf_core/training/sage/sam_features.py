"""Features of SAM's image encoder, in which SAGE's L_cs measures distances."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ivf_core.training.masks.sam import PIXEL_DEVIATION, PIXEL_MEAN

__all__ = ["SamFeatures"]

_STRIDE = 16
_LARGEST = 1024


class SamFeatures(nn.Module):
    """What blocks of SAM's image encoder make of grey pictures.

    Pictures keep their size. A patch has the position that it has where SAM puts a picture,
    at the top left of 1024 x 1024; the padding beside it is left out.

    Args:
        encoder: segment_anything's `ImageEncoderViT`, with its weights; frozen here. The
            blocks after the last one asked for are not run.
        layers: which blocks, from 0 up.
        published: as SAGE's code: pictures in [0, 1] instead of SAM's pixel mean and
            deviation, and no positions.

    Raises:
        ValueError: `layers` are none, not in order, or not of the encoder.
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
        for name, values in (("mean", PIXEL_MEAN), ("deviation", PIXEL_DEVIATION)):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)

    def train(self, mode: bool = True) -> SamFeatures:
        """Stays in evaluation mode."""
        return super().train(False)

    def forward(self, pictures: Tensor) -> list[Tensor]:
        """Encode a batch.

        Args:
            pictures: N x 1 x H x W float in [0, 1], H and W from 16 to 1024; what is beyond a
                multiple of 16 is cut off.

        Returns:
            Layer by layer N x C x H/16 x W/16.

        Raises:
            ValueError: pictures are not as above.
        """
        if (
            pictures.ndim != 4
            or pictures.shape[1] != 1
            or min(pictures.shape[2:]) < _STRIDE
            or max(pictures.shape[2:]) > _LARGEST
        ):
            raise ValueError(
                f"pictures are {tuple(pictures.shape)}, expected N x 1 x H x W, "
                f"H and W from {_STRIDE} to {_LARGEST}"
            )
        rgb = pictures.expand(-1, 3, -1, -1)
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
