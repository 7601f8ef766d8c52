"""Write docs/images/demo.gif: a synthetic drive by night and in smoke, fused and segmented.

python docs/images/demo_gif.py [OUTPUT]     needs openvino, and Pillow of the extra evaluation
"""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from ivf_core import FusionPipeline, ImagePair
from ivf_core.defaults import DEFAULT_WEIGHTS, OVERLAY_OPACITY
from ivf_core.images.overlay import draw_overlay
from ivf_core.inference.pipeline import resize_labels
from ivf_core.scenes import SceneFrame, SyntheticDrive
from ivf_core.system.atomic import atomic_path

PANEL = (288, 216)
"""Width and height of one of the four images."""

RATE_HZ = 5
SECONDS = 6.0  # of the drive, of which the day is left out
COLORS = 80


def main(output: Path) -> None:
    """Render the drive, run the pipeline on its nights and its smoke, and write the GIF."""
    pipeline = FusionPipeline(DEFAULT_WEIGHTS, engine="openvino", precision="fp32")
    drive = SyntheticDrive(rate_hz=RATE_HZ, seconds=SECONDS)
    frames: list[Image.Image] = []
    for condition in ("night", "smoke"):
        panels = [panel(pipeline, frame) for frame in drive if frame.condition == condition]
        # One palette for a condition: colours that change from frame to frame would flicker.
        sample = Image.fromarray(np.vstack(panels[::3]))
        palette = sample.quantize(COLORS, Image.Quantize.MAXCOVERAGE, kmeans=3)
        frames += [
            Image.fromarray(image).quantize(palette=palette, dither=Image.Dither.NONE)
            for image in panels
        ]
    with atomic_path(output) as temporary, temporary.open("wb") as file:
        frames[0].save(
            file, "GIF", save_all=True, append_images=frames[1:], duration=1000 // RATE_HZ, loop=0
        )
    print(f"{output}: {len(frames)} frames, {output.stat().st_size / 1e6:.2f} MB")


def panel(pipeline: FusionPipeline, frame: SceneFrame) -> np.ndarray:
    """Return RGB, thermal, fused image and overlay of a frame in two rows, with titles.

    Args:
        pipeline: weights with a head.
        frame: frame of the drive.
    """
    result = pipeline(ImagePair(frame.visible, frame.infrared, frame.seconds))
    assert result.fused is not None
    assert result.labels is not None
    assert pipeline.class_set is not None
    overlay = draw_overlay(
        result.fused,
        resize_labels(result.labels, result.fused.shape[:2]),
        pipeline.class_set,
        OVERLAY_OPACITY,
    )
    thermal = cv2.cvtColor(result.infrared, cv2.COLOR_GRAY2RGB)
    images = {"RGB": frame.visible, "thermal": thermal, "fused": result.fused, "mask": overlay}
    cells = [titled(image, f"{title}, {frame.condition}") for title, image in images.items()]
    return np.vstack([np.hstack(cells[:2]), np.hstack(cells[2:])])


def titled(image: np.ndarray, title: str) -> np.ndarray:
    """Return an image at the size of a panel, with a title in its upper left corner."""
    small = cv2.resize(image, PANEL, interpolation=cv2.INTER_AREA)
    cv2.rectangle(small, (0, 0), (8 * len(title) + 12, 24), (0, 0, 0), cv2.FILLED)
    cv2.putText(
        small, title, (8, 17), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255, 255, 255), 1, cv2.LINE_AA
    )
    return small


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("demo.gif"))
