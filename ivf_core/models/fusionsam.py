"""FusionSAM (Li et al., KDD 2025): SAM that segments pairs of visible and thermal images.

A VQ-GAN of each camera makes latents (`vqgan`), fusion mask prompting fuses them to one image and
to prompts (`fusion_prompt`), SAM's frozen image encoder sees the fused image, and its mask decoder,
with one output for each class, reads the prompts. Equation numbers are those of the paper.

The published code has no networks. Its scripts draw the prompts from the ground truth, at test
time too, and train on the test files; here prompts come from the fused features alone, and training
and test take the same path. Where the paper is silent, the choices are ours: see docs/training.md.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ivf_core.class_sets import ClassSet
from ivf_core.models.color import luma_chroma, recolor_unrounded
from ivf_core.models.fusion_prompt import FusionPrompt, box_prompt, point_prompts
from ivf_core.models.pair_segmenter import MINIMUM_SIDE, PairLogits, PairSegmenter
from ivf_core.models.vqgan import Tokenizer

__all__ = ["TOKEN_LEVELS", "FusionSam"]

TOKEN_LEVELS = 2
"""Levels of the tokenizers: the paper's latents are those of 4 x 4 pixels."""

_STRIDE = 2**TOKEN_LEVELS


class FusionSam(PairSegmenter):
    """Logits of classes, and a fused luma, from a pair, by SAM; see the module.

    Trained: fusion mask prompting, prompt encoder and mask decoder, and with `train_tokens` the
    encoders of the tokenizers. Frozen: SAM's image encoder, and what is not used, the prediction
    of the IoU and the single mask. The image encoder has no gradient unless `through_encoder`.

    Args:
        tokenizers: of visible luma and of infrared images, with `TOKEN_LEVELS` levels.
        prompt: fusion mask prompting on their latents.
        sam: `segment_anything.modeling.Sam` whose decoder has as many multimask outputs as
            classes; changed in place.
        class_set: classes of the logits.
        points: number of points among the prompts.
        box: prompt with the box of the strongest features, too.
        quantized: fuse quantised latents, as the paper; the published code fuses continuous ones.
        train_tokens: whether the tokenizers learn.
        through_encoder: pass the gradient through SAM's image encoder to the fused image.

    Raises:
        ValueError: SAM has another number of outputs, the tokenizers have other sizes than
            FMP expects, or its windows do not divide `MINIMUM_SIDE`.
    """

    stride = MINIMUM_SIDE
    feature_stride = _STRIDE

    def __init__(
        self,
        tokenizers: tuple[Tokenizer, Tokenizer],
        prompt: FusionPrompt,
        sam: Any,
        class_set: ClassSet,
        *,
        points: int = 10,
        box: bool = False,
        quantized: bool = True,
        train_tokens: bool = False,
        through_encoder: bool = False,
    ) -> None:
        super().__init__(class_set)
        outputs = sam.mask_decoder.num_multimask_outputs
        if outputs != len(class_set):
            raise ValueError(f"SAM has {outputs} outputs, expected {len(class_set)}")
        for tokenizer in tokenizers:
            if (tokenizer.latent, tokenizer.levels) != (prompt.latent, TOKEN_LEVELS):
                raise ValueError(
                    f"tokenizer with {tokenizer.levels} levels and {tokenizer.latent} channels, "
                    f"expected {TOKEN_LEVELS} levels and {prompt.latent} channels"
                )
        window = prompt.attention.window
        if window and self.stride % (_STRIDE * window):
            raise ValueError(f"window {window}: expected 0, 1, 2, 4 or 8")
        self.points = points
        self.box = box
        self.quantized = quantized
        self.train_tokens = train_tokens
        self.through_encoder = through_encoder
        self.tokenizers = nn.ModuleList(tokenizers).requires_grad_(train_tokens)
        self.prompt = prompt
        self.sam = sam.requires_grad_(True)
        sam.image_encoder.requires_grad_(False)
        decoder = sam.mask_decoder
        for unused in (decoder.iou_prediction_head, decoder.output_hypernetworks_mlps[0]):
            unused.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> FusionSam:
        """Set the mode of what is trained; SAM's image encoder stays in evaluation mode."""
        super().train(mode)
        self.sam.image_encoder.eval()
        return self

    def segment(self, visible: Tensor, infrared: Tensor) -> PairLogits:
        """Compute logits at SAM's size, fused luma, and fused features at 1/4; see the base."""
        luma, cr, cb = luma_chroma((visible * 255).round())
        prompts = self.prompt(*self._latents(luma / 255, infrared))
        image = recolor_unrounded(prompts.fused.to(luma.dtype), cr, cb)
        logits = self.decode(self.embed(image), prompts.plane, prompts.features, image.shape[2:])
        return PairLogits(logits, fused=prompts.fused, features=prompts.features)

    def embed(self, image: Tensor) -> Tensor:
        """Compute SAM's embeddings of fused images: N x D x g x g for a grid of g patches.

        Args:
            image: N x 3 x H x W float RGB, nominally in [0, 1].
        """
        with torch.set_grad_enabled(self.through_encoder and torch.is_grad_enabled()):
            size = self._fit(image.shape[2:])
            small = F.interpolate(
                image.clamp(0, 1), size, mode="bilinear", align_corners=False, antialias=True
            )
            return self.sam.image_encoder(self.sam.preprocess(small * 255))

    def decode(
        self, embeddings: Tensor, plane: Tensor, features: Tensor, size: torch.Size
    ) -> Tensor:
        """Compute the logits of SAM's mask decoder for prompts from the fused features.

        Args:
            embeddings: SAM's embeddings, N x D x g x g.
            plane: mask prompt, N x 1 x h x w.
            features: fused features of the same size; points and box are where they are strong.
            size: height and width of the images.

        Returns:
            N x C x rows x columns float, of the part of SAM's input that is image.
        """
        encoder, decoder, side = self.sam.prompt_encoder, self.sam.mask_decoder, self._side()
        rows, columns = self._fit(size)
        sparse, dense = encoder(
            points=self.place_points(features, size),
            boxes=self.place_box(features, size) if self.box else None,
            masks=self._place_plane(
                plane.to(torch.promote_types(plane.dtype, torch.float32)), (rows, columns)
            ),
        )
        position = encoder.get_dense_pe()
        # SAM's decoder takes several prompts of one image, not several images.
        masks = [
            decoder(
                image_embeddings=embeddings[n : n + 1],
                image_pe=position,
                sparse_prompt_embeddings=sparse[n : n + 1],
                dense_prompt_embeddings=dense[n : n + 1],
                multimask_output=True,
            )[0]
            for n in range(len(embeddings))
        ]
        whole = F.interpolate(torch.cat(masks), (side, side), mode="bilinear", align_corners=False)
        return whole[..., :rows, :columns]

    def place_points(self, features: Tensor, size: torch.Size) -> tuple[Tensor, Tensor] | None:
        """Return points as SAM takes them, or None without any.

        Returns:
            x and y in pixels of SAM's input, N x points x 2 float, and labels N x points, 1 for
            a point and -1 for none.
        """
        if not self.points:
            return None
        cells, found = point_prompts(features, self.points)
        return self._pixels(cells + 0.5, size), torch.where(found, 1, -1)

    def place_box(self, features: Tensor, size: torch.Size) -> Tensor:
        """Return the box as SAM takes it: x and y of two corners in pixels, N x 4 float."""
        first, last = box_prompt(features).view(-1, 2, 2).unbind(1)
        corners = torch.stack((first, last + 1), 1)
        return self._pixels(corners, size).flatten(1)

    def _latents(self, *planes: Tensor) -> list[Tensor]:
        """Return N x D x H/4 x W/4 latents of both cameras, quantised or not."""
        found = []
        for tokenizer, plane in zip(self.tokenizers, planes, strict=True):
            latents = tokenizer.encode(plane)  # type: ignore[operator]
            found.append(tokenizer.codebook(latents).values if self.quantized else latents)  # type: ignore[operator]
        return found

    def _side(self) -> int:
        """Return the side of SAM's square input in pixels."""
        return self.sam.image_encoder.img_size

    def _fit(self, size: torch.Size) -> tuple[int, int]:
        """Return height and width in SAM's input, whose longer side is filled."""
        scale = self._side() / max(size)
        rows, columns = (int(side * scale + 0.5) for side in size)
        return rows, columns

    def _pixels(self, cells: Tensor, size: torch.Size) -> Tensor:
        """Return x and y in pixels of SAM's input of rows and columns in cells of 1/4."""
        scale = [
            _STRIDE * fitted / side for fitted, side in zip(self._fit(size), size, strict=True)
        ]
        # SAM's encoder of prompts adds a half: it takes the numbers of pixels.
        return (cells * cells.new_tensor(scale, dtype=torch.float32) - 0.5).flip(-1)

    def _place_plane(self, plane: Tensor, fitted: tuple[int, int]) -> Tensor:
        """Return the mask prompt where the image is in SAM's input, zero outside of it."""
        cells, _ = self.sam.prompt_encoder.mask_input_size  # four of each patch
        rows, columns = (-(-side * cells // self._side()) for side in fitted)
        small = F.interpolate(
            plane, (rows, columns), mode="bilinear", align_corners=False, antialias=True
        )
        return F.pad(small, (0, cells - columns, 0, cells - rows))
