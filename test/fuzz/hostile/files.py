"""Small valid files of each kind, how they are damaged, and how they are read."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from hypothesis import strategies as st
from small_bags import drive_frames, write_rosbag1

from hostile.damage import damaged, damaged_safetensors
from hostile.texts import edited
from ivf_core.bags.convert import write_drive_bag
from ivf_core.bags.info import IMAGE_TYPE
from ivf_core.bags.reader import BagReader
from ivf_core.bags.salvage import open_bag
from ivf_core.images.files import read_infrared, read_labels, read_visible
from ivf_core.images.pair_sources import open_pairs
from ivf_core.images.videos import VideoWriter
from ivf_core.inference import FusionPipeline, ImagePair
from ivf_core.models.checkpoints import load_model
from ivf_core.models.weights_files import open_weights
from ivf_core.replay.compare.thresholds import read_thresholds
from ivf_core.rigs.remap import read_registration
from ivf_core.training.masks.priors import PriorRecipe
from ivf_core.training.runs.recipe import load_recipe
from ivf_core.training.sage.teacher import TeacherRecipe
from ivf_core.training.segmentation.head import HeadRecipe

_RECIPES = Path(__file__).parents[3] / "training"
_REGISTRATION = """
homography: [[1.25, 0.01, -8.0], [0.0, 1.26, -6.5], [0.0, 0.0, 1.0]]
thermal_size: [64, 51]
rgb_size: [128, 72]
"""
_RIG = """
rgb: {size: [128, 72], focal: [90, 90], center: [63.5, 35.5]}
thermal: {size: [64, 51], focal: [50, 50], center: [31.5, 25], distortion: [-0.4, 0.1, 0, 0]}
translation: [0.05, 0.0, 0.0]
plane: {kind: ground, height: 1.6, pitch_degrees: 4}
time_offset_seconds: 0.01
"""
_THRESHOLDS = "qabf: {min_difference: -0.01, by: estimate}\nmiou: {min_ratio: 0.9}\n"
_FRAMES = 20  # a damaged video may announce any number

Reader = Callable[[Path], object]


class Sample(NamedTuple):
    """Valid file or folder, of which one file is damaged.

    Attributes:
        path: the file, or the folder that the readers open.
        file: the file to damage.
        contents: strategy of its damaged contents.
        readers: functions that read `path`; they raise ValueError or OSError where they cannot.
    """

    path: Path
    file: Path
    contents: st.SearchStrategy[bytes]
    readers: tuple[Reader, ...]


def samples(folder: Path, weights: Path) -> dict[str, list[Sample]]:
    """Write valid files of each kind.

    Args:
        folder: folder of the files.
        weights: a weights file.

    Returns:
        Samples by the name of their kind.
    """
    return {
        "images": _images(folder),
        "videos": _videos(folder),
        "bags": _bags(folder),
        "weights": _weights(folder, weights),
        "registrations": [
            _text(folder / "registration.yaml", _REGISTRATION, _read_registration),
            _text(folder / "rig.yaml", _RIG, _read_registration),
        ],
        "recipes": _recipes(folder),
    }  # fmt: skip


def _sample(path: Path, *readers: Reader) -> Sample:
    return Sample(path, path, damaged(path.read_bytes()), readers)


def _text(path: Path, text: str, *readers: Reader) -> Sample:
    path.write_text(text, encoding="utf-8")
    contents = damaged(text.encode()) | edited(text).map(lambda t: t.encode(errors="replace"))
    return Sample(path, path, contents, readers)


def _images(folder: Path) -> list[Sample]:
    random = np.random.default_rng(0)
    found = []
    for suffix, shape, dtype in (
        (".png", (12, 16, 3), np.uint8),
        (".png", (12, 16), np.uint8),
        (".png", (12, 16), np.uint16),
        (".jpg", (12, 16, 3), np.uint8),
        (".tiff", (12, 16), np.uint16),
        (".webp", (12, 16, 3), np.uint8),
        (".bmp", (12, 16, 3), np.uint8),
        (".pgm", (12, 16), np.uint8),
    ):
        path = folder / f"image_{len(found)}{suffix}"
        pixels = random.integers(0, 256, shape).astype(dtype)
        path.write_bytes(cv2.imencode(suffix, pixels)[1].tobytes())
        grey = (read_labels,) if dtype == np.uint8 and len(shape) == 2 else ()
        found.append(_sample(path, read_visible, read_infrared, *grey))
    return found


def _videos(folder: Path) -> list[Sample]:
    paths = folder / "visible.mp4", folder / "infrared.mp4"
    for path in paths:
        with VideoWriter(path, 10.0, (48, 64)) as video:
            for number in range(6):
                video.write(np.full((48, 64, 3), 30 * number, np.uint8))

    def read(path: Path) -> None:
        list(itertools.islice(open_pairs(path, paths[1]), _FRAMES))

    return [_sample(paths[0], read)]


def _bags(folder: Path) -> list[Sample]:
    found = []
    for storage in ("mcap", "sqlite3"):
        bag = folder / f"bag_{storage}"
        write_drive_bag(bag, drive_frames(3), 10.0, storage=storage)
        for file in bag.iterdir():
            contents = damaged(file.read_bytes())
            if file.suffix == ".yaml":
                text = file.read_text(encoding="utf-8")
                contents |= edited(text).map(lambda t: t.encode(errors="replace"))
            found.append(Sample(bag, file, contents, (_read_bag, _salvage)))
    write_rosbag1(folder / "old.bag")
    found.append(_sample(folder / "old.bag", _read_bag, _salvage))
    return found


def _read_bag(path: Path) -> None:
    with BagReader(path) as reader:
        for _ in reader.messages():
            pass


def _salvage(path: Path) -> None:
    with open_bag(path, []) as bag:
        for _ in bag.raw([topic.name for topic in bag.info.topics if topic.type == IMAGE_TYPE]):
            pass


def _weights(folder: Path, weights: Path) -> list[Sample]:
    path = folder / "mine.safetensors"
    path.write_bytes(weights.read_bytes())
    published = folder / "published.pth"
    published.write_bytes(b"PK\x03\x04" + bytes(60))
    return [
        Sample(
            path, path, damaged_safetensors(path.read_bytes()), (open_weights, load_model, _fuse)
        ),
        _sample(published, load_model),
    ]


def _fuse(path: Path) -> None:
    pipeline = FusionPipeline(path, engine="torch", device="cpu", precision="fp32", threads=1)
    pipeline(ImagePair(np.zeros((16, 16, 3), np.uint8), np.zeros((16, 16), np.uint8)))


def _read_registration(path: Path) -> None:
    read_registration(path)(np.zeros((51, 64), np.uint8), (72, 128))


def _recipes(folder: Path) -> list[Sample]:
    kinds = {
        "teacher_small": TeacherRecipe,
        "head_fast": HeadRecipe,
        "priors_superpixels": PriorRecipe,
    }
    found = [_text(folder / "thresholds.yaml", _THRESHOLDS, read_thresholds)]
    for name, kind in kinds.items():
        text = (_RECIPES / f"{name}.yaml").read_text(encoding="utf-8")

        def read(path: Path, kind: type = kind) -> None:
            load_recipe(kind, path)

        found.append(_text(folder / f"{name}.yaml", text, read))
    return found
