"""Process of two cameras: `python camera_process.py rgb=ENCODING thermal=ENCODING shift=SECONDS`.

Publishes ten images a second on rgb/image_raw and thermal/image_raw until it is interrupted.
`shift` is added to the thermal stamps.
"""

from __future__ import annotations

import signal
import sys
import threading
import time

import numpy as np
import rclpy
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import Image

_SHAPE = (48, 64)


def image(encoding: str, seconds: float, seed: int) -> Image:
    """Return an image of squares, another one for each seed: neither noisy nor blurred."""
    squares = np.random.default_rng(seed).integers(60, 200, (6, 8, 3), np.uint8)
    pixels = squares.repeat(8, axis=0).repeat(8, axis=1)
    if encoding != "rgb8":
        pixels = np.ascontiguousarray(pixels[..., 0])
    if encoding == "mono16":
        pixels = 7000 + pixels.astype(np.uint16)
    message = Image(height=_SHAPE[0], width=_SHAPE[1], encoding=encoding, data=pixels.tobytes())
    message.step = pixels.nbytes // _SHAPE[0]
    message.header.stamp.sec, message.header.stamp.nanosec = divmod(round(seconds * 1e9), 10**9)
    return message


def main() -> None:
    """Publish until the process is interrupted."""
    options = dict(argument.split("=") for argument in sys.argv[1:])
    encodings = {"rgb": options.get("rgb", "rgb8"), "thermal": options.get("thermal", "mono16")}
    shifts = {"rgb": 0.0, "thermal": float(options.get("shift", 0))}
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.set())
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    node = rclpy.create_node("cameras")
    publishers = {
        camera: node.create_publisher(Image, f"{camera}/image_raw", 5) for camera in encodings
    }
    seed = 0
    while not stopping.wait(0.1):
        now = time.time()
        for camera, publisher in publishers.items():
            seed += 1
            publisher.publish(image(encodings[camera], now + shifts[camera], seed))
    node.destroy_node()
    rclpy.shutdown()


if __name__ == "__main__":
    main()
