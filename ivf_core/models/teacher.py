"""SAGE's main network (Wu et al., CVPR 2025, sections 3.1 and 3.2), the student's teacher.

It sees what the student sees and SAM's masks besides: which only training can afford.
The same function as the published code, in another order: the 256 channels of a stage stay
at a quarter of its size. What the published code does with them after enlarging them 16-fold,
convolutions all, is done before or by `convolve_enlarged`.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ivf_core.models.attention import SemanticPersistentAttention, StageOutput
from ivf_core.models.student import FusionStudent, StudentOutput
from ivf_core.models.upsampling import Bilinear, convolve_enlarged

__all__ = ["Teacher"]

_CHANNELS = 64
_SPA_CHANNELS = 4 * _CHANNELS
_FEATURE_CHANNELS = 32
_TOKEN_STRIDE = 4  # pixels of a stage that one token of its attention stands for, each way
_MINIMUM_SIZE = 16
_NEGATIVE_SLOPE = 0.01


class Teacher(nn.Module):
    """Encoders, five SPA stages at scales 1, 1/2, 1/4, 1/2, 1 with the same weights, a decoder.

    2,639,505 parameters with four masks. The published network counts 2,787,043: with a
    convolution that it never runs, and two Sobel kernels.

    Args:
        masks: planes of each modality.
        keep_latent, keep_keys_values: False for the variants of Table 3 II, as
            `SemanticPersistentAttention` says.

    Attributes:
        feature_channels: of the five stage features.
        layout: where they lie, as the student's.

    Raises:
        ValueError: `masks` is below 1.
    """

    layout = FusionStudent.layout
    feature_channels = (_FEATURE_CHANNELS,) * 5

    def __init__(
        self, masks: int = 4, *, keep_latent: bool = True, keep_keys_values: bool = True
    ) -> None:
        super().__init__()
        if masks < 1:
            raise ValueError(f"masks must be at least 1, got {masks}")
        self.masks = masks
        self.encode_image = _convolutions(2, 16, 32)
        self.encode_deeper = _convolutions(32, _CHANNELS)
        # The published visible branch ends without an activation, the infrared one with it.
        self.encode_visible_masks = _convolutions(masks, 16, 32, _CHANNELS)[:-1]
        self.encode_infrared_masks = _convolutions(masks, 16, 32, _CHANNELS)
        self.attention = SemanticPersistentAttention(
            _CHANNELS, keep_latent=keep_latent, keep_keys_values=keep_keys_values
        )
        self.between = nn.ModuleList(_convolution(_SPA_CHANNELS, _CHANNELS) for _ in range(4))
        self.decode_stages = _convolution(_SPA_CHANNELS + _CHANNELS, 256)
        self.decode_deeper = _convolutions(256, 128, _CHANNELS)
        self.decode_image = _convolutions(_CHANNELS + 32, 64, 32, 16, 1)
        self.features = nn.ModuleList(
            nn.Conv2d(_SPA_CHANNELS, channels, 1) for channels in self.feature_channels
        )

    def forward(
        self,
        visible_luma: Tensor,
        infrared: Tensor,
        visible_masks: Tensor,
        infrared_masks: Tensor,
    ) -> StudentOutput:
        """Fuse a batch.

        Args:
            visible_luma: N x 1 x H x W float in [0, 1], H and W at least 16.
            infrared: the same shape and range.
            visible_masks: N x masks x H x W float, 0 or 1: SAM's largest masks of the visible
                image, a plane of zeros where there are fewer.
            infrared_masks: those of the infrared image.

        Returns:
            The fused luma and the five F_SPA of equation (2), as a student's.

        Raises:
            ValueError: a shape is not as above.
        """
        self._check(visible_luma, infrared, visible_masks, infrared_masks)
        shallow = self.encode_image(torch.cat((visible_luma, infrared), dim=1))
        deep = self.encode_deeper(shallow)
        full = Bilinear(_size(deep))
        half = Bilinear((full.size[0] // 2, full.size[1] // 2))
        quarter = Bilinear((half.size[0] // 2, half.size[1] // 2))
        half_up, full_up = (half._replace(align_corners=True), full._replace(align_corners=True))

        stage1 = self._stage(
            deep,
            self.encode_visible_masks(visible_masks),
            self.encode_infrared_masks(infrared_masks),
        )
        stage2 = self._stage(
            _activate(F.max_pool2d(_convolve(self.between[0], (stage1.image, (full,))), 2)),
            *(F.max_pool2d(_resize(x, full), 2) for x in stage1[1:]),
        )
        stage3 = self._stage(
            _activate(F.max_pool2d(_convolve(self.between[1], (stage2.image, (half,))), 2)),
            *(F.max_pool2d(_resize(x, half), 2) for x in stage2[1:]),
        )
        # The published code adds the skip before the convolution; it is linear.
        stage4 = self._stage(
            _activate(
                _convolve(
                    self.between[2], (stage3.image, (quarter, half_up)), (stage2.image, (half,))
                )
            ),
            *(_resize(x, quarter, half_up) for x in stage3[1:]),
        )
        stage5 = self._stage(
            _activate(
                _convolve(self.between[3], (stage4.image, (half, full_up)), (stage1.image, (full,)))
            ),
            *(_resize(x, half, full_up) for x in stage4[1:]),
        )
        fused = self._decode(stage5.image, deep, shallow)
        stages = (stage1, stage2, stage3, stage4, stage5)
        first, second, third, fourth, fifth = (
            _resize(convolution(stage.image), way)
            for convolution, stage, way in zip(
                self.features, stages, (full, half, quarter, half, full), strict=True
            )
        )
        return StudentOutput(fused, (first, second, third, fourth, fifth))

    def _check(self, luma: Tensor, infrared: Tensor, *masks: Tensor) -> None:
        if luma.ndim != 4 or luma.shape[1] != 1 or min(luma.shape[2:]) < _MINIMUM_SIZE:
            raise ValueError(
                f"visible_luma is {tuple(luma.shape)}, expected N x 1 x H x W, "
                f"H and W at least {_MINIMUM_SIZE}"
            )
        if infrared.shape != luma.shape:
            raise ValueError(
                f"infrared is {tuple(infrared.shape)}, expected {tuple(luma.shape)} as the luma"
            )
        expected = (len(luma), self.masks, *_size(luma))
        for name, planes in zip(("visible_masks", "infrared_masks"), masks, strict=True):
            if planes.shape != expected:
                raise ValueError(f"{name} are {tuple(planes.shape)}, expected {expected}")

    def _stage(self, *inputs: Tensor) -> StageOutput:
        """A stage of features N x 64 x H x W; what it returns is at a quarter of that."""
        return self.attention(*(F.max_pool2d(x, _TOKEN_STRIDE) for x in inputs))

    def _decode(self, stage: Tensor, deep: Tensor, shallow: Tensor) -> Tensor:
        weight, bias = self.decode_stages.weight, self.decode_stages.bias
        x = convolve_enlarged(stage, weight[:, :_SPA_CHANNELS], Bilinear(_size(deep)))
        x = x + F.conv2d(deep, weight[:, _SPA_CHANNELS:], bias, padding=1)
        x = self.decode_deeper(_activate(x))
        return self.decode_image(torch.cat((x, shallow), dim=1))


def _convolve(convolution: nn.Module, *inputs: tuple[Tensor, tuple[Bilinear, ...]]) -> Tensor:
    """One 3x3 convolution of the sum of features, each enlarged in its own ways."""
    assert isinstance(convolution, nn.Conv2d)
    assert convolution.bias is not None
    parts = [convolve_enlarged(x, convolution.weight, *ways) for x, ways in inputs]
    return sum(parts, convolution.bias.view(-1, 1, 1))


def _resize(x: Tensor, *ways: Bilinear) -> Tensor:
    for size, align_corners in ways:
        x = F.interpolate(x, size=size, mode="bilinear", align_corners=align_corners)
    return x


def _activate(x: Tensor) -> Tensor:
    return F.leaky_relu(x, _NEGATIVE_SLOPE, inplace=True)


def _size(x: Tensor) -> tuple[int, int]:
    return x.shape[-2], x.shape[-1]


def _convolution(in_channels: int, out_channels: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 3, padding=1)


def _convolutions(*channels: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in pairwise(channels):
        layers += [
            _convolution(before, after),
            nn.LeakyReLU(_NEGATIVE_SLOPE, inplace=True),
        ]
    return nn.Sequential(*layers)
