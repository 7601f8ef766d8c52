"""Published networks to label with: segmenters and detectors that run on a CPU.

Each reads one H x W x 3 uint8 RGB image. Segmenters vote per pixel for classes of `STREET`;
detectors give boxes. None is loaded before its first use.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np

from ivf_core.class_sets import STREET, STREET_MAPPINGS, UNLABELED

__all__ = [
    "ADE20K_TARGETS",
    "NETWORKS",
    "Boxes",
    "Detector",
    "NetworkError",
    "Segmenter",
    "keep_best_boxes",
    "open_network",
]

_PERSON, _BICYCLE, _CAR, _TRUCK = (
    STREET.names.index(name) for name in ("person", "bicycle", "car", "truck")
)

ADE20K_TARGETS = {
    2: "building", 3: "sky", 5: "vegetation", 7: "road", 10: "terrain", 12: "sidewalk",
    13: "person", 14: "terrain", 18: "vegetation", 21: "car", 26: "building", 30: "terrain",
}  # fmt: skip
"""Classes of `STREET` by id of MLPerf's 31 classes of ADE20K, of which 0 is everything else.

They are ADE20K's first 31 in its order, from 1: wall, building, sky, floor, tree, ceiling, road,
bed, window, grass, cabinet, sidewalk, person, earth, and so on. Those of rooms are ignored.
"""

_COCO_TARGETS = {
    0: _PERSON, 1: _BICYCLE, 2: _CAR, 3: _BICYCLE, 5: _TRUCK, 6: _TRUCK, 7: _TRUCK
}  # fmt: skip


class NetworkError(ValueError):
    """Error for a network's file that is missing or unreadable, or a missing package."""


class Boxes(NamedTuple):
    """Boxes around objects of one image.

    Attributes:
        corners: N x 4 float32, left, top, right, bottom in pixels.
        scores: N float32 in [0, 1].
        classes: N uint8, ids of `STREET`.
    """

    corners: np.ndarray
    scores: np.ndarray
    classes: np.ndarray

    @classmethod
    def empty(cls) -> Boxes:
        """Return no boxes."""
        return cls(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.uint8))

    @classmethod
    def join(cls, parts: list[Boxes]) -> Boxes:
        """Return the boxes of all parts."""
        return cls(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))

    def select(self, chosen: np.ndarray) -> Boxes:
        """Return the boxes that an index or a mask chooses."""
        return Boxes(self.corners[chosen], self.scores[chosen], self.classes[chosen])


class Segmenter(Protocol):
    """Network that votes for classes per pixel."""

    def votes(self, image: np.ndarray) -> np.ndarray:
        """Return the share of votes per class and pixel.

        Args:
            image: H x W x 3 uint8 RGB.

        Returns:
            C x H x W uint8, 0..255 for 0..1, one plane for each class of `STREET`.
        """


class Detector(Protocol):
    """Network that finds objects."""

    def boxes(self, image: np.ndarray) -> Boxes:
        """Return the boxes of an image H x W x 3 uint8 RGB."""


@dataclass(frozen=True)
class DeepLab:
    """Segmenter in TensorFlow Lite's format that returns class ids.

    It votes four times: on the whole image, on its mirror image, and on a square at either end
    of its longer side, where objects are larger.

    Attributes:
        path: the file.
        table: 256 uint8, id of `STREET` by id of the network, 255 for ignored.
        threads: number of threads.
    """

    path: Path
    table: np.ndarray
    threads: int = 1

    @cached_property
    def _interpreter(self) -> Any:
        try:
            from ai_edge_litert.interpreter import Interpreter
        except ImportError as error:
            raise NetworkError(
                f"network '{self.path}' needs a package of the extra 'training' "
                f"(pip install ai-edge-litert): {error}"
            ) from error
        try:
            interpreter = Interpreter(str(self.path), num_threads=self.threads)
            interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise NetworkError(f"network '{self.path}': not a model of TensorFlow Lite") from error
        return interpreter

    def votes(self, image: np.ndarray) -> np.ndarray:
        """Return the share of votes per class and pixel, see `Segmenter`."""
        height, width = image.shape[:2]
        counts = np.zeros((len(STREET), height, width), np.float32)
        total = np.zeros((height, width), np.float32)
        for place, mirrored in _views(height, width):
            part = np.ascontiguousarray(image[place][:, :: -1 if mirrored else 1])
            ids = self.table[self._ids(part)][:, :: -1 if mirrored else 1]
            for index in np.unique(ids[ids != UNLABELED]):
                counts[index][place] += ids == index
            total[place] += 1
        return np.rint(counts * (255 / total)).astype(np.uint8)

    def _ids(self, part: np.ndarray) -> np.ndarray:
        """Return the network's ids for an image h x w x 3 uint8 RGB, h x w uint8."""
        interpreter = self._interpreter
        entry = interpreter.get_input_details()[0]
        rows, columns = entry["shape"][1:3]
        scaled = cv2.resize(part, (int(columns), int(rows)), interpolation=cv2.INTER_AREA)
        interpreter.set_tensor(entry["index"], scaled[None])
        interpreter.invoke()
        ids = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])[0]
        return cv2.resize(ids.astype(np.uint8), part.shape[1::-1], interpolation=cv2.INTER_NEAREST)


def _views(height: int, width: int) -> Iterator[tuple[tuple[slice, slice], bool]]:
    """Yield parts of an image, and whether to mirror them."""
    whole = np.s_[0:height, 0:width]
    yield whole, False
    yield whole, True
    side = min(height, width)
    for start in {0, max(height, width) - side} if height != width else ():
        yield (np.s_[:, start : start + side] if width > height
               else np.s_[start : start + side, :]), False  # fmt: skip


@dataclass(frozen=True)
class _OpenVinoNetwork:
    """Network that OpenVINO runs.

    Attributes:
        path: the file, ONNX or OpenVINO's own format.
        threads: number of threads.
    """

    path: Path
    threads: int = 1

    @cached_property
    def _model(self) -> Any:
        try:
            import openvino
        except ImportError as error:
            raise NetworkError(
                f"network '{self.path}' needs OpenVINO (pip install openvino): {error}"
            ) from error
        core = openvino.Core()
        try:
            return core.compile_model(
                str(self.path),
                "CPU",
                {
                    "INFERENCE_NUM_THREADS": self.threads,
                    "INFERENCE_PRECISION_HINT": "f32",
                    "PERFORMANCE_HINT": "LATENCY",
                },
            )
        except RuntimeError as error:
            raise NetworkError(f"network '{self.path}': OpenVINO cannot read it") from error

    @property
    def _size(self) -> tuple[int, int]:
        """Height and width of the network's input."""
        _, _, height, width = self._model.input(0).shape
        return int(height), int(width)

    def _run(self, planes: np.ndarray) -> list[np.ndarray]:
        """Return the outputs for an image h x w x 3, which may be float32, in their order."""
        tensor = np.ascontiguousarray(planes.transpose(2, 0, 1)[None], np.float32)
        results = self._model(tensor)
        return [np.array(results[output]) for output in self._model.outputs]


class RoadSegmenter(_OpenVinoNetwork):
    """Intel's road-segmentation-adas-0001: background, road, kerb, mark."""

    def votes(self, image: np.ndarray) -> np.ndarray:
        """Return the share of votes for road and sidewalk, see `Segmenter`."""
        height, width = self._size
        scaled = cv2.resize(image[..., ::-1], (width, height), interpolation=cv2.INTER_AREA)
        _, road, kerb, mark = self._run(scaled)[0][0]
        votes = np.zeros((len(STREET), *image.shape[:2]), np.uint8)
        for name, plane in (("road", road + mark), ("sidewalk", kerb)):
            plane = cv2.resize(plane, image.shape[1::-1], interpolation=cv2.INTER_LINEAR)
            votes[STREET.names.index(name)] = np.rint(255 * plane.clip(0, 1))
        return votes


class _TiledDetector(_OpenVinoNetwork):
    """Detector that sees the whole image, and four overlapping parts of it for small objects."""

    minimum = 0.25
    """Score below which boxes are dropped."""

    def boxes(self, image: np.ndarray) -> Boxes:
        """Return the boxes of an image H x W x 3 uint8 RGB, the best of those that overlap."""
        height, width = image.shape[:2]
        found = [self._detect(image)]
        rows, columns = round(height * 0.6), round(width * 0.6)
        for top in (0, height - rows):
            for left in (0, width - columns):
                part = self._detect(image[top : top + rows, left : left + columns])
                inner = _uncut(part.corners, (rows, columns), (top, left), (height, width))
                part = part.select(inner)
                found.append(
                    part._replace(corners=part.corners + np.array([left, top] * 2, np.float32))
                )
        return keep_best_boxes(Boxes.join(found))

    def _detect(self, image: np.ndarray) -> Boxes:
        raise NotImplementedError

    def _letterbox(self, image: np.ndarray, filling: int) -> tuple[np.ndarray, float]:
        """Return the image in BGR at the network's size, grown below and right, and its scale."""
        height, width = self._size
        scale = min(height / image.shape[0], width / image.shape[1])
        size = (round(image.shape[1] * scale), round(image.shape[0] * scale))
        grown = np.full((height, width, 3), filling, np.uint8)
        grown[: size[1], : size[0]] = cv2.resize(image[..., ::-1], size)
        return grown, scale


def _uncut(
    corners: np.ndarray, size: tuple[int, int], origin: tuple[int, int], whole: tuple[int, int]
) -> np.ndarray:
    """Return which boxes of a part of an image do not end at a border that is not the image's."""
    margin = 3
    left, top, right, bottom = corners.T
    return (
        ((left > margin) | (origin[1] == 0))
        & ((top > margin) | (origin[0] == 0))
        & ((right < size[1] - margin) | (origin[1] + size[1] == whole[1]))
        & ((bottom < size[0] - margin) | (origin[0] + size[0] == whole[0]))
    )


class Yolox(_TiledDetector):
    """YOLOX (Ge et al., 2021) with COCO's classes."""

    def _detect(self, image: np.ndarray) -> Boxes:
        planes, scale = self._letterbox(image, 114)
        found = self._run(planes)[0][0]
        cells = np.concatenate([self._grid(stride) for stride in (8, 16, 32)])
        centers = (found[:, :2] + cells[:, :2]) * cells[:, 2:]
        halves = np.exp(found[:, 2:4]) * cells[:, 2:] / 2
        corners = np.hstack((centers - halves, centers + halves)) / scale
        return _of_coco(corners, found[:, 4:5] * found[:, 5:], self.minimum, image.shape)

    def _grid(self, stride: int) -> np.ndarray:
        """Return column, row and stride of each cell, N x 3 float32."""
        rows, columns = (side // stride for side in self._size)
        y, x = np.mgrid[:rows, :columns].reshape(2, -1)
        return np.stack((x, y, np.full_like(x, stride)), 1).astype(np.float32)


class NanoDet(_TiledDetector):
    """NanoDet (github.com/RangiLyu/nanodet) with COCO's classes."""

    _MEAN = np.array((103.53, 116.28, 123.675), np.float32)
    _STD = np.array((57.375, 57.12, 58.395), np.float32)
    _STRIDES = (8, 16, 32)

    def _detect(self, image: np.ndarray) -> Boxes:
        height, width = self._size
        scaled = cv2.resize(image[..., ::-1], (width, height)).astype(np.float32)
        outputs = self._run((scaled - self._MEAN) / self._STD)
        number = len(self._STRIDES)
        corners, scores = [], []
        for stride, score, distances in zip(
            self._STRIDES, outputs[:number], outputs[number:], strict=True
        ):
            rows, columns = height // stride, width // stride
            y, x = (np.mgrid[:rows, :columns].reshape(2, -1) + 0.5) * stride
            parts = distances[0].reshape(len(x), 4, -1)
            parts = np.exp(parts - parts.max(-1, keepdims=True))
            bins = np.arange(parts.shape[-1])
            sides = (parts * bins).sum(-1) / parts.sum(-1) * stride
            corners.append(np.stack((x, y, x, y), 1) + sides * (-1, -1, 1, 1))
            scores.append(score[0])
        factors = np.tile((image.shape[1] / width, image.shape[0] / height), 2)
        return _of_coco(
            np.concatenate(corners) * factors, np.concatenate(scores), self.minimum, image.shape
        )


class PersonVehicleBike(_TiledDetector):
    """Intel's person-vehicle-bike-detection-2004, from crossings seen by a road camera."""

    _TARGETS = np.array((_CAR, _PERSON, _BICYCLE), np.uint8)

    def _detect(self, image: np.ndarray) -> Boxes:
        height, width = self._size
        found, labels = self._run(cv2.resize(image[..., ::-1], (width, height)))
        chosen = found[:, 4] >= self.minimum
        factors = np.tile((image.shape[1] / width, image.shape[0] / height), 2)
        corners = _inside(found[chosen, :4] * factors, image.shape)
        return Boxes(corners, found[chosen, 4], self._TARGETS[labels[chosen]])


def _of_coco(
    corners: np.ndarray, scores: np.ndarray, minimum: float, shape: tuple[int, ...]
) -> Boxes:
    """Return those of boxes with COCO's classes that have a class of `STREET`."""
    ids = np.array(list(_COCO_TARGETS))
    best = scores[:, ids].argmax(1)
    score = scores[np.arange(len(scores)), ids[best]]
    chosen = score >= minimum
    classes = np.array(list(_COCO_TARGETS.values()), np.uint8)[best[chosen]]
    boxes = Boxes(_inside(corners[chosen], shape), score[chosen].astype(np.float32), classes)
    return keep_best_boxes(boxes)


def _inside(corners: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return N x 4 corners as float32, cut at the borders of an image."""
    limits = np.array([shape[1], shape[0]] * 2, np.float32)
    return np.clip(corners, 0, limits).astype(np.float32)


def keep_best_boxes(boxes: Boxes, overlap: float = 0.5) -> Boxes:
    """Drop boxes that overlap a better one of their class, and empty ones.

    Args:
        boxes: boxes of one image.
        overlap: intersection over union above which the lower score is dropped.
    """
    sizes = boxes.corners[:, 2:] - boxes.corners[:, :2]
    boxes = boxes.select((sizes > 1).all(1))
    if not len(boxes.scores):
        return Boxes.empty()
    corners = boxes.corners.astype(np.float64)
    # Classes far apart, so that boxes of different ones do not overlap.
    shifted = corners + 1e5 * boxes.classes[:, None]
    rectangles = np.hstack((shifted[:, :2], shifted[:, 2:] - shifted[:, :2]))
    chosen = cv2.dnn.NMSBoxes(rectangles.tolist(), boxes.scores.tolist(), 0.0, overlap)
    return boxes.select(np.array(chosen, int).ravel())


def _ade20k_table() -> np.ndarray:
    table = np.full(256, UNLABELED, np.uint8)
    for index, name in ADE20K_TARGETS.items():
        table[index] = STREET.names.index(name)
    return table


NETWORKS = {
    "cityscapes": "deeplab_mobilenet_edgetpu_slim_cityscapes_quant.tflite",
    "ade20k": "deeplabv3_mnv2_ade20k_int8.tflite",
    "road": "road-segmentation-adas-0001.xml",
    "yolox": "yolox_nano.onnx",
    "nanodet": "nanodet_m_416.onnx",
    "person_vehicle_bike": "person-vehicle-bike-detection-2004.xml",
}
"""Files of the known networks by name, in the folder of teachers."""


def open_network(name: str, folder: Path, threads: int = 1) -> Any:
    """Open a `Segmenter` or `Detector`; its file is read at the first use.

    Args:
        name: one of `NETWORKS`.
        folder: folder of the networks' files.
        threads: number of threads.

    Raises:
        NetworkError: an unknown name, or no such file.
    """
    if name not in NETWORKS:
        raise NetworkError(f"network '{name}', known: {', '.join(NETWORKS)}")
    path = folder / NETWORKS[name]
    if not path.is_file():
        raise NetworkError(f"network '{path}': no such file")
    if name == "cityscapes":
        return DeepLab(path, STREET_MAPPINGS["cityscapes"].table, threads)
    if name == "ade20k":
        return DeepLab(path, _ade20k_table(), threads)
    kinds = {"road": RoadSegmenter, "yolox": Yolox, "nanodet": NanoDet,
             "person_vehicle_bike": PersonVehicleBike}  # fmt: skip
    return kinds[name](path, threads)
