"""The Segment Anything Model from a checkpoint file, and its automatic masks.

The package `segment-anything` is needed (extra `training`); it is imported when
a model is loaded.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from segment_anything.modeling import Sam

__all__ = [
    "PIXEL_DEVIATION",
    "PIXEL_MEAN",
    "SAM_MODELS",
    "SamError",
    "SamMasks",
    "SamStructure",
    "build_sam",
    "load_sam",
]

SAM_MODELS = {"vit_b": (768, 12), "vit_l": (1024, 24), "vit_h": (1280, 32)}
"""Channels and blocks of the image encoders that were published."""

# Of images in 0..255, RGB; the same for all published models.
PIXEL_MEAN, PIXEL_DEVIATION = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


class SamError(ValueError):
    """A checkpoint that is missing, damaged or not SAM's, or no package to run it."""


@dataclass(frozen=True)
class SamStructure:
    """How a SAM is built, as far as models differ.

    Attributes:
        channels, blocks, heads, hidden: of the image encoder; hidden of its MLPs.
        patch: side of a patch in pixels.
        grid: patches along a side of the input, which is square.
        window: side of a window in patches; 0 where all blocks attend globally.
        global_blocks: positions of the blocks that attend globally.
        prompt_channels: of embeddings of images and prompts.
        mask_channels: of the encoder of mask prompts.
        decoder_blocks, decoder_hidden: of the mask decoder's transformer.
        outputs: masks that a prompt gives.
        quality_layers, quality_hidden: of the MLP that predicts the IoU.
    """

    channels: int
    blocks: int
    heads: int
    hidden: int
    patch: int
    grid: int
    window: int
    global_blocks: tuple[int, ...]
    prompt_channels: int
    mask_channels: int
    decoder_blocks: int
    decoder_hidden: int
    outputs: int
    quality_layers: int
    quality_hidden: int

    @classmethod
    def of(cls, state: Mapping[str, Tensor]) -> SamStructure:
        """Read it off a state dict's shapes.

        Raises:
            KeyError: a tensor that every SAM has is not there.
            ValueError: the shapes contradict each other.
        """

        def shape(name: str) -> torch.Size:
            return state[name].shape

        def count(pattern: str) -> int:
            number = 0
            while pattern.format(number) in state:
                number += 1
            return number

        channels, _, patch, _ = shape("image_encoder.patch_embed.proj.weight")
        grid = shape("image_encoder.pos_embed")[1]
        blocks = count("image_encoder.blocks.{}.norm1.weight")
        # A relative position table has 2 n - 1 rows, n patches being attended to along a side.
        tables = [shape(f"image_encoder.blocks.{n}.attn.rel_pos_h") for n in range(blocks)]
        sides = [(rows + 1) // 2 for rows, _ in tables]
        windows = {side for side in sides if side != grid}
        if not blocks or len(windows) > 1:
            raise ValueError(f"{blocks} blocks with windows of {sorted(windows)} patches")
        head = "mask_decoder.iou_prediction_head.layers.{}.weight"
        layer = "mask_decoder.transformer.layers.{}."
        return cls(
            channels=channels,
            blocks=blocks,
            heads=channels // tables[0][1],
            hidden=shape("image_encoder.blocks.0.mlp.lin1.weight")[0],
            patch=patch,
            grid=grid,
            window=windows.pop() if windows else 0,
            global_blocks=tuple(n for n, side in enumerate(sides) if side == grid),
            prompt_channels=shape("image_encoder.neck.0.weight")[0],
            mask_channels=shape("prompt_encoder.mask_downscaling.3.weight")[0],
            decoder_blocks=count(layer + "norm1.weight"),
            decoder_hidden=shape(layer.format(0) + "mlp.lin1.weight")[0],
            outputs=shape("mask_decoder.mask_tokens.weight")[0] - 1,
            quality_layers=count(head),
            quality_hidden=shape(head.format(0))[0],
        )


def build_sam(structure: SamStructure) -> Sam:
    """A SAM with random weights, of the package's own classes, in evaluation mode.

    Raises:
        SamError: the package cannot be imported.
    """
    modeling = _package().modeling
    side = structure.grid * structure.patch
    return modeling.Sam(
        modeling.ImageEncoderViT(
            img_size=side,
            patch_size=structure.patch,
            embed_dim=structure.channels,
            depth=structure.blocks,
            num_heads=structure.heads,
            mlp_ratio=structure.hidden / structure.channels,
            out_chans=structure.prompt_channels,
            norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
            use_rel_pos=True,
            window_size=structure.window,
            global_attn_indexes=structure.global_blocks,
        ),
        modeling.PromptEncoder(
            embed_dim=structure.prompt_channels,
            image_embedding_size=(structure.grid, structure.grid),
            input_image_size=(side, side),
            mask_in_chans=structure.mask_channels,
        ),
        modeling.MaskDecoder(
            num_multimask_outputs=structure.outputs,
            transformer=modeling.TwoWayTransformer(
                depth=structure.decoder_blocks,
                embedding_dim=structure.prompt_channels,
                mlp_dim=structure.decoder_hidden,
                num_heads=8,  # no tensor shows it; all published models have eight
            ),
            transformer_dim=structure.prompt_channels,
            iou_head_depth=structure.quality_layers,
            iou_head_hidden_dim=structure.quality_hidden,
        ),
        list(PIXEL_MEAN),
        list(PIXEL_DEVIATION),
    ).eval()


def load_sam(checkpoint: str | os.PathLike[str], model: str = "any") -> Sam:
    """SAM from a checkpoint file: tensors only, every one in its place.

    How it is built is read off the tensors, so that fine-tuned and smaller
    models load as the published ones do.

    Args:
        model: what the checkpoint has to be, one of `SAM_MODELS`, or "any".

    Raises:
        SamError: names the file and what was expected.
    """
    path = Path(checkpoint)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise SamError(f"SAM checkpoint '{path}': no such file") from error
    except Exception as error:  # the bytes of a foreign file can end the unpickler in any way
        raise SamError(
            f"SAM checkpoint '{path}': not a plain PyTorch state dict: "
            f"{type(error).__name__}: {error}"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise SamError(f"SAM checkpoint '{path}': expected a state dict of tensors")
    try:
        structure = SamStructure.of(state)
    except (LookupError, ValueError) as error:
        raise SamError(f"SAM checkpoint '{path}': not the tensors of a SAM: {error}") from error
    found = (structure.channels, structure.blocks)
    if model != "any" and found != SAM_MODELS[model]:
        named = next((name for name, size in SAM_MODELS.items() if size == found), "none of these")
        raise SamError(
            f"SAM checkpoint '{path}': expected model {model}, "
            f"found {named}: {found[0]} channels, {found[1]} blocks"
        )
    sam = build_sam(structure)
    try:
        sam.load_state_dict(state)
    except RuntimeError as error:
        raise SamError(f"SAM checkpoint '{path}': does not fit SAM: {error}") from error
    return sam.requires_grad_(False)


class SamMasks:
    """SAM's automatic masks of a picture, largest first.

    Args:
        sam: as `load_sam` returns it, on the device to run on.
        count: the most masks that are kept of a picture.
        bgr: show SAM the picture with red and blue swapped.
        options: of `segment_anything.SamAutomaticMaskGenerator`.
    """

    def __init__(self, sam: Sam, count: int, *, bgr: bool = False, **options: Any) -> None:
        self.count = count
        self.bgr = bgr
        self._generator = _generator(sam, **options)

    def masks(self, content: np.ndarray) -> np.ndarray:
        """Masks of H x W x 3 uint8 RGB: K x H x W bool, K at most `count`."""
        picture = np.ascontiguousarray(content[..., ::-1] if self.bgr else content)
        found = self._generator.generate(picture)
        found.sort(key=lambda record: record["area"], reverse=True)
        masks = [record["segmentation"] for record in found[: self.count]]
        return np.stack(masks) if masks else np.zeros((0, *content.shape[:2]), bool)


def _generator(sam: Sam, **options: Any) -> Any:
    package = _package()

    class Generator(package.SamAutomaticMaskGenerator):  # type: ignore[name-defined]
        def _process_batch(self, *arguments: Any) -> Any:
            data = super()._process_batch(*arguments)
            # On a GPU, version 1.0 hands thousands of boxes there to non-maximum suppression
            # with their categories on the processor, and fails. The masks are run lengths by now.
            for name, value in list(data.items()):
                if isinstance(value, Tensor):
                    data[name] = value.cpu()
            return data

        def _process_crop(self, *arguments: Any) -> Any:
            data = super()._process_crop(*arguments)
            if not data["rles"]:
                # The package makes a tensor of shape 0 of them and fails, where no part of a
                # picture has a mask, when it wants the boxes' areas.
                data["crop_boxes"] = torch.zeros((0, 4), dtype=torch.int64)
            return data

    return Generator(sam, **options)


def _package() -> Any:
    try:
        import segment_anything
    except (ImportError, RuntimeError) as error:  # RuntimeError: torchvision of another torch
        raise SamError(
            "SAM needs the packages of the extra 'training' "
            f"(pip install segment-anything torchvision): {error}"
        ) from error
    return segment_anything
