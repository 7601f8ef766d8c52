"""Tables of the fusion node's parameters, topics and services, and their declaration.

The node declares its parameters from these tables, the launch files derive their
arguments from them, and config/fusion.yaml and docs/interfaces.md are generated from them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
)
from rclpy.node import Node
from rclpy.parameter import Parameter as RosParameter

from ivf_core.defaults import (
    DEFAULT_WEIGHTS,
    DETECTION_MINIMUM_PIXELS,
    ENGINES,
    LOAD_POLICIES,
    MINIMUM_INTERVAL_SECONDS,
    OVERLAY_OPACITY,
    PRECISIONS,
    QUEUE_SIZE,
    SINGLE_CAMERA_POLICIES,
    TOLERANCE_SECONDS,
)
from ivf_core.images.overlay import OVERLAY_PALETTES
from ivf_core.images.thermal import THERMAL_MODES
from ivf_core.models.weights_files import WeightsError, find_weights
from ivf_core.system.user_paths import user_path
from ivf_ros.compat import reject_impossible_parameters
from ivf_ros.given_parameters import accept_whole_numbers, unused_files, unused_names

__all__ = [
    "PARAMETERS",
    "PUBLISHED",
    "SERVICES",
    "SUBSCRIBED",
    "FusionParameters",
    "Parameter",
    "Topic",
    "declare",
    "doubles",
    "reason_to_reject",
]

Value = Any  # bool, int, float, str or list[str]: the types of rclpy

_NS_PER_SECOND = 1_000_000_000


@dataclass(frozen=True)
class Parameter:
    """Declaration of one parameter of a node.

    Attributes:
        name: name in snake_case, with the unit as suffix.
        default: default value; its type is the type of the parameter.
        description: text for `ros2 param describe` and the docs.
        minimum: smallest allowed number.
        maximum: largest allowed number.
        choices: allowed strings; empty allows any.
        changeable: whether the value may change while the node runs.
    """

    name: str
    default: Value
    description: str
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    changeable: bool = False


@dataclass(frozen=True)
class Topic:
    """Description of a topic or service.

    Attributes:
        name: name relative to the namespace, or to the node (`~`).
        type: ROS interface type.
        description: text for the docs.
    """

    name: str
    type: str
    description: str


PARAMETERS = (
    # The model
    Parameter("weights", DEFAULT_WEIGHTS, "Name of shipped weights, or path of a weights file. A change takes effect on configure and when ~/reload_weights is called.", changeable=True),
    Parameter("engine", "auto", "Inference engine that runs the model; auto measures those that are installed, once for each size of images, and selects the fastest.", choices=("auto", *ENGINES)),
    Parameter("device", "auto", "Device that runs the model: auto, cpu, cuda or cuda:N; with openvino also gpu, with onnxruntime also tensorrt. auto selects a CUDA GPU if one works, otherwise the CPU."),
    Parameter("precision", "auto", "Arithmetic precision of the model; auto measures those of the device and selects the fastest that keeps 99.9 % of a synthetic scene within 1 grey level of fp32 and 99 % of its class ids.", choices=("auto", *PRECISIONS)),
    Parameter("threads", 0, "Number of processor threads of the model; 0 leaves the choice to the engine.", 0, 256),
    # The node
    Parameter("autostart", True, "Configure and activate the node at start, without a lifecycle manager."),
    Parameter("mode", "live", "live follows the cameras, and drops and counts the oldest pairs where it cannot (max_waiting_pairs); replay processes every pair.", choices=("live", "replay")),
    Parameter("max_waiting_pairs", 3, "In live mode, the number of pairs that may wait for their turn while pairs are fused faster than they come: a computer that stands still for a moment then loses none. One more drops the oldest. While the computer does not keep up, only the newest pair waits, so that results are not late.", 1, 60, changeable=True),
    Parameter("rgb_transport", "raw", "raw subscribes to rgb/image_raw; compressed subscribes to rgb/image_raw/compressed.", choices=("raw", "compressed")),
    Parameter("thermal_transport", "raw", "raw subscribes to thermal/image_raw; compressed subscribes to thermal/image_raw/compressed.", choices=("raw", "compressed")),
    # Pairing
    Parameter("tolerance_seconds", TOLERANCE_SECONDS, "Largest difference between the stamps of a pair; 0 pairs equal stamps only.", 0.0, 10.0, changeable=True),
    Parameter("offset_seconds", 0.0, "Time added to thermal stamps before they are compared with RGB stamps: the fixed delay between the two shutters; 0 takes that of the rig file.", -10.0, 10.0, changeable=True),
    Parameter("minimum_interval_seconds", MINIMUM_INTERVAL_SECONDS, "Shortest time between two frames of one camera. A partner whose stamp differs by at most half of it is accepted at once; 0 always waits until no nearer partner can arrive.", 0.0, 10.0, changeable=True),
    Parameter("queue_size", QUEUE_SIZE, "Number of frames of each camera that may wait for a partner.", 1, 1000),
    Parameter("single_camera", "fuse", "What to do while one camera is silent (no image for 0.5 s and 3 of its periods), black, saturated, unreadable or frozen for more than 2 s: fuse processes each image of the other one with an image of zeros as its partner, stop processes pairs only. Not applied in replay mode.", choices=SINGLE_CAMERA_POLICIES, changeable=True),
    Parameter("maximum_megapixels", 16.0, "Largest image that is decoded, in millions of pixels; the sizes of compressed images are read from their headers first. Larger ones are dropped and counted as too_large.", 0.01, 1000.0, changeable=True),
    # The thermal image
    Parameter("thermal_mode", "auto", "auto passes 8-bit frames unchanged and applies percentile gain control to all others; percentile always applies it; full_range maps the full range of the data type to 8 bits.", choices=THERMAL_MODES, changeable=True),
    Parameter("low_percentile", 0.5, "Percentile of the thermal counts that is mapped to black.", 0.0, 100.0, changeable=True),
    Parameter("high_percentile", 99.5, "Percentile of the thermal counts that is mapped to white; must be above low_percentile.", 0.0, 100.0, changeable=True),
    Parameter("gain_smoothing_seconds", 0.5, "Time constant with which the gain control follows the scene; 0 turns smoothing off.", 0.0, 60.0, changeable=True),
    Parameter("registration", "file", "Registration of thermal images onto RGB images: off stretches them to the size of the RGB image; file takes registration_file, and is off without one; camera_info takes the lenses from both camera_info topics, and the extrinsics from /tf_static or else from registration_file; auto starts with registration_file, estimates the registration from the first seconds without one, and keeps watching it. See docs/calibration.md.", choices=("off", "file", "camera_info", "auto")),
    Parameter("registration_file", "", "Rig file (both cameras, or the homography from thermal to RGB pixels), see docs/calibration.md; if empty, there is none."),
    Parameter("registration_update", "report", "With registration:=auto, what to do with later estimates: off makes none, report tells a drift in diagnostics, apply uses the corrected registration.", choices=("off", "report", "apply"), changeable=True),
    Parameter("registration_drift_pixels", 4.0, "Mean distance in RGB pixels from which an estimate is a drift of the registration.", 0.1, 1000.0, changeable=True),
    Parameter("registration_save_file", "~/.ros/ivf_rig.yaml", "File that ~/save_registration writes.", changeable=True),
    # Load
    Parameter("load_policy", "full", "full processes each pair as mask_interval and fusion_scale say; adaptive starts from there and computes less while the processor cannot keep up: fewer masks, then smaller images, then every n-th pair. Not applied in replay mode.", choices=LOAD_POLICIES, changeable=True),
    Parameter("mask_interval", 1, "Masks, and what is made of them, are computed on one pair in so many, and published for these only; 1 is each pair.", 1, 1000, changeable=True),
    Parameter("fusion_scale", 1.0, "Factor of height and width of the images that the model receives; results are scaled back to the size of the RGB image.", 0.25, 1.0, changeable=True),
    # Outputs
    Parameter("mask_size", "image", "Size of the published masks: image is the size of the RGB image, model is the size of the head's output, half of that; also of the confidence.", choices=("image", "model"), changeable=True),
    Parameter("detection_minimum_pixels", DETECTION_MINIMUM_PIXELS, "Smallest area of an object in ~/detections and ~/detections_json, in pixels of the RGB image.", 0, 1000000, changeable=True),
    Parameter("palette", "natural", "Colours under the overlay: natural keeps those of the fused image, all others show its luma in false colours.", choices=OVERLAY_PALETTES, changeable=True),
    Parameter("overlay_opacity", OVERLAY_OPACITY, "Opacity of the class colours in the overlay.", 0.0, 1.0, changeable=True),
    Parameter("jpeg_quality", 95, "Quality of the JPEG images on ~/fused/image/compressed and ~/overlay/image/compressed; the default is that of compressed_image_transport.", 1, 100, changeable=True),
    Parameter("snapshot_directory", "~/.ros/ivf_snapshots", "Folder of the files that ~/save_snapshot writes.", changeable=True),
    # Monitoring
    Parameter("diagnostics_period_seconds", 1.0, "Time between two messages on /diagnostics.", 0.1, 60.0),
    Parameter("timeout_seconds", 2.0, "Time without an image after which a camera is reported as silent.", 0.1, 60.0, changeable=True),
)  # fmt: skip
"""Parameters of the fusion node."""

SUBSCRIBED = (
    Topic("rgb/image_raw", "sensor_msgs/msg/Image", "Colour images. With rgb_transport compressed: rgb/image_raw/compressed (sensor_msgs/msg/CompressedImage)."),
    Topic("thermal/image_raw", "sensor_msgs/msg/Image", "Thermal images, 8 or 16 bit or 32FC1. With thermal_transport compressed: thermal/image_raw/compressed."),
    Topic("rgb/camera_info", "sensor_msgs/msg/CameraInfo", "Calibration of the RGB camera, republished on ~/fused/camera_info."),
    Topic("thermal/camera_info", "sensor_msgs/msg/CameraInfo", "Calibration of the thermal camera, used for diagnostics (its arrival shows that the camera runs even if its images are lost) and by registration:=camera_info."),
    Topic("/tf_static", "tf2_msgs/msg/TFMessage", "Static transforms, with registration:=camera_info; only if tf2_msgs is installed."),
)  # fmt: skip
"""Topics that the fusion node subscribes to."""

PUBLISHED = (
    Topic("~/fused/image", "sensor_msgs/msg/Image", "Fused image, rgb8, with the size, stamp and frame of the RGB image; with stamp and frame of the thermal image while that is processed alone (single_camera). See load_policy for the pairs that an overloaded node skips."),
    Topic("~/fused/camera_info", "sensor_msgs/msg/CameraInfo", "Calibration of the fused image: that of the RGB camera, without distortion where the rig file says undistort_rgb."),
    Topic("~/mask/image", "sensor_msgs/msg/Image", "Class ids, mono8; 255 means unlabeled. Only for the pairs on which masks are computed: see mask_interval and load_policy."),
    Topic("~/mask/camera_info", "sensor_msgs/msg/CameraInfo", "Calibration of the mask, with each mask and confidence: that of the RGB camera, with half the size and the intrinsics of half the size if mask_size is model."),
    Topic("~/confidence/image", "sensor_msgs/msg/Image", "Confidence in the class ids, mono8, with the size of the mask and for the same pairs: the largest probability of a class times 255. Computed only while it or a topic of detections has a subscriber."),
    Topic("~/detections", "vision_msgs/msg/Detection2DArray", "Boxes around the persons, bicycles, cars and trucks in the mask, in pixels of the RGB image, for the same pairs as the mask; only if vision_msgs is installed. See [outputs](outputs.md)."),
    Topic("~/detections_json", "std_msgs/msg/String", "The same boxes as JSON."),
    Topic("~/overlay/image", "sensor_msgs/msg/Image", "Fused image with the class colours drawn over it, rgb8; for the same pairs as the mask."),
    Topic("~/fused/image/compressed", "sensor_msgs/msg/CompressedImage", "The fused image as JPEG, in the format of image_transport's compressed transport. As all topics with encoded results: computed only while it has a subscriber, by a thread of its own after the raw images are published; live, a newer image replaces one that waits for it. See [ROS](ros.md)."),
    Topic("~/overlay/image/compressed", "sensor_msgs/msg/CompressedImage", "The overlay as JPEG."),
    Topic("~/mask/image/compressed", "sensor_msgs/msg/CompressedImage", "The mask as PNG, without loss."),
    Topic("~/mask/autoware", "sensor_msgs/msg/Image", "The mask for Autoware's segmentation_pointcloud_fusion: its class ids, run-length encoded, so that the data are no pixels. See [interop](interop.md)."),
    Topic("~/label_info", "vision_msgs/msg/LabelInfo", "Class names by id, transient local; only if vision_msgs is installed."),
    Topic("~/labels", "std_msgs/msg/String", "Class set as JSON (name, names, colors), transient local."),
    Topic("~/camera_health", "std_msgs/msg/String", "Health of both cameras as JSON, on each change and once a second; see docs/camera_health.md."),
    Topic("~/latency_ms", "std_msgs/msg/Float64", "Time from the stamp of the RGB image to the last publish of its results, in ms; one message for each pair, NaN if the stamps are unrelated to the clock."),
    Topic("~/rgb_frames_done", "std_msgs/msg/UInt64", "In replay mode, transient local: number of RGB frames since activation that were published, dropped or found without a partner."),
    Topic("/diagnostics", "diagnostic_msgs/msg/DiagnosticArray", "State, counters, timings, load, processor time, memory, parameters, and problems of the inputs."),
)  # fmt: skip
"""Topics that the fusion node publishes."""

SERVICES = (
    Topic("~/reload_weights", "std_srvs/srv/Trigger", "Load the weights that the parameter `weights` names. Until they are loaded, and if that fails, pairs are fused with the old ones."),
    Topic("~/save_snapshot", "std_srvs/srv/Trigger", "Write the next pair and its results as PNG files to snapshot_directory."),
    Topic("~/save_registration", "std_srvs/srv/Trigger", "Write the suggested rig, or else the rig in use, to registration_save_file."),
)  # fmt: skip
"""Services of the fusion node."""


def declare(node: Node, table: Iterable[Parameter]) -> dict[str, Any]:
    """Declare the parameters of a table on a node, and warn about given ones that do not exist.

    Args:
        node: owner of the parameters.
        table: declarations.

    Returns:
        The values by name, including those that the user has set.

    Raises:
        rclpy.exceptions.ParameterException: a value has the wrong type or is out of range.
        ValueError: a value is not among the choices; names the parameter.
    """
    table = tuple(table)
    reject_impossible_parameters(node, node.get_logger().warning)
    accept_whole_numbers(node, doubles(table))
    values = {}
    for parameter in table:
        value = node.declare_parameter(
            parameter.name, parameter.default, _descriptor(parameter)
        ).value
        reason = _reason_to_reject(parameter, value)
        if reason is not None:
            raise ValueError(f"parameter {reason}")
        values[parameter.name] = value
    name = node.get_fully_qualified_name()
    for sentence in (*unused_names(node), *unused_files(sys.argv, name)):
        node.get_logger().warning(sentence)
    return values


def doubles(table: Iterable[Parameter]) -> frozenset[str]:
    """Return the names of the parameters of type double."""
    return frozenset(p.name for p in table if isinstance(p.default, float))


def _descriptor(parameter: Parameter) -> ParameterDescriptor:
    """Return the descriptor of a parameter, with its range and choices."""
    descriptor = ParameterDescriptor(
        description=parameter.description,
        read_only=not parameter.changeable,
        additional_constraints=(
            f"one of: {', '.join(parameter.choices)}" if parameter.choices else ""
        ),
    )
    low, high = parameter.minimum, parameter.maximum
    if low is not None and high is not None:
        if isinstance(parameter.default, float):
            descriptor.floating_point_range = [
                FloatingPointRange(from_value=float(low), to_value=float(high))
            ]
        else:
            descriptor.integer_range = [IntegerRange(from_value=int(low), to_value=int(high))]
    return descriptor


def _reason_to_reject(parameter: Parameter, value: Any) -> str | None:
    """Return the reason why a value is not allowed, or None if it is."""
    if parameter.choices and value not in parameter.choices:
        return f"{parameter.name} is '{value}', expected one of {', '.join(parameter.choices)}"
    low, high = parameter.minimum, parameter.maximum
    if low is not None and high is not None and not low <= value <= high:
        return f"{parameter.name} is {value}, expected {low} to {high}"
    return None


_PATHS = ("snapshot_directory", "registration_file", "registration_save_file")
_BY_NAME = {parameter.name: parameter for parameter in PARAMETERS}


def reason_to_reject(values: Mapping[str, Value], changed: Iterable[str]) -> str | None:
    """Return the reason why values of the fusion node's parameters are not allowed, or None.

    Types and ranges of numbers are also in the descriptors, where rclpy checks them.

    Args:
        values: all parameters by name, with the requested changes.
        changed: names of the parameters that change; only these are checked one by one.
    """
    for name in changed:
        parameter = _BY_NAME.get(name)
        if parameter is None:
            continue
        if (reason := _reason_to_reject(parameter, values[name])) is not None:
            return reason
    for name in _PATHS:
        if name in changed:
            try:
                user_path(values[name])
            except ValueError as error:
                return f"{name}: {error}"
    if "weights" in changed:
        try:
            find_weights(values["weights"])
        except WeightsError as error:
            return str(error)
    if not values["low_percentile"] < values["high_percentile"]:
        return (
            f"low_percentile ({values['low_percentile']}) must be below "
            f"high_percentile ({values['high_percentile']})"
        )
    return None


class FusionParameters:
    """Parameters of the fusion node: declared, checked on every change, and read by name.

    The executor's thread changes them. Any thread may read `values`: a change replaces
    the mapping and never modifies it, so that a reader keeps a consistent set.

    Args:
        node: owner of the parameters.
        on_change: called after each accepted change.

    Attributes:
        values: values in force, by name.

    Raises:
        rclpy.exceptions.ParameterException: a value has the wrong type or is out of range.
        ValueError: a value is not among the choices, or excludes another; names it.
    """

    def __init__(self, node: Node, on_change: Callable[[], None]) -> None:
        self._node = node
        self._on_change = on_change
        self._setting_class_names = False
        self._class_names: list[str] = []
        self.values: Mapping[str, Value] = declare(node, PARAMETERS)
        node.declare_parameter(
            "class_names",
            RosParameter.Type.STRING_ARRAY,
            ParameterDescriptor(
                description="Class names by id, from the weights in use; read only."
            ),
        )
        reason = reason_to_reject(self.values, ())
        if reason is not None:
            raise ValueError(reason)
        node.add_on_set_parameters_callback(self._on_set)

    def __getitem__(self, name: str) -> Value:
        return self.values[name]

    def nanoseconds(self, name: str) -> int:
        """Return a parameter in seconds as nanoseconds.

        Args:
            name: name of the parameter.
        """
        return round(self.values[name] * _NS_PER_SECOND)

    def set_class_names(self, names: Iterable[str]) -> None:
        """Set the parameter `class_names`, which users cannot set.

        Args:
            names: class names by id.
        """
        self._setting_class_names = True
        self._class_names = list(names)
        try:
            self._node.set_parameters(
                [RosParameter("class_names", RosParameter.Type.STRING_ARRAY, self._class_names)]
            )
        finally:
            self._setting_class_names = False

    def _on_set(self, parameters: list[RosParameter]) -> SetParametersResult:
        """Check a change that a user requests, and apply it if it is allowed."""
        if not self._setting_class_names and any(
            p.name == "class_names" and list(p.value or ()) != self._class_names for p in parameters
        ):
            return SetParametersResult(
                successful=False, reason="class_names is read only: the weights determine it"
            )
        changes = {p.name: p.value for p in parameters if p.name in self.values}
        if not changes:
            return SetParametersResult(successful=True)
        values = {**self.values, **changes}
        reason = reason_to_reject(values, changes)
        if reason is not None:
            return SetParametersResult(successful=False, reason=reason)
        self.values = values
        self._on_change()
        return SetParametersResult(successful=True)
