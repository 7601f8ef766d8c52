"""SAGE's main network (Wu et al., CVPR 2025, sections 3.1 and 3.2, figure 3a): the teacher.

The teacher needs SAM's masks of both images besides the images themselves, which only
training can afford. It computes the same function as the published code in another order:
the 256 channels of a stage stay at a quarter of the stage's size. The published code
enlarges them 16-fold (four times each way) before the next convolution; here
`convolve_enlarged` does both at once.
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

_CHANNELS = 64  # channels of each input of a stage
_SPA_CHANNELS = 4 * _CHANNELS  # channels of the image features that a stage returns
_FEATURE_CHANNELS = 32
_TOKEN_STRIDE = 4  # pixels of a stage's input per token of its attention, along each axis
_MINIMUM_SIZE = 16
_NEGATIVE_SLOPE = 0.01


class Teacher(nn.Module):
    """Encoders, five SPA stages at scales 1, 1/2, 1/4, 1/2, 1 with shared weights, a decoder.

    It has 2,639,505 parameters with four masks. The published network has 2,787,043, which
    include a convolution that it never runs and two Sobel kernels.

    Shapes in the comments: N images of H x W pixels in a batch; H/2 and the like are
    rounded down.

    Args:
        masks: number of mask planes of each modality.
        patches: whether the mask encoders see the patches of section 3.1, each mask with its own
            image inside, as in the paper and the published code; False gives them the bare
            masks, for weights that were trained so.
        keep_latent: passed to `SemanticPersistentAttention`; False for a variant of
            Table 3 II.
        keep_keys_values: passed to `SemanticPersistentAttention` as well.

    Attributes:
        feature_channels: channels of the five stage features.
        layout: strides of the five stage features, equal to those of `FusionStudent`.

    Raises:
        ValueError: `masks` is below 1.
    """

    layout = FusionStudent.layout
    feature_channels = (_FEATURE_CHANNELS,) * 5

    def __init__(
        self,
        masks: int = 4,
        *,
        patches: bool = True,
        keep_latent: bool = True,
        keep_keys_values: bool = True,
    ) -> None:
        super().__init__()
        if masks < 1:
            raise ValueError(f"masks must be at least 1, got {masks}")
        self.masks = masks
        self.patches = patches
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
            infrared: N x 1 x H x W float in [0, 1].
            visible_masks: N x masks x H x W float, 0 or 1: SAM's largest masks of the visible
                image, with planes of zeros where there are fewer.
            infrared_masks: N x masks x H x W float, 0 or 1: those of the infrared image.

        Returns:
            The fused luma, N x 1 x H x W, and the five F_SPA of equation (2), each N x 32 x
            H/s x W/s for the strides s = 1, 2, 4, 2, 1.

        Raises:
            ValueError: a shape is not as above.
        """
        self._check(visible_luma, infrared, visible_masks, infrared_masks)
        if self.patches:
            visible_masks = visible_masks * visible_luma
            infrared_masks = infrared_masks * infrared
        images = torch.cat((visible_luma, infrared), dim=1)  # N x 2 x H x W
        shallow = self.encode_image(images)  # N x 32 x H x W
        deep = self.encode_deeper(shallow)  # N x 64 x H x W, F_src of the first stage
        full = Bilinear(_size(deep))
        half = Bilinear((full.size[0] // 2, full.size[1] // 2))
        quarter = Bilinear((half.size[0] // 2, half.size[1] // 2))

        down1, down2, up1, up2 = self.between
        # Shapes of the image features that each stage returns (section 3.2, figure 3a):
        stage1 = self._stage(  # N x 256 x H/4 x W/4
            deep,
            self.encode_visible_masks(visible_masks),  # N x 64 x H x W, F_pvis
            self.encode_infrared_masks(infrared_masks),  # N x 64 x H x W, F_pir
        )
        stage2 = self._stage_down(down1, stage1, full)  # N x 256 x H/8 x W/8
        stage3 = self._stage_down(down2, stage2, half)  # N x 256 x H/16 x W/16
        stage4 = self._stage_up(up1, stage3, stage2, quarter, half)  # N x 256 x H/8 x W/8
        stage5 = self._stage_up(up2, stage4, stage1, half, full)  # N x 256 x H/4 x W/4

        fused = self._decode(stage5.image, deep, shallow)  # N x 1 x H x W
        first, second, third, fourth, fifth = (
            _resize(convolution(stage.image), scale)  # N x 32 x H/s x W/s
            for convolution, stage, scale in zip(
                self.features,
                (stage1, stage2, stage3, stage4, stage5),
                (full, half, quarter, half, full),
                strict=True,
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
        """Run an SPA stage on image, visible and infrared mask features, N x 64 x h x w each.

        Everything that it returns is at h/4 x w/4.
        """
        return self.attention(*(F.max_pool2d(x, _TOKEN_STRIDE) for x in inputs))

    def _stage_down(
        self, convolution: nn.Module, before: StageOutput, size: Bilinear
    ) -> StageOutput:
        """Run the stage at half the scale of the stage before.

        Args:
            convolution: 3x3, 256 to 64 channels.
            before: output of the stage before, N x 256 or 64 x h/4 x w/4.
            size: h x w, the scale of the stage before.
        """
        image = _convolve_sum(convolution, (before.image, (size,)))  # N x 64 x h x w
        return self._stage(
            _activate(F.max_pool2d(image, 2)),  # N x 64 x h/2 x w/2
            *(F.max_pool2d(_resize(masks, size), 2) for masks in before[1:]),  # the same shape
        )

    def _stage_up(
        self,
        convolution: nn.Module,
        before: StageOutput,
        skip: StageOutput,
        coarse: Bilinear,
        fine: Bilinear,
    ) -> StageOutput:
        """Run the stage at twice the scale of the stage before.

        Args:
            convolution: 3x3, 256 to 64 channels.
            before: output of the stage before, N x 256 or 64 x h/4 x w/4.
            skip: output of the earlier stage at the new scale, N x 256 or 64 x h/2 x w/2.
            coarse: h x w, the scale of the stage before.
            fine: H x W, about 2h x 2w, the new scale.
        """
        aligned = fine._replace(align_corners=True)
        # The published code adds the skip before the convolution; the convolution is linear.
        image = _convolve_sum(  # N x 64 x H x W
            convolution, (before.image, (coarse, aligned)), (skip.image, (fine,))
        )
        return self._stage(
            _activate(image),
            *(_resize(masks, coarse, aligned) for masks in before[1:]),  # N x 64 x H x W
        )

    def _decode(self, stage: Tensor, deep: Tensor, shallow: Tensor) -> Tensor:
        """Decode the last stage's N x 256 x H/4 x W/4 to the fused luma, N x 1 x H x W.

        Args:
            stage: image features of the last stage.
            deep: N x 64 x H x W of the image encoder.
            shallow: N x 32 x H x W of the image encoder.
        """
        weight, bias = self.decode_stages.weight, self.decode_stages.bias  # 256 x 320 x 3 x 3
        x = convolve_enlarged(stage, weight[:, :_SPA_CHANNELS], Bilinear(_size(deep)))
        x = x + F.conv2d(deep, weight[:, _SPA_CHANNELS:], bias, padding=1)  # N x 256 x H x W
        x = self.decode_deeper(_activate(x))  # N x 64 x H x W
        return self.decode_image(torch.cat((x, shallow), dim=1))  # N x 96 to N x 1 x H x W


def _convolve_sum(convolution: nn.Module, *inputs: tuple[Tensor, tuple[Bilinear, ...]]) -> Tensor:
    """Apply one 3x3 convolution to a sum of features, each enlarged by its own steps.

    Args:
        convolution: with C input and D output channels, and a bias.
        inputs: features N x C x h x w, and the steps that enlarge them to H x W.

    Returns:
        N x D x H x W.
    """
    assert isinstance(convolution, nn.Conv2d)
    assert convolution.bias is not None
    parts = [convolve_enlarged(x, convolution.weight, *steps) for x, steps in inputs]
    return sum(parts, convolution.bias.view(-1, 1, 1))


def _resize(x: Tensor, *steps: Bilinear) -> Tensor:
    """Interpolate N x C x h x w features, one step after the other."""
    for size, align_corners in steps:
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
