"""Tests of the pipeline: sizes, dtypes, registration, bad pairs and fusing files."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from ivf_core.images.files import read_visible, write_image
from ivf_core.images.pair_sources import open_pairs
from ivf_core.images.registration import Registration
from ivf_core.inference import FusionPipeline, ImagePair
from ivf_core.inference.fuse_files import fuse_files
from ivf_core.inference.options import EngineOptions
from ivf_core.inference.pipeline import resize_labels, scaled_size
from ivf_core.inference.torch_engine import TorchEngine, choose_device
from ivf_core.models.checkpoints import FusionModel


def pair(height: int, width: int, seed: int = 0, thermal: type = np.uint8) -> ImagePair:
    random = np.random.default_rng(seed)
    visible = random.integers(0, 256, (height, width, 3), np.uint8)
    infrared = random.integers(0, 256, (height, width)).astype(thermal)
    return ImagePair(visible, infrared)


SLOPE = np.indices((32, 32, 3)).sum(0).astype(np.uint8)


@pytest.fixture
def pipeline(tiny_model: FusionModel) -> FusionPipeline:
    return FusionPipeline(tiny_model, engine="torch", device="cpu", precision="fp32")


@pytest.mark.parametrize("size", [(48, 64), (47, 63), (16, 16), (31, 200)])
def test_any_size(pipeline: FusionPipeline, size: tuple[int, int]) -> None:
    result = pipeline(pair(*size))
    assert result.fused is not None
    assert result.labels is not None
    assert result.fused.shape == (*size, 3)
    assert result.labels.shape == (size[0] // 2, size[1] // 2)
    labels = resize_labels(result.labels, size)
    assert labels.shape == size
    assert set(np.unique(labels)) == set(np.unique(result.labels))


@pytest.mark.parametrize("size", [(48, 64), (47, 63), (16, 16), (31, 200)])
@pytest.mark.parametrize("scale", [0.75, 0.5, 0.25])
def test_scaled_fusion_has_the_size_of_the_pair(
    pipeline: FusionPipeline, size: tuple[int, int], scale: float
) -> None:
    result = pipeline(pair(*size), scale=scale)
    assert result.fused is not None
    assert result.labels is not None
    assert result.fused.shape == (*size, 3)
    assert result.infrared.shape == size
    height, width = scaled_size(size, scale)
    assert result.labels.shape == (height // 2, width // 2)
    assert resize_labels(result.labels, size).shape == size


def test_scaled_fusion_is_the_fusion_of_scaled_images(pipeline: FusionPipeline) -> None:
    given = pair(48, 64)
    small = ImagePair(
        cv2.resize(given.visible, (32, 24), interpolation=cv2.INTER_AREA),
        cv2.resize(given.infrared, (32, 24), interpolation=cv2.INTER_AREA),
    )
    expected, result = pipeline(small), pipeline(given, scale=0.5)
    assert expected.fused is not None
    np.testing.assert_array_equal(result.fused, cv2.resize(expected.fused, (64, 48)))
    np.testing.assert_array_equal(result.labels, expected.labels)


@pytest.mark.parametrize("scale", [0.0, -1.0, 1.5, float("nan")])
def test_invalid_scale_is_rejected(pipeline: FusionPipeline, scale: float) -> None:
    with pytest.raises(ValueError, match=r"scale is .*, expected more than 0 and at most 1"):
        pipeline(pair(32, 48), scale=scale)


def test_twin_gives_the_same_results_with_an_engine_of_its_own(pipeline: FusionPipeline) -> None:
    twin = pipeline.twin()
    assert twin.engine is not pipeline.engine
    assert twin.engine.precision == pipeline.engine.precision
    assert twin.normalizer is pipeline.normalizer
    given = pair(32, 48)
    np.testing.assert_array_equal(twin(given).fused, pipeline(given).fused)


@pytest.mark.parametrize("thermal", [np.uint8, np.uint16, np.float32])
def test_thermal_types(pipeline: FusionPipeline, thermal: type) -> None:
    assert pipeline(pair(32, 48, thermal=thermal)).fused is not None


def test_images_are_contiguous(pipeline: FusionPipeline) -> None:
    """Messages and files need contiguous images; a strided one costs each a slow copy."""
    result = pipeline(ImagePair(np.zeros((34, 50, 3), np.uint8), np.zeros((34, 50), np.uint8)))
    for image in (result.fused, result.labels):
        assert image is not None
        assert image.flags.c_contiguous


def test_thermal_of_another_size_is_scaled(pipeline: FusionPipeline) -> None:
    small, large = pair(24, 32), pair(48, 64)
    result = pipeline(ImagePair(large.visible, small.infrared))
    assert result.infrared.shape == (48, 64)


def test_uncovered_pixels_show_the_visible_image(tiny_model: FusionModel) -> None:
    """Pixels that the thermal camera does not see get the visible luma, not black."""
    shift = Registration((1, 0, 20, 0, 1, 0, 0, 0, 1), (64, 48), (64, 48))
    pipeline = FusionPipeline(tiny_model, engine="torch", device="cpu", registration=shift)
    given = ImagePair(np.full((48, 64, 3), 90, np.uint8), np.full((48, 64), 200, np.uint8))
    infrared = pipeline(given).infrared
    assert (infrared[:, :19] == 90).all()
    assert (infrared[:, 22:] == 200).all()


@pytest.mark.parametrize("mode", ["auto", "percentile"])
def test_absent_thermal_camera_is_an_image_of_zeros(pipeline: FusionPipeline, mode: str) -> None:
    """Leave the gain control as it is, so that the camera returns without flicker."""
    visible = pair(48, 64).visible
    counts = (7000 + np.arange(48 * 64, dtype=np.uint16)).reshape(48, 64)
    pipeline.normalizer.mode = mode
    pipeline(ImagePair(visible, counts, 1.0))
    window = pipeline.normalizer.gain.window
    result = pipeline(ImagePair(visible, None, 1.1))
    assert result.repaired_pixels == 0
    assert result.infrared.shape == (48, 64)
    assert not result.infrared.any()
    assert pipeline.normalizer.gain.window == window
    fused, labels, _ = pipeline.engine(visible, np.zeros((48, 64), np.uint8))
    np.testing.assert_array_equal(result.fused, fused)
    np.testing.assert_array_equal(result.labels, labels)


@pytest.mark.parametrize("level", [1, 128, 255])
def test_a_camera_of_one_level_is_an_absent_one(pipeline: FusionPipeline, level: int) -> None:
    given = pair(48, 64)
    absent = pipeline(ImagePair(given.visible, None))
    for blank in (np.uint8(level), np.uint16(40 * level), np.float32(level)):
        result = pipeline(ImagePair(given.visible, np.full((24, 32), blank)))
        np.testing.assert_array_equal(result.fused, absent.fused)
        np.testing.assert_array_equal(result.labels, absent.labels)
        assert not result.infrared.any()
    white = pipeline(ImagePair(np.full_like(given.visible, level), given.infrared))
    black = pipeline(ImagePair(np.zeros_like(given.visible), given.infrared))
    np.testing.assert_array_equal(white.fused, black.fused)
    np.testing.assert_array_equal(white.labels, black.labels)


def test_one_pixel_makes_a_camera_present(pipeline: FusionPipeline) -> None:
    given = pair(48, 64)
    thermal = np.full((48, 64), 200, np.uint8)
    thermal[20, 30] = 201
    np.testing.assert_array_equal(pipeline(ImagePair(given.visible, thermal)).infrared, thermal)


def test_two_cameras_of_one_level_are_fused(pipeline: FusionPipeline) -> None:
    """Hand images that show nothing to the networks as they are, as in a first experiment."""
    grey = ImagePair(np.full((48, 64, 3), 90, np.uint8), np.full((48, 64), 200, np.uint8))
    assert (pipeline(grey).infrared == 200).all()
    np.testing.assert_array_equal(
        pipeline(grey).fused, pipeline.engine(grey.visible, grey.infrared)[0]
    )


def test_arrays_that_torch_cannot_share(pipeline: FusionPipeline) -> None:
    given = pair(32, 48)
    expected = pipeline(given).fused
    mirrored = given.visible[:, ::-1].copy()[:, ::-1]
    mirrored.flags.writeable = False
    np.testing.assert_array_equal(pipeline(ImagePair(mirrored, given.infrared)).fused, expected)


@pytest.mark.parametrize(
    ("visible", "infrared", "message"),
    [
        (np.zeros((32, 32), np.uint8), np.zeros((32, 32), np.uint8), r"expected uint8 \(H, W, 3\)"),
        (np.zeros((32, 32, 3), np.float32), np.zeros((32, 32), np.uint8), "visible image is float"),
        (np.zeros((32, 32, 3), np.uint8), np.zeros((32, 32), np.int64), "infrared image is int64"),
        (np.zeros((8, 32, 3), np.uint8), np.zeros((32, 32), np.uint8), "visible image is 32x8"),
        (np.zeros((32, 32, 3), np.uint8), np.full((32, 32), np.nan, np.float32), "finite"),
        (SLOPE, np.full((32, 32), np.inf, np.float32), "finite"),
    ],
)  # fmt: skip
def test_bad_pairs(
    pipeline: FusionPipeline, visible: np.ndarray, infrared: np.ndarray, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        pipeline(ImagePair(visible, infrared))


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "meta", ""])
def test_unknown_devices(name: str, tiny_model: FusionModel) -> None:
    with pytest.raises(ValueError, match=f"device '{name}'"):
        TorchEngine(tiny_model, EngineOptions(name))


def test_auto_is_an_available_device() -> None:
    assert choose_device("auto").type in ("cpu", "cuda")


def test_fuse_folder_reports_what_it_leaves_out(pipeline: FusionPipeline, tmp_path: Path) -> None:
    for number, size in enumerate([(32, 48), (8, 8), (33, 47)]):
        given = pair(*size, seed=number)
        write_image(tmp_path / "v" / f"{number}.png", given.visible)
        write_image(tmp_path / "i" / f"{number}.png", given.infrared)
    for name, folder in (("11", "v"), ("12", "i")):
        for other in "vi":
            write_image(tmp_path / other / f"{name}.png", np.zeros((32, 32), np.uint8))
        (tmp_path / folder / f"{name}.png").write_bytes(b"damaged")
    looked_at: list[int] = []
    done = fuse_files(
        open_pairs(tmp_path / "v", tmp_path / "i"),
        pipeline,
        tmp_path / "out",
        progress=looked_at.append,
    )
    assert done.pairs == 2
    assert looked_at == [1, 2, 3, 4, 5]
    too_small, *damaged = done.failed
    assert too_small.startswith("1: visible image is 8x8")
    assert damaged == [
        f"image '{tmp_path / name}': damaged or not an image" for name in ("v/11.png", "i/12.png")
    ]
    expected = pipeline(pair(33, 47, seed=2))
    np.testing.assert_array_equal(read_visible(tmp_path / "out/fused/2.png"), expected.fused)
    assert sorted(p.name for p in (tmp_path / "out/mask").iterdir()) == ["0.png", "2.png"]


def test_quick_start_example(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The Python code of the quick start runs without changes."""
    page = (Path(__file__).parents[3] / "docs/quick_start_python.md").read_text()
    example = "".join(re.findall(r"```python\n(.*?)```", page, re.S))
    given = pair(48, 64)
    write_image(tmp_path / "rgb.png", given.visible)
    write_image(tmp_path / "thermal.png", given.infrared)
    monkeypatch.chdir(tmp_path)
    exec(example, {})
    assert read_visible("fused.png").shape == (48, 64, 3)
    assert "% of the image are people" in capsys.readouterr().out
