"""Frozen networks that segment a fused picture, and let the gradient pass to it.

The teacher's L_seg (`ivf_core.training.losses.segmentation_loss`) needs one, and a head
can learn from one. SAGE's is an open-vocabulary network, X-Decoder, or, in its ablation,
SegFormer; ours are SegFormer, CLIPSeg as the open-vocabulary one, and our own head.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from ivf_core.class_sets import ClassSet
from ivf_core.metrics.segmentation import ConfusionMatrix
from ivf_core.models.checkpoints import FusionModel, load_model
from ivf_core.models.graph import fold_batch_norm
from ivf_core.training.segmentation.pretrained import load_pretrained, load_tokenizer

__all__ = [
    "IMAGENET_DEVIATION",
    "IMAGENET_MEAN",
    "ClipsegSegmenter",
    "HeadSegmenter",
    "SegformerSegmenter",
    "Segmenter",
    "SegmenterError",
    "check_labels",
    "luma",
    "normalize",
    "open_segmenter",
    "score_segmenter",
]

# Of RGB in [0, 1].
IMAGENET_MEAN, IMAGENET_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

_LUMA = (0.299, 0.587, 0.114)  # BT.601, as OpenCV's YCrCb


class SegmenterError(ValueError):
    """A segmenter that cannot be opened, or has other classes than are needed."""


class Segmenter(nn.Module, ABC):
    """Logits of the classes of `class_set` for RGB pictures; frozen, in evaluation mode for good.

    Args:
        class_set: one class a logit.
    """

    def __init__(self, class_set: ClassSet) -> None:
        super().__init__()
        self.class_set = class_set

    def train(self, mode: bool = True) -> Segmenter:
        """Stays in evaluation mode."""
        return super().train(False)

    @abstractmethod
    def forward(self, pictures: Tensor) -> Tensor:
        """Logits of a batch, differentiable in the pictures.

        Args:
            pictures: N x 3 x H x W float RGB in [0, 1], at least 32 x 32.

        Returns:
            N x classes x h x w float that covers the whole pictures, h and w the
            segmenter's own: bring them to the labels' size bilinearly.
        """


def open_segmenter(spec: str, class_set: ClassSet) -> Segmenter:
    """A segmenter for a class set.

    Args:
        spec: "head:WEIGHTS", a shipped name or a file (`HeadSegmenter`);
            "segformer:DIRECTORY" or "clipseg:DIRECTORY", as `save_pretrained` of
            `transformers` or `ivf train segformer` writes it, with safetensors.

    Raises:
        SegmenterError: unknown kind, nothing to load, or other classes; says what was expected.
    """
    kind, _, place = spec.partition(":")
    if kind not in _OPENERS or not place:
        raise SegmenterError(
            f"segmenter '{spec}': expected head:WEIGHTS, segformer:DIRECTORY or clipseg:DIRECTORY"
        )
    try:
        return _OPENERS[kind](place, class_set).eval()
    except ValueError as error:  # also WeightsError and PretrainedError
        raise SegmenterError(f"segmenter '{spec}': {error}") from error


class HeadSegmenter(Segmenter):
    """Our student and head on a picture that is fused already.

    The head reads features of visible luma and infrared. What both cameras saw is in the
    picture's luma by now, so that the luma stands for both; its colour is not used.

    Args:
        model: with a head.

    Raises:
        ValueError: it has none.
    """

    def __init__(self, model: FusionModel) -> None:
        if model.head is None or model.class_set is None:
            raise ValueError(f"weights '{model.name}' have no head")
        super().__init__(model.class_set)
        self.student = fold_batch_norm(model.student).requires_grad_(False)
        self.head = fold_batch_norm(model.head).requires_grad_(False)
        self.eval()

    def forward(self, pictures: Tensor) -> Tensor:
        """See `Segmenter.forward`; logits at half the size."""
        plane = luma(pictures)
        return self.head(self.student(plane, plane).features)


class SegformerSegmenter(Segmenter):
    """SegFormer (Xie et al., NeurIPS 2021).

    Args:
        network: `transformers.SegformerForSemanticSegmentation`; frozen here.
        class_set: one class a logit.
    """

    def __init__(self, network: nn.Module, class_set: ClassSet) -> None:
        super().__init__(class_set)
        self.network = network.requires_grad_(False)
        self.eval()

    def forward(self, pictures: Tensor) -> Tensor:
        """See `Segmenter.forward`; logits at a quarter of the size."""
        return self.network(normalize(pictures)).logits


class ClipsegSegmenter(Segmenter):
    """CLIPSeg (Lüddecke and Ecker, CVPR 2022), prompted with "a photo of a CLASS".

    It gives each prompt a logit against everything else, z = log p / (1 - p). A class that is
    the rest of the world, "unlabeled" or "background", is not prompted for: its logit is 0, so
    that for two classes the softmax is CLIPSeg's own sigmoid.

    The package's own forward pass cuts the gradient at the picture's encoder and runs that
    once a prompt; here it passes, and the encoder runs once a picture.

    Args:
        network: `transformers.CLIPSegForImageSegmentation`; frozen here.
        tokenizer: `transformers.CLIPTokenizer` of the network.
        class_set: its names become the prompts.
        size: side in pixels that pictures are resized to, whatever their aspect; the
            published weights were trained at 352.
    """

    prompts: Tensor

    def __init__(self, network: Any, tokenizer: Any, class_set: ClassSet, size: int = 352) -> None:
        super().__init__(class_set)
        network.eval().requires_grad_(False)
        self.size = size
        self.prompted = [name not in _REST for name in class_set.names]
        texts = [f"a photo of a {_words(n)}" for n in class_set.names if n not in _REST]
        self.register_buffer("prompts", _embed(network, tokenizer, texts), persistent=False)
        # Hidden states start with the embedding, hence + 1.
        self.layers = [layer + 1 for layer in network.extract_layers]
        self.vision: Any = network.clip.vision_model
        self.decoder: Any = network.decoder
        self.eval()

    def forward(self, pictures: Tensor) -> Tensor:
        """See `Segmenter.forward`; logits of `size` x `size`."""
        square = (self.size, self.size)
        pictures = F.interpolate(pictures, square, mode="bilinear", antialias=True)
        states = self.vision(
            pixel_values=normalize(pictures), output_hidden_states=True
        ).hidden_states
        # Pictures times prompts as one batch, the prompts of a picture side by side.
        count = len(self.prompts)
        logits = self.decoder(
            tuple(states[layer].repeat_interleave(count, dim=0) for layer in self.layers),
            self.prompts.repeat(len(pictures), 1),
        ).logits.view(len(pictures), count, *square)
        rest = torch.zeros_like(logits[:, 0])
        given = iter(logits.unbind(dim=1))
        return torch.stack([next(given) if p else rest for p in self.prompted], dim=1)


_REST = ("unlabeled", "background")


def luma(pictures: Tensor) -> Tensor:
    """Y of N x 3 x H x W RGB in [0, 1], N x 1 x H x W; unrounded, with a gradient."""
    return (pictures * pictures.new_tensor(_LUMA).view(3, 1, 1)).sum(dim=1, keepdim=True)


def normalize(pictures: Tensor) -> Tensor:
    """N x 3 x H x W RGB in [0, 1], with the mean and deviation of ImageNet."""
    mean, deviation = (
        pictures.new_tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_DEVIATION)
    )
    return (pictures - mean) / deviation


@torch.inference_mode()
def score_segmenter(
    segmenter: Segmenter, pictures: Sequence[tuple[np.ndarray, np.ndarray]], device: torch.device
) -> ConfusionMatrix:
    """Count true and predicted classes at the pictures' full size.

    Args:
        segmenter: on `device`.
        pictures: H x W x 3 uint8 RGB with H x W uint8 ids of the segmenter's class set.
    """
    matrix = ConfusionMatrix(len(segmenter.class_set))
    for picture, labels in tqdm(pictures, desc="test", mininterval=5):
        batch = torch.from_numpy(picture).to(device).permute(2, 0, 1)[None].float() / 255
        logits = F.interpolate(segmenter(batch), labels.shape, mode="bilinear")
        matrix.update(logits.argmax(dim=1)[0].cpu().numpy(), labels)
    return matrix


def check_labels(labels: Mapping[int, str], class_set: ClassSet) -> None:
    """Compare what a network calls its logits with a class set.

    Args:
        labels: names by id; "LABEL_0" and so on, which `transformers` invents, are none.

    Raises:
        ValueError: another number, or a name that is not the class's; case, spaces, hyphens
            and underscores are the same.
    """
    if len(labels) != len(class_set):
        raise ValueError(
            f"it has {len(labels)} classes, class set '{class_set.name}' has {len(class_set)}"
        )
    for class_id, name in enumerate(class_set.names):
        label = labels[class_id]
        if label != f"LABEL_{class_id}" and _words(label) != _words(name):
            raise ValueError(
                f"its class {class_id} is '{label}', that of class set '{class_set.name}' '{name}'"
            )


def _words(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name).strip().lower()


@torch.no_grad()
def _embed(network: Any, tokenizer: Any, texts: list[str]) -> Tensor:
    """One row a text, as CLIP projects it."""
    tokens = tokenizer(texts, padding=True, return_tensors="pt")
    pooled = network.clip.text_model(
        input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
    ).pooler_output
    return network.clip.text_projection(pooled)


def _open_head(weights: str, class_set: ClassSet) -> Segmenter:
    segmenter = HeadSegmenter(load_model(weights))
    check_labels(dict(enumerate(segmenter.class_set.names)), class_set)
    return segmenter


def _open_segformer(directory: str, class_set: ClassSet) -> Segmenter:
    network = load_pretrained("SegformerForSemanticSegmentation", "segformer", directory)
    check_labels(network.config.id2label, class_set)
    return SegformerSegmenter(network, class_set)


def _open_clipseg(directory: str, class_set: ClassSet) -> Segmenter:
    network = load_pretrained("CLIPSegForImageSegmentation", "clipseg", directory)
    return ClipsegSegmenter(network, load_tokenizer("CLIPTokenizer", directory), class_set)


_OPENERS = {"head": _open_head, "segformer": _open_segformer, "clipseg": _open_clipseg}
