"""Defaults and names shared by commands and parameters; the module imports nothing heavy."""

DEFAULT_WEIGHTS = "street"
"""Shipped weights that the node and the command line use by default."""

ENGINE_PACKAGES = {
    "torch": ("torch",),
    "openvino": ("openvino",),
    "onnxruntime": ("onnxruntime", "onnx"),
}
"""Python packages that each engine needs, with the same name in Python and on PyPI."""

ENGINES = tuple(ENGINE_PACKAGES)
"""Names of the engines that can run the model."""

PRECISIONS = ("fp32", "bf16", "fp16", "int8")
"""Names of the arithmetic that an engine can run the model in."""

LOAD_POLICIES = ("full", "adaptive")
"""Policies of the node for pairs that come faster than it can process them."""

SINGLE_CAMERA_POLICIES = ("fuse", "stop")
"""Policies of the node for a camera that is silent or unusable."""

OUTPUT_IMAGES = ("fused", "mask", "overlay")
"""Images that the node publishes."""

TOLERANCE_SECONDS = 0.02
"""Largest difference between the stamps of a pair."""

MINIMUM_INTERVAL_SECONDS = 0.015
"""Shortest time assumed between two frames of one camera."""

QUEUE_SIZE = 10
"""Largest number of frames of each camera that wait for a partner."""

OVERLAY_OPACITY = 0.5
"""Share of the class colours in the overlay."""

DETECTION_MINIMUM_PIXELS = 100
"""Smallest area of an object in a mask, in pixels of the image."""

BLOCK_SECONDS = 5.0
"""Block length in the bootstrap of comparisons, longer than most scenes of a moving camera."""
