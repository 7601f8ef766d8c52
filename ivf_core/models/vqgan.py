"""VQ-GAN of one camera (Esser et al., CVPR 2021): FusionSAM's latent space tokens (LSTG).

FusionSAM's published code has no networks; the layout is that of the code from which its training
script is derived, in two dimensions (TATS, Ge et al., ECCV 2022).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ivf_core.models.codebook import Codebook, Quantized

__all__ = ["PatchDiscriminator", "Tokenizer"]

_GROUPS = 32
_SLOPE = 0.2  # of the discriminator's LeakyReLU
_WIDEST = 512  # channels of the discriminator


class Tokenizer(nn.Module):
    """Encoder, codebook and decoder of one camera's images, equations (2) to (4).

    Images and reconstructions are N x 1 x H x W float in [0, 1], sides multiples of 2^levels; the
    latents are N x D x h x w with h = H / 2^levels.

    Args:
        width: channels after the first convolution; they double with each level.
        latent: channels D of a latent.
        codes: number of codes.
        levels: number of times that the sides are halved.
        decay: see `Codebook`.
        restart_below: see `Codebook`.
    """

    def __init__(
        self,
        width: int = 32,
        latent: int = 64,
        codes: int = 1024,
        levels: int = 2,
        *,
        decay: float = 0.99,
        restart_below: float = 1.0,
    ) -> None:
        super().__init__()
        wide = width * 2**levels
        self.width = width
        self.latent = latent
        self.levels = levels
        self.encoder = _encoder(width, levels)
        self.to_latent = nn.Conv2d(wide, latent, 1)
        self.codebook = Codebook(codes, latent, decay=decay, restart_below=restart_below)
        self.from_latent = nn.Conv2d(latent, wide, 1)
        self.decoder = _decoder(width, levels)

    def encode(self, images: Tensor) -> Tensor:
        """Compute the continuous latents, equation (2)."""
        return self.to_latent(self.encoder(2 * images - 1))

    def decode(self, values: Tensor) -> Tensor:
        """Reconstruct images from quantised latents, equation (4); not clamped to [0, 1]."""
        return (self.decoder(self.from_latent(values)) + 1) / 2

    def forward(self, images: Tensor) -> tuple[Tensor, Quantized, Tensor]:
        """Return reconstructions, quantised latents, and the continuous latents."""
        latents = self.encode(images)
        quantized = self.codebook(latents)
        return self.decode(quantized.values), quantized, latents


class PatchDiscriminator(nn.Module):
    """PatchGAN (Isola et al., CVPR 2017): scores of patches, and the features that lead to them.

    Args:
        width: channels of the first layer; they double with each one up to 512.
        layers: number of layers of stride 2.
    """

    def __init__(self, width: int = 64, layers: int = 3) -> None:
        super().__init__()
        blocks: list[nn.Module] = [_judge(1, width, stride=2, norm=False)]
        channels = width
        for number in range(layers):
            before, channels = channels, min(2 * channels, _WIDEST)
            stride = 2 if number < layers - 1 else 1
            blocks.append(_judge(before, channels, stride=stride, norm=True))
        self.blocks = nn.ModuleList(blocks)
        self.score = nn.Conv2d(channels, 1, 4, padding=2)

    def forward(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return scores, higher for real images, and the features of each layer.

        Args:
            images: N x 1 x H x W float, nominally in [0, 1].
        """
        x, features = 2 * images - 1, []
        for block in self.blocks:
            x = block(x)
            features.append(x)
        return self.score(x), features


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _norm(channels), nn.SiLU(), _conv3(channels, channels),
            _norm(channels), nn.SiLU(), _conv3(channels, channels),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class _Up(nn.ConvTranspose2d):
    """Transposed convolution that doubles the sides, on a border of repeated pixels."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__(channels, out, 4, stride=2, padding=3)

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        return super().forward(F.pad(input, (1, 1, 1, 1), mode="replicate"), output_size)


def _encoder(width: int, levels: int) -> nn.Sequential:
    blocks: list[nn.Module] = [_conv3(1, width)]
    for level in range(levels):
        channels = width * 2 ** (level + 1)
        down = nn.Conv2d(channels // 2, channels, 4, 2, 1, padding_mode="replicate")
        blocks += [down, _Residual(channels)]
    return nn.Sequential(*blocks, _norm(width * 2**levels), nn.SiLU())


def _decoder(width: int, levels: int) -> nn.Sequential:
    channels = width * 2**levels
    blocks: list[nn.Module] = [_norm(channels), nn.SiLU()]
    for level in range(levels):
        before, channels = channels, width * 2 ** (levels - level)
        blocks += [_Up(before, channels), _Residual(channels), _Residual(channels)]
    return nn.Sequential(*blocks, _conv3(channels, 1))


def _conv3(channels: int, out: int) -> nn.Conv2d:
    return nn.Conv2d(channels, out, 3, padding=1, padding_mode="replicate")


def _norm(channels: int) -> nn.GroupNorm:
    # A group of a single channel would lose the level of its plane.
    return nn.GroupNorm(max(1, min(_GROUPS, channels // 2)), channels)


def _judge(channels: int, out: int, *, stride: int, norm: bool) -> nn.Sequential:
    convolution = nn.Conv2d(channels, out, 4, stride, padding=2)
    norms = [nn.BatchNorm2d(out)] if norm else []
    return nn.Sequential(convolution, *norms, nn.LeakyReLU(_SLOPE))
