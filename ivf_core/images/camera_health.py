"""Health of one camera from its frames: black, saturated, frozen, noisy, blurred.

Measured on a few bands of rows that cross the image, so that a frame costs a fraction of a
millisecond. Neighbouring pixels are kept, since noise and blur show between neighbours.
Thresholds are grey levels of 8 bits; frames of other types are scaled to their own range.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from ivf_core.images.symptoms import HealthRecord, Lasting, Severity, Symptom
from ivf_core.images.thermal import MINIMUM_SPANS

__all__ = ["CameraHealth"]

_SAMPLE_PIXELS = 82_000  # 8 bands of 16 rows at 640 x 480
_BANDS = 8
_WIDEST = 640  # pixels of a band; wider images are sampled left, in the middle and right in turn
_LEAST_ROWS = 12  # of a band: three rows of a quarter of the size, one of which has neighbours
_SMALLEST = 16  # pixels, below which an image tells nothing
_GAP_SECONDS = 5.0  # a longer gap, or a jump back in time, starts again

_LASTING_SECONDS = 0.3
_SEVERITIES = {
    "black": Severity.UNUSABLE,
    "blurred": Severity.FAULT,
    "frozen": Severity.NOTE,
    "low_contrast": Severity.NOTE,
    "noise": Severity.FAULT,
    "salt": Severity.FAULT,
    "saturated": Severity.FAULT,
    "unreadable": Severity.UNUSABLE,
}
_TEXTS = {
    "black": "black: no signal",
    "blurred": "blurred",
    "frozen": "frozen: the same image for {frozen_seconds:.1f} s",
    "low_contrast": "low contrast",
    "noise": "noise of {noise:.0f} of 255 levels",
    "salt": "salt: {outlier_share:.0%} of the pixels stand out",
    "saturated": "saturated: {white_share:.0%} white",
    "unreadable": "unreadable: {reason}",
}

_BLACK_MEAN = 32.0
_FLAT_SPREAD = 10.0
"""Range of a quarter-sized image without signal.

Averaging 4 x 4 pixels leaves a quarter of the noise: 5 levels for a deviation of 3. The
darkest night of MSRS has a range of 30, by lamps and headlights.
"""

_WHITE = 250
_SATURATED_SHARE = {"visible": 0.5, "infrared": 0.3}
"""Share of white pixels that is a fault.

Healthy images of RoadScene and MSRS reach 0.33 in the visible (a pale sky) and 0.06 in the
infrared.
"""
_SATURATED_UNUSABLE = 0.8

_FROZEN_SECONDS = 0.25
_FROZEN_UNUSABLE_SECONDS = 2.0
"""Time of identical frames that no flat-field correction explains.

The shutter of a microbolometer closes for 0.3 to 1 s.
"""

_NOISE = 6.0
"""Noise of the quietest tenth of the blocks, about half of the sensor's deviation in colour.

Healthy JPEGs stay below 1.1; a deviation of 10 measures 4.4 to 9, one of 25 at least 9.9.
"""

_OUTLIER = 60
_SALT_SHARE = 0.025
"""Share of pixels that differ from the median of their 3 x 3 by more than `_OUTLIER`.

At most 0.012 in healthy images and videos; salt of 10 % gives at least 0.048.
"""

_DEAD_ZONE = 4.0  # levels of the Laplacian: rounding and JPEG
_COARSE_DEAD_ZONE = 1.0  # averaging 4 x 4 pixels leaves a quarter of both
_LEAST_TEXTURE = 1.0  # mean coarse Laplacian beyond the dead zone; below it, blur is unknown
_SHARPNESS_DROP = 0.3
"""Sharpness relative to the camera's own history, below which it is blurred.

A Gaussian blur of 2 pixels leaves at most 0.20 of the sharpness of an image of MSRS or
RoadScene, one of 1 pixel up to 0.44. Smoke that closes in on a scene leaves 0.37.
"""
_LEAST_SHARPNESS = 0.01  # whatever the history; healthy images have at least 0.040
_BLUR_SECONDS = 1.0  # longer than the motion blur of a turn or a bump
_HISTORY_SECONDS = 5.0
_BLURRED_HISTORY_SECONDS = 120.0  # a blurred camera must not become the measure

_IMMERKAER = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
_IMMERKAER_SCALE = float(np.sqrt(np.pi / 2)) / 6
"""Factor from the mean absolute response to the standard deviation of white noise.

Immerkaer, "Fast noise variance estimation" (1996).
"""
_LAPLACIAN_OF_NOISE = float(np.sqrt(20.0))  # deviation of the Laplacian of unit white noise


class CameraHealth:
    """Health of one camera, frame by frame.

    Symptoms, each a key of `ivf_core.images.symptoms.REMEDIES`: black, saturated, frozen,
    low_contrast, noise, salt, blurred, unreadable. A symptom counts after three frames and
    0.3 s, and until it has been gone as long (blurred: 1 s). Limits: blur is judged against
    the camera's own history, so that a lens that was never sharp shows only if it is grossly
    out of focus; a scene without texture says nothing about blur; a simulated camera without
    noise looks frozen before a scene that does not move.

    One thread calls it.

    Args:
        camera: "visible" or "infrared".

    Raises:
        ValueError: the camera is another.
    """

    def __init__(self, camera: str) -> None:
        if camera not in _SATURATED_SHARE:
            raise ValueError(f"camera is '{camera}', expected visible or infrared")
        self._camera = camera
        self.reset()

    def reset(self) -> None:
        """Forget all frames."""
        self._last: float | None = None
        self._before: np.ndarray | None = None
        self._frozen_since = 0.0
        self._sharpness: float | None = None
        self._texts: dict[str, str] = {}
        self._lasting = {
            name: Lasting(_BLUR_SECONDS if name == "blurred" else _LASTING_SECONDS)
            for name in (*_SEVERITIES, "overexposed")
        }
        for name in ("frozen", "frozen_long"):  # their time is counted by the frames themselves
            self._lasting[name] = Lasting(0.0, frames=1)

    def add(self, image: np.ndarray, seconds: float) -> HealthRecord:
        """Take the next frame and return the health after it.

        Args:
            image: H x W x 3 uint8 RGB; of a thermal camera H x W uint8, uint16 or float32.
            seconds: stamp of the frame.
        """
        elapsed = self._elapse(seconds)
        if min(image.shape[:2]) < _SMALLEST:
            return HealthRecord(seconds)
        bands = _bands(image)
        frozen = self._before is not None and _same(bands.pixels, self._before)
        self._before = bands.pixels
        if not frozen:
            self._frozen_since = seconds
        frozen_for = seconds - self._frozen_since
        sample = _sample(bands)
        values = {"mean": sample.mean, "spread": sample.spread, "white_share": sample.white_share}
        values |= {"frozen_seconds": frozen_for}
        white = sample.white_share >= _SATURATED_SHARE[self._camera]
        flat = sample.spread < _FLAT_SPREAD
        black = sample.empty or (flat and sample.mean < _BLACK_MEAN)
        shown: dict[str, bool | None] = {
            "unreadable": False,
            "black": black and not white,
            "saturated": white,
            "overexposed": sample.white_share >= _SATURATED_UNUSABLE,
            "low_contrast": flat and not black and not white,
            "frozen": frozen_for >= _FROZEN_SECONDS and not (black or white),
            "frozen_long": frozen_for >= _FROZEN_UNUSABLE_SECONDS and not (black or white),
            "noise": None,
            "salt": None,
            "blurred": None,
        }
        if not flat and not sample.empty:
            values |= self._texture(sample, elapsed, shown)
        return self._record(shown, seconds, values)

    def unreadable(self, reason: str, seconds: float) -> HealthRecord:
        """Take note of a frame that could not be decoded, and return the health after it.

        Args:
            reason: what is wrong with it.
            seconds: stamp of the frame.
        """
        self._elapse(seconds)
        self._before = None
        shown: dict[str, bool | None] = dict.fromkeys(self._lasting, None)
        return self._record({**shown, "unreadable": True}, seconds, {}, reason)

    def _elapse(self, seconds: float) -> float:
        """Return the time since the last frame; forget everything if it jumped."""
        if self._last is not None and not 0 <= seconds - self._last <= _GAP_SECONDS:
            self.reset()
        elapsed = 0.0 if self._last is None else seconds - self._last
        self._last = seconds
        return elapsed

    def _texture(
        self, sample: _Sample, elapsed: float, shown: dict[str, bool | None]
    ) -> dict[str, float]:
        """Measure noise, salt and blur; return the values and set what is shown."""
        outliers, noise = _outlier_share(sample), _noise(sample)
        shown["salt"] = outliers >= _SALT_SHARE
        shown["noise"] = noise >= _NOISE and not shown["salt"] and not sample.stretched
        values = {"outlier_share": outliers, "noise": noise}
        texture, sharpness = _sharpness(sample, noise)
        if texture < _LEAST_TEXTURE:
            return values
        history = sharpness if self._sharpness is None else self._sharpness
        blurred = sharpness < max(_LEAST_SHARPNESS, _SHARPNESS_DROP * history)
        seconds = _BLURRED_HISTORY_SECONDS if blurred else _HISTORY_SECONDS
        self._sharpness = history + min(1.0, elapsed / seconds) * (sharpness - history)
        shown["blurred"] = blurred
        return {**values, "sharpness": sharpness, "usual_sharpness": history}

    def _record(
        self,
        shown: dict[str, bool | None],
        seconds: float,
        values: dict[str, float],
        reason: str = "",
    ) -> HealthRecord:
        """Update what lasts, and describe it as it was when last shown."""
        on = {name: each.update(shown[name], seconds) for name, each in self._lasting.items()}
        texts = {
            name: text.format(reason=reason, **values)
            for name, text in _TEXTS.items()
            if shown[name]
        }
        self._texts.update(texts)
        severities = dict(_SEVERITIES)
        for name, long in (("saturated", "overexposed"), ("frozen", "frozen_long")):
            if on[long]:
                severities[name] = Severity.UNUSABLE
        found = [
            Symptom(name, severity, self._texts[name])
            for name, severity in severities.items()
            if on[name]
        ]
        return HealthRecord.of(seconds, found, values)


class _Bands(NamedTuple):
    """Bands of rows of an image, one below the other, and the height of each."""

    pixels: np.ndarray
    height: int


class _Sample(NamedTuple):
    """Bands as grey levels of 8 bits, and what they show at first sight."""

    grey: np.ndarray  # uint8, width and height of a band multiples of 4
    small: np.ndarray  # a quarter of the size, averaged
    band: int  # height of a band in `grey`
    mean: float
    spread: float
    white_share: float
    empty: bool  # all pixels are equal, or none is finite
    stretched: bool  # the range is so narrow that scaling shows the sensor's own noise


def _bands(image: np.ndarray) -> _Bands:
    """Copy bands of rows that are spread over the image."""
    height, width = image.shape[:2]
    columns = min(width, _WIDEST) // 4 * 4
    if height * width <= _SAMPLE_PIXELS:
        rows = height // 4 * 4
        return _Bands(image[:rows, :columns].copy(), rows)
    rows = max(_LEAST_ROWS, _SAMPLE_PIXELS // (_BANDS * columns) // 4 * 4)
    tops = np.linspace(0, height - rows, _BANDS).astype(int)
    lefts = (0, (width - columns) // 2, width - columns)
    cut = (image[y : y + rows, (x := lefts[k % 3]) : x + columns] for k, y in enumerate(tops))
    return _Bands(np.concatenate(list(cut)), rows)


def _same(one: np.ndarray, other: np.ndarray) -> bool:
    """Return whether two arrays hold the same bytes, NaN included."""
    return (
        one.dtype == other.dtype
        and one.shape == other.shape
        and bool(np.array_equal(one.view(np.uint8), other.view(np.uint8)))
    )


def _sample(bands: _Bands) -> _Sample:
    """Convert bands to grey levels, and measure their range."""
    pixels = bands.pixels
    empty = stretched = False
    if pixels.dtype == np.uint8:
        grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY) if pixels.ndim == 3 else pixels
        white = float(np.count_nonzero(grey >= _WHITE)) / grey.size
    else:
        grey, white, empty, stretched = _scaled(pixels)
    size = grey.shape[1] // 4, grey.shape[0] // 4
    small = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
    ranks = [round(0.002 * (small.size - 1)), round(0.998 * (small.size - 1))]
    ordered = np.partition(small.ravel(), ranks)
    spread = float(ordered[ranks[1]]) - float(ordered[ranks[0]])
    mean = float(cv2.mean(small)[0])
    return _Sample(grey, small, bands.height, mean, spread, white, empty, stretched)


def _scaled(pixels: np.ndarray) -> tuple[np.ndarray, float, bool, bool]:
    """Scale counts to 8 bits by their own range.

    Returns the levels, the share of pixels at the highest count, whether nothing can be
    seen at all, and whether the range is at its smallest.
    """
    some = pixels[::4, ::4].ravel()
    if pixels.dtype == np.float32:
        some = some[np.isfinite(some)]
    nothing = np.zeros(pixels.shape, np.uint8)
    if not some.size:
        return nothing, 0.0, True, True
    highest = some.max()
    if highest == some.min():
        full = pixels.dtype == np.uint16 and highest == np.iinfo(np.uint16).max
        return nothing, float(full), not full, True
    white = float(np.count_nonzero(some == highest)) / some.size
    ranks = [round(0.01 * (some.size - 1)), round(0.99 * (some.size - 1))]
    ordered = np.partition(some, ranks)
    low, high = (float(ordered[rank]) for rank in ranks)
    least = MINIMUM_SPANS[pixels.dtype.name]
    if pixels.dtype == np.float32:
        least *= max(abs(low), abs(high), 1e-6)
    stretched = high - low < least
    if stretched:
        low, high = (low + high - least) / 2, (low + high + least) / 2
    levels = (np.nan_to_num(pixels.astype(np.float32)) - low) * (255 / (high - low))
    return np.clip(levels, 0, 255).astype(np.uint8), white, False, stretched


def _inner(response: np.ndarray, band: int) -> np.ndarray:
    """Leave out the first and last row of each band, whose neighbours are another band's."""
    rows = response.reshape(-1, band, response.shape[1])[:, 1:-1]
    return np.ascontiguousarray(rows).reshape(-1, response.shape[1])


def _outlier_share(sample: _Sample) -> float:
    """Return the share of pixels far from the median of their 3 x 3 neighbours, 0 to 1."""
    far = cv2.absdiff(sample.grey, cv2.medianBlur(sample.grey, 3))
    far = _inner(far, sample.band)
    return float(np.count_nonzero(far > _OUTLIER)) / far.size


def _noise(sample: _Sample) -> float:
    """Return the deviation of the noise in levels, from the quietest tenth of 16 x 16 blocks."""
    response = cv2.convertScaleAbs(cv2.filter2D(sample.grey, cv2.CV_16S, _IMMERKAER))
    response = _inner(response, sample.band)
    size = max(1, response.shape[1] // 16), max(1, response.shape[0] // 14)
    blocks = cv2.resize(response, size, interpolation=cv2.INTER_AREA).ravel()
    rank = blocks.size // 10
    return float(np.partition(blocks, rank)[rank]) * _IMMERKAER_SCALE


def _sharpness(sample: _Sample, noise: float) -> tuple[float, float]:
    """Return the amount of coarse texture in levels, and fine texture relative to it.

    Fine is the Laplacian of the pixels, coarse that of the quarter-sized image, both beyond
    what rounding and noise explain. The ratio hardly depends on contrast.
    """
    fine = _beyond(sample.grey, sample.band, _DEAD_ZONE, noise)
    coarse = _beyond(sample.small, sample.band // 4, _COARSE_DEAD_ZONE, noise / 4)
    return coarse, fine / max(coarse, 1e-6)


def _beyond(image: np.ndarray, band: int, dead_zone: float, noise: float) -> float:
    """Return the mean Laplacian of bands beyond a dead zone and what noise explains."""
    least = round(dead_zone + _LAPLACIAN_OF_NOISE * noise)
    response = _inner(cv2.convertScaleAbs(cv2.Laplacian(image, cv2.CV_16S)), band)
    return float(cv2.mean(np.maximum(response, np.uint8(min(least, 255))))[0]) - min(least, 255)
