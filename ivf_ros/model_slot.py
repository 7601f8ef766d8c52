"""The fusion node's pipeline: loaded, replaced while the node runs, and freed."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from rclpy.task import Future

from ivf_core.images.registration import Registration
from ivf_core.images.thermal import ThermalNormalizer
from ivf_core.inference import FusionPipeline
from ivf_core.inference.engine import describe, describe_measurements
from ivf_core.inference.pipeline import scaled_size
from ivf_core.rigs.remap import AnyRegistration
from ivf_core.system.memory import return_freed_memory
from ivf_ros.overload import EngineUse
from ivf_ros.parameters import FusionParameters

__all__ = ["ModelSlot"]


class ModelSlot:
    """Holder of the pipeline in use, or of none.

    Only the executor's thread calls the methods and sets `pipeline`; `reload` loads in a
    thread of its own, which touches the parameters and the new pipeline only. The
    worker's thread reads `pipeline` and calls `pipeline_for` once for each pair. A thread
    of the load policy calls `make_twin`.

    Args:
        parameters: parameters of the node.
        normalizer: gain control of the stream; every pipeline loaded here uses it.
        logger: logger of the node.

    Attributes:
        pipeline: the pipeline in use; None before `load` and after `free`.
    """

    def __init__(
        self, parameters: FusionParameters, normalizer: ThermalNormalizer, logger: Any
    ) -> None:
        self._parameters = parameters
        self._normalizer = normalizer
        self._logger = logger
        self.pipeline: FusionPipeline | None = None
        self._registration: AnyRegistration = Registration()
        self._twins: dict[EngineUse, FusionPipeline] = {}
        self._is_loading = False
        self._loading: threading.Thread | None = None

    def load(self) -> None:
        """Load the weights that the parameters name, and warm the model up.

        Raises:
            ValueError, OSError, RuntimeError: weights, engine or device cannot be used;
                names it.
        """
        self.pipeline = self._build()

    async def reload(self, on_loaded: Callable[[], None]) -> tuple[bool, str]:
        """Load the weights again in another thread; pairs meanwhile use the old ones.

        Args:
            on_loaded: called after the new pipeline has replaced the old one.

        Returns:
            Success, and a message for the caller of the service.
        """
        if self.pipeline is None:
            return False, "not configured: configure or activate the node first"
        if self._is_loading:
            return False, "an earlier request is loading the weights; ask again when it is answered"
        self._is_loading = True
        loaded: Future = Future()

        def build() -> None:
            try:
                loaded.set_result(self._build())
            except Exception as error:
                loaded.set_result(error)

        self._loading = threading.Thread(target=build, name="load weights", daemon=True)
        self._loading.start()
        result = await loaded
        self._is_loading = False
        if isinstance(result, Exception):
            return False, f"{result}; the old weights stay in use"
        if self.pipeline is None:
            return False, "the node was deactivated in the meantime"
        result.registration = self._registration
        self._twins = {}
        self.pipeline = result
        on_loaded()
        return True, f"loaded '{result.weights}'"

    def set_registration(self, registration: AnyRegistration) -> None:
        """Register the next pairs, and those of later models, in another way.

        Args:
            registration: maps thermal images onto RGB images.
        """
        self._registration = registration
        for pipeline in (self.pipeline, *self._twins.values()):
            if pipeline is not None:
                pipeline.registration = registration

    def pipeline_for(self, use: EngineUse) -> FusionPipeline | None:
        """Return the pipeline for a call of the engine: a twin made for it, or the loaded one.

        Args:
            use: the call.
        """
        return self._twins.get(use, self.pipeline)

    def make_twin(self, use: EngineUse, size: tuple[int, int]) -> FusionPipeline:
        """Return a pipeline whose engine is ready for a call, while pairs use the others.

        Args:
            use: the call.
            size: height and width of the RGB image.

        Raises:
            ValueError, RuntimeError: the engine cannot be built, or the model was freed.
        """
        pipeline = self.pipeline
        if pipeline is None:
            raise RuntimeError("the model was freed")
        twin = pipeline.twin()
        size = scaled_size(size, use.scale)
        visible, infrared = np.zeros((*size, 3), np.uint8), np.zeros(size, np.uint8)
        twin.engine(
            visible, infrared, fused=use.fused, labels=use.labels, confidence=use.confidence
        )
        return twin

    def install(self, twins: Mapping[EngineUse, FusionPipeline]) -> None:
        """Use pipelines that `make_twin` has made from the loaded pipeline.

        Args:
            twins: pipelines by the call that they are for.
        """
        for pipeline in twins.values():
            pipeline.registration = self._registration
        self._twins = {**self._twins, **twins}

    def free(self) -> None:
        """Free the pipelines and the memory of their device."""
        self._twins = {}
        self.pipeline = None
        if self._loading is not None:
            self._loading.join()  # a process that ends before this thread aborts
            self._loading = None
        torch = sys.modules.get("torch")  # only if the engine has loaded it
        if torch is not None and torch.cuda.is_available():
            torch.cuda.empty_cache()
        return_freed_memory()

    def report(self) -> dict[str, str]:
        """Return weights and engine in use, by the keys of diagnostics."""
        if self.pipeline is None:
            return {}
        engine = self.pipeline.engine
        values = {"weights": self.pipeline.weights, "engine": describe(engine)}
        if measured := describe_measurements(engine):
            values["engine.measured"] = measured
        return values

    def _build(self) -> FusionPipeline:
        """Return a warm pipeline of the weights and settings in force."""
        values = self._parameters.values
        pipeline = FusionPipeline(
            values["weights"],
            **{name: values[name] for name in ("engine", "device", "precision", "threads")},
            normalizer=self._normalizer,
            registration=self._registration,
        )
        pipeline.warm_up(scaled_size((480, 640), values["fusion_scale"]))
        classes = f"{len(pipeline.class_set)} classes" if pipeline.class_set else "no masks"
        engine = describe(pipeline.engine)
        self._logger.info(f"weights '{pipeline.weights}' ({classes}), {engine}")
        if measured := describe_measurements(pipeline.engine):
            self._logger.info(f"measured on this machine: {measured}")
        return pipeline
