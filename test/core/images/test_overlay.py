"""Tests of palettes, overlays of class colours and panels."""

from __future__ import annotations

import colorsys

import cv2
import numpy as np
import pytest

from ivf_core.class_sets import CLASS_SETS, FMB, MFNET, PST900, ClassSet
from ivf_core.images.overlay import OVERLAY_PALETTES, color_labels, draw_overlay, side_by_side
from ivf_core.images.palettes import PALETTES, apply_palette


def _scene(height: int = 61, width: int = 83) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    fused = rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
    labels = rng.integers(0, len(MFNET), (height, width)).astype(np.uint8)
    return fused, labels


def _tint(class_set: ClassSet, index: int) -> np.ndarray:
    labels = np.full((1, 1), index, np.uint8)
    return draw_overlay(np.zeros((1, 1, 3), np.uint8), labels, class_set, 1.0)[0, 0]


@pytest.mark.parametrize("name", PALETTES)
def test_palette_maps_every_level_through_its_table(name: str) -> None:
    gray = np.random.default_rng(0).integers(0, 256, (37, 53)).astype(np.uint8)
    colored = apply_palette(gray, name)
    assert PALETTES[name].shape == (256, 3)
    assert PALETTES[name].dtype == np.uint8
    np.testing.assert_array_equal(colored, PALETTES[name][gray])


@pytest.mark.parametrize("name", ["white_hot", "ironbow", "inferno"])
def test_hot_is_bright(name: str) -> None:
    luma = PALETTES[name] @ np.array((0.299, 0.587, 0.114))
    assert luma[0] < 5
    assert luma[255] > 200
    assert (np.diff(luma) > -0.8).all()  # rounding of the channels


def test_palettes_are_rgb() -> None:
    cold, hot = PALETTES["turbo"][40].astype(int), PALETTES["turbo"][240].astype(int)
    assert cold[2] > cold[0]
    assert hot[0] > hot[2]
    np.testing.assert_array_equal(PALETTES["black_hot"], PALETTES["white_hot"][::-1])


def test_unknown_palette_lists_the_names() -> None:
    with pytest.raises(ValueError, match=r"'sepia'.*white_hot.*turbo"):
        apply_palette(np.zeros((2, 2), np.uint8), "sepia")
    with pytest.raises(ValueError, match="uint16"):
        apply_palette(np.zeros((2, 2), np.uint16), "turbo")


def test_labelled_pixels_are_blended_and_others_kept() -> None:
    fused, labels = _scene()
    before = fused.copy()
    overlay = draw_overlay(fused, labels, MFNET, 0.4)
    np.testing.assert_array_equal(fused, before)
    np.testing.assert_array_equal(overlay[labels == 0], fused[labels == 0])
    for index in range(1, len(MFNET)):
        chosen = labels == index
        expected = 0.6 * fused[chosen] + 0.4 * _tint(MFNET, index)
        assert np.abs(overlay[chosen] - expected).max() <= 0.51


def test_ids_without_a_class_are_not_tinted() -> None:
    fused, labels = _scene()
    labels[:] = np.random.default_rng(1).choice([0, 9, 100, 255], labels.shape)
    np.testing.assert_array_equal(draw_overlay(fused, labels, MFNET, 1.0), fused)


def test_first_class_is_tinted_unless_it_is_background() -> None:
    class_set = ClassSet("two", ("road", "car"), ((128, 64, 128), (0, 0, 142)))
    assert _tint(class_set, 0).any()
    assert not _tint(PST900, 0).any()
    assert not _tint(FMB, 0).any()


def test_opacity_limits() -> None:
    fused, labels = _scene()
    transparent = draw_overlay(fused, labels, MFNET, 0.0)
    np.testing.assert_array_equal(transparent, fused)
    assert not np.shares_memory(transparent, fused)
    opaque = draw_overlay(fused, labels, MFNET, 1.0)
    assert (opaque[labels == 3] == _tint(MFNET, 3)).all()


@pytest.mark.parametrize("class_set", CLASS_SETS.values(), ids=str)
def test_tints_keep_hue_are_visible_and_distinct(class_set: ClassSet) -> None:
    tints = [_tint(class_set, index).astype(int) for index in range(1, len(class_set))]
    for tint, published in zip(tints, class_set.colors[1:], strict=True):
        hue, saturation, _ = colorsys.rgb_to_hsv(*(np.array(published) / 255))
        new_hue, new_saturation, new_value = colorsys.rgb_to_hsv(*(tint / 255))
        assert new_hue == pytest.approx(hue, abs=0.01)
        assert new_saturation == pytest.approx(saturation, abs=0.01)
        assert new_value >= 0.5
        assert tint.max() >= max(published)
    for index, tint in enumerate(tints):
        for other in tints[:index]:
            assert np.abs(tint - other).sum() >= 40


@pytest.mark.parametrize("palette", PALETTES)
def test_palette_is_the_base_of_untinted_pixels(palette: str) -> None:
    fused, labels = _scene()
    overlay = draw_overlay(fused, labels, MFNET, 0.5, palette)
    base = apply_palette(cv2.cvtColor(fused, cv2.COLOR_RGB2GRAY), palette)
    np.testing.assert_array_equal(overlay[labels == 0], base[labels == 0])
    assert not np.array_equal(overlay[labels == 1], base[labels == 1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"opacity": 1.5}, "opacity"),
        ({"opacity": float("nan")}, "opacity"),
        ({"palette": "sepia"}, f"palette is 'sepia'.*{OVERLAY_PALETTES[0]}"),
        ({"labels": np.zeros((60, 83), np.uint8)}, "labels"),
        ({"labels": np.zeros((61, 83), np.int64)}, "labels"),
        ({"fused": np.zeros((61, 83), np.uint8)}, "fused"),
    ],
)
def test_bad_arguments_are_named(change: dict, message: str) -> None:
    fused, labels = _scene()
    arguments = {"fused": fused, "labels": labels, "class_set": MFNET, "opacity": 0.5, **change}
    with pytest.raises(ValueError, match=message):
        draw_overlay(**arguments)


def test_color_labels_are_the_published_colors() -> None:
    labels = np.array([[0, 1, 2], [3, 255, 9]], np.uint8)
    expected = [[(0, 0, 0), (64, 0, 128), (64, 64, 0)], [(0, 128, 192), (0, 0, 0), (0, 0, 0)]]
    np.testing.assert_array_equal(color_labels(labels, MFNET), expected)


def test_panels_keep_images_and_show_titles() -> None:
    fused, _ = _scene(120, 161)
    gray = np.full((60, 80), 90, np.uint8)
    panel = side_by_side([fused, gray], ["fused", "thermal"])
    bar = panel.shape[0] - 120
    assert 16 <= bar <= 40
    assert panel.shape == (120 + bar, 161 + 160, 3)
    np.testing.assert_array_equal(panel[bar:, :161], fused)
    assert (panel[bar:, 161:] == 90).all()
    for left, right in ((0, 161), (161, 321)):
        caption = panel[:bar, left:right]
        assert (caption.max(axis=2) > 150).sum() > 30


def test_long_title_stays_within_its_panel() -> None:
    images = [np.zeros((100, 90), np.uint8), np.zeros((100, 90), np.uint8)]
    panel = side_by_side(images, ["a very long title that cannot fit at full size", ""])
    bar = panel.shape[0] - 100
    caption = panel[:bar, :90].max(axis=2)
    assert (caption[:, 88:] == caption[0, 0]).all()  # margin at the end: the text is not truncated
    assert (caption != caption[0, 0]).any()


def test_panels_need_a_title_each() -> None:
    with pytest.raises(ValueError, match="1 images and 2 titles"):
        side_by_side([np.zeros((4, 4), np.uint8)], ["a", "b"])
    with pytest.raises(ValueError, match="0 images"):
        side_by_side([], [])
