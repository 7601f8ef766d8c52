"""Tests of fusion metrics by hand, against definitions in NumPy and against IVIF_ZOO."""

from __future__ import annotations

import math
import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from ivf_core.images.files import list_images, read_infrared, read_visible
from ivf_core.metrics.fusion import (
    FUSION_METRICS,
    average_gradient,
    correlation,
    entropy,
    fusion_metrics,
    ms_ssim,
    mutual_information,
    nabf,
    psnr,
    qabf,
    scd,
    spatial_frequency,
    ssim,
    standard_deviation,
    vif,
)


def grey(values: object) -> np.ndarray:
    """Build one image from rows of grey levels."""
    return np.array(values, np.float64)


def scene(height: int, width: int, *, flat: bool = True) -> tuple[np.ndarray, ...]:
    """Draw visible, infrared and fused images of integer levels.

    The infrared one is partly the visible one's negative, so that gains are negative; `flat`
    parts are in all three, in the sources also where the fused image has none.
    """
    random = np.random.default_rng(0)
    visible, infrared, fused = (blurred_noise(random, height, width) for _ in range(3))
    infrared[..., : width // 3] = 255 - visible[..., : width // 3]
    fused = np.rint(0.5 * visible + 0.3 * infrared + 0.2 * fused)
    if flat:
        visible[..., : height // 3, -width // 3 :] = 90
        infrared[..., : height // 4, -width // 4 :] = 255
        fused[..., -height // 4 :, :] = 30
    return visible, infrared, fused


def blurred_noise(random: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Draw blurred noise of integer levels, H x W float64."""
    return np.rint(cv2.blur(random.uniform(0, 255, (height, width)), (3, 3)))


RAMP = grey([[3 * column + 4 * row for column in range(5)] for row in range(4)])
HALVES = grey([[0, 0, 200, 200]] * 4)
STRIPES = grey([[0] * 4, [200] * 4] * 2)


def test_one_image_by_hand() -> None:
    assert entropy(grey([[7, 7, 90, 255]])) == pytest.approx(1.5)
    assert entropy(grey([[6.6, 7.4, 90, 90]])) == pytest.approx(1)
    assert standard_deviation(grey([[10, 10], [14, 14]])) == pytest.approx(2)
    assert spatial_frequency(RAMP) == pytest.approx(5)
    assert average_gradient(RAMP) == pytest.approx(math.sqrt((3**2 + 4**2) / 2))
    # Down the columns 8 and 6, along the rows 0 and -2.
    expected = math.sqrt((8**2 + 6**2) / 2 + (0 + 2**2) / 2)
    assert spatial_frequency(grey([[0, 0], [8, 6]])) == pytest.approx(expected)


def test_statistics_by_hand() -> None:
    # The fused image shares one bit, two levels, with one source, and nothing with the other.
    assert mutual_information(HALVES, STRIPES, HALVES) == pytest.approx(1)
    assert correlation(HALVES, STRIPES, HALVES) == pytest.approx(0.5)
    assert correlation(HALVES, 255 - HALVES, HALVES) == pytest.approx(0)
    assert scd(HALVES / 2, STRIPES / 4, HALVES / 2 + STRIPES / 4) == pytest.approx(2)
    assert scd(HALVES, STRIPES, 255 - (HALVES + STRIPES) / 2) < 0
    # Mean squared errors 9 and 1.
    expected = 10 * math.log10(255**2 / 5)
    assert psnr(RAMP + 3, RAMP + 1, RAMP) == pytest.approx(expected)
    assert psnr(RAMP + 3, RAMP + 1, RAMP, unscaled_peak=True) == pytest.approx(
        expected + 20 * math.log10(255)
    )


def filtered(x: np.ndarray, window: np.ndarray) -> np.ndarray:
    patches = np.lib.stride_tricks.sliding_window_view(x, window.shape)
    return np.einsum("yxhw,hw->yx", patches, window)


def ssim_by_definition(x: np.ndarray, y: np.ndarray, data_range: float) -> tuple[float, float]:
    """Compute the means of SSIM and of its contrast and structure factor."""
    distance = np.arange(11) - 5
    window = np.exp(-(distance[:, None] ** 2 + distance**2) / (2 * 1.5**2))
    window /= window.sum()
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    mx, my = filtered(x, window), filtered(y, window)
    sx, sy = filtered(x * x, window) - mx**2, filtered(y * y, window) - my**2
    contrast = (2 * (filtered(x * y, window) - mx * my) + c2) / (sx + sy + c2)
    luminance = (2 * mx * my + c1) / (mx**2 + my**2 + c1)
    return float((luminance * contrast).mean()), float(contrast.mean())


def halved(x: np.ndarray) -> np.ndarray:
    x = np.pad(x, [(side % 2, side % 2) for side in x.shape])
    x = x[: x.shape[0] // 2 * 2, : x.shape[1] // 2 * 2]
    return x.reshape(x.shape[0] // 2, 2, x.shape[1] // 2, 2).mean(axis=(1, 3))


def ms_ssim_by_definition(x: np.ndarray, y: np.ndarray, data_range: float) -> float:
    value = 1.0
    for scale, exponent in enumerate((0.0448, 0.2856, 0.3001, 0.2363, 0.1333)):
        terms = ssim_by_definition(x, y, data_range)
        value *= max(terms[0] if scale == 4 else terms[1], 0) ** exponent
        x, y = halved(x), halved(y)
    return value


def vif_by_definition(reference: np.ndarray, distorted: np.ndarray, off_centre: bool) -> float:
    """Compute `vifp_mscale` one pixel at a time, or with IVIF_ZOO's off-centre window."""
    kept = total = 0.0
    for scale in range(1, 5):
        size = 2 ** (5 - scale) + 1
        place = (
            np.linspace(-size // 2, size // 2, size) if off_centre else np.arange(size) - size // 2
        )
        window = np.exp(-(place[:, None] ** 2 + place**2) / (2 * (size / 5) ** 2))
        window /= window.sum()
        border = size // 2 if off_centre else 0

        def seen(x: np.ndarray, window: np.ndarray = window, border: int = border) -> np.ndarray:
            return filtered(np.pad(x, border), window)

        if scale > 1:
            reference, distorted = seen(reference)[::2, ::2], seen(distorted)[::2, ::2]
        mean, other_mean = seen(reference), seen(distorted)
        variances = seen(reference**2) - mean**2
        others = seen(distorted**2) - other_mean**2
        covariances = seen(reference * distorted) - mean * other_mean
        for s, other, c in zip(variances.flat, others.flat, covariances.flat, strict=True):
            gain, noise = c / s if s >= 1e-10 else 0, other
            if s >= 1e-10 and other >= 1e-10 and gain > 0:
                noise = max(other - gain * c, 0)
                kept += math.log(1 + gain**2 * s / (noise + 2))
            total += math.log(1 + max(s, 0) / 2)
    return kept / total


def sobel(x: np.ndarray, row: int, column: int) -> tuple[float, float]:
    """Compute the horizontal and the upward vertical slope of an image with a border of one."""
    patch = x[row : row + 3, column : column + 3]
    weights = np.array([1, 2, 1])
    return float(weights @ (patch[:, 2] - patch[:, 0])), float((patch[0] - patch[2]) @ weights)


def edges_by_definition(
    sources: list[np.ndarray], fused: np.ndarray, minimum_weight: float
) -> tuple[float, float]:
    """Compute Qabf and Nabf one pixel at a time."""

    def angle(x: float, y: float) -> float:
        return math.atan(y / x) if x else math.pi / 2

    def ratio(a: float, b: float) -> float:
        return min(a, b) / max(a, b) if max(a, b) else 0

    height, width = fused.shape
    kept = strengths = invented = weights = 0.0
    for place in np.ndindex(height, width):
        padded = [sobel(np.pad(x, 1), *place) for x in (*sources, fused)]
        mirrored = [sobel(np.pad(x, 1, "reflect") / 8, *place) for x in (*sources, fused)]
        strongest = max(math.hypot(*slope) for slope in mirrored[:2])
        for n in range(2):
            g, f = math.hypot(*padded[n]), math.hypot(*padded[2])
            turn = abs(angle(*padded[n]) - angle(*padded[2])) / (math.pi / 2)
            strength = 0.9994 / (1 + math.exp(-15 * (ratio(g, f) - 0.5)))
            orientation = 0.9879 / (1 + math.exp(-22 * (1 - turn - 0.8)))
            kept += g * strength * orientation
            strengths += g

            g, f = math.hypot(*mirrored[n]), math.hypot(*mirrored[2])
            turn = abs(abs(angle(*mirrored[n]) - angle(*mirrored[2])) * 2 / math.pi - 1)
            strength = 0.9999 / (1 + math.exp(-19 * (ratio(g, f) - 0.5)))
            orientation = 0.9995 / (1 + math.exp(-22 * (turn - 0.5)))
            weight = g**1.5 if g >= 2 else minimum_weight
            if f > strongest * (1 + 1e-12):
                invented += weight * (1 - math.sqrt(strength * orientation))
            weights += weight
    return kept / strengths, invented / weights


@pytest.mark.parametrize("scaled_twice", [False, True])
def test_ssim_by_definition(scaled_twice: bool) -> None:
    images = scene(33, 46, flat=not scaled_twice)
    *sources, fused = images
    # Values scaled by 255 with an unchanged range are like unscaled values with a range of 1.
    values = [ssim_by_definition(x, fused, 1 if scaled_twice else 255)[0] for x in sources]
    tolerance = 1e-5 if scaled_twice else 1e-9  # IVIF_ZOO computes in float32
    got = [ssim(*images, sources=how, scaled_twice=scaled_twice) for how in ("mean", "sum")]
    assert got == pytest.approx([sum(values) / 2, sum(values)], rel=tolerance)


@pytest.mark.parametrize("scaled_twice", [False, True])
def test_ms_ssim_by_definition(scaled_twice: bool) -> None:
    images = scene(162, 165, flat=not scaled_twice)
    *sources, fused = images
    values = [ms_ssim_by_definition(x, fused, 1 if scaled_twice else 255) for x in sources]
    tolerance = 1e-5 if scaled_twice else 1e-9
    got = [ms_ssim(*images, sources=how, scaled_twice=scaled_twice) for how in ("mean", "sum")]
    assert got == pytest.approx([sum(values) / 2, sum(values)], rel=tolerance)


@pytest.mark.parametrize("off_centre", [False, True])
def test_vif_by_definition(off_centre: bool) -> None:
    images = scene(53, 66)
    *sources, fused = images
    values = [vif_by_definition(x, fused, off_centre) for x in sources]
    got = [vif(*images, sources=how, off_centre_window=off_centre) for how in ("mean", "sum")]
    assert got == pytest.approx([sum(values) / 2, sum(values)], rel=1e-6)


@pytest.mark.parametrize("minimum_weight", [0.001, 0.0])
def test_edges_by_definition(minimum_weight: float) -> None:
    images = scene(14, 17)
    kept, invented = edges_by_definition([*images[:2]], images[2], minimum_weight)
    assert qabf(*images) == pytest.approx(kept, rel=1e-9)
    # Flat pixels have no orientation; both define it differently, with hardly any weight.
    assert nabf(*images, minimum_weight=minimum_weight) == pytest.approx(invented, rel=1e-6)
    assert invented > 0


def test_identical_images() -> None:
    values = fusion_metrics(*[scene(161, 170)[2]] * 3)
    for name in ("SSIM", "MS-SSIM", "VIF", "CC"):
        assert values[name] == pytest.approx(1, abs=1e-9), name
    assert values["MI"] == pytest.approx(2 * values["EN"])
    assert values["PSNR"] == math.inf
    assert values["Nabf"] == 0
    assert math.isnan(values["SCD"])


def test_constant_images() -> None:
    """Use the level 77.3, since the mean of so many pixels differs from it."""
    constant = np.full((171, 163), 77.3)
    assert constant.mean() != constant[0, 0]
    image = scene(171, 163)[0]
    values = fusion_metrics(constant, constant, constant)
    assert [values[name] for name in ("EN", "SF", "AG", "MI", "Nabf")] == [0] * 5
    assert values["SD"] == pytest.approx(0, abs=1e-9)
    assert values["SSIM"] == values["MS-SSIM"] == pytest.approx(1)
    undefined = {name for name, value in values.items() if math.isnan(value)}
    assert undefined == {"SCD", "CC", "VIF"}

    values = fusion_metrics(image, image, constant)
    assert {name for name, value in values.items() if math.isnan(value)} == {"CC"}
    assert values["VIF"] == pytest.approx(0, abs=1e-5)

    for seed in range(16):  # rounding must not make it negative
        noise = blurred_noise(np.random.default_rng(seed), 40, 40)
        assert 0 <= mutual_information(noise, noise, np.full_like(noise, 9)) < 1e-5

    assert math.isnan(qabf(*[np.zeros((8, 8))] * 3))
    assert math.isnan(nabf(*[constant] * 3, minimum_weight=0))


@pytest.mark.parametrize("convention", ["mean", "ivif_zoo"])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_types_of_images_agree(dtype: type, convention: str) -> None:
    images = scene(161, 167)
    expected = fusion_metrics(*images, convention=convention)  # type: ignore[arg-type]
    assert list(expected) == list(FUSION_METRICS)
    given = [image.astype(dtype) for image in images]
    assert fusion_metrics(*given, convention=convention) == expected  # type: ignore[arg-type]
    transposed = [np.asfortranarray(image) for image in given]
    assert fusion_metrics(*transposed, convention=convention) == expected  # type: ignore[arg-type]
    for image, before in zip(given, images, strict=True):
        assert np.array_equal(image, before)  # the images are not overwritten


def test_images_of_float64_are_not_overwritten() -> None:
    images = scene(161, 167)
    fusion_metrics(*images)
    for image, before in zip(images, scene(161, 167), strict=True):
        assert np.array_equal(image, before)


def test_edges_of_equal_strength_are_not_invented() -> None:
    """Fuse to a source with levels that are no binary fractions, which rounding must not part."""
    visible, infrared, _ = (image * 0.97 for image in scene(40, 44))
    assert nabf(visible, infrared, visible) == nabf(visible, infrared, infrared) == 0


def test_conventions() -> None:
    images = scene(161, 167)
    mean, total, zoo = (
        fusion_metrics(*images, convention=convention) for convention in ("mean", "sum", "ivif_zoo")
    )
    for name in FUSION_METRICS:
        factor = 2 if name in ("SSIM", "MS-SSIM", "VIF") else 1
        assert total[name] == pytest.approx(factor * mean[name])
    different = {name for name in zoo if zoo[name] != total[name]}
    assert different == {"PSNR", "SSIM", "MS-SSIM", "VIF", "Nabf"}


def test_the_table_names_what_is_better() -> None:
    """Compare the mean of both sources with noise of the same mean and deviation."""
    random = np.random.default_rng(1)
    sources = [blurred_noise(random, 161, 167) for _ in range(2)]
    good = (sources[0] + sources[1]) / 2
    bad = random.normal(good.mean(), good.std(), good.shape).clip(0, 255)
    names = [name for name, metric in FUSION_METRICS.items() if metric.needs_sources]
    better, worse = (fusion_metrics(*sources, image, names) for image in (good, bad))
    for name in names:
        sign = 1 if FUSION_METRICS[name].higher_is_better else -1
        assert sign * better[name] > sign * worse[name], name


IMAGE = scene(161, 167)[0]


@pytest.mark.parametrize(
    ("fused", "message"),
    [
        (IMAGE.astype(int), "fused is int64, expected an array of uint8, float32 or float64"),
        (IMAGE.astype(np.float16), "fused is float16, expected an array of uint8, float32 or"),
        (IMAGE.tolist(), "fused is a list, expected an array of uint8, float32 or float64"),
        (IMAGE[None], "fused is (1, 161, 167), expected H x W"),
        (np.dstack([IMAGE] * 3), "fused is (161, 167, 3), expected H x W"),
        (IMAGE[:0], "fused is 0 x 167, expected at least"),
        (IMAGE[:, 1:], "fused is (161, 166), expected (161, 167) as visible"),
        (IMAGE + 200, "expected 0 to 255"),
        (IMAGE - 200, "expected 0 to 255"),
        (np.where(IMAGE < 99, IMAGE, np.nan), "fused has values nan to nan, expected 0 to 255"),
    ],
)
@pytest.mark.parametrize(
    "name", [n for n, metric in FUSION_METRICS.items() if metric.needs_sources]
)
def test_wrong_images_are_rejected(name: str, fused: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        FUSION_METRICS[name].function(IMAGE, IMAGE, fused)


@pytest.mark.parametrize(
    ("name", "smallest"),
    [("SF", 2), ("AG", 2), ("SSIM", 11), ("MS-SSIM", 161), ("VIF", 41), ("Nabf", 3), ("Qabf", 2)],
)
def test_smallest_images(name: str, smallest: int) -> None:
    random = np.random.default_rng(0)
    images = [random.uniform(0, 255, (smallest, smallest)) for _ in range(3)]
    for convention in ("mean", "ivif_zoo"):
        value = fusion_metrics(*images, [name], convention=convention)[name]
        assert math.isfinite(value)
    small = [image[..., 1:] for image in images]
    with pytest.raises(ValueError, match=f"is {smallest} x {smallest - 1}, expected at least"):
        fusion_metrics(*small, [name])


def test_unknown_choices_are_rejected() -> None:
    with pytest.raises(ValueError, match="metric 'PIQE', known: EN, SD"):
        fusion_metrics(IMAGE, IMAGE, IMAGE, ["EN", "PIQE"])
    with pytest.raises(ValueError, match="convention is 'median', expected 'mean', 'sum' or"):
        fusion_metrics(IMAGE, IMAGE, IMAGE, convention="median")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="sources is 'max', expected 'mean' or 'sum'"):
        ssim(IMAGE, IMAGE, IMAGE, sources="max")  # type: ignore[arg-type]


# Output of IVIF_ZOO's Metric/Metric_torch.py (commit 61b0a44), float32 on a CPU, for the
# published fused image of an M3FD pair and for the maximum of other pairs, which have odd
# sides or are dark.
IVIF_ZOO = {
    ("sage_m3fd", "00004"): (
        7.01224, 37.95, 14.359, 4.4911, 2.70582, 1.81609, 0.537084, 62.527,
        0.986991, 0.986156, 0.796231, 0.663038, 0.0124366,
    ),
    ("roadscene", "FLIR_00497"): (
        7.13852, 50.3004, 11.2336, 4.08874, 7.70526, 1.2136, 0.705298, 62.5318,
        1.05094, 1.19378, 1.02109, 0.566601, 0.000199541,
    ),
    ("tno", "06"): (
        7.56209, 49.1242, 11.3428, 3.62053, 7.49049, 1.37768, 0.578436, 56.2016,
        0.984447, 0.990182, 0.954946, 0.484841, 3.95276e-05,
    ),
    ("msrs", "01086N"): (
        6.53606, 33.4378, 9.16728, 2.82744, 6.06293, 1.88917, 0.622737, 66.5164,
        0.99022, 0.99863, 1.2136, 0.712464, 6.26529e-05,
    ),
}  # fmt: skip


@pytest.mark.data
@pytest.mark.parametrize(("folder", "stem"), IVIF_ZOO)
def test_agrees_with_ivif_zoo(data: Path, folder: str, stem: str) -> None:
    def luma(path: Path) -> np.ndarray:
        return cv2.cvtColor(read_visible(path), cv2.COLOR_RGB2YCrCb)[..., 0]

    visible = luma(list_images(data / folder / "visible")[stem])
    infrared = read_infrared(list_images(data / folder / "infrared")[stem])
    published = data / folder / "fused_published"
    fused = luma(published / f"{stem}.png") if published.is_dir() else np.maximum(visible, infrared)
    values = fusion_metrics(visible, infrared, fused, convention="ivif_zoo")
    expected = dict(zip(FUSION_METRICS, IVIF_ZOO[folder, stem], strict=True))
    assert values == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("convention", ["mean", "sum"])
def test_ssim_and_ms_ssim_together_are_those_alone(convention: str) -> None:
    random = np.random.default_rng(5)
    images = [random.integers(0, 256, (163, 170), np.uint8) for _ in range(3)]
    names = ["MS-SSIM", "EN", "SSIM"]
    together = fusion_metrics(*images, names=names, convention=convention)
    alone = [fusion_metrics(*images, names=[name], convention=convention) for name in names]
    assert list(together.items()) == [item for values in alone for item in values.items()]
