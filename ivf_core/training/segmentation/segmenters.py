"""Frozen segmenters of fused images that pass the gradient on to the images.

The teacher's L_seg (`ivf_core.training.losses.segmentation_loss`) needs one, and a segmentation
head can learn from one. SAGE uses X-Decoder, an open-vocabulary network, and SegFormer in its
ablation. This module has SegFormer, CLIPSeg as an open-vocabulary network, and this package's
segmentation head.
"""

from __future__ import annotations

import math
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
from ivf_core.models.color import IMAGENET_MEAN, IMAGENET_STD, normalize
from ivf_core.models.graph import fold_batch_norm
from ivf_core.training.segmentation.pretrained import load_pretrained, load_tokenizer

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
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
    "scores_by_class",
]

_LUMA = (0.299, 0.587, 0.114)  # BT.601, as in OpenCV's YCrCb


class SegmenterError(ValueError):
    """Error for a segmenter that cannot be opened or has other classes than required."""


class Segmenter(nn.Module, ABC):
    """Frozen network from RGB images to logits of classes, always in evaluation mode.

    Args:
        class_set: classes of the logits.
    """

    def __init__(self, class_set: ClassSet) -> None:
        super().__init__()
        self.class_set = class_set

    def train(self, mode: bool = True) -> Segmenter:
        """Keep evaluation mode, whatever `mode` is."""
        return super().train(False)

    @abstractmethod
    def forward(self, images: Tensor) -> Tensor:
        """Compute the logits of a batch, differentiable with respect to the images.

        Args:
            images: N x 3 x H x W float RGB in [0, 1], at least 32 x 32.

        Returns:
            N x classes x h x w float for the whole images. The size h x w depends on the
            segmenter; resize the logits bilinearly to the size of the labels.
        """


def open_segmenter(spec: str, class_set: ClassSet) -> Segmenter:
    """Open a segmenter for a class set.

    Args:
        spec: "head:WEIGHTS" with the name of shipped weights or a file (`HeadSegmenter`), or
            "segformer:DIRECTORY" or "clipseg:DIRECTORY" with a directory that
            `ivf train segformer` or `save_pretrained` of `transformers` wrote, with safetensors.
        class_set: classes that the segmenter must have.

    Raises:
        SegmenterError: the kind is unknown, the weights cannot be loaded, or the classes are
            others. The message says what was expected.
    """
    kind, _, place = spec.partition(":")
    if kind in _OF_PAIRS:
        raise SegmenterError(
            f"segmenter '{spec}': {kind} segments pairs of images, not the fused image; "
            "ivf train logits asks it about pairs, and a head learns from it by teacher_logits"
        )
    if kind not in _OPENERS or not place:
        raise SegmenterError(
            f"segmenter '{spec}': expected head:WEIGHTS, segformer:DIRECTORY or clipseg:DIRECTORY"
        )
    try:
        return _OPENERS[kind](place, class_set).eval()
    except ValueError as error:  # also WeightsError and PretrainedError
        raise SegmenterError(f"segmenter '{spec}': {error}") from error


class HeadSegmenter(Segmenter):
    """Student and segmentation head of this package, applied to an image that is already fused.

    The head reads features of visible luma and infrared. The luma of a fused image contains what
    both cameras saw, so that it is used as both inputs; the colour is not used.

    Args:
        model: student with a head.

    Raises:
        ValueError: the model has no head.
    """

    def __init__(self, model: FusionModel) -> None:
        if model.head is None or model.class_set is None:
            raise ValueError(f"weights '{model.name}' have no head")
        super().__init__(model.class_set)
        self.student = fold_batch_norm(model.student).requires_grad_(False)
        self.head = fold_batch_norm(model.head).requires_grad_(False)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits at half the size of the images; see `Segmenter.forward`."""
        plane = luma(images)
        return self.head(self.student(plane, plane).features)


class SegformerSegmenter(Segmenter):
    """SegFormer (Xie et al., NeurIPS 2021).

    Args:
        network: `transformers.SegformerForSemanticSegmentation`; frozen here.
        class_set: classes of the logits.
    """

    def __init__(self, network: nn.Module, class_set: ClassSet) -> None:
        super().__init__(class_set)
        self.network = network.requires_grad_(False)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits at a quarter of the size of the images; see `Segmenter.forward`."""
        return self.network(normalize(images)).logits


class ClipsegSegmenter(Segmenter):
    """CLIPSeg (Lüddecke and Ecker, CVPR 2022), prompted with "a photo of a CLASS".

    CLIPSeg gives each prompt a logit against everything else, z = log(p / (1 - p)). The classes
    "unlabeled" and "background" mean everything else and get no prompt. Their logit is 0, so
    that for two classes the softmax equals CLIPSeg's sigmoid.

    The forward pass of `transformers` stops the gradient at the image encoder and runs that
    encoder for each prompt. Here the gradient passes, and the encoder runs once for each image.

    Args:
        network: `transformers.CLIPSegForImageSegmentation`; frozen here.
        tokenizer: `transformers.CLIPTokenizer` of the network.
        class_set: classes of the logits; their names become the prompts.
        size: side in pixels of the square to which images are resized, whatever their aspect
            ratio. The published weights were trained at 352.
    """

    prompts: Tensor

    def __init__(self, network: Any, tokenizer: Any, class_set: ClassSet, size: int = 352) -> None:
        super().__init__(class_set)
        network.eval().requires_grad_(False)
        self.size = size
        self.prompted = [name not in _REST for name in class_set.names]
        texts = [f"a photo of a {_words(n)}" for n in class_set.names if n not in _REST]
        self.register_buffer("prompts", _embed(network, tokenizer, texts), persistent=False)
        # The first of the hidden states is the embedding, hence + 1.
        self.layers = [layer + 1 for layer in network.extract_layers]
        self.vision: Any = network.clip.vision_model
        self.decoder: Any = network.decoder
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits of `size` x `size` pixels; see `Segmenter.forward`."""
        square = (self.size, self.size)
        images = F.interpolate(images, square, mode="bilinear", antialias=True)
        states = self.vision(
            pixel_values=normalize(images), output_hidden_states=True
        ).hidden_states
        # One batch of images times prompts, with the prompts of an image next to each other.
        count = len(self.prompts)
        logits = self.decoder(
            tuple(states[layer].repeat_interleave(count, dim=0) for layer in self.layers),
            self.prompts.repeat(len(images), 1),
        ).logits.view(len(images), count, *square)
        rest = torch.zeros_like(logits[:, 0])
        given = iter(logits.unbind(dim=1))
        return torch.stack([next(given) if p else rest for p in self.prompted], dim=1)


_REST = ("unlabeled", "background")
_OF_PAIRS = ("sartm", "fusionsam")


def luma(images: Tensor) -> Tensor:
    """Compute Y of BT.601 for N x 3 x H x W RGB in [0, 1], differentiably: N x 1 x H x W."""
    return (images * images.new_tensor(_LUMA).view(3, 1, 1)).sum(dim=1, keepdim=True)


@torch.inference_mode()
def score_segmenter(
    segmenter: Segmenter, images: Sequence[tuple[np.ndarray, np.ndarray]], device: torch.device
) -> ConfusionMatrix:
    """Count true and predicted classes at the full size of the images.

    Args:
        segmenter: segmenter on `device`.
        images: H x W x 3 uint8 RGB images with H x W uint8 ids of the segmenter's class set.
        device: device to run on.
    """
    matrix = ConfusionMatrix(len(segmenter.class_set))
    for image, labels in tqdm(images, desc="test", mininterval=5):
        batch = torch.from_numpy(image).to(device).permute(2, 0, 1)[None].float() / 255
        logits = F.interpolate(segmenter(batch), labels.shape, mode="bilinear")
        matrix.update(logits.argmax(dim=1)[0].cpu().numpy(), labels)
    return matrix


def scores_by_class(matrix: ConfusionMatrix, class_set: ClassSet) -> dict[str, dict[str, float]]:
    """Return IoU and accuracy on the test split by title and class, for those that occur.

    Papers average over all classes that a label may have. Where the first is everything else, a
    second mean is without it.
    """

    def named(values: np.ndarray, mean: float) -> dict[str, float]:
        found = zip(class_set.names, values.tolist(), strict=True)
        return {**{name: value for name, value in found if not math.isnan(value)}, "mean": mean}

    iou = matrix.iou()
    tables = {
        "IoU on the test split": named(iou, matrix.mean_iou()),
        "accuracy on the test split": {
            **named(matrix.accuracy(), matrix.mean_accuracy()),
            "of all pixels": matrix.pixel_accuracy(),
        },
    }
    rest = class_set.names[0]
    if rest in _REST and np.isfinite(iou[0]) and np.isfinite(iou[1:]).any():
        tables["IoU on the test split"][f"mean without {rest}"] = float(np.nanmean(iou[1:]))
    return tables


def check_labels(labels: Mapping[int, str], class_set: ClassSet) -> None:
    """Raise ValueError unless a network's class names are those of a class set.

    Case does not matter, and spaces, hyphens and underscores count as equal.

    Args:
        labels: the network's names by id. The names "LABEL_0" and so on, which `transformers`
            invents, fit any class.
        class_set: classes that are required.

    Raises:
        ValueError: the number of classes or a name differs.
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
    """Return a name in lower case, with single spaces between its words."""
    return re.sub(r"[\s_-]+", " ", name).strip().lower()


@torch.no_grad()
def _embed(network: Any, tokenizer: Any, texts: list[str]) -> Tensor:
    """Compute CLIP's projected embedding of each text: N x channels."""
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
