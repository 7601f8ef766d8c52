"""SAM2 (Ravi et al., 2024) from a directory, or with random weights, with a mask for each class.

This module needs the package `transformers` (extra `training`), which it imports when a model is
built or loaded.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

from torch import nn

from ivf_core.training.segmentation.pretrained import (
    PretrainedError,
    is_random,
    load_pretrained,
    package,
)

__all__ = [
    "SAM2_MODELS",
    "TINY_SAM2",
    "Sam2Architecture",
    "build_sam2",
    "open_sam2",
    "published_tensors",
]

_TYPES = ("sam2", "sam2_video")  # published weights are those of the model for videos

# Parts whose sizes depend on the number of masks.
_RENEWED = (
    "mask_decoder.mask_tokens",
    "mask_decoder.output_hypernetworks_mlps",
    "mask_decoder.iou_prediction_head",
)


# Entries of the configuration that no architecture below changes.
_STRUCTURE = {
    "vision_config": ("backbone_channel_list", "fpn_kernel_size", "fpn_top_down_levels",
                      "num_feature_levels"),
    "vision_config.backbone_config": ("patch_kernel_size", "patch_stride", "patch_padding",
                                      "query_stride", "num_query_pool_stages", "mlp_ratio",
                                      "hidden_act", "hidden_size", "layer_norm_eps"),
    "mask_decoder_config": ("num_hidden_layers", "attention_downsample_rate", "iou_head_depth",
                            "hidden_act"),
    "prompt_encoder_config": ("hidden_size",),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Sam2Architecture:
    """Sizes in which one SAM2 differs from another.

    Attributes:
        channels: channels of the image encoder's four stages.
        blocks: blocks of the stages.
        heads: attention heads of a block, by stage.
        windows: side of an attention window in patches, by stage.
        global_blocks: indices of the blocks that attend globally.
        background: height and width of the table of positions.
        hidden: channels of features, prompts and decoder.
        decoder_hidden: hidden units of the MLPs of the decoder's transformer.
        decoder_heads: attention heads of the decoder's transformer.
        quality_hidden: hidden units of the MLP that predicts the IoU.
    """

    channels: tuple[int, ...]
    blocks: tuple[int, ...]
    heads: tuple[int, ...]
    windows: tuple[int, ...]
    global_blocks: tuple[int, ...]
    background: tuple[int, ...]
    hidden: int = 256
    decoder_hidden: int = 2048
    decoder_heads: int = 8
    quality_hidden: int = 256

    @classmethod
    def from_config(cls, config: Any) -> Sam2Architecture:
        """Return the sizes of a `transformers.Sam2Config`."""
        encoder, decoder = config.vision_config.backbone_config, config.mask_decoder_config
        return cls(
            channels=tuple(encoder.embed_dim_per_stage),
            blocks=tuple(encoder.blocks_per_stage),
            heads=tuple(encoder.num_attention_heads_per_stage),
            windows=tuple(encoder.window_size_per_stage),
            global_blocks=tuple(encoder.global_attention_blocks),
            background=tuple(encoder.window_positional_embedding_background_size),
            hidden=decoder.hidden_size,
            decoder_hidden=decoder.mlp_dim,
            decoder_heads=decoder.num_attention_heads,
            quality_hidden=decoder.iou_head_hidden_dim,
        )

    def config(self, outputs: int) -> Any:
        """Return the `transformers.Sam2Config` of a SAM2 with this many masks for a prompt."""
        zoo = package()
        if not hasattr(zoo, "Sam2Config"):
            raise PretrainedError(
                f"transformers {zoo.__version__} has no SAM2: expected 4.57 or later "
                "(pip install -U transformers)"
            )
        encoder = zoo.Sam2HieraDetConfig(
            hidden_size=self.channels[0],
            num_attention_heads=self.heads[0],
            blocks_per_stage=list(self.blocks),
            embed_dim_per_stage=list(self.channels),
            num_attention_heads_per_stage=list(self.heads),
            window_size_per_stage=list(self.windows),
            window_positional_embedding_background_size=list(self.background),
            global_attention_blocks=list(self.global_blocks),
        )
        return zoo.Sam2Config(
            vision_config=zoo.Sam2VisionConfig(
                backbone_config=encoder,
                backbone_channel_list=list(reversed(self.channels)),
                fpn_hidden_size=self.hidden,
            ),
            prompt_encoder_config=zoo.Sam2PromptEncoderConfig(hidden_size=self.hidden),
            mask_decoder_config=zoo.Sam2MaskDecoderConfig(
                hidden_size=self.hidden,
                mlp_dim=self.decoder_hidden,
                num_attention_heads=self.decoder_heads,
                num_multimask_outputs=outputs,
                iou_head_hidden_dim=self.quality_hidden,
            ),
        )


SAM2_MODELS = {
    "tiny": Sam2Architecture(
        channels=(96, 192, 384, 768), blocks=(1, 2, 7, 2), heads=(1, 2, 4, 8),
        windows=(8, 4, 14, 7), global_blocks=(5, 7, 9), background=(7, 7),
    ),
    "small": Sam2Architecture(
        channels=(96, 192, 384, 768), blocks=(1, 2, 11, 2), heads=(1, 2, 4, 8),
        windows=(8, 4, 14, 7), global_blocks=(7, 10, 13), background=(7, 7),
    ),
    "base_plus": Sam2Architecture(
        channels=(112, 224, 448, 896), blocks=(2, 3, 16, 3), heads=(2, 4, 8, 16),
        windows=(8, 4, 14, 7), global_blocks=(12, 16, 20), background=(14, 14),
    ),
    "large": Sam2Architecture(
        channels=(144, 288, 576, 1152), blocks=(2, 6, 36, 4), heads=(2, 4, 8, 16),
        windows=(8, 4, 16, 8), global_blocks=(23, 33, 43), background=(7, 7),
    ),
}  # fmt: skip
"""Published SAM2 by the names of their sizes; SARTM uses base_plus."""

TINY_SAM2 = Sam2Architecture(
    channels=(8, 16, 32, 64), blocks=(1, 1, 2, 1), heads=(1, 2, 4, 8), windows=(8, 4, 14, 7),
    global_blocks=(3,), background=(7, 7), hidden=32, decoder_hidden=64, decoder_heads=4,
    quality_hidden=32,
)  # fmt: skip
"""SAM2 of 129,123 parameters with five masks, for trying out."""


def build_sam2(architecture: Sam2Architecture, outputs: int) -> Any:
    """Build a `transformers.Sam2Model` with random weights.

    Args:
        architecture: sizes of the model.
        outputs: number of masks for a prompt.

    Raises:
        PretrainedError: the package is missing or too old.
    """
    config = architecture.config(outputs)
    sam2 = package().Sam2Model(config)
    _renew(sam2.mask_decoder)
    return sam2


def open_sam2(directory: str | os.PathLike[str], outputs: int) -> tuple[Any, bool]:
    """Load a `transformers.Sam2Model` from a directory that `save_pretrained` wrote.

    The tokens of the masks, and the networks behind them, are new: random.

    Args:
        directory: the directory, with safetensors; SAM 2.0 and 2.1, for images or for videos.
        outputs: number of masks for a prompt.

    Returns:
        The model, and whether its directory says that its weights are random.

    Raises:
        PretrainedError: the directory does not hold a SAM2; the message names it.
    """
    root = Path(directory)

    def configure(config: Any) -> Any:
        config.mask_decoder_config.num_multimask_outputs = outputs
        return config

    sam2 = load_pretrained("Sam2Model", _TYPES, root, renewed=_RENEWED, configure=configure)
    _check_structure(sam2.config, root)
    _renew(sam2.mask_decoder)
    return sam2, is_random(root)


def published_tensors(sam2: nn.Module) -> set[str]:
    """Return the names of the frozen tensors of a SAM2 that its directory has.

    Args:
        sam2: model within a network that trains a part of it.
    """
    trained = {name for name, p in sam2.named_parameters() if p.requires_grad}
    return {
        name for name in sam2.state_dict() if name not in trained and not name.startswith(_RENEWED)
    }


def _check_structure(config: Any, root: Path) -> None:
    """Raise PretrainedError where a SAM2 differs from others in more than its sizes."""
    usual = Sam2Architecture.from_config(config).config(1)
    for part, names in _STRUCTURE.items():
        for name in names:
            found, expected = (attrgetter(f"{part}.{name}")(c) for c in (config, usual))
            if found != expected:
                raise PretrainedError(
                    f"'{root}': {part}.{name} is {found}, expected {expected} as in published SAM2"
                )


def _renew(decoder: Any) -> None:
    """Draw tokens and networks of the masks by the defaults of PyTorch, as SAM2's code does."""
    parts: list[nn.Module] = [decoder.mask_tokens, decoder.output_hypernetworks_mlps]
    for part in parts:
        for module in part.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                module.reset_parameters()
