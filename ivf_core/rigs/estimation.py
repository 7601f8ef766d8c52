"""Estimate the homography between a thermal and an RGB camera from images of a scene.

Both cameras see the outlines of things, though brighter in one may be darker in the other.
So orientations of gradients are compared modulo 180 degrees, as e^(2i theta) and
e^(4i theta) (orientation correlation: Fitch et al., BMVC 2002; channels of oriented gradients:
Ye et al., IEEE TGRS 2019). The cameras of a rig do not move relative to each other, so that
one homography holds for all pairs: the correlation surfaces of all pairs are added up before
anything is located in them. What is common to the pairs remains, and differences
between the modalities average out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from ivf_core.images.registration import size_change
from ivf_core.rigs.coarse_search import coarse_candidates
from ivf_core.rigs.motion_fit import (
    MOTION_MODELS,
    clear_peaks,
    fit_motion,
    from_half_widths,
    motion_of_points,
)
from ivf_core.rigs.pair_stack import PairStack, TileSurfaces

__all__ = ["MAX_PAIRS", "EstimationError", "HomographyEstimate", "estimate_homography"]

MAX_PAIRS = 30
"""Number of pairs that are used, at even distances, of longer sequences."""

_CANDIDATES = 5
_FIRST_PAIRS = 10  # by which candidates are compared
_CONTENDERS = 3  # that are compared at a finer level where the lead is small
_CLEAR_MARGIN = 0.4
_SAME = 0.05  # of the RGB width, within which two candidates are one
_LEAST_TILES = 4
_LEAST_SIDE = 32  # pixels
_CLEAR_PEAK = 3.0  # standard deviations
_AGREEING = 1 / 160  # of the RGB width
_REFERENCE_WIDTH = 640


class _Level(NamedTuple):
    """Settings of a level of the pyramid, in pixels at its width."""

    width: int
    tile: int
    reach: int
    blur: float
    rounds: int


_LEVELS = (
    _Level(160, 64, 14, 1.5, 3),
    _Level(320, 64, 10, 1.2, 2),
    _Level(640, 96, 8, 1.2, 2),
)


class EstimationError(ValueError):
    """Error for pairs from which nothing can be estimated."""


@dataclass(frozen=True)
class HomographyEstimate:
    """Estimated map from thermal pixels to RGB pixels.

    Attributes:
        homography: 3 x 3 float64, thermal pixel (x, y, 1) -> RGB pixel; its last entry is 1.
        thermal_size: (width, height) of the thermal images.
        rgb_size: (width, height) of the RGB images.
        confidence: probability that the mean error is at most 4 pixels at an RGB width of 640,
            0 to 1, calibrated on real pairs (docs/calibration.md).
        holdout_error_pixels: median distance in RGB pixels of matches in one half of the pairs
            from the motion estimated on the other half; infinite without clear matches. It
            holds the parallax of the scene and the error of single matches, so that it is
            larger than the error of the estimate.
        disagreement_pixels: mean distance in RGB pixels between the maps that the two halves
            of the pairs give.
        agreement: share of tiles with a clear match near the estimate, 0 to 1.
        pairs_used: number of pairs.
        evidence: what `confidence` is computed from, by name.
    """

    homography: np.ndarray
    thermal_size: tuple[int, int]
    rgb_size: tuple[int, int]
    confidence: float
    holdout_error_pixels: float
    disagreement_pixels: float
    agreement: float
    pairs_used: int
    evidence: dict[str, float]


def estimate_homography(
    pairs: Iterable[tuple[np.ndarray, np.ndarray]],
    *,
    model: str = "homography",
    initial: np.ndarray | None = None,
    seed: int = 0,
) -> HomographyEstimate:
    """Estimate the homography that maps thermal pixels to RGB pixels.

    Without an initial one, whole images are correlated over scales at which the thermal image takes
    0.36 to 2.3 of the RGB width, over all shifts, and over rotations of up to about 10
    degrees. Candidates are then refined from coarse to fine.

    Args:
        pairs: (RGB H x W x 3 uint8, thermal h x w uint8, uint16 or float32), all of the same two
            sizes. Of more than `MAX_PAIRS`, as many at even distances are used; pairs of a
            moving scene say more than those of a standing one.
        model: motion that is refined: "translation", "similarity", "affine" or "homography".
        initial: 3 x 3 homography to refine instead of searching; it may be off by about
            8 % of the RGB width.
        seed: seed of MAGSAC.

    Raises:
        EstimationError: there are no pairs, they are too small, or their sizes differ.
        ValueError: the model is unknown.
    """
    if model not in MOTION_MODELS:
        raise ValueError(f"model '{model}': expected one of {', '.join(MOTION_MODELS)}")
    stack = _stack(list(pairs))
    if initial is None:
        starts = coarse_candidates(stack, _CANDIDATES)
        # Whole views over each other: where nothing is clear, the likeliest guess.
        starts.append((0.0, size_change(stack.thermal_size, stack.rgb_size)))
    else:
        starts = [(0.0, np.array(initial, np.float64).reshape(3, 3))]
    homography, margin = _best_start(stack, starts, model, seed)
    everything = range(len(stack))
    for level in _LEVELS[1:]:
        homography, _, surfaces = _refine(stack, everything, homography, level, model, seed)
        if level.width >= stack.rgb_size[0]:
            break
    return _assess(stack, homography / homography[2, 2], surfaces, model, margin, seed)


def _stack(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> PairStack:
    """Check the pairs and make their grey images."""
    if not pairs:
        raise EstimationError("no pairs of images, expected at least one (better ten or more)")
    if len(pairs) > MAX_PAIRS:
        chosen = np.linspace(0, len(pairs) - 1, MAX_PAIRS).round().astype(int)
        pairs = [pairs[index] for index in chosen]
    sizes = [sorted({pair[side].shape[:2] for pair in pairs}) for side in (0, 1)]
    for name, found in zip(("RGB", "thermal"), sizes, strict=True):
        if len(found) > 1:
            text = ", ".join(f"{w}x{h}" for h, w in found[:3])
            raise EstimationError(f"{name} images of several sizes ({text}), expected one size")
        if min(found[0]) < _LEAST_SIDE:
            raise EstimationError(
                f"{name} images of {found[0][1]}x{found[0][0]} pixels, expected at least "
                f"{_LEAST_SIDE} on either side"
            )
    return PairStack([rgb for rgb, _ in pairs], [thermal for _, thermal in pairs])


def _best_start(
    stack: PairStack, starts: Sequence[tuple[float, np.ndarray]], model: str, seed: int
) -> tuple[np.ndarray, float]:
    """Refine the candidates at coarse levels; return the best, and its lead as a share."""
    chosen = np.unique(np.linspace(0, len(stack) - 1, _FIRST_PAIRS).round().astype(int)).tolist()
    model = model if MOTION_MODELS[model] < MOTION_MODELS["affine"] else "affine"
    candidates = [homography for _, homography in starts]
    margin = 1.0
    for level in _LEVELS[:2]:
        ranked = _ranked(stack, candidates, chosen, level, model, seed)
        if ranked[0][0] <= 0:  # no outlines, or no overlap
            return ranked[0][1], 0.0
        others = [score for score, _ in ranked[1:]]
        margin = 1 - max([0.0, *others]) / ranked[0][0]
        # Finer outlines decide between places that look alike from afar.
        candidates = [homography for _, homography in ranked[:_CONTENDERS]]
        if margin >= _CLEAR_MARGIN:
            break
    stack.forget(_LEVELS[0].width)
    return candidates[0], margin


def _ranked(
    stack: PairStack,
    candidates: Sequence[np.ndarray],
    chosen: Sequence[int],
    level: _Level,
    model: str,
    seed: int,
) -> list[tuple[float, np.ndarray]]:
    """Refine candidates at a level; return those that differ with their scores, best first."""
    refined = []
    for start in candidates:
        homography, score, surfaces = _refine(stack, chosen, start, level, model, seed)
        # The mean of few tiles is high by chance more often.
        refined.append((score * len(surfaces.centres) ** 0.5, homography))
    refined.sort(key=lambda one: -one[0])
    distinct: list[tuple[float, np.ndarray]] = []
    for score, homography in refined:
        apart = [_distance(stack, other, homography) for _, other in distinct]
        if all(distance > _SAME * stack.rgb_size[0] for distance in apart):
            distinct.append((score, homography))
    return distinct


def _refine(
    stack: PairStack,
    indices: Sequence[int],
    homography: np.ndarray,
    level: _Level,
    model: str,
    seed: int,
) -> tuple[np.ndarray, float, TileSurfaces]:
    """Improve a homography at one level; return it, the mean of its surfaces, and these."""
    score = -1.0
    for _ in range(level.rounds):
        surfaces = TileSurfaces(stack, indices, homography, level.width, level.tile, level.reach)
        if len(surfaces.centres) < _LEAST_TILES:
            return homography, -1.0, surfaces
        motion, score = fit_motion(
            surfaces.centres,
            surfaces.total(),
            model,
            surfaces.size,
            level.blur,
            seed,
            _base(stack, homography, surfaces.size),
        )
        grow = size_change(surfaces.size, stack.rgb_size)
        homography = grow @ motion @ np.linalg.inv(grow) @ homography
    return homography, score, surfaces


def _base(stack: PairStack, homography: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return the map of thermal images, in half widths, to RGB images of a size."""
    return size_change(stack.rgb_size, size) @ homography @ from_half_widths(stack.thermal_size)


def _distance(stack: PairStack, first: np.ndarray, second: np.ndarray) -> float:
    """Return the mean distance of two maps over the part of the RGB image that the first hits."""
    width, height = stack.thermal_size
    grid = np.stack(np.meshgrid(np.linspace(0, width - 1, 9), np.linspace(0, height - 1, 9)), -1)
    points = grid.reshape(1, -1, 2)
    a, b = (cv2.perspectiveTransform(points, matrix)[0] for matrix in (first, second))
    inside = ((a >= 0) & (a < stack.rgb_size)).all(axis=1)
    if not inside.any():
        return float("inf")
    return float(np.linalg.norm(a - b, axis=1)[inside].mean())


def _assess(
    stack: PairStack,
    homography: np.ndarray,
    surfaces: TileSurfaces,
    model: str,
    margin: float,
    seed: int,
) -> HomographyEstimate:
    """Compare what the halves of the pairs say, and add the confidence."""
    level = _LEVELS[-1]
    scale = stack.rgb_size[0] / surfaces.size[0]
    centres, size = surfaces.centres, surfaces.size
    total, halves = surfaces.total(), surfaces.halves()
    # The last round began within a fraction of a pixel of its result.
    base = _base(stack, homography, size)
    holdout, maps = [], []
    if min(len(tiles) for tiles, _ in halves) >= _LEAST_TILES:
        for (tiles, half), (others, other) in (halves, halves[::-1]):
            motion, _ = fit_motion(centres[tiles], half, model, size, level.blur, seed, base)
            found, peaks = clear_peaks(other, _CLEAR_PEAK)
            expected = motion_of_points(centres[others[found]], motion)
            holdout.append(np.linalg.norm(peaks - expected, axis=1))
            maps.append(motion_of_points(centres, motion))
    final, score = fit_motion(centres, total, model, size, level.blur, seed, base)
    found, peaks = clear_peaks(total, _CLEAR_PEAK)
    off = np.linalg.norm(peaks - motion_of_points(centres, final)[found], axis=1)
    agreeing = int((off <= _AGREEING * size[0]).sum())
    distances = np.concatenate(holdout) if holdout else np.zeros(0)
    disagreement = np.inf
    if maps:
        disagreement = float(np.linalg.norm(maps[0] - maps[1], axis=1).mean()) * scale
    evidence = {
        "disagreement": disagreement * _REFERENCE_WIDTH / stack.rgb_size[0],
        "agreeing_tiles": float(agreeing),
        "holdout": float(np.median(distances)) * scale if len(distances) else np.inf,
        "margin": margin,
        "score": score,
    }
    holdout = evidence["holdout"]
    evidence["holdout"] *= _REFERENCE_WIDTH / stack.rgb_size[0]
    return HomographyEstimate(
        homography=homography,
        thermal_size=stack.thermal_size,
        rgb_size=stack.rgb_size,
        confidence=_confidence(evidence),
        holdout_error_pixels=holdout,
        disagreement_pixels=disagreement,
        agreement=agreeing / max(len(centres), 1),
        pairs_used=len(stack),
        evidence=evidence,
    )


def _confidence(evidence: dict[str, float]) -> float:
    """Return the probability that the mean error is at most 4 pixels at a width of 640.

    Each factor is one sign of failure: halves of the pairs that differ, matches that were held out
    and lie elsewhere, few tiles with a clear match, another place that agrees as well.
    """
    halves = 1 / (1 + (evidence["disagreement"] / 3.5) ** 2)
    matches = 1 / (1 + (evidence["holdout"] / 6.0) ** 4)
    tiles = 1 - np.exp(-evidence["agreeing_tiles"] / 2.0)
    alone = 1 / (1 + (0.1 / max(evidence["margin"], 1e-6)) ** 2)
    return float(halves * matches * tiles * alone)
