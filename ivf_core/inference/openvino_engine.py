"""The fusion graph on OpenVINO: Intel and AMD CPUs, Intel GPUs."""

from __future__ import annotations

import io
from functools import cache

import numpy as np
import openvino
from openvino import CompiledModel, Core

from ivf_core.inference.artifacts import ArtifactCache
from ivf_core.inference.export import INPUT_NAMES, OUTPUT_NAMES
from ivf_core.inference.onnx_store import OnnxStore
from ivf_core.inference.recent import Recent
from ivf_core.models.checkpoints import FusionModel

__all__ = ["OpenVinoEngine"]

_HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}


@cache
def _core() -> Core:
    """One for the process, never freed.

    The CPU plugin gives the thread that first uses it an alternate signal stack. Freed
    from another thread, it leaves that stack registered: the next signal is the end.
    """
    return Core()


class OpenVinoEngine:
    """Runs the exported graph on OpenVINO, compiled for each size as it comes.

    Args:
        model: the networks.
        device: "auto" or "cpu"; "gpu" is an Intel GPU.
        precision: "fp32", "bf16", "fp16", or "int8" for calibrated weights; OpenVINO lowers
            what it can. What int8 leaves runs in bf16 where the device has it.
        threads: of a CPU; 0 leaves it to OpenVINO.
        cache: where compiled models are kept.

    Raises:
        ValueError: another device, one that OpenVINO does not find, or int8 for weights that
            are not calibrated.
    """

    name = "openvino"

    def __init__(
        self,
        model: FusionModel,
        device: str = "auto",
        precision: str = "fp32",
        threads: int = 0,
        cache: ArtifactCache | None = None,
    ) -> None:
        if device not in ("auto", "cpu", "gpu"):
            raise ValueError(f"device '{device}': OpenVINO has auto, cpu and gpu")
        self._core = _core()
        self._device_name = "GPU" if device == "gpu" else "CPU"
        if self._device_name not in {name.split(".")[0] for name in self._core.available_devices}:
            raise ValueError(
                f"device '{device}': OpenVINO finds {', '.join(self._core.available_devices)} here"
            )
        self.device = self._device_name.lower()
        self.precision = precision
        abilities = self._core.get_property(self._device_name, "OPTIMIZATION_CAPABILITIES")
        self.native_precisions: tuple[str, ...] = tuple(
            p
            for p in ("int8", "bf16", "fp16")
            if p.upper() in abilities and (p != "int8" or model.ranges)
        )
        hint = precision
        if precision == "int8":
            model.calibrated_ranges()  # says so here where there are none
            hint = "bf16" if "bf16" in self.native_precisions else "fp32"
        self._has_head = model.head is not None
        self._cache = cache if cache is not None else ArtifactCache()
        self._onnx = OnnxStore(model, self._cache)
        self._config: dict[str, object] = {
            "INFERENCE_PRECISION_HINT": _HINTS[hint],
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
        }
        if self._device_name == "CPU":
            # Pinned to cores, its threads would push aside the middleware's that share them.
            self._config["ENABLE_CPU_PINNING"] = False
            if threads:
                self._config["INFERENCE_NUM_THREADS"] = threads
        self._requests: Recent[tuple[object, ...], openvino.InferRequest] = Recent()

    def __call__(
        self, visible: np.ndarray, infrared: np.ndarray, *, fused: bool = True, labels: bool = True
    ) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Fuse and segment one pair; see `Engine`."""
        labels = labels and self._has_head
        if not (fused or labels):
            return None, None
        request = self._request(infrared.shape, fused, labels)
        inputs = (visible, infrared)
        request.infer(
            {
                name: np.ascontiguousarray(image)[None]
                for name, image in zip(INPUT_NAMES, inputs, strict=True)
            },
            share_inputs=True,
        )
        # The request's memory is written to again by the next pair.
        picture, ids = (
            request.get_tensor(name).data[0].copy() if wanted else None
            for name, wanted in zip(OUTPUT_NAMES, (fused, labels), strict=True)
        )
        return picture, ids

    def _request(self, size: tuple[int, ...], fused: bool, labels: bool) -> openvino.InferRequest:
        return self._requests.obtain(
            (*size, fused, labels),
            lambda: self._compile(size, fused, labels).create_infer_request(),
        )

    def _compile(self, size: tuple[int, ...], fused: bool, labels: bool) -> CompiledModel:
        key = {
            "kind": "openvino",
            "version": openvino.get_version(),
            "processor": self._core.get_property(self._device_name, "FULL_DEVICE_NAME"),
            "graph": self._onnx.fingerprint,
            "precision": self.precision,
            "outputs": [fused, labels],
            "size": list(size),
            "config": {name: str(value) for name, value in self._config.items()},
        }
        compiled: CompiledModel | None = None

        def build() -> bytes:
            nonlocal compiled
            compiled = self._compile_anew(size, fused, labels)
            exported = compiled.export_model()
            return exported.getvalue() if isinstance(exported, io.BytesIO) else bytes(exported)

        blob = self._cache.get(key, build)
        if compiled is None:
            try:
                compiled = self._core.import_model(blob, self._device_name, self._config)
            except RuntimeError:  # the library refuses what another build of it has written
                self._cache.discard(key)
                self._cache.get(key, build)
        assert compiled is not None
        return compiled

    def _compile_anew(self, size: tuple[int, ...], fused: bool, labels: bool) -> CompiledModel:
        model = self._core.read_model(self._onnx.get(fused, labels, int8=self.precision == "int8"))
        model.reshape({"visible": [1, *size, 3], "infrared": [1, *size]})
        return self._core.compile_model(model, self._device_name, self._config)
