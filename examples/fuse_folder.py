"""Fuse a folder of pairs: visible/NAME.png and infrared/NAME.png of the same names.

python examples/fuse_folder.py FOLDER OUTPUT
"""

from __future__ import annotations

import sys
from pathlib import Path

from ivf_core import FusionPipeline, ImagePair, read_infrared, read_visible, write_image
from ivf_core.images.overlay import draw_overlay
from ivf_core.inference.pipeline import resize_labels


def main(folder: Path, output: Path) -> None:
    """Write fused images and overlays.

    Args:
        folder: folder of the pairs.
        output: folder for the results.
    """
    pipeline = FusionPipeline("street")
    for path in sorted((folder / "visible").iterdir()):
        visible = read_visible(path)
        infrared = read_infrared(folder / "infrared" / path.name)
        # Images of one camera's film would share a gain: give their times as `seconds`.
        result = pipeline(ImagePair(visible, infrared))
        write_image(output / "fused" / f"{path.stem}.png", result.fused)
        mask = resize_labels(result.labels, visible.shape[:2])
        overlay = draw_overlay(result.fused, mask, pipeline.class_set, opacity=0.5)
        write_image(output / "overlay" / f"{path.stem}.png", overlay)
        print(f"{path.name}: {result.model_ms:.1f} ms")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
