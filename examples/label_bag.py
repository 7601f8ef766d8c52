"""Label a bag: write the class ids of each pair as PNG, and the share of each class as CSV.

python examples/label_bag.py BAG RGB_TOPIC THERMAL_TOPIC OUTPUT
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import Any

import numpy as np

from ivf_core import FusionPipeline, ImagePair, write_image
from ivf_core.bags.reader import BagReader
from ivf_core.images.messages import to_infrared, to_visible
from ivf_core.inference.pipeline import resize_labels
from ivf_core.pairing import TimePairer


def stamp_ns(message: Any) -> int:
    """Return the stamp of a message."""
    return message.header.stamp.sec * 10**9 + message.header.stamp.nanosec


def main(bag: str, rgb: str, thermal: str, output: Path) -> None:
    """Write OUTPUT/STAMP.png and OUTPUT/shares.csv.

    Args:
        bag: rosbag2 or rosbag1, read without ROS.
        rgb: topic of the RGB images.
        thermal: topic of the thermal images.
        output: folder for the results.
    """
    pipeline = FusionPipeline("street")
    names = pipeline.class_set.names
    pairer: TimePairer[Any] = TimePairer(tolerance_ns=20_000_000)  # the node's policy
    output.mkdir(parents=True, exist_ok=True)
    with BagReader(bag) as reader, (output / "shares.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["stamp_ns", *names])

        def label(pair: Any) -> None:
            visible = to_visible(pair.visible)
            infrared = to_infrared(pair.infrared)
            seconds = pair.infrared_stamp / 1e9
            result = pipeline(ImagePair(visible, infrared, seconds), fused=False)
            mask = resize_labels(result.labels, visible.shape[:2])
            write_image(output / f"{pair.visible_stamp}.png", mask)
            shares = np.bincount(mask.ravel(), minlength=256)[: len(names)] / mask.size
            table.writerow([pair.visible_stamp, *shares.round(4)])

        for entry in reader.messages([rgb, thermal]):
            message = entry.message
            add = pairer.add_visible if entry.topic == rgb else pairer.add_infrared
            for pair in add(stamp_ns(message), message):
                label(pair)
        for pair in pairer.flush():
            label(pair)
    print(f"{pairer.paired} pairs; without a partner: {dict(pairer.dropped)}")


if __name__ == "__main__":
    main(*sys.argv[1:4], Path(sys.argv[4]))
