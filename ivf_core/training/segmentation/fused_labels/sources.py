"""Images to label, with what is known of them: boxes, labels, and the time of day."""

from __future__ import annotations

from collections.abc import Iterator, Set
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from ivf_core.class_sets import STREET, STREET_MAPPINGS, UNLABELED
from ivf_core.images.files import list_images, read_infrared, read_labels, read_visible, write_image
from ivf_core.images.pair_sources import open_pairs
from ivf_core.training.segmentation.fused_labels.networks import Boxes
from ivf_core.training.segmentation.fused_labels.options import LabelSet

__all__ = ["LabelSource", "brighten", "cameras", "is_night", "list_sources", "read_published_boxes"]

_DARK = 75
_BRIGHT = 90
_RIDER_AND_BICYCLE = "bicyclist"


@dataclass(frozen=True)
class LabelSource:
    """One image or pair to label, and the files of what is known of it.

    Attributes:
        set_name: name of its set.
        stem: stem of its files.
        visible: path of the visible image.
        infrared: path of the thermal image, or None.
        night_below: see `LabelSet`.
        boxes: file of published boxes, or None.
        truth: file of dense labels and its class set, or None.
        given: by name of the teacher: class set, file of ids, file of confidences or None.
        detect: whether detectors are asked; published boxes make them dispensable.
        absent: ids of classes that the image does not show.
        video: name of the video, or "".
        frame: number of the frame in the video.
    """

    set_name: str
    stem: str
    visible: Path
    infrared: Path | None = None
    night_below: int = 0
    boxes: Path | None = None
    truth: tuple[str, Path] | None = None
    given: dict[str, tuple[str, Path, Path | None]] = field(default_factory=dict)
    detect: bool = True
    absent: tuple[int, ...] = ()
    video: str = ""
    frame: int = 0

    def read_visible(self) -> np.ndarray:
        """Read the visible image, H x W x 3 uint8 RGB."""
        return read_visible(self.visible)

    def read_infrared(self) -> np.ndarray | None:
        """Read the thermal image, H x W uint8, or return None.

        Raises:
            ValueError: it is of another depth or size than the visible image's.
        """
        if self.infrared is None:
            return None
        image = read_infrared(self.infrared)
        if image.dtype != np.uint8:
            raise ValueError(f"'{self.infrared}': pixels are {image.dtype}, expected uint8")
        return image

    def read_truth(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Read the dense labels, or return None.

        Returns:
            H x W uint8 ids of `STREET`, and H x W bool: regions of a rider with a bicycle.
        """
        if self.truth is None:
            return None
        class_set, path = self.truth
        ids, mapping = read_labels(path), STREET_MAPPINGS[class_set]
        names = mapping.source.names
        both = names.index(_RIDER_AND_BICYCLE) if _RIDER_AND_BICYCLE in names else UNLABELED
        labels = mapping.apply(ids, f"labels '{path}'")
        return labels, (ids == both) & (labels != UNLABELED)


def list_sources(
    entry: LabelSet, data: Path, output: Path, frames: Set[str] = frozenset()
) -> list[LabelSource]:
    """List the images of a set; frames of videos are written to the output first.

    Args:
        entry: the set.
        data: data directory.
        output: folder of the set in the output.
        frames: stems of frames of videos to label besides every n-th.

    Raises:
        ValueError: a folder or file is missing or damaged; the message names it.
    """
    if entry.videos:
        return list(_frames_of(entry, data / entry.videos, output, frames))
    infrared = list_images(data / entry.infrared) if entry.infrared else {}
    sources = []
    for number, folder in enumerate(entry.visible):
        truth = list_images(data / entry.truth[number]) if entry.truth else {}
        given = {
            labels.name: (
                labels.class_set,
                list_images(data / labels.folder),
                list_images(data / labels.confidence) if labels.confidence else {},
            )
            for labels in entry.given
        }
        for index, (stem, path) in enumerate(list_images(data / folder).items()):
            if entry.infrared and stem not in infrared:
                raise ValueError(f"'{data / entry.infrared}': no partner for '{path}'")
            if entry.truth and stem not in truth:
                raise ValueError(f"'{data / entry.truth[number]}': no labels for '{path}'")
            boxes = data / entry.boxes / f"{stem}.txt" if entry.boxes else None
            sources.append(
                LabelSource(
                    entry.name,
                    stem,
                    path,
                    infrared.get(stem),
                    entry.night_below,
                    boxes if boxes is not None and boxes.is_file() else None,
                    (entry.truth_classes, truth[stem]) if entry.truth else None,
                    {
                        name: (class_set, ids[stem], sure.get(stem))
                        for name, (class_set, ids, sure) in given.items()
                        if stem in ids
                    },
                    absent=_absent(entry, stem),
                    detect=not entry.boxes or index % entry.detect_every == 0,
                )
            )
    stems = [source.stem for source in sources]
    if len(set(stems)) < len(stems):
        raise ValueError(f"set '{entry.name}': folders {', '.join(entry.visible)} share stems")
    return sources


def _frames_of(
    entry: LabelSet, folder: Path, output: Path, frames: Set[str]
) -> Iterator[LabelSource]:
    """Yield the frames of a folder of videos, which are written where they are missing."""
    videos = sorted(folder.glob("*_visible.mp4"))
    if not videos:
        raise ValueError(f"'{folder}': no NAME_visible.mp4")
    for path in videos:
        name = path.name.removesuffix("_visible.mp4")
        pairs = open_pairs(path, folder / f"{name}_infrared.mp4")
        for number, pair in enumerate(pairs):
            stem = f"{name}_frame{number:03d}"
            if number % entry.every and stem not in frames:
                continue
            files = [output / kind / f"{stem}.png" for kind in ("visible", "infrared")]
            for file, image in zip(files, (pair.visible, pair.infrared), strict=True):
                if not file.is_file():
                    write_image(file, image)
            yield LabelSource(
                entry.name,
                stem,
                files[0],
                files[1],
                entry.night_below,
                absent=_absent(entry, stem),
                video=name,
                frame=number,
            )


def _absent(entry: LabelSet, stem: str) -> tuple[int, ...]:
    """Return the ids of the classes that an image of a set does not show."""
    parts = (name.rpartition(":") for name in entry.absent)
    return tuple(STREET.names.index(name) for start, _, name in parts if stem.startswith(start))


def is_night(visible: np.ndarray, below: int) -> bool:
    """Tell night from day by the median luma of an image's upper third.

    Args:
        visible: H x W x 3 uint8 RGB.
        below: largest median of the night plus one; it differs between cameras.
    """
    upper = visible[: max(1, len(visible) // 3)]
    return bool(np.median(cv2.cvtColor(upper, cv2.COLOR_RGB2GRAY)) < below)


def brighten(visible: np.ndarray) -> np.ndarray | None:
    """Raise the median luma of a dark image by a gamma curve; return None if it is not dark.

    Args:
        visible: H x W x 3 uint8 RGB.
    """
    median = float(np.median(cv2.cvtColor(visible, cv2.COLOR_RGB2GRAY)))
    if median >= _DARK:
        return None
    gamma = max(0.35, np.log(_BRIGHT / 255) / np.log(max(median, 2) / 255))
    table = np.rint(255 * (np.arange(256) / 255) ** gamma).astype(np.uint8)
    return table[visible]


def cameras(visible: np.ndarray, infrared: np.ndarray | None) -> dict[str, np.ndarray]:
    """Return the images that networks see, each H x W x 3 uint8 RGB.

    Args:
        visible: H x W x 3 uint8 RGB.
        infrared: H x W uint8, or None.

    Returns:
        visible; brightened, where it is dark; where there is a thermal image, infrared as a grey
        image, and inverted, stretched and black-hot: its sky is bright like that of a day.
    """
    images = {"visible": visible}
    if (bright := brighten(visible)) is not None:
        images["brightened"] = bright
    if infrared is not None:
        images["infrared"] = np.repeat(infrared[..., None], 3, axis=-1)
        images["inverted"] = np.repeat(_invert(infrared)[..., None], 3, axis=-1)
    return images


def _invert(infrared: np.ndarray) -> np.ndarray:
    """Return a thermal image H x W uint8 as black-hot, stretched to all grey levels."""
    low, high = np.percentile(infrared, (1, 99))
    shares = (infrared.astype(np.float32) - np.float32(low)) / np.float32(max(high - low, 8))
    return 255 - (255 * shares.clip(0, 1)).astype(np.uint8)


def read_published_boxes(path: Path, size: tuple[int, int]) -> Boxes:
    """Read published boxes in YOLO's lines: class, centre and size relative to the image.

    Args:
        path: text file; classes are 0 person, 1 bicycle, 2 car.
        size: height and width of the image.

    Raises:
        ValueError: a line is not of this form; the message names file and line.
    """
    names = ("person", "bicycle", "car")
    corners, classes = [], []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            index, x, y, width, height = (float(part) for part in line.split())
            classes.append(STREET.names.index(names[int(index)]))
        except (ValueError, IndexError) as error:
            raise ValueError(
                f"boxes '{path}', line {number}: '{line}', expected class 0, 1 or 2, "
                "centre x and y, width and height"
            ) from error
        half = np.array((width, height)) / 2
        corners.append([*(np.array((x, y)) - half), *(np.array((x, y)) + half)])
    if not corners:
        return Boxes.empty()
    scaled = np.array(corners, np.float32) * np.array([size[1], size[0]] * 2, np.float32)
    return Boxes(scaled, np.ones(len(classes), np.float32), np.array(classes, np.uint8))
