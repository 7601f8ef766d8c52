"""Thermal gain control: the mapping, its behaviour in time, invalid input."""

from __future__ import annotations

import numpy as np
import pytest

from ivf_core.images.thermal import THERMAL_MODES, GainControl, ThermalNormalizer

RATE_HZ = 30.0
HEIGHT, WIDTH = 121, 163
BACKGROUND = (10, 10)


def _scene(seed: int = 0) -> np.ndarray:
    """Make a uint16 background that spans about 2000 counts."""
    ramp = np.linspace(20_000, 22_000, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH)
    noise = np.random.default_rng(seed).normal(0, 20, ramp.shape)
    return (ramp + noise).astype(np.uint16)


def _hot_object_passes() -> list[np.ndarray]:
    """Make six seconds; in the middle two, an object 4000 counts hotter covers 4 % of the image."""
    frames = []
    for index in range(180):
        frame = _scene(seed=index)
        if 60 <= index < 120:
            frame[40:64, 40:74] = 26_000
        frames.append(frame)
    return frames


def _background_grey(frames: list[np.ndarray], control: GainControl) -> np.ndarray:
    """Return the grey level of a fixed count in each frame."""
    greys = []
    for index, frame in enumerate(frames):
        frame = frame.copy()
        frame[BACKGROUND] = 21_500
        greys.append(control(frame, index / RATE_HZ)[BACKGROUND])
    return np.array(greys, dtype=int)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("shape", [(480, 640), (1, 1), (1, 999), (37, 2), (1024, 1281)])
def test_full_percentiles_stretch_the_whole_frame(dtype: type, shape: tuple[int, int]) -> None:
    image = np.linspace(40, 200, shape[0] * shape[1]).reshape(shape).astype(dtype)
    mapped = GainControl(0, 100, minimum_span=1)(image)
    assert mapped.shape == shape
    assert mapped.dtype == np.uint8
    if image.size > 1:
        # Percentiles come from a sample: the very ends may fall outside it.
        low, high = float(image.min()), float(image.max())
        expected = np.clip((image.astype(float) - low) / (high - low) * 255, 0, 255)
        assert np.abs(mapped - expected).max() <= 3


def test_window_is_at_the_percentiles_and_saturates_outside() -> None:
    image = np.arange(10_000, dtype=np.uint16).reshape(100, 100)
    control = GainControl(10, 90)
    mapped = control(image)
    assert control.window == pytest.approx((1000, 9000), abs=1)
    assert mapped.ravel()[500] == 0
    assert mapped.ravel()[9500] == 255
    assert mapped.ravel()[5000] == pytest.approx(127.5, abs=0.6)
    assert (np.diff(mapped.ravel().astype(int)) >= 0).all()


def test_hot_object_does_not_make_the_background_jump() -> None:
    frames = _hot_object_passes()
    smooth = np.abs(np.diff(_background_grey(frames, GainControl(smoothing_seconds=0.5))))
    abrupt = np.abs(np.diff(_background_grey(frames, GainControl(smoothing_seconds=0.0))))
    assert abrupt.max() > 100  # the sequence does provoke flicker
    # The window's upper end moves by 1 - exp(-1 / 15) of 4000 counts in the first frame,
    # which takes the background from 191 to 1500 / 2258 * 255 = 169.
    assert smooth.max() <= 25
    assert smooth.max() < abrupt.max() / 4


def test_background_recovers_after_the_object_has_left() -> None:
    greys = _background_grey(_hot_object_passes(), GainControl(smoothing_seconds=0.3))
    assert greys[119] < greys[59] - 100  # the window did follow the object
    assert abs(greys[-1] - greys[59]) <= 3


def test_noisy_percentiles_do_not_flicker() -> None:
    rng = np.random.default_rng(3)
    # Few pixels at the extremes, so that the percentiles jitter from frame to frame.
    frames = [rng.normal(20_000 + rng.normal(0, 60), 200, (24, 31)).astype(np.uint16)
              for _ in range(120)]  # fmt: skip
    for frame in frames:
        np.clip(frame, 18_000, 22_000, out=frame)

    def spread(control: GainControl) -> float:
        greys = []
        for index, frame in enumerate(frames):
            control(frame, index / RATE_HZ)
            low, high = control.window
            greys.append(255 * (20_100 - low) / (high - low))
        return np.abs(np.diff(greys[15:])).max()

    smooth, abrupt = spread(GainControl()), spread(GainControl(smoothing_seconds=0.0))
    assert abrupt > 15
    assert smooth < 4


def test_step_response_is_exponential_in_stamp_time() -> None:
    before = np.linspace(1000, 2000, 10_000).reshape(100, 100).astype(np.uint16)
    after = (before + 5000).astype(np.uint16)
    control = GainControl(0, 100, smoothing_seconds=0.5)
    control(before, 0.0)
    start = control.window[0]
    for index in range(1, 16):
        control(after, index * 0.1)
        moved = (control.window[0] - start) / 5000
        assert moved == pytest.approx(1 - np.exp(-index * 0.1 / 0.5), abs=1e-6)


def test_result_does_not_depend_on_the_frame_rate() -> None:
    before, after = _scene(), _scene() + np.uint16(4000)

    def window_after_one_second(rate_hz: int) -> tuple[float, float]:
        control = GainControl()
        control(before, 0.0)
        for index in range(1, rate_hz + 1):
            control(after, index / rate_hz)
        return control.window

    assert window_after_one_second(60) == pytest.approx(window_after_one_second(9), abs=1e-6)


@pytest.mark.parametrize("seconds", [None, 9.0, 20.0], ids=["no stamp", "jump back", "gap"])
def test_frame_uses_its_own_window_at_once(seconds: float | None) -> None:
    control, fresh = GainControl(), GainControl()
    control(_scene(), 10.0)
    hotter = _scene() + np.uint16(7000)
    np.testing.assert_array_equal(control(hotter, seconds), fresh(hotter))


def test_change_of_dtype_and_reset_forget_the_window() -> None:
    control = GainControl()
    control(_scene(), 1.0)
    celsius = np.linspace(10, 30, 5000, dtype=np.float32).reshape(50, 100)
    np.testing.assert_array_equal(control(celsius, 1.01), GainControl()(celsius))
    control.reset()
    assert control.window is None
    hotter = celsius + 50
    np.testing.assert_array_equal(control(hotter, 1.02), GainControl()(hotter))


def test_same_stamp_twice_keeps_the_window() -> None:
    control = GainControl()
    control(_scene(), 1.0)
    window = control.window
    control(_scene() + np.uint16(5000), 1.0)
    assert control.window == window


@pytest.mark.parametrize(
    ("dtype", "level", "noise"),
    [(np.uint8, 90, 1.0), (np.uint16, 22_000, 4.0), (np.float32, 295.0, 0.04)],
)
def test_uniform_scene_does_not_amplify_noise(dtype: type, level: float, noise: float) -> None:
    image = np.random.default_rng(1).normal(level, noise, (120, 160)).astype(dtype)
    mapped = GainControl()(image)
    assert mapped.mean() == pytest.approx(127.5, abs=16)
    assert mapped.std() < 20
    constant = GainControl()(np.full((5, 7), level, dtype))
    assert np.ptp(constant) == 0
    assert constant[0, 0] in (127, 128)


def test_constant_zero_float_frame() -> None:
    assert np.isin(GainControl()(np.zeros((5, 7), np.float32)), (127, 128)).all()


def test_non_finite_pixels_are_black_and_counted() -> None:
    clean = np.linspace(280, 320, 10_000, dtype=np.float32).reshape(100, 100)
    damaged = clean.copy()
    damaged[5, 5], damaged[50, 51], damaged[98, 98] = np.nan, np.inf, -np.inf
    control = GainControl()
    mapped = control(damaged, 0.0)
    assert control.repaired_pixels == 3
    assert mapped[5, 5] == mapped[50, 51] == mapped[98, 98] == 0
    intact = np.isfinite(damaged)
    assert np.abs(mapped[intact].astype(int) - GainControl()(clean)[intact]).max() <= 1
    control(clean, 0.1)
    assert control.repaired_pixels == 0


def test_only_finite_pixel_outside_the_sample_is_found() -> None:
    image = np.full((601, 601), np.nan, np.float32)
    image[1, 1] = 5.0
    mapped = GainControl()(image)
    assert mapped[1, 1] in (127, 128)
    assert mapped.sum() == mapped[1, 1]


def test_huge_dead_pixels_do_no_harm() -> None:
    image = np.linspace(0, 1, 10_000, dtype=np.float32).reshape(100, 100)
    image[3, 3], image[4, 4] = np.finfo(np.float32).max, np.finfo(np.float32).min
    with np.errstate(all="raise"):
        mapped = GainControl()(image)
    assert mapped[3, 3] == 255
    assert mapped[4, 4] == 0


def test_rejected_frame_leaves_the_state_unchanged() -> None:
    control = GainControl()
    frame = np.linspace(280, 320, 100, dtype=np.float32).reshape(10, 10)
    control(frame, 0.0)
    window = control.window
    with pytest.raises(ValueError, match="no finite pixel"):
        control(np.full((10, 10), np.nan, np.float32), 0.1)
    assert control.window == window


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 4, 3), np.uint8), "expected H x W"),
        (np.zeros((0, 4), np.uint8), "expected H x W"),
        (np.zeros((4, 4), np.int16), "int16"),
        (np.zeros((4, 4), np.float64), "float64"),
    ],
)
@pytest.mark.parametrize("mode", THERMAL_MODES)
def test_invalid_frames_are_rejected(mode: str, image: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ThermalNormalizer(mode)(image)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"low_percentile": -1}, "low_percentile"),
        ({"high_percentile": 101}, "high_percentile"),
        ({"low_percentile": 50, "high_percentile": 50}, "low_percentile"),
        ({"low_percentile": float("nan")}, "low_percentile"),
        ({"smoothing_seconds": -0.1}, "smoothing_seconds"),
        ({"smoothing_seconds": float("inf")}, "smoothing_seconds"),
        ({"minimum_span": 0}, "minimum_span"),
    ],
)
def test_invalid_options_are_named(options: dict, name: str) -> None:
    with pytest.raises(ValueError, match=name):
        GainControl(**options)


def test_percentiles_change_at_run_time_and_move_smoothly() -> None:
    image = np.arange(10_000, dtype=np.uint16).reshape(100, 100)
    control = GainControl(0, 100, smoothing_seconds=1.0)
    control(image, 0.0)
    with pytest.raises(ValueError, match="high_percentile"):
        control.set_percentiles(60, 40)
    assert control.percentiles == (0, 100)
    control.set_percentiles(25, 75)
    control(image, 1.0)
    assert control.window[0] == pytest.approx(2500 * (1 - np.exp(-1)), rel=1e-3)


def test_auto_passes_8_bit_uncopied_and_stretches_the_rest() -> None:
    normalizer = ThermalNormalizer()
    image = np.full((33, 41), 77, np.uint8)
    assert normalizer(image, 0.0) is image
    scene = _scene()
    np.testing.assert_array_equal(normalizer(scene, 0.1), GainControl()(scene, 0.1))


def test_percentile_stretches_8_bit_too() -> None:
    image = np.linspace(100, 150, 10_000).reshape(100, 100).astype(np.uint8)
    mapped = ThermalNormalizer("percentile")(image)
    assert mapped.min() == 0
    assert mapped.max() == 255


def test_full_range() -> None:
    normalizer = ThermalNormalizer("full_range")
    eight = np.arange(256, dtype=np.uint8)[None]
    assert normalizer(eight) is eight
    sixteen = np.array([[0, 257 * 100, 65535]], np.uint16)
    np.testing.assert_array_equal(normalizer(sixteen), [[0, 100, 255]])
    unit = np.array([[-1, 0, 100 / 255, 1, 7, np.nan]], np.float32)
    np.testing.assert_array_equal(normalizer(unit), [[0, 0, 100, 255, 255, 0]])
    assert normalizer.repaired_pixels == 1


def test_mode_is_checked() -> None:
    normalizer = ThermalNormalizer()
    with pytest.raises(ValueError, match=r"'kelvin'.*auto, percentile, full_range"):
        normalizer.mode = "kelvin"
    assert normalizer.mode == "auto"


class _Changing:
    """Attribute that another thread changes: `first` for so many reads, `then` afterwards."""

    def __init__(self, first: object, then: object, reads: int = 1) -> None:
        self._first, self._then, self._reads = first, then, reads

    def __get__(self, instance: object, owner: type) -> object:
        self._reads -= 1
        return self._first if self._reads >= 0 else self._then

    def __set__(self, instance: object, value: object) -> None:
        """Ignore what the class itself sets."""


def _images_with_a_change(**changing: _Changing) -> list[tuple[int, int, int]]:
    """Return minimum, maximum and sum of a second frame, without and with a change."""
    images = []
    for attributes in ({}, changing):
        control = GainControl()
        control(_scene(), 0.0)
        control.__class__ = type("ChangingControl", (GainControl,), attributes)
        image = control(_scene() + np.uint16(700), 0.1)
        images.append((int(image.min()), int(image.max()), int(image.astype(int).sum())))
    return images


@pytest.mark.parametrize("reads", [1, 2])
def test_smoothing_may_be_turned_off_while_a_frame_is_processed(reads: int) -> None:
    expected, found = _images_with_a_change(smoothing_seconds=_Changing(0.5, 0.0, reads))
    assert found == expected


def test_percentiles_may_change_while_a_frame_is_processed() -> None:
    expected, found = _images_with_a_change(_percentiles=_Changing((0.5, 99.5), (40.0, 60.0)))
    assert found == expected


@pytest.mark.parametrize("name", ["_window", "_seconds"])
def test_reset_may_happen_while_a_frame_is_processed(name: str) -> None:
    control = GainControl()
    control(_scene(), 0.0)
    expected, found = _images_with_a_change(**{name: _Changing(getattr(control, name), None)})
    assert found == expected


def test_mode_may_change_while_a_frame_is_processed() -> None:
    normalizer = ThermalNormalizer("percentile")
    normalizer.__class__ = type(
        "ChangingNormalizer", (ThermalNormalizer,), {"_mode": _Changing("percentile", "full_range")}
    )
    np.testing.assert_array_equal(normalizer(_scene(), 0.0), GainControl()(_scene(), 0.0))
