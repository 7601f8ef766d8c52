"""SARTM (Xing et al., 2025): SAM2 that segments pairs of visible and thermal images.

SAM2's image encoder sees both cameras, frozen but for LoRA with weights for each. Its features of
three scales are fused, and SAM2's mask decoder reads them with one token for each class. A second,
small head reads them too. The paper's equation numbers are those of arXiv:2505.01950v1.

Differences from the published code, in which the thermal image does not reach the fusion, both
modalities share the sum of three LoRA, and the second head is made again at random in each pass:
these follow the paper. The neck sums its levels, as SAM2's does, where equation (8) halves the sum.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ivf_core.class_sets import ClassSet
from ivf_core.models.color import normalize
from ivf_core.models.lora import add_lora
from ivf_core.models.pair_segmenter import PairLogits, PairSegmenter
from ivf_core.models.rectify import ModalFusion

__all__ = ["DECODES", "THERMAL_NORMALIZATIONS", "AuxiliaryHead", "Sartm"]

DECODES = ("fused", "each")
"""Words for `decode`: once, of the fused features; or of each modality's own, then the mean."""

THERMAL_NORMALIZATIONS = ("imagenet", "none")
"""Words for `thermal_normalization`: ImageNet's mean and deviation, as of RGB; or [0, 1]."""


class AuxiliaryHead(nn.Module):
    """Second head, equation (10): features of three scales, summed from the coarsest up.

    Args:
        channels: channels of the features, from the finest scale to the coarsest; the finer ones
            are projected to the channels of the coarsest.
        classes: number of classes.
    """

    def __init__(self, channels: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        fine, middle, coarse = channels
        self.fine = nn.Conv2d(fine, coarse, 1)
        self.middle = nn.Conv2d(middle, coarse, 1)
        self.classify = nn.Conv2d(coarse, classes, 3, padding=1)

    def forward(self, fine: Tensor, middle: Tensor, coarse: Tensor) -> Tensor:
        """Compute the logits at the size of the finest features."""
        merged = self.middle(middle) + _resize(coarse, middle)
        return self.classify(self.fine(fine) + _resize(merged, fine))


class Sartm(PairSegmenter):
    """Logits of classes from a pair, by SAM2 with LoRA; see the module.

    Trained: LoRA, fusion, mask decoder and auxiliary head. Frozen: the image encoder, the prompt
    encoder, and the decoder's predictions of IoU and of an object, which are not used.

    Args:
        sam2: `transformers.Sam2Model` whose decoder has as many multimask outputs as classes;
            changed in place.
        class_set: classes of the logits.
        rank: rank of LoRA.
        decode: one of `DECODES`.
        memory_embedding: add SAM2's embedding for images without a memory, with which its
            decoder was trained. The published code does not.
        per_pixel: see `FeatureFusion`.
        thermal_normalization: one of `THERMAL_NORMALIZATIONS`; the published code has none.
        average_heads: classify by the mean of both heads' probabilities. The paper does not say;
            the published code takes the mask decoder's alone, and its second head is random.

    Raises:
        ValueError: SAM2 has another number of outputs, or an option is unknown.
    """

    def __init__(
        self,
        sam2: Any,
        class_set: ClassSet,
        *,
        rank: int = 16,
        decode: str = "fused",
        memory_embedding: bool = True,
        per_pixel: bool = False,
        thermal_normalization: str = "imagenet",
        average_heads: bool = False,
    ) -> None:
        super().__init__(class_set)
        outputs = sam2.mask_decoder.num_multimask_outputs
        if outputs != len(class_set):
            raise ValueError(f"SAM2 has {outputs} outputs, expected {len(class_set)}")
        for word, known in ((decode, DECODES), (thermal_normalization, THERMAL_NORMALIZATIONS)):
            if word not in known:
                raise ValueError(f"'{word}': expected {' or '.join(known)}")
        self.decode = decode
        self.memory_embedding = memory_embedding
        self.per_pixel = per_pixel
        self.thermal_normalization = thermal_normalization
        self.average_heads = average_heads
        self.sam2 = sam2.requires_grad_(False)
        add_lora(sam2.vision_encoder, rank)
        decoder = sam2.mask_decoder.requires_grad_(True)
        for unused in (decoder.iou_prediction_head, decoder.pred_obj_score_head):
            unused.requires_grad_(False)
        width = decoder.hidden_size
        channels = (width // 8, width // 4, width)
        self.fusion = nn.ModuleList(
            ModalFusion(c, heads, per_pixel=per_pixel)
            for c, heads in zip(channels, (1, 2, 4), strict=True)
        )
        self.auxiliary = AuxiliaryHead(channels, len(class_set))

    def segment(self, visible: Tensor, infrared: Tensor) -> PairLogits:
        """Compute logits at 1/4 and fused features at 1/16; see `PairSegmenter.segment`."""
        features = self.encode(visible, infrared)
        fused = [fuse(*pair) for fuse, pair in zip(self.fusion, features, strict=True)]
        if self.decode == "fused":
            main = self.decode_features(*fused)
        else:
            both = [self.decode_features(*own) for own in zip(*features, strict=True)]
            main = torch.stack(both).mean(0)
        return PairLogits(main, self.auxiliary(*fused), features=fused[-1])

    def classify(self, visible: Tensor, infrared: Tensor) -> Tensor:
        """Compute the logits that a pair is classified by; see `PairSegmenter.classify`."""
        out = self(visible, infrared)
        if not self.average_heads:
            return out.main
        both = torch.stack((out.main.log_softmax(1), out.auxiliary.log_softmax(1)))
        return both.logsumexp(0) - math.log(2)

    def encode(self, visible: Tensor, infrared: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Compute features of visible and infrared images at 1/4, 1/8 and 1/16.

        Args:
            visible: N x 3 x H x W float RGB in [0, 1], sides multiples of 32.
            infrared: N x 1 x H x W float in [0, 1].

        Returns:
            By scale, those of each modality; their channels are 1/8, 1/4 and all of the decoder's.
        """
        thermal = infrared.expand_as(visible)
        if self.thermal_normalization == "imagenet":
            thermal = normalize(thermal)
        pixels = torch.cat((normalize(visible), thermal))
        decoder = self.sam2.mask_decoder
        fine, middle, coarse = self.sam2.vision_encoder(pixels).fpn_hidden_states
        levels = (decoder.conv_s0(fine), decoder.conv_s1(middle), coarse)
        return [tuple(level.chunk(2)) for level in levels]

    def decode_features(self, fine: Tensor, middle: Tensor, coarse: Tensor) -> Tensor:
        """Compute N x C x 4h x 4w logits by SAM2's mask decoder, without a prompt.

        Args:
            fine: N x D/8 x 4h x 4w.
            middle: N x D/4 x 2h x 2w.
            coarse: N x D x h x w.
        """
        sam2 = self.sam2
        if self.memory_embedding:
            coarse = coarse + sam2.no_memory_embedding.view(1, -1, 1, 1)
        count, channels, height, width = coarse.shape
        rows, columns = (
            (torch.arange(side, device=coarse.device, dtype=torch.float32) + 0.5) / side
            for side in (height, width)
        )
        grid = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), -1)
        position = sam2.shared_image_embedding(grid).permute(2, 0, 1).expand(count, -1, -1, -1)
        # Without a prompt SAM2 sees a point that is none, and the padding after it.
        none = sam2.prompt_encoder.not_a_point_embed.weight.expand(count, 1, 2, channels)
        masks, *_ = sam2.mask_decoder(
            image_embeddings=coarse,
            image_positional_embeddings=position,
            sparse_prompt_embeddings=none,
            dense_prompt_embeddings=sam2.prompt_encoder.no_mask_embed.weight.view(1, -1, 1, 1),
            multimask_output=True,
            high_resolution_features=[fine, middle],
        )
        return masks[:, 0]


def _resize(x: Tensor, to: Tensor) -> Tensor:
    return F.interpolate(x, to.shape[2:], mode="bilinear", align_corners=False)
