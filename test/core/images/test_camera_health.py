"""Symptoms of one camera and of a pair, on synthetic drives and on real images."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest

from ivf_core.images.camera_health import CameraHealth
from ivf_core.images.files import list_images, read_infrared, read_visible
from ivf_core.images.pair_health import PairHealth
from ivf_core.images.pair_sources import open_pairs
from ivf_core.images.symptoms import REMEDIES, HealthRecord, Lasting, Severity
from ivf_core.scenes.drive import SyntheticDrive

RATE = 10.0
Change = Callable[[np.ndarray], np.ndarray]


@pytest.fixture(scope="module")
def drive() -> list[tuple[np.ndarray, np.ndarray]]:
    frames = SyntheticDrive(0, (320, 240), RATE, 12.0)
    return [(frame.visible, frame.infrared) for frame in frames]


@pytest.fixture(scope="module")
def street(drive: list[tuple[np.ndarray, np.ndarray]]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the first seconds of the drive, by day."""
    return drive[:35]


def watch(camera: str, images: Iterable[np.ndarray], start: float = 0.0) -> list[HealthRecord]:
    health = CameraHealth(camera)
    return [health.add(image, start + k / RATE) for k, image in enumerate(images)]


def salted(image: np.ndarray) -> np.ndarray:
    chance = np.random.default_rng(int(image.sum()) % 1000).random(image.shape[:2])
    high = np.iinfo(image.dtype).max
    result = image.copy()
    result[chance < 0.05], result[chance > 0.95] = 0, high
    return result


def noisy(image: np.ndarray) -> np.ndarray:
    noise = np.random.default_rng(int(image.sum()) % 1000).normal(0, 25, image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8)


def covered(image: np.ndarray) -> np.ndarray:
    """Return the image behind a lens cap: black level and read noise."""
    noise = np.random.default_rng(int(image.sum()) % 1000).normal(16, 2, image.shape)
    return np.clip(noise, 0, 255).astype(np.uint8)


def white(image: np.ndarray) -> np.ndarray:
    return np.full_like(image, np.iinfo(image.dtype).max)


def counts(image: np.ndarray) -> np.ndarray:
    """Return an 8-bit thermal image as 14-bit counts with the noise of a sensor."""
    noise = np.random.default_rng(int(image.sum()) % 1000).normal(0, 3, image.shape)
    return np.clip(7000 + 6.0 * image + noise, 0, 16383).astype(np.uint16)


def kelvins(image: np.ndarray) -> np.ndarray:
    return counts(image).astype(np.float32) / 25


@pytest.mark.parametrize("convert", [None, counts, kelvins])
def test_healthy_drive_has_no_symptom(
    drive: list[tuple[np.ndarray, np.ndarray]], convert: Change | None
) -> None:
    """Drive by day, by night and through smoke, at 8 bits, in counts and in kelvins."""
    cameras = [("infrared", [infrared for _, infrared in drive])]
    if convert is None:
        cameras.append(("visible", [visible for visible, _ in drive]))
    else:
        cameras = [("infrared", [convert(image) for image in cameras[0][1]])]
    for camera, images in cameras:
        for record in watch(camera, images):
            assert record.names == ()
            assert record.severity == Severity.OK


@pytest.mark.parametrize("camera", ["visible", "infrared"])
@pytest.mark.parametrize(
    ("change", "name", "severity"),
    [
        (covered, "black", Severity.UNUSABLE),
        (np.zeros_like, "black", Severity.UNUSABLE),
        (white, "saturated", Severity.UNUSABLE),
        (salted, "salt", Severity.FAULT),
        (noisy, "noise", Severity.FAULT),
        (lambda image: cv2.GaussianBlur(image, (0, 0), 2), "blurred", Severity.FAULT),
        (lambda image: (118 + image % 5).astype(np.uint8), "low_contrast", Severity.NOTE),
    ],
)
def test_symptom_comes_and_goes(
    street: list[tuple[np.ndarray, np.ndarray]],
    camera: str,
    change: Change,
    name: str,
    severity: Severity,
) -> None:
    images = [pair[camera == "infrared"] for pair in street]
    records = watch(camera, [*images, *map(change, images), *images])
    before, during, after = (records[k * 35 : (k + 1) * 35] for k in range(3))
    assert all(record.names == () for record in before)
    assert during[0].names == (), "one frame is no symptom"
    assert during[-1].names == (name,)
    assert during[-1].severity == severity
    assert during[-1].text
    assert name in REMEDIES
    assert after[0].names == (name,), "one frame is no recovery"
    assert after[0].text == during[-1].text
    assert after[-1].names == ()
    changes = sum(a.names != b.names for a, b in pairwise(records))
    assert changes == 2, "no flicker"


@pytest.mark.parametrize("convert", [counts, kelvins])
def test_symptoms_of_raw_thermal_images(
    street: list[tuple[np.ndarray, np.ndarray]], convert: Change
) -> None:
    images = [convert(infrared) for _, infrared in street]
    shape, dtype = images[0].shape, images[0].dtype
    assert watch("infrared", [np.full(shape, 7000, dtype)] * 6)[-1].names == ("black",)
    capped = [np.minimum(image, np.median(image)).astype(dtype) for image in images]
    assert watch("infrared", capped)[-1].names == ("saturated",)
    salt = [image.copy() for image in images]
    for image in salt:
        image[np.random.default_rng(int(image.sum()) % 99).random(shape) > 0.9] = image.max() * 2
    assert watch("infrared", salt)[-1].names == ("salt",)
    if dtype == np.float32:
        assert watch("infrared", [np.full(shape, np.nan, dtype)] * 6)[-1].names == ("black",)
        holes = [np.where(np.arange(shape[1]) < 9, np.nan, image) for image in images]
        assert watch("infrared", [hole.astype(dtype) for hole in holes])[-1].names == ()


@pytest.mark.parametrize("camera", ["visible", "infrared"])
def test_frozen_images(street: list[tuple[np.ndarray, np.ndarray]], camera: str) -> None:
    images = [pair[camera == "infrared"] for pair in street]
    correction = watch(camera, [*images[:10], *[images[9]] * 7, *images[10:20]])
    assert max(record.severity for record in correction) == Severity.NOTE
    assert correction[14].names == ("frozen",)
    assert correction[-1].names == ()
    twice = watch(camera, [image for image in images for _ in range(2)])
    assert all(record.names == () for record in twice), "a slower camera repeats each image"
    dead = watch(camera, [*images[:10], *[images[9]] * 40, *images[10:20]])
    assert dead[48].severity == Severity.UNUSABLE
    assert "3.9 s" in dead[48].text
    assert dead[-1].names == ()


def test_black_image_is_not_called_frozen() -> None:
    record = watch("visible", [np.zeros((240, 320, 3), np.uint8)] * 40)[-1]
    assert record.names == ("black",)


def test_jump_in_time_starts_again(street: list[tuple[np.ndarray, np.ndarray]]) -> None:
    health = CameraHealth("infrared")
    for k in range(10):
        record = health.add(white(street[0][1]), k / RATE)
    assert record.names == ("saturated",)
    assert health.add(street[0][1], 0.0).names == (), "a bag loops"
    assert health.add(street[1][1], 100.0).names == ()


def test_unreadable_frames(street: list[tuple[np.ndarray, np.ndarray]]) -> None:
    health = CameraHealth("visible")
    for k in range(10):
        record = health.unreadable("step must be at least 960", k / RATE)
    assert record.severity == Severity.UNUSABLE
    assert "step must be at least 960" in record.text
    for k in range(10, 20):
        record = health.add(street[k][0], k / RATE)
    assert record.names == ()


@pytest.mark.parametrize(
    "shape", [(1, 1), (16, 16), (17, 1300), (61, 80), (1080, 1920), (3000, 40)]
)
def test_any_size(shape: tuple[int, int]) -> None:
    random = np.random.default_rng(0)
    for camera, size in (("visible", (*shape, 3)), ("infrared", shape)):
        images = [random.integers(0, 255, size, np.uint8) for _ in range(5)]
        assert watch(camera, images)[-1].severity <= Severity.FAULT
        assert watch(camera, [np.zeros(size, np.uint8)] * 6)[-1].names == (
            ("black",) if min(shape) >= 16 else ()
        )


def test_unknown_camera_is_named() -> None:
    with pytest.raises(ValueError, match="camera is 'rgb', expected visible or infrared"):
        CameraHealth("rgb")


def test_condition_that_flickers_never_counts() -> None:
    lasting = Lasting(0.25)
    assert not any(lasting.update(k % 3 > 0, k / RATE) for k in range(61))
    assert [lasting.update(True, 7 + k / RATE) for k in range(5)] == [False] * 3 + [True] * 2
    assert lasting.update(None, 7.6), "what cannot be told changes nothing"
    assert all(lasting.update(k % 3 == 0, 8 + k / RATE) for k in range(60))


class TestPair:
    def records(
        self, pairs: Iterable[tuple[np.ndarray, np.ndarray]], change: Change = np.asarray
    ) -> list[HealthRecord]:
        health = PairHealth()
        return [
            health.add(visible, change(infrared), k / RATE)
            for k, (visible, infrared) in enumerate(pairs)
        ]

    def test_healthy_drive(self, drive: list[tuple[np.ndarray, np.ndarray]]) -> None:
        records = self.records(drive)
        assert all(record.names == () for record in records)
        assert records[-1].values["polarity"] > 0.3
        assert records[-1].values["shift_px"] < 1

    def test_inverted_thermal_image(self, drive: list[tuple[np.ndarray, np.ndarray]]) -> None:
        records = self.records(drive, lambda infrared: 255 - infrared)
        assert records[-1].names == ("black_hot",)
        assert "suspected" in records[-1].text
        assert not any(record.names for record in records[:50]), "evidence takes seconds"

    @pytest.mark.parametrize(("shift", "names"), [(24, ("misregistered",)), (4, ())])
    def test_shift(
        self, drive: list[tuple[np.ndarray, np.ndarray]], shift: int, names: tuple[str, ...]
    ) -> None:
        """Shift by pixels of a width of 640; the drive is half as wide."""
        move = np.float64([[1, 0, shift / 2], [0, 1, 0]])
        records = self.records(
            drive,
            lambda image: cv2.warpAffine(image, move, (320, 240), borderMode=cv2.BORDER_REFLECT),
        )
        assert records[-1].names == names
        assert records[-1].values["shift_px"] == pytest.approx(shift / 2, abs=1)

    def test_persons_darker_than_what_is_around_them(self) -> None:
        """Count persons as evidence for black-hot where nothing else is."""
        random = np.random.default_rng(0)
        infrared = np.clip(random.normal(120, 10, (240, 320)), 0, 255).astype(np.uint8)
        persons = np.zeros((240, 320), bool)
        persons[120:200, 60:90] = persons[120:200, 200:230] = True
        infrared[persons] = 60
        health = PairHealth()
        for k in range(100):
            record = health.add(None, infrared, k / RATE, persons=persons[::2, ::2])
        assert record.names == ("black_hot",)

    def test_only_what_the_thermal_camera_sees_is_compared(
        self, drive: list[tuple[np.ndarray, np.ndarray]]
    ) -> None:
        """Fill the rest with the visible luma, which would show a shift of 0."""
        move = np.float64([[1, 0, 12], [0, 1, 0]])
        coverage = np.zeros((240, 320), bool)
        coverage[:, 110:300] = True
        health = PairHealth()
        for k, (visible, infrared) in enumerate(drive):
            moved = cv2.warpAffine(infrared, move, (320, 240), borderMode=cv2.BORDER_REFLECT)
            filled = np.where(coverage, moved, cv2.cvtColor(visible, cv2.COLOR_RGB2GRAY))
            record = health.add(visible, filled, k / RATE, coverage=coverage)
        assert record.names == ("misregistered",)

    def test_a_bright_sky_that_only_the_rgb_camera_sees_is_no_polarity(
        self, drive: list[tuple[np.ndarray, np.ndarray]]
    ) -> None:
        """Above its view, the prepared thermal image is the visible luma."""
        coverage = np.zeros((240, 320), bool)
        coverage[80:] = True
        health = PairHealth()
        for k, (visible, infrared) in enumerate(drive):
            filled = np.where(coverage, infrared, 250).astype(np.uint8)
            record = health.add(visible, filled, k / RATE, coverage=coverage)
        alone = PairHealth()
        for k, (_, infrared) in enumerate(drive):
            expected = alone.add(None, infrared[80:], k / RATE)
        assert record.values["polarity"] == expected.values["polarity"]


@pytest.mark.data
@pytest.mark.parametrize("folder", ["msrs", "roadscene"])
def test_real_pairs_have_no_symptom(data: Path, folder: str) -> None:
    """Show each image for a second; MSRS has dark nights, RoadScene pale skies."""
    infrared_files = list_images(data / folder / "infrared")
    for name, path in list(list_images(data / folder / "visible").items())[::4]:
        images = {"visible": read_visible(path), "infrared": read_infrared(infrared_files[name])}
        for camera, image in images.items():
            frames = []
            for k in range(10):
                frame = image.copy()
                frame[2, k] ^= 1  # no sensor gives the same image twice
                frames.append(frame)
            assert watch(camera, frames)[-1].names == (), (name, camera)


@pytest.mark.data
@pytest.mark.parametrize("name", ["0111_1716", "0117_1620", "1230_1202"])
def test_real_videos_have_no_symptom(data: Path, name: str) -> None:
    """Drive, smoke and bridge; the second one loses all texture in smoke."""
    folder = data / "m3svd"
    source = open_pairs(folder / f"{name}_visible.mp4", folder / f"{name}_infrared.mp4")
    visible, infrared, pair = CameraHealth("visible"), CameraHealth("infrared"), PairHealth()
    for frame in source:
        assert frame.seconds is not None
        for record in (
            visible.add(frame.visible, frame.seconds),
            infrared.add(frame.infrared, frame.seconds),
            pair.add(frame.visible, frame.infrared, frame.seconds),
        ):
            assert record.names == (), frame.seconds
