"""The fusion node's parameters, topics and services: the one place where they are written down.

The node declares its parameters from this table, the launch file makes its
arguments of it, config/fusion.yaml and docs/interfaces.md are generated from it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.node import Node

from ivf_core.defaults import (
    DEFAULT_WEIGHTS,
    ENGINES,
    MINIMUM_INTERVAL_SECONDS,
    OVERLAY_OPACITY,
    PRECISIONS,
    QUEUE_SIZE,
    TOLERANCE_SECONDS,
)
from ivf_core.images.overlay import OVERLAY_PALETTES
from ivf_core.images.thermal import THERMAL_MODES
from ivf_core.models.checkpoints import WeightsError, find_weights

__all__ = [
    "PARAMETERS",
    "PUBLISHED",
    "SERVICES",
    "SUBSCRIBED",
    "Parameter",
    "Topic",
    "declare",
    "refusal",
]

Value = Any  # bool, int, float, str or list[str]: what rclpy takes


@dataclass(frozen=True)
class Parameter:
    """One parameter of the node.

    Attributes:
        name: snake_case, with the unit as suffix.
        default: its type is the parameter's type.
        description: one sentence for `ros2 param describe` and the docs.
        minimum, maximum: allowed range of numbers, both ends included.
        choices: allowed strings; empty allows any.
        changeable: whether it may change while the node runs.
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
    """A topic or service: name, type, and what it carries."""

    name: str
    type: str
    description: str


PARAMETERS = (
    # The model
    Parameter("weights", DEFAULT_WEIGHTS, "Shipped weights by name, or a weights file; applied on configure and by ~/reload_weights.", changeable=True),
    Parameter("engine", "auto", "What runs the model; auto takes the fastest that is installed.", choices=("auto", *ENGINES)),
    Parameter("device", "auto", "Where the model runs: auto, cpu, cuda or cuda:N, with openvino also gpu, with onnxruntime also tensorrt; auto takes a CUDA GPU that works."),
    Parameter("precision", "auto", "Arithmetic of the model; auto takes the fastest that keeps 99.9 % of a test picture within 2 grey levels of fp32.", choices=("auto", *PRECISIONS)),
    Parameter("threads", 0, "Processor threads of the model; 0 leaves the choice to the engine.", 0, 256),
    # The node
    Parameter("autostart", True, "Configure and activate at once, without a lifecycle manager."),
    Parameter("mode", "live", "live works on the newest pair and counts those it replaces; replay works on every pair.", choices=("live", "replay")),
    Parameter("rgb_transport", "raw", "raw subscribes rgb/image_raw; compressed subscribes rgb/image_raw/compressed.", choices=("raw", "compressed")),
    Parameter("thermal_transport", "raw", "raw subscribes thermal/image_raw; compressed subscribes thermal/image_raw/compressed.", choices=("raw", "compressed")),
    # Pairing
    Parameter("tolerance_seconds", TOLERANCE_SECONDS, "Largest difference between the stamps of a pair; 0 takes equal stamps only.", 0.0, 10.0, changeable=True),
    Parameter("offset_seconds", 0.0, "Added to thermal stamps before they are compared: the fixed delay between the two shutters.", -10.0, 10.0, changeable=True),
    Parameter("minimum_interval_seconds", MINIMUM_INTERVAL_SECONDS, "Frames of one camera come no closer than this: a partner within half of it is taken at once; 0 always waits until no nearer one can come.", 0.0, 10.0, changeable=True),
    Parameter("queue_size", QUEUE_SIZE, "Frames of each camera that wait for a partner.", 1, 1000),
    # The thermal image
    Parameter("thermal_mode", "auto", "auto leaves 8-bit frames as they are and applies percentile gain control to others; percentile always applies it; full_range maps the type's range.", choices=THERMAL_MODES, changeable=True),
    Parameter("low_percentile", 0.5, "Percentile of the thermal counts that becomes black.", 0.0, 100.0, changeable=True),
    Parameter("high_percentile", 99.5, "Percentile of the thermal counts that becomes white; above low_percentile.", 0.0, 100.0, changeable=True),
    Parameter("gain_smoothing_seconds", 0.5, "Time constant with which the gain control follows the scene.", 0.0, 60.0, changeable=True),
    Parameter("registration_file", "", "YAML file with the homography from thermal to RGB pixels; empty resizes the thermal image to the RGB image."),
    # Outputs
    Parameter("mask_size", "image", "image publishes masks at the RGB image's size; model at the head's own, half of it.", choices=("image", "model"), changeable=True),
    Parameter("palette", "natural", "Colours under the overlay: natural keeps the fused picture's, others show its luma in false colour.", choices=OVERLAY_PALETTES, changeable=True),
    Parameter("overlay_opacity", OVERLAY_OPACITY, "Opacity of the class colours in the overlay.", 0.0, 1.0, changeable=True),
    Parameter("snapshot_directory", "~/.ros/ivf_snapshots", "Where ~/save_snapshot writes.", changeable=True),
    # Watching
    Parameter("diagnostics_period_seconds", 1.0, "Time between two messages on /diagnostics.", 0.1, 60.0),
    Parameter("timeout_seconds", 2.0, "A camera silent for this long is reported.", 0.1, 60.0, changeable=True),
)  # fmt: skip

SUBSCRIBED = (
    Topic("rgb/image_raw", "sensor_msgs/msg/Image", "Colour images; rgb/image_raw/compressed (sensor_msgs/msg/CompressedImage) with rgb_transport compressed."),
    Topic("thermal/image_raw", "sensor_msgs/msg/Image", "Thermal images, 8 or 16 bit or 32FC1; thermal/image_raw/compressed with thermal_transport compressed."),
    Topic("rgb/camera_info", "sensor_msgs/msg/CameraInfo", "Calibration of the colour camera, passed on to ~/fused/camera_info."),
    Topic("thermal/camera_info", "sensor_msgs/msg/CameraInfo", "Watched only: it shows diagnostics that the camera lives when its images are lost on the way."),
)  # fmt: skip

PUBLISHED = (
    Topic("~/fused/image", "sensor_msgs/msg/Image", "Fused picture, rgb8, size, stamp and frame of the RGB image."),
    Topic("~/fused/camera_info", "sensor_msgs/msg/CameraInfo", "Calibration that belongs to the fused picture: the RGB camera's."),
    Topic("~/mask/image", "sensor_msgs/msg/Image", "Class ids, mono8, 255 = unlabeled."),
    Topic("~/overlay/image", "sensor_msgs/msg/Image", "Fused picture tinted with the class colours, rgb8."),
    Topic("~/label_info", "vision_msgs/msg/LabelInfo", "Class names by id, transient local; where vision_msgs is installed."),
    Topic("~/labels", "std_msgs/msg/String", "Class set as JSON (name, names, colors), transient local."),
    Topic("~/latency_ms", "std_msgs/msg/Float64", "Stamp of the RGB image to the last publish of its results, in ms; one message a pair, NaN where stamps and clock have nothing to do with each other."),
    Topic("~/rgb_frames_done", "std_msgs/msg/UInt64", "In replay mode, transient local: RGB frames since activation whose fate is decided, whether published, dropped or without a partner."),
    Topic("/diagnostics", "diagnostic_msgs/msg/DiagnosticArray", "State, counters, timings, processor time, memory, parameters, and what is wrong with the inputs."),
)  # fmt: skip

SERVICES = (
    Topic("~/reload_weights", "std_srvs/srv/Trigger", "Load the weights that the parameter `weights` names; pairs are fused with the old ones meanwhile, and after a failure."),
    Topic("~/save_snapshot", "std_srvs/srv/Trigger", "Write the next pair and its results as PNG files to snapshot_directory."),
)  # fmt: skip


def declare(node: Node, table: Iterable[Parameter]) -> dict[str, Any]:
    """Declare a table's parameters on `node`.

    Returns:
        The values by name, with what the user has set.

    Raises:
        rclpy.exceptions.ParameterException: a value of the wrong type or out of range.
        ValueError: a value that is not among the choices; names the parameter.
    """
    values = {}
    for parameter in table:
        value = node.declare_parameter(
            parameter.name, parameter.default, _descriptor(parameter)
        ).value
        reason = _refusal(parameter, value)
        if reason is not None:
            raise ValueError(f"parameter {reason}")
        values[parameter.name] = value
    return values


def _descriptor(parameter: Parameter) -> ParameterDescriptor:
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


def _refusal(parameter: Parameter, value: Any) -> str | None:
    if parameter.choices and value not in parameter.choices:
        return f"{parameter.name} is '{value}', expected one of {', '.join(parameter.choices)}"
    low, high = parameter.minimum, parameter.maximum
    if low is not None and high is not None and not low <= value <= high:
        return f"{parameter.name} is {value}, expected {low} to {high}"
    return None


_BY_NAME = {parameter.name: parameter for parameter in PARAMETERS}


def refusal(values: Mapping[str, Value], changed: Iterable[str]) -> str | None:
    """Why a set of values cannot be: None where it can.

    Types and ranges of numbers are also in the descriptors, where rclpy checks them.

    Args:
        values: all parameters by name, with the wished changes.
        changed: the names that change; only these are checked one by one.
    """
    for name in changed:
        parameter = _BY_NAME.get(name)
        if parameter is None:
            continue
        if (reason := _refusal(parameter, values[name])) is not None:
            return reason
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
