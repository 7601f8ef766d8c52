"""Engine on OpenVINO: the fusion graph on Intel and AMD CPUs and on Intel GPUs."""

from __future__ import annotations

import io
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import openvino
from openvino import CompiledModel, Core

from ivf_core.inference.onnx_store import OnnxStore
from ivf_core.inference.openvino_graph import keep_outputs, quantize
from ivf_core.inference.options import EngineOptions
from ivf_core.inference.protocol import EngineResult
from ivf_core.inference.recent import Recent
from ivf_core.models.interface import INPUT_NAMES, OUTPUT_NAMES, OutputChoice
from ivf_core.models.weights_files import Ranges, WeightsFile, calibrated_ranges
from ivf_core.system.processor import allows_bfloat16, instruction_limit

if TYPE_CHECKING:
    from ivf_core.models.checkpoints import FusionModel

__all__ = ["OpenVinoEngine"]

_HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16", "int8": "f32"}


@cache
def _core() -> Core:
    """Return OpenVINO's core, one for the process, which is never freed.

    The CPU plugin gives the thread that first uses it an alternate signal stack. If the
    core is freed from another thread, that stack stays registered after it is gone, and
    the next signal kills the process.
    """
    return Core()


class OpenVinoEngine:
    """Engine that runs the exported graph on OpenVINO, compiled for each image size.

    Args:
        weights: opened weights file, or networks in memory.
        options: device "auto" or "cpu", or "gpu" for an Intel GPU. Precision "fp32", "bf16",
            "fp16", or "int8" for calibrated weights; OpenVINO lowers the layers that it can.
            With int8 the other layers run in fp32: bf16 would cost more accuracy than the 8
            bits do, and not every processor has it. The cache stores exports and compiled
            models.

    Raises:
        ValueError: another device, one that OpenVINO does not find, a precision that the
            device does not have, int8 for weights that are not calibrated, or weights without a
            graph where PyTorch is missing.
    """

    name = "openvino"

    def __init__(self, weights: WeightsFile | FusionModel, options: EngineOptions) -> None:
        if options.device not in ("auto", "cpu", "gpu"):
            raise ValueError(f"device '{options.device}': OpenVINO has auto, cpu and gpu")
        self._core = _core()
        self._device_name = "GPU" if options.device == "gpu" else "CPU"
        available = self._core.available_devices
        if self._device_name not in {name.split(".")[0] for name in available}:
            raise ValueError(
                f"device '{options.device}': OpenVINO finds {', '.join(available)} here"
            )
        self.device = self._device_name.lower()
        self.precision = options.precision
        abilities = set(self._core.get_property(self._device_name, "OPTIMIZATION_CAPABILITIES"))
        if self._device_name == "CPU" and not allows_bfloat16():
            abilities.discard("BF16")  # OpenVINO lists it in spite of the limit
        self.native_precisions: tuple[str, ...] = tuple(
            p
            for p in ("int8", "bf16", "fp16")
            if p.upper() in abilities and (p != "int8" or weights.ranges)
        )
        if self.precision in ("bf16", "fp16") and self.precision.upper() not in abilities:
            # OpenVINO would compute in fp32 without a word, or fail when it compiles.
            usable = [p for p in ("fp32", "bf16", "fp16", "int8") if p.upper() in abilities]
            raise ValueError(
                f"precision '{self.precision}': OpenVINO has {', '.join(usable)} on this "
                f"{self.device}, and auto chooses among them"
            )
        self._ranges: Ranges = {}
        if self.precision == "int8":
            self._ranges = calibrated_ranges(weights)
        self._has_head = weights.class_set is not None
        self._cache = options.cache
        self._onnx = OnnxStore(weights, self._cache)
        self._onnx.fingerprint  # noqa: B018  raises if there is no graph
        self._config: dict[str, object] = {
            "INFERENCE_PRECISION_HINT": _HINTS[self.precision],
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
        }
        if self._device_name == "CPU":
            # Pinned threads would displace the middleware's threads that share the cores.
            self._config["ENABLE_CPU_PINNING"] = False
            if options.threads:
                self._config["INFERENCE_NUM_THREADS"] = options.threads
        self._requests: Recent[tuple[object, ...], openvino.InferRequest] = Recent()

    def forget_sizes(self) -> None:
        """Free what was compiled for sizes of images; see `Engine`."""
        self._requests.clear()

    def __call__(
        self,
        visible: np.ndarray,
        infrared: np.ndarray,
        *,
        fused: bool = True,
        labels: bool = True,
        confidence: bool = False,
    ) -> EngineResult:
        """Fuse and segment one pair; see `Engine`."""
        choice = OutputChoice(fused, labels, confidence)
        if not self._has_head:
            choice = choice.without_head()
        if not any(choice):
            return EngineResult(None, None, None)
        request = self._request(infrared.shape, choice)
        inputs = (visible, infrared)
        request.infer(
            {
                name: np.ascontiguousarray(image)[None]
                for name, image in zip(INPUT_NAMES, inputs, strict=True)
            },
            share_inputs=True,
        )
        # The next pair overwrites the memory of the request.
        return EngineResult(
            *(
                request.get_tensor(name).data[0].copy() if wanted else None
                for name, wanted in zip(OUTPUT_NAMES, choice, strict=True)
            )
        )

    def _request(self, size: tuple[int, ...], choice: OutputChoice) -> openvino.InferRequest:
        return self._requests.get_or_make(
            (*size, *choice), lambda: self._load_or_compile(size, choice).create_infer_request()
        )

    def _load_or_compile(self, size: tuple[int, ...], choice: OutputChoice) -> CompiledModel:
        key = {
            "kind": "openvino",
            "version": openvino.get_version(),
            "processor": self._core.get_property(self._device_name, "FULL_DEVICE_NAME"),
            "instructions": instruction_limit(),
            "graph": self._onnx.fingerprint,
            "precision": self.precision,
            "outputs": choice.names(),
            "size": list(size),
            "config": {name: str(value) for name, value in self._config.items()},
        }
        compiled: CompiledModel | None = None

        def build() -> bytes:
            nonlocal compiled
            compiled = self._compile(size, choice)
            exported = compiled.export_model()
            return exported.getvalue() if isinstance(exported, io.BytesIO) else bytes(exported)

        blob = self._cache.get(key, build)
        if compiled is None:
            try:
                compiled = self._core.import_model(blob, self._device_name, self._config)
                _check_inputs(compiled, size)
            except RuntimeError:  # another build of the library wrote the file, or something else
                compiled = None
                self._cache.discard(key)
                self._cache.get(key, build)
        assert compiled is not None
        return compiled

    def _compile(self, size: tuple[int, ...], choice: OutputChoice) -> CompiledModel:
        model = keep_outputs(self._core.read_model(self._onnx.graph), choice.names())
        quantize(model, self._ranges)
        model.reshape({"visible": [1, *size, 3], "infrared": [1, *size]})
        return self._core.compile_model(model, self._device_name, self._config)


def _check_inputs(compiled: CompiledModel, size: tuple[int, ...]) -> None:
    """Raise RuntimeError unless a model takes images of a size by our names."""
    for name, shape in zip(INPUT_NAMES, ([1, *size, 3], [1, *size]), strict=True):
        if list(compiled.input(name).shape) != shape:
            raise RuntimeError(f"input {name} is {list(compiled.input(name).shape)}, not {shape}")
