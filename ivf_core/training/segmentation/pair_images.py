"""Labelled pairs of both cameras in colour, random crops of them, and scores on whole pairs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset
from tqdm import tqdm

from ivf_core.class_sets import ClassSet
from ivf_core.data.pairs import PairFiles
from ivf_core.metrics.segmentation import ConfusionMatrix
from ivf_core.models.pair_segmenter import PairSegmenter
from ivf_core.training.runs.batches import Sample
from ivf_core.training.segmentation.labelled import ColorCrops

__all__ = ["ColorPairCrops", "PairImages", "score_pairs"]

_SHARE = 0.2  # of crops whose light, or sharpness, varies
_FACTORS = (0.5, 1.5)  # of brightness, contrast and saturation


@dataclass(frozen=True)
class PairImages(Sequence[tuple[np.ndarray, np.ndarray]]):
    """Sequence of pairs with labels, read at each access.

    An item is H x W x 4 uint8, RGB and thermal, and class ids H x W uint8, 255 for no label.

    Attributes:
        files: pairs with labels.
        class_set: classes of the labels.
    """

    files: tuple[PairFiles, ...]
    class_set: ClassSet

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:  # type: ignore[override]
        """Read a pair and its labels.

        Raises:
            ValueError: a file is broken, or its size or its class ids do not fit. The message
                names the file.
        """
        files = self.files[index]
        labels = files.read_labels(self.class_set)
        assert labels is not None
        visible, infrared = files.read_visible(), files.read_infrared()
        files.check_sizes(visible, infrared, labels)
        return np.dstack((visible, infrared)), labels


class ColorPairCrops(Dataset[Sample]):
    """Random crops of pairs with labels, by number, varied as in the training of SARTM.

    Scale, position and mirroring are drawn for each crop, for both cameras alike. Of the visible
    image brightness, contrast and saturation vary in one crop of five, and one of five is
    blurred by 3 x 3 pixels.

    Args:
        images: H x W x 4 uint8 with H x W uint8 class ids, see `PairImages`.
        names: names of the pairs.
        size: height and width of a crop in pixels.
        scales: range of the factor by which a pair is resized.
        seed: seed of the random numbers.
    """

    def __init__(
        self,
        images: Sequence[tuple[np.ndarray, np.ndarray]],
        names: Sequence[str],
        size: tuple[int, int],
        *,
        scales: tuple[float, float] = (0.5, 2.0),
        seed: int = 0,
    ) -> None:
        self.names = names
        self.crops = ColorCrops(images, size, scales=scales, seed=seed, tries=1)

    def __getitem__(self, number: int) -> Sample:
        """Draw visible, infrared and labels.

        Returns:
            3 x h x w and 1 x h x w float32 in [0, 1], and h x w int64 ids.
        """
        planes, labels, random = self.crops.draw(number)
        visible = _vary(planes[..., :3], random).transpose(2, 0, 1)
        infrared = planes[None, ..., 3].astype(np.float32) / 255
        name = self.names[self.crops.index(number)]
        return Sample(name, (np.ascontiguousarray(visible), infrared, labels))


def _vary(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Vary the light and the sharpness of H x W x 3 uint8 RGB; float32 in [0, 1]."""
    values: np.ndarray = image.astype(np.float32) / 255
    if random.random() < _SHARE:
        brightness, contrast, saturation = random.uniform(*_FACTORS, 3).astype(np.float32)
        values = (values * brightness).clip(0, 1)
        mean = cv2.cvtColor(values, cv2.COLOR_RGB2GRAY).mean()
        values = (mean + contrast * (values - mean)).clip(0, 1)
        grey = cv2.cvtColor(values, cv2.COLOR_RGB2GRAY)[..., None]
        values = (grey + saturation * (values - grey)).clip(0, 1)
    if random.random() < _SHARE:
        return cv2.GaussianBlur(values, (3, 3), 0).astype(np.float32, copy=False)
    return values


@torch.inference_mode()
def score_pairs(
    network: PairSegmenter,
    images: Iterable[tuple[np.ndarray, np.ndarray]],
    device: torch.device,
) -> ConfusionMatrix:
    """Count true and predicted classes at the full size of the pairs.

    Args:
        network: network on `device`, in evaluation mode.
        images: H x W x 4 uint8 pairs with H x W uint8 ids of the network's class set.
        device: device to run on.
    """
    matrix = ConfusionMatrix(len(network.class_set))
    for planes, labels in tqdm(images, desc="test", mininterval=5):
        pair = torch.from_numpy(planes).to(device).permute(2, 0, 1)[None].float() / 255
        logits = network.classify(pair[:, :3], pair[:, 3:])
        matrix.update(logits.argmax(dim=1)[0].byte().cpu().numpy(), labels)
    return matrix
