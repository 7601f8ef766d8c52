"""Labelled images of one or two cameras, and random crops of them with damage.

The labels of a set are a folder of class ids and one of confidences, as `ivf train labels`
writes them. Photographs without a thermal image get one from their labels for a part of the
crops (people and vehicles warm, sky cold), so that dense labels reach the thermal camera, too.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from torch.utils.data import Dataset

from ivf_core.class_sets import STREET, UNLABELED
from ivf_core.data.datasets import open_unlabelled
from ivf_core.data.pairs import CropWindow, Pair, chroma_of, luma_of, smoke_density
from ivf_core.images.files import list_images, read_infrared, read_labels, read_visible
from ivf_core.training.joint.degradations import BLINDING, DAMAGE, Damage
from ivf_core.training.runs.batches import Sample
from ivf_core.training.segmentation.cached_teacher import cut_shares
from ivf_core.training.segmentation.logit_cache import LOGIT_STRIDE
from ivf_core.training.segmentation.nights import night_from_day

__all__ = [
    "BOTH",
    "INFRARED_ONLY",
    "VISIBLE_ONLY",
    "DamagedCrops",
    "LabelledImage",
    "as_pair",
    "point_stems",
    "read_set",
    "read_unlabelled",
]

BOTH, VISIBLE_ONLY, INFRARED_ONLY = 0, 1, 2
"""Cameras that show something in a crop."""

_OBJECTS = tuple(STREET.names.index(n) for n in ("person", "bicycle", "car", "truck", "obstacle"))
_RARE = tuple(STREET.names.index(n) for n in ("person", "bicycle"))
# Thermal grey levels of classes in a synthetic thermal image: mean and spread over images.
_WARMTH = {
    "road": (90, 30), "sidewalk": (95, 30), "building": (105, 35), "barrier": (95, 30),
    "pole": (95, 35), "vegetation": (80, 30), "terrain": (85, 30), "sky": (15, 15),
    "person": (205, 35), "bicycle": (110, 35), "car": (130, 45), "truck": (130, 45),
    "obstacle": (90, 30),
}  # fmt: skip


@dataclass(frozen=True)
class LabelledImage:
    """Image in memory.

    Attributes:
        name: set and stem.
        visible: H x W x 3 uint8 RGB.
        infrared: H x W uint8, or None.
        labels: H x W uint8 class ids, 255 for pixels without a class.
        confidence: H x W uint8.
        night: whether it shows a night.
        answer: a pair teacher's answer, see `segmentation.cached_teacher`; or None.
    """

    name: str
    visible: np.ndarray
    infrared: np.ndarray | None
    labels: np.ndarray
    confidence: np.ndarray
    night: bool
    answer: np.ndarray | None = None


def read_unlabelled(folder: Path, name: str) -> list[LabelledImage]:
    """Read the pairs of a data set, without a label.

    Args:
        folder: the data set, see `ivf_core.data.datasets.open_unlabelled`.
        name: name of the set.

    Raises:
        ValueError: a file is broken; the message names it.
    """
    read = []
    for files in open_unlabelled(folder).files:
        visible, infrared = files.read_visible(), files.read_infrared()
        files.check_sizes(visible, infrared, None)
        nothing = np.full(infrared.shape, UNLABELED, np.uint8)
        sure = np.zeros_like(nothing)
        night = files.name.endswith("N")
        item = LabelledImage(f"{name}/{files.name}", visible, infrared, nothing, sure, night)
        read.append(item)
    return read


def read_set(
    images: Path, labels: Path, skip: Callable[[str], bool] = lambda stem: False
) -> list[LabelledImage]:
    """Read the labelled images of one set.

    Args:
        images: folder with `visible` and `infrared`, or of photographs alone.
        labels: folder with `labels` and `confidence`, and with the images themselves if they are
            frames of videos.
        skip: whether a stem is held out.

    Raises:
        ValueError: labels without an image, or of another size; the message names them.
    """
    if (labels / "visible").is_dir():
        images = labels
    pairs = (images / "visible").is_dir()
    visible = list_images(images / "visible" if pairs else images)
    infrared = list_images(images / "infrared") if pairs else {}
    ids = list_images(labels / "labels")
    sure = list_images(labels / "confidence") if (labels / "confidence").is_dir() else {}
    read = []
    for stem, path in visible.items():
        if stem not in ids or skip(stem):
            continue
        item = LabelledImage(
            f"{labels.name}/{stem}",
            read_visible(path),
            read_infrared(infrared[stem]) if stem in infrared else None,
            read_labels(ids[stem]),
            read_labels(sure[stem]) if stem in sure else np.full((1, 1), 255, np.uint8),
            stem.endswith("N"),
        )
        size = item.visible.shape[:2]
        for plane in (item.infrared, item.labels):
            if plane is not None and plane.shape != size:
                raise ValueError(f"'{path}' is {size}, but its labels or infrared {plane.shape}")
        read.append(item)
    if not read:
        raise ValueError(f"'{labels}': no labels for the images of '{images}'")
    return read


def point_stems(path: Path) -> set[str]:
    """Return the sets and stems that have points, such as "msrs/00008N"."""
    with path.open(newline="") as file:
        return {f"{row['set']}/{row['stem']}" for row in csv.DictReader(file)}


def as_pair(item: LabelledImage) -> Pair:
    """Return an image in the form that students take; an absent camera is black."""
    infrared = item.infrared if item.infrared is not None else np.zeros_like(item.labels)
    luma, chroma = luma_of(item.visible), chroma_of(item.visible)
    return Pair(item.name, luma, infrared, item.labels, chroma=chroma)


class DamagedCrops(Dataset[Sample]):
    """Random crops by number; each depends on seed and number alone.

    Args:
        sets: images of each set.
        shares: share of the crops of each set.
        size: height and width of a crop, multiples of 4.
        seed: seed of everything drawn.
        scales: range of a crop's size, relative to `size`, before it is resized.
        blind: share of crops in which one camera shows nothing.
        damage: share of crops with damage to one camera.
        smoke: share of crops with smoke in front of the visible camera.
        night: share of day images that are turned into nights.
        classes: number of classes of a teacher's answers; 0 without any.
    """

    def __init__(
        self,
        sets: Sequence[Sequence[LabelledImage]],
        shares: Sequence[float],
        size: tuple[int, int],
        *,
        seed: int,
        scales: tuple[float, float] = (0.5, 1.6),
        blind: float = 0.22,
        damage: float = 0.3,
        smoke: float = 0.07,
        night: float = 0.15,
        classes: int = 0,
    ) -> None:
        self.sets = sets
        self.shares = np.array(shares) / sum(shares)
        self.size = size
        self.seed = seed
        self.scales = scales
        self.classes = classes
        self.blind, self.damage, self.smoke, self.night = blind, damage, smoke, night
        self._focus = [[self._object_places(item) for item in items] for items in sets]

    @staticmethod
    def _object_places(item: LabelledImage) -> np.ndarray:
        """Return a few pixels of objects, K x 2, those of rare classes first."""
        random = np.random.default_rng(0)
        places: list[np.ndarray] = []
        for kind in (_RARE, _OBJECTS):
            found = np.argwhere(np.isin(item.labels[::4, ::4], kind)) * 4
            if len(found):
                places.append(found[random.integers(len(found), size=24)])
        return np.concatenate(places) if places else np.zeros((0, 2), int)

    def __getitem__(self, number: int) -> Sample:
        """Draw a crop.

        Returns:
            Reference luma and infrared that the fused image is measured against, luma and
            infrared that the network sees, each 1 x H x W float32 in [0, 1]; chroma that it
            sees, 2 x H/4 x W/4 float32 in [-0.5, 0.5]; class ids, H/2 x W/2 int64; their
            weights, H/2 x W/2 float32 in [0, 1]; the cameras, 1 int64; and the probabilities by
            a teacher that saw both cameras without damage, C x H/4 x W/4 float32, 0 of images
            without an answer.
        """
        random = np.random.default_rng((self.seed, number))
        index = int(random.choice(len(self.sets), p=self.shares))
        position = int(random.integers(len(self.sets[index])))
        item = self.sets[index][position]
        window = self._window(item, self._focus[index][position], random)
        rgb, thermal, labels, sure = self._cut(item, window)
        drawn_thermal = thermal is None
        if thermal is None:
            thermal = _warm(rgb, labels, random)
        day = not item.night
        if day and random.random() < self.night:
            rgb = night_from_day(rgb, random)
        rgb = _light(rgb, random)
        if not drawn_thermal:
            thermal = _light(thermal, random, hue=False)
        seen_rgb, seen_thermal = rgb, thermal
        cameras = BOTH
        chance = random.random()
        if drawn_thermal and random.random() < 0.55:
            seen_thermal, cameras = _draw(BLINDING, random)(thermal, random), VISIBLE_ONLY
        elif chance < self.blind:
            blind = _draw(BLINDING, random)
            if drawn_thermal or random.random() < 0.6:
                seen_thermal, cameras = blind(thermal, random), VISIBLE_ONLY
            else:
                seen_rgb, cameras = blind(rgb, random), INFRARED_ONLY
        elif chance < self.blind + self.damage:
            kind = _draw(DAMAGE, random)
            if random.random() < 0.7:
                seen_thermal = kind(thermal, random)
                if kind.__name__ not in ("salt", "grain"):  # noise is to be removed
                    thermal = seen_thermal
            else:
                seen_rgb = kind(rgb, random)
                if kind.__name__ not in ("salt", "grain"):
                    rgb = seen_rgb
        elif random.random() < self.smoke:
            seen_rgb = _smoke(rgb, random)
        if cameras != VISIBLE_ONLY and random.random() < 0.06:
            thermal, seen_thermal = 255 - thermal, 255 - seen_thermal  # black-hot
        planes = self._arrays(rgb, thermal, seen_rgb, seen_thermal, labels, sure, cameras)
        return Sample(item.name, (*planes, self._shares(item, window)))

    def _shares(self, item: LabelledImage, window: CropWindow) -> np.ndarray:
        if self.classes and item.answer is not None:
            return cut_shares(item.answer, window, self.size)
        rows, columns = (side // LOGIT_STRIDE for side in self.size)
        return np.zeros((self.classes, rows, columns), np.float32)

    def _window(
        self, item: LabelledImage, places: np.ndarray, random: np.random.Generator
    ) -> CropWindow:
        height, width = self.size
        low, high = np.log(self.scales)
        scale = float(np.exp(random.uniform(low, high)))
        rows, columns = item.labels.shape
        scale = min(scale, rows / height, columns / width)
        cut = (int(height * scale), int(width * scale))
        top = int(random.integers(rows - cut[0] + 1))
        left = int(random.integers(columns - cut[1] + 1))
        if len(places) and random.random() < 0.55:
            row, column = places[int(random.integers(len(places)))]
            row -= int(cut[0] * random.uniform(0.2, 0.8))
            column -= int(cut[1] * random.uniform(0.2, 0.8))
            top = min(max(int(row), 0), rows - cut[0])
            left = min(max(int(column), 0), columns - cut[1])
        return CropWindow(top, left, *cut, random.random() < 0.5)

    def _cut(
        self, item: LabelledImage, window: CropWindow
    ) -> tuple[np.ndarray, np.ndarray | None, np.ndarray, np.ndarray]:
        height, width = self.size
        rows = slice(window.top, window.top + window.height)
        columns = slice(window.left, window.left + window.width)
        mirror = -1 if window.mirrored else 1

        def take(plane: np.ndarray, interpolation: int, size: tuple[int, int]) -> np.ndarray:
            part = plane[rows, columns][:, ::mirror]
            return cv2.resize(np.ascontiguousarray(part), size, interpolation=interpolation)

        shrinks = window.height > height or window.width > width
        area = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        whole, half = (width, height), (width // 2, height // 2)
        sure = item.confidence
        if sure.shape != item.labels.shape:
            sure = np.full_like(item.labels, 255)
        return (
            take(item.visible, area, whole),
            None if item.infrared is None else take(item.infrared, area, whole),
            take(item.labels, cv2.INTER_NEAREST, half),
            take(sure, cv2.INTER_NEAREST, half),
        )

    def _arrays(
        self,
        rgb: np.ndarray,
        thermal: np.ndarray,
        seen_rgb: np.ndarray,
        seen_thermal: np.ndarray,
        labels: np.ndarray,
        sure: np.ndarray,
        cameras: int,
    ) -> tuple[np.ndarray, ...]:
        height, width = self.size
        seen = cv2.cvtColor(seen_rgb, cv2.COLOR_RGB2YCrCb)
        chroma = cv2.resize(seen[..., 1:], (width // 4, height // 4), interpolation=cv2.INTER_AREA)
        luma = seen[..., 0]
        if seen_rgb is not rgb:
            luma = cv2.cvtColor(rgb, cv2.COLOR_RGB2YCrCb)[..., 0]
        planes = (luma, thermal, seen[..., 0], seen_thermal)
        return (
            *(plane[None].astype(np.float32) / 255 for plane in planes),
            np.ascontiguousarray(chroma.transpose(2, 0, 1)).astype(np.float32) / 255 - 0.5,
            labels.astype(np.int64),
            sure.astype(np.float32) / 255,
            np.array([cameras], np.int64),
        )


def _draw(kinds: dict[str, tuple[float, Damage]], random: np.random.Generator) -> Damage:
    shares = np.array([share for share, _ in kinds.values()])
    return [*kinds.values()][int(random.choice(len(kinds), p=shares / shares.sum()))][1]


def _light(image: np.ndarray, random: np.random.Generator, *, hue: bool = True) -> np.ndarray:
    """Vary gamma, contrast, brightness, tint and noise of half of the images."""
    if random.random() < 0.4:
        return image
    values = np.arange(256, dtype=np.float32) / 255
    values = values ** np.float32(np.exp(random.uniform(-0.45, 0.45)))
    values = (values - 0.5) * np.float32(random.uniform(0.65, 1.3)) + np.float32(
        0.5 + random.uniform(-0.12, 0.12)
    )
    table = (values.clip(0, 1) * 255).round().astype(np.uint8)
    image = cv2.LUT(image, table)
    if hue and random.random() < 0.5:
        gains = random.uniform(0.85, 1.15, 3).astype(np.float32)
        image = (image * gains).clip(0, 255).astype(np.uint8)
    if random.random() < 0.3:
        sigma = np.float32(random.uniform(0, 6))
        noise = sigma * random.standard_normal(image.shape, dtype=np.float32)
        image = (image + noise).clip(0, 255).astype(np.uint8)
    return image


def _smoke(rgb: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Add thin to dense smoke of one grey level, in billows."""
    density = smoke_density(rgb.shape[:2], random)[..., None]
    return (rgb + density * (random.uniform(80, 240) - rgb)).clip(0, 255).astype(np.uint8)


def _warm(rgb: np.ndarray, labels: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Draw a thermal image of a photograph from its labels and its texture."""
    table = np.full(256, 90, np.float32)
    for class_id, name in enumerate(STREET.names):
        mean, spread = _WARMTH[name]
        table[class_id] = mean + spread * random.uniform(-1, 1)
    height, width = rgb.shape[:2]
    warmth = cv2.resize(table[labels], (width, height), interpolation=cv2.INTER_LINEAR)
    gray = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY).astype(np.float32)
    texture = cv2.GaussianBlur(gray, (0, 0), 1.2) - cv2.GaussianBlur(gray, (0, 0), 12)
    texture *= random.uniform(0.1, 0.6) * random.choice((-1, 1))
    texture[warmth < 40] *= 0.1
    thermal = cv2.GaussianBlur(warmth, (0, 0), random.uniform(0.8, 2.0)) + texture
    thermal += random.uniform(0, 5) * random.standard_normal((height, width), dtype=np.float32)
    return thermal.clip(0, 255).astype(np.uint8)
