"""Class weights, background offset, predictions and scores of a segmentation head."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from ivf_core.class_sets import UNLABELED, unknown_ids
from ivf_core.data.pairs import Pair
from ivf_core.metrics.segmentation import ConfusionMatrix
from ivf_core.models.interface import LABEL_STRIDE
from ivf_core.models.segmentation import SegmentationHead
from ivf_core.training.runs.batches import pair_tensors

__all__ = ["background_offset", "class_weights", "predict_labels", "score_head"]


def class_weights(pairs: Sequence[Pair], num_classes: int) -> Tensor:
    """Compute weights against class imbalance from the labels of pairs.

    The weight of a class is 1 / ln(1.1 + p), where p is its share of the labelled pixels, scaled
    to a mean of 1. The form is that of ENet (Paszke et al., 2016), which adds 1.02 instead of 1.1.

    Args:
        pairs: pairs, of which some or all have labels.
        num_classes: number of classes.

    Returns:
        `num_classes` float32 weights.

    Raises:
        ValueError: a label is neither below `num_classes` nor 255.
    """
    counts = np.zeros(256)
    for pair in pairs:
        if pair.labels is not None:
            counts += np.bincount(pair.labels.ravel(), minlength=256)
    if unknown := unknown_ids(counts, num_classes):
        raise ValueError(
            f"labels have ids {', '.join(map(str, unknown))}, expected 0 to {num_classes - 1}, "
            f"or {UNLABELED} for none"
        )
    share = counts[:num_classes] / max(1.0, counts[:num_classes].sum())
    weights = torch.from_numpy(1 / np.log(1.1 + share)).float()
    return weights / weights.mean()


@torch.inference_mode()
def background_offset(
    student: nn.Module,
    head: SegmentationHead,
    pairs: Sequence[Pair],
    background: int,
    device: torch.device,
) -> float:
    """Choose the offset for the logit of the background.

    Crops are placed on objects and class weights favour objects, so that whole images have a far
    smaller share of objects than the head met in training. The offset is the one of 0, 0.5, ... 4
    with the best mean IoU on whole images of the training set.

    Args:
        student: network whose features the head reads, in evaluation mode, on `device`.
        head: trained head, in evaluation mode, on `device`.
        pairs: pairs of the training set with labels.
        background: id of the background's class.
        device: device of both networks.
    """
    candidates = [step / 2 for step in range(9)]
    matrices = [ConfusionMatrix(head.num_classes) for _ in candidates]
    for pair in pairs:
        assert pair.labels is not None
        logits = head(student(*pair_tensors(pair, device)).features)
        height, width = logits.shape[-2:]
        truth = pair.labels[::LABEL_STRIDE, ::LABEL_STRIDE][:height, :width]
        for candidate, matrix in zip(candidates, matrices, strict=True):
            shifted = logits.clone()
            shifted[:, background] += candidate
            matrix.update(shifted.argmax(dim=1)[0].cpu().numpy(), truth)
    scores = [matrix.mean_iou() for matrix in matrices]
    return candidates[int(np.argmax(scores))]


@torch.inference_mode()
def predict_labels(
    student: nn.Module, head: nn.Module, pair: Pair, device: torch.device
) -> np.ndarray:
    """Predict the class ids of a whole pair with networks in evaluation mode: H x W uint8."""
    ids = head(student(*pair_tensors(pair, device)).features).argmax(dim=1)[0].to(torch.uint8)
    height, width = pair.luma.shape
    return cv2.resize(ids.cpu().numpy(), (width, height), interpolation=cv2.INTER_NEAREST)


@torch.inference_mode()
def score_head(
    student: nn.Module,
    head: nn.Module,
    pairs: Sequence[Pair],
    names: Sequence[str],
    device: torch.device,
) -> dict[str, float]:
    """Compute the IoU of each class at the full size of the images.

    Args:
        student: network whose features the head reads, in evaluation mode, on `device`.
        head: head in evaluation mode, on `device`.
        pairs: pairs with labels.
        names: class names.
        device: device of both networks.

    Returns:
        IoU in [0, 1] by name of the classes that occur, and their mean by the name "mean".
    """
    matrix = ConfusionMatrix(len(names))
    for pair in pairs:
        assert pair.labels is not None
        matrix.update(predict_labels(student, head, pair, device), pair.labels)
    scores = {
        name: float(value)
        for name, value in zip(names, matrix.iou(), strict=True)
        if not np.isnan(value)
    }
    return {**scores, "mean": matrix.mean_iou()}
