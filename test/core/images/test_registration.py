"""Tests of registration by size and homography, its YAML file and uncovered pixels."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from ivf_core.images.registration import (
    Registration,
    RegistrationError,
    covered_rectangle,
    fill_uncovered,
)

IDENTITY = ((1, 0, 0), (0, 1, 0), (0, 0, 1))


def _image(height: int, width: int, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 256, (height, width)).astype(np.uint8)
    return cv2.GaussianBlur(noise, (0, 0), 3)


def _blob(height: int, width: int, x: float, y: float) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    return np.rint(250 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 50)).astype(np.uint8)


def _centre(image: np.ndarray) -> tuple[float, float]:
    moments = cv2.moments(image.astype(np.float32))
    return moments["m10"] / moments["m00"], moments["m01"] / moments["m00"]


def test_by_size_returns_equal_sizes_uncopied() -> None:
    image = _image(37, 53)
    registration = Registration()
    assert registration(image, (37, 53)) is image
    assert registration.coverage(image.shape, (37, 53)) is None


@pytest.mark.parametrize("size", [(480, 640), (97, 131), (33, 47), (1, 1)])
def test_by_size_stretches(size: tuple[int, int]) -> None:
    image = _image(61, 83)
    aligned = Registration()(image, size)
    assert aligned.shape == size
    np.testing.assert_array_equal(aligned, cv2.resize(image, size[::-1]))
    assert Registration().coverage(image.shape, size) is None


def test_homography_maps_a_point() -> None:
    matrix = np.array([[1.4, 0.05, 20], [-0.03, 1.5, 12], [1e-4, 5e-5, 1]])
    registration = Registration(tuple(matrix.ravel()), (160, 120), (320, 240))
    u, v, w = matrix @ (70, 55, 1)
    aligned = registration(_blob(120, 160, 70, 55), (240, 320))
    assert _centre(aligned) == pytest.approx((u / w, v / w), abs=0.2)


def test_identity_at_equal_sizes_changes_nothing() -> None:
    registration = Registration(IDENTITY, (53, 37), (53, 37))
    image = _image(37, 53)
    np.testing.assert_array_equal(registration(image, (37, 53)), image)
    assert registration.coverage((37, 53), (37, 53)) is None


def test_sizes_are_rescaled_about_pixel_centres() -> None:
    # A homography that is the identity at one size must equal cv2.resize at any other.
    registration = Registration(IDENTITY, (64, 48), (64, 48))
    image = _image(51, 67)
    aligned = registration(image, (153, 201))
    difference = cv2.absdiff(aligned, cv2.resize(image, (201, 153)))
    assert difference.max() <= 2  # fixed-point weights differ a little
    assert registration.coverage((51, 67), (153, 201)) is None


def test_images_of_other_sizes_than_in_the_file() -> None:
    matrix = np.array([[1.0, 0, 30], [0, 1.0, -10], [0, 0, 1]])
    registration = Registration(tuple(matrix.ravel()), (160, 120), (320, 240))
    # Half the thermal and twice the visible size: a blob at (40, 30) of the half
    # image is at 80.5, 60.5 of the whole, 110.5, 50.5 after H, then doubled.
    aligned = registration(_blob(60, 80, 40, 30), (480, 640))
    assert _centre(aligned) == pytest.approx((2 * 110.5 + 0.5, 2 * 50.5 + 0.5), abs=0.1)


def test_coverage_is_exact_cached_and_zero_outside() -> None:
    registration = Registration(((1, 0, 10), (0, 1, 5), (0, 0, 1)), (50, 40), (80, 60))
    coverage = registration.coverage((40, 50), (60, 80))
    expected = np.zeros((60, 80), bool)
    expected[5:45, 10:60] = True
    np.testing.assert_array_equal(coverage, expected)
    assert registration.coverage((40, 50), (60, 80)) is coverage
    image = _image(40, 50) | 1
    aligned = registration(image, (60, 80))
    np.testing.assert_array_equal(aligned[5:45, 10:60], image)
    assert not aligned[~coverage].any()


def test_edge_of_the_view_does_not_fade() -> None:
    registration = Registration(((1, 0, 10.4), (0, 1, 5.4), (0, 0, 1)), (50, 40), (80, 60))
    aligned = registration(np.full((40, 50), 200, np.uint8), (60, 80))
    coverage = registration.coverage((40, 50), (60, 80))
    assert set(np.unique(aligned[coverage])) == {200}


def test_coverage_agrees_with_the_forward_mapping() -> None:
    matrix = np.array([[1.2, 0.1, 8], [-0.1, 1.1, 20], [8e-4, 4e-4, 1]])
    registration = Registration(tuple(matrix.ravel()), (100, 80), (160, 120))
    coverage = registration.coverage((80, 100), (120, 160))
    corners = np.array([[-0.5, -0.5], [99.5, -0.5], [99.5, 79.5], [-0.5, 79.5]])[:, None]
    polygon = cv2.perspectiveTransform(corners, matrix).astype(np.float32)
    for y in range(0, 120, 7):
        for x in range(0, 160, 7):
            distance = cv2.pointPolygonTest(polygon, (x, y), True)
            if abs(distance) > 0.01:
                assert coverage[y, x] == (distance > 0)


def test_uncovered_pixels_get_the_visible_luma() -> None:
    registration = Registration(((1, 0, 10), (0, 1, 5), (0, 0, 1)), (51, 41), (81, 61))
    infrared, size = _image(41, 51), (61, 81)
    visible = np.random.default_rng(2).integers(0, 256, (*size, 3)).astype(np.uint8)
    coverage = registration.coverage(infrared.shape, size)
    aligned = registration(infrared, size)
    filled = fill_uncovered(aligned, visible, coverage)
    luma = np.rint(visible @ (0.299, 0.587, 0.114))
    assert np.abs(filled[~coverage] - luma[~coverage]).max() <= 1
    np.testing.assert_array_equal(filled[coverage], aligned[coverage])


def test_filling_a_covered_image_returns_it() -> None:
    image = _image(9, 9)
    assert fill_uncovered(image, np.zeros((9, 9, 3), np.uint8), None) is image


def test_yaml_round_trip(tmp_path: Path) -> None:
    values = (1.25, 0.01, -80.0, 0.0, 1.26, -62.5, 1e-5, 0.0, 1.0)
    registration = Registration(values, (640, 512), (1280, 720))
    registration.to_yaml(tmp_path / "new" / "registration.yaml")
    assert Registration.from_yaml(tmp_path / "new" / "registration.yaml") == registration
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["registration.yaml"]


def test_docstring_example_loads(tmp_path: Path) -> None:
    text = Registration.__doc__.split("::\n", 1)[1].split("Attributes:")[0]
    path = tmp_path / "r.yaml"
    path.write_text("\n".join(line[8:] for line in text.splitlines()))
    registration = Registration.from_yaml(path)
    assert registration.thermal_size == (640, 512)
    assert registration.rgb_size == (1280, 720)
    assert registration.homography[2] == -80.0


def test_by_size_has_nothing_to_write(tmp_path: Path) -> None:
    with pytest.raises(RegistrationError, match="no homography"):
        Registration().to_yaml(tmp_path / "r.yaml")
    assert not list(tmp_path.iterdir())


SIZES = "\nthermal_size: [640, 512]\nrgb_size: [1280, 720]\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("homography: [[1, 0, 0], [0, 1, 0], [0, 0, 1]]", "missing keys: thermal_size, rgb_size"),
        ("homografy: 1" + SIZES, "unknown keys: homografy; missing keys: homography"),
        ("homography: [[1, 0], [0, 1]]" + SIZES, "homography: .*expected 3 x 3"),
        ("homography: [[1, 0, 0], [0, 1], [0, 0, 1]]" + SIZES, "homography: .*expected 3 x 3"),
        ("homography: [1, 0, x, 0, 1, 0, 0, 0, 1]" + SIZES, "homography: .*expected 3 x 3"),
        ("homography: [1, 0, .nan, 0, 1, 0, 0, 0, 1]" + SIZES, "homography: has values"),
        ("homography: [1, 2, 3, 2, 4, 6, 0, 0, 1]" + SIZES, "homography: singular"),
        ("homography: [0, 0, 0, 0, 0, 0, 0, 0, 0]" + SIZES, "homography: singular"),
        ("homography: [1, 0, 0, 0, 1, 0, -0.01, 0, 1]" + SIZES, "homography: .*infinity"),
        (
            "homography: [1, 0, 0, 0, 1, 0, 0, 0, 1]\nthermal_size: [640]\nrgb_size: [1, 1]",
            "thermal_size: ",
        ),
        (
            "homography: [1, 0, 0, 0, 1, 0, 0, 0, 1]\nthermal_size: [8, 8]\nrgb_size: [0, 8]",
            "rgb_size: ",
        ),
        ("homography: ['1', 0, 0, 0, 1, 0, 0, 0, 1]" + SIZES, "homography: .*expected 3 x 3"),
        (f"homography: [1{'0' * 400}, 0, 0, 0, 1, 0, 0, 0, 1]" + SIZES, "homography: has values"),
        (
            "homography: [1, 0, 0, 0, 1, 0, 0, 0, 1]\nthermal_size: [8, 8]\nrgb_size: [8, 8000000]",
            "rgb_size: ",
        ),
        ("? [1]\n: 2" + SIZES, "unhashable|cannot be read"),
        ("a: 2001-99-99", "cannot be read"),
        ("[" * 50_000, "cannot be read"),
        ("#" * 200_000, "200000 bytes, expected at most"),
        ("- 1\n- 2", "expected keys homography"),
        ("a: [", "cannot be read"),
        ("", "expected keys homography"),
    ],
)
def test_bad_yaml_names_file_and_key(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(RegistrationError, match=rf"(?s)bad\.yaml.*{message}") as caught:
        Registration.from_yaml(path)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("key", ["homography", "rgb_size", "thermal_size", "homografy"])
def test_a_file_that_grows_when_it_is_read_gives_a_short_error(tmp_path: Path, key: str) -> None:
    """Ten lists of ten of one another are 389 bytes, and would be 10^10 entries."""
    lines = ["a0: &a0 [1,1,1,1,1,1,1,1,1,1]"]
    for level in range(1, 10):
        lines.append(f"a{level}: &a{level} [{','.join([f'*a{level - 1}'] * 10)}]")
    nested = "\n".join(lines)
    values = {"homography": "[1, 0, 0, 0, 1, 0, 0, 0, 1]", "thermal_size": "[8, 8]",
              "rgb_size": "[8, 8]", key: "*a9"}  # fmt: skip
    path = tmp_path / "bad.yaml"
    path.write_text(nested + "\n" + "\n".join(f"{k}: {v}" for k, v in values.items()))
    with pytest.raises(RegistrationError) as caught:
        Registration.from_yaml(path)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("key", ["homography", "thermal_size", "rgb_size"])
def test_arguments_that_contain_one_another_are_not_written_out(key: str) -> None:
    value: list[object] = [1] * 3
    for _ in range(30):
        value = [value] * 3
    given = {"homography": IDENTITY, "thermal_size": (8, 8), "rgb_size": (8, 8), key: value}
    with pytest.raises(RegistrationError, match=f"{key}: .*expected") as caught:
        Registration(**given)  # type: ignore[arg-type]
    assert len(str(caught.value)) < 600


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RegistrationError, match=r"nowhere\.yaml"):
        Registration.from_yaml(tmp_path / "nowhere.yaml")


def test_incomplete_arguments_are_rejected() -> None:
    with pytest.raises(RegistrationError, match="missing thermal_size, rgb_size"):
        Registration(homography=(1, 0, 0, 0, 1, 0, 0, 0, 1))


def _largest_area(mask: np.ndarray) -> int:
    height, width = mask.shape
    return max(
        (bottom - top) * (right - left)
        for top in range(height)
        for bottom in range(top + 1, height + 1)
        for left in range(width)
        for right in range(left + 1, width + 1)
        if mask[top:bottom, left:right].all()
    )


@pytest.mark.parametrize("seed", range(5))
def test_covered_rectangle_is_the_largest_one(seed: int) -> None:
    mask = np.random.default_rng(seed).random((9, 12)) < 0.8
    part = covered_rectangle(mask, mask.shape)
    assert part is not None
    assert mask[part].all()
    assert mask[part].size == _largest_area(mask)


def test_covered_rectangle_of_large_images_loses_less_than_a_block_a_side() -> None:
    mask = np.zeros((720, 1280), bool)
    mask[101:611, 333:1277] = True
    part = covered_rectangle(mask, mask.shape)
    assert part is not None
    assert mask[part].all()
    assert mask[part].shape >= (510 - 2 * 8, 944 - 2 * 8)
    whole = (slice(0, 720), slice(0, 1280))
    assert covered_rectangle(None, (720, 1280)) == whole
    assert covered_rectangle(np.ones((720, 1280), bool), (720, 1280)) == whole
    assert covered_rectangle(np.zeros((720, 1280), bool), (720, 1280)) is None
