"""Segment Anything Model (SAM, Kirillov et al., 2023) from a file, and its automatic masks.

This module needs the package `segment-anything` (extra `training`), which it imports when a
model is built or loaded.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from segment_anything.modeling import Sam

__all__ = [
    "PIXEL_MEAN",
    "PIXEL_STD",
    "SAM_MODELS",
    "SamArchitecture",
    "SamError",
    "SamMasks",
    "build_sam",
    "load_class_sam",
    "load_sam",
    "mark_random",
]

SAM_MODELS = {"vit_b": (768, 12), "vit_l": (1024, 24), "vit_h": (1280, 32)}
"""Numbers of channels and blocks of the published image encoders, by model."""

_RANDOM_MARK = "ivf_random_weights"

# Of RGB images in 0..255; the same for all published models.
PIXEL_MEAN, PIXEL_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


class SamError(ValueError):
    """Error for a checkpoint that is missing, damaged or not SAM's, or for a missing package."""


@dataclass(frozen=True)
class SamArchitecture:
    """Sizes in which one SAM differs from another.

    Attributes:
        channels: channels of the image encoder.
        blocks: number of transformer blocks of the image encoder.
        heads: attention heads of a block of the image encoder.
        hidden: hidden units of the MLPs of the image encoder.
        patch: side of a patch in pixels.
        grid: number of patches along each side of the square input.
        window: side of an attention window in patches; 0 if all blocks attend globally.
        global_blocks: indices of the blocks that attend globally.
        prompt_channels: channels of the embeddings of images and prompts.
        mask_channels: channels of the encoder of mask prompts.
        decoder_blocks: number of blocks of the mask decoder's transformer.
        decoder_hidden: hidden units of the MLPs of the mask decoder's transformer.
        outputs: number of masks for a prompt.
        quality_layers: number of layers of the MLP that predicts the IoU.
        quality_hidden: hidden units of the MLP that predicts the IoU.
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
    def from_state_dict(cls, state: Mapping[str, Tensor]) -> SamArchitecture:
        """Infer the sizes from the shapes of a SAM's tensors.

        Args:
            state: state dict of a SAM.

        Raises:
            KeyError: a tensor that every SAM has is missing.
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
        # A table of relative positions has 2 n - 1 rows for a window of n patches a side.
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


def build_sam(architecture: SamArchitecture) -> Sam:
    """Build a SAM with random weights from the package's classes, in evaluation mode.

    Args:
        architecture: sizes of the model.

    Raises:
        SamError: the package cannot be imported.
    """
    modeling = _package().modeling
    side = architecture.grid * architecture.patch
    return modeling.Sam(
        modeling.ImageEncoderViT(
            img_size=side,
            patch_size=architecture.patch,
            embed_dim=architecture.channels,
            depth=architecture.blocks,
            num_heads=architecture.heads,
            mlp_ratio=architecture.hidden / architecture.channels,
            out_chans=architecture.prompt_channels,
            norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
            use_rel_pos=True,
            window_size=architecture.window,
            global_attn_indexes=architecture.global_blocks,
        ),
        modeling.PromptEncoder(
            embed_dim=architecture.prompt_channels,
            image_embedding_size=(architecture.grid, architecture.grid),
            input_image_size=(side, side),
            mask_in_chans=architecture.mask_channels,
        ),
        modeling.MaskDecoder(
            num_multimask_outputs=architecture.outputs,
            transformer=modeling.TwoWayTransformer(
                depth=architecture.decoder_blocks,
                embedding_dim=architecture.prompt_channels,
                mlp_dim=architecture.decoder_hidden,
                num_heads=8,  # cannot be inferred from shapes; all published models have eight
            ),
            transformer_dim=architecture.prompt_channels,
            iou_head_depth=architecture.quality_layers,
            iou_head_hidden_dim=architecture.quality_hidden,
        ),
        list(PIXEL_MEAN),
        list(PIXEL_STD),
    ).eval()


def load_sam(checkpoint: str | os.PathLike[str], model: str = "any") -> Sam:
    """Load a SAM from a checkpoint, a state dict with exactly the tensors of a SAM.

    The architecture is inferred from the tensors' shapes, so that fine-tuned and smaller models
    load like the published ones. The model is frozen and in evaluation mode, on the CPU.

    Args:
        checkpoint: file that `torch.save` wrote. It is read with `weights_only=True`, so that
            it cannot run code.
        model: one of `SAM_MODELS` that the checkpoint must be, or "any".

    Raises:
        SamError: the file is missing or is no such checkpoint, or the package
            `segment-anything` cannot be imported. The message names the file and what was
            expected.
    """
    path = Path(checkpoint)
    state, architecture = _read_state(path)
    found = (architecture.channels, architecture.blocks)
    if model != "any" and found != SAM_MODELS[model]:
        known = next((name for name, size in SAM_MODELS.items() if size == found), "none of these")
        raise SamError(
            f"SAM checkpoint '{path}': expected model {model}, "
            f"found {known}: {found[0]} channels, {found[1]} blocks"
        )
    sam = build_sam(architecture)
    try:
        sam.load_state_dict(state)
    except RuntimeError as error:
        raise SamError(f"SAM checkpoint '{path}': does not fit SAM: {error}") from error
    return sam.requires_grad_(False)


def load_class_sam(checkpoint: str | os.PathLike[str], outputs: int) -> tuple[Sam, bool]:
    """Load a SAM whose decoder has another number of masks, such as one for each class.

    The tokens of the masks, the networks that read them, and the last layer of the prediction of
    the IoU are new: random.

    Args:
        checkpoint: see `load_sam`.
        outputs: number of masks for a prompt.

    Returns:
        The model, and whether its checkpoint says that all its weights are random.

    Raises:
        SamError: see `load_sam`.
    """
    path = Path(checkpoint)
    state, architecture = _read_state(path)
    renewed = (
        "mask_decoder.mask_tokens.",
        "mask_decoder.output_hypernetworks_mlps.",
        f"mask_decoder.iou_prediction_head.layers.{architecture.quality_layers - 1}.",
    )
    sam = build_sam(replace(architecture, outputs=outputs))
    new = {name: tensor for name, tensor in sam.state_dict().items() if name.startswith(renewed)}
    kept = {name: tensor for name, tensor in state.items() if not name.startswith(renewed)}
    try:
        sam.load_state_dict({**kept, **new})
    except RuntimeError as error:
        raise SamError(f"SAM checkpoint '{path}': does not fit SAM: {error}") from error
    marks: Any = getattr(state, "_metadata", {})
    return sam, bool(marks.get("", {}).get(_RANDOM_MARK))


def mark_random(state: dict[str, Any]) -> None:
    """Mark a state dict of a SAM as random, in the metadata that PyTorch saves with it."""
    state._metadata[""][_RANDOM_MARK] = True  # type: ignore[attr-defined]


def _read_state(path: Path) -> tuple[dict[str, Tensor], SamArchitecture]:
    """Read the tensors of a SAM and infer its sizes; raise SamError naming the file."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise SamError(f"SAM checkpoint '{path}': no such file") from error
    except Exception as error:  # an arbitrary file can make the unpickler raise anything
        raise SamError(
            f"SAM checkpoint '{path}': not a plain PyTorch state dict: "
            f"{type(error).__name__}: {error}"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise SamError(f"SAM checkpoint '{path}': expected a state dict of tensors")
    try:
        return state, SamArchitecture.from_state_dict(state)
    except (LookupError, ValueError) as error:
        raise SamError(f"SAM checkpoint '{path}': not the tensors of a SAM: {error}") from error


class SamMasks:
    """Source of SAM's automatic masks of an image, largest first.

    Args:
        sam: model from `load_sam`, on the device to run on.
        count: largest number of masks of an image.
        bgr: swap red and blue before SAM sees the image.
        **options: options of `segment_anything.SamAutomaticMaskGenerator`.
    """

    def __init__(self, sam: Sam, count: int, *, bgr: bool = False, **options: Any) -> None:
        self.count = count
        self.bgr = bgr
        self._generator = _generator(sam, **options)

    def masks(self, content: np.ndarray) -> np.ndarray:
        """Return the masks of an image H x W x 3 uint8 RGB: K x H x W bool, K at most `count`."""
        image = np.ascontiguousarray(content[..., ::-1] if self.bgr else content)
        found = self._generator.generate(image)
        found.sort(key=lambda record: record["area"], reverse=True)
        masks = [record["segmentation"] for record in found[: self.count]]
        return np.stack(masks) if masks else np.zeros((0, *content.shape[:2]), bool)


def _generator(sam: Sam, **options: Any) -> Any:
    """Return the package's generator of masks with two faults of version 1.0 corrected."""
    package = _package()

    class Generator(package.SamAutomaticMaskGenerator):  # type: ignore[name-defined]
        def _process_batch(self, *arguments: Any) -> Any:
            data = super()._process_batch(*arguments)
            # On a GPU, version 1.0 fails in non-maximum suppression: the boxes are on the GPU
            # and their categories on the CPU. The masks are encoded as run lengths by now.
            for name, value in list(data.items()):
                if isinstance(value, Tensor):
                    data[name] = value.cpu()
            return data

        def _process_crop(self, *arguments: Any) -> Any:
            data = super()._process_crop(*arguments)
            if not data["rles"]:
                # If no part of an image has a mask, the package makes a tensor of shape (0,)
                # of the boxes and fails when it computes their areas.
                data["crop_boxes"] = torch.zeros((0, 4), dtype=torch.int64)
            return data

    return Generator(sam, **options)


def _package() -> Any:
    """Import `segment_anything`, or raise `SamError`."""
    try:
        import segment_anything
    except (ImportError, RuntimeError) as error:  # RuntimeError: torchvision for another torch
        raise SamError(
            "SAM needs the packages of the extra 'training' "
            f"(pip install segment-anything torchvision): {error}"
        ) from error
    return segment_anything
