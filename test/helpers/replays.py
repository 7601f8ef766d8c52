"""Small drives to replay, and bags with faults."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np

from ivf_core.bags.convert import write_drive_bag
from ivf_core.bags.info import BagMessage
from ivf_core.bags.reader import BagReader
from ivf_core.bags.stamps import shift_stamp
from ivf_core.bags.writer import BagWriter

HEIGHT, WIDTH = 168, 192  # enough for every metric
RATE = 10.0


def drive(count: int, seed: int = 0) -> Iterator[SimpleNamespace]:
    """Yield frames of a textured scene in which a warm square moves; class 2 is the square."""
    random = np.random.default_rng(seed)
    noise = random.uniform(0, 255, (HEIGHT, WIDTH)).astype(np.float32)
    texture = cv2.GaussianBlur(noise, (0, 0), 3)
    texture = cv2.normalize(texture, None, 40, 200, cv2.NORM_MINMAX)
    for k in range(count):
        # The speed varies, so that the motion has no period.
        x = round(20 + 6 * k + 25 * np.sin(0.9 * k)) % (WIDTH - 40)
        square = np.s_[60:100, x : x + 30]
        grey = texture + random.normal(0, 2, texture.shape)
        warm = 0.4 * texture + random.normal(0, 2, texture.shape)
        labels = np.zeros((HEIGHT, WIDTH), np.uint8)
        grey[square] += 40
        warm[square] = 230
        labels[square] = 2
        visible = np.repeat(grey.clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)
        yield SimpleNamespace(
            visible=visible, infrared=warm.clip(0, 255).astype(np.uint8), labels=labels
        )


def write_drive(path: Path, count: int = 14, *, labels: bool = False, **options: object) -> Path:
    """Write a drive to a bag, without labels by default."""
    frames = list(drive(count))
    if not labels:
        for frame in frames:
            frame.labels = None
    write_drive_bag(path, frames, RATE, **options)
    return path


def rewrite(source: Path, target: Path, change: Callable[[BagMessage], BagMessage | None]) -> Path:
    """Copy a bag with each message changed, or left out if `change` returns None."""
    with BagReader(source) as reader, BagWriter(target) as writer:
        for message in reader.raw():
            changed = change(message)
            if changed is not None:
                writer.write(*changed)
    return target


def moved(message: BagMessage, seconds: float, *, recording: bool = True) -> BagMessage:
    """Return a message with a later stamp and, by default, time of recording."""
    shift = round(seconds * 1e9)
    return message._replace(
        time_ns=message.time_ns + (shift if recording else 0),
        message=shift_stamp(message.message, shift),
    )


def write_faulty(path: Path) -> Path:
    """Write a bag that cannot be read at all."""
    write_drive(path, 2)
    for file in path.iterdir():
        file.write_bytes(b"\xff" * 100)
    return path
