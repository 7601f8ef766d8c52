"""Tiny random pairs in the layouts in which MFNet, FMB and PST900 are published."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from ivf_core.images.files import write_image

SPLITS = {"train": "ab", "test": "c", "val": "d"}
FOLDERS = {
    "FMB": ("Visible", "Infrared", "Label"),
    "PST900": ("rgb", "thermal", "labels"),
}


def write_published(root: Path, size: tuple[int, int] = (50, 70)) -> None:
    """Write four pairs of each data set below `root`, with labels of four classes."""
    random = np.random.default_rng(0)
    for split, stems in SPLITS.items():
        for stem in stems:
            image = random.integers(0, 255, (*size, 4), np.uint8)
            labels = (image[..., 0] // 64).astype(np.uint8)
            for name, folders in FOLDERS.items():
                planes = (image[..., :3], image[..., 3], labels)
                for folder, plane in zip(folders, planes, strict=True):
                    write_image(root / name / split / folder / f"{stem}.png", plane)
            write_four_channels(root / f"MFNet/images/{stem}.png", image)
            write_image(root / f"MFNet/labels/{stem}.png", labels)
        (root / f"MFNet/{split}.txt").write_text("\n".join(stems))


def write_four_channels(path: Path, image: np.ndarray) -> None:
    """Write RGB and thermal as MFNet's PNG files have them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), cv2.cvtColor(image, cv2.COLOR_RGBA2BGRA))
