"""Tests of the synthetic scenes: reproducible, exactly labelled, street-like in both bands."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from ivf_core.class_sets import MFNET
from ivf_core.scenes import CONDITIONS, SyntheticDrive, random_scene
from ivf_core.scenes.camera import Camera
from ivf_core.scenes.canvas import Canvas
from ivf_core.scenes.light import Light
from ivf_core.scenes.people import Person
from ivf_core.scenes.roadside import Block, Cone, Guardrail
from ivf_core.scenes.world import DAY_HEAT, painting_order

SIZE = (160, 120)
PERSON = MFNET.names.index("person")
CONE = MFNET.names.index("color_cone")


@pytest.fixture(scope="module")
def drive() -> SyntheticDrive:
    return SyntheticDrive(seed=3, size=SIZE, rate_hz=5, seconds=6)


def _arrays(frame):
    return frame.visible, frame.infrared, frame.counts, frame.labels


def _roughness(image: np.ndarray) -> float:
    """Return the mean absolute gradient of a grey image, after smoothing its noise."""
    smooth = cv2.GaussianBlur(image.astype(np.float32), (0, 0), 1.0)
    return float(np.abs(np.diff(smooth, axis=0)).mean() + np.abs(np.diff(smooth, axis=1)).mean())


def test_frames_have_the_documented_arrays(drive):
    for index in (0, len(drive) // 2, len(drive) - 1):
        frame = drive.frame(index)
        assert frame.visible.shape == (120, 160, 3)
        assert frame.infrared.shape == frame.counts.shape == frame.labels.shape == (120, 160)
        assert frame.visible.dtype == frame.infrared.dtype == frame.labels.dtype == np.uint8
        assert frame.counts.dtype == np.uint16
        assert frame.labels.max() < len(MFNET)
        assert frame.seconds == pytest.approx(index / 5)


def test_drive_goes_through_the_conditions_in_thirds(drive):
    assert len(drive) == 30
    conditions = [frame.condition for frame in drive]
    assert conditions == [name for name in CONDITIONS for _ in range(10)]


def test_frame_does_not_depend_on_earlier_frames(drive):
    forward = [_arrays(drive.frame(index)) for index in (2, 15, 28)]
    again = SyntheticDrive(seed=3, size=SIZE, rate_hz=5, seconds=6)
    backward = [_arrays(again.frame(index)) for index in (28, 15, 2)][::-1]
    for first, second in zip(forward, backward, strict=True):
        for a, b in zip(first, second, strict=True):
            np.testing.assert_array_equal(a, b)


def test_seeds_differ():
    drives = [SyntheticDrive(seed=seed, size=SIZE, seconds=1) for seed in (0, 1)]
    first, second = (drive.frame(0) for drive in drives)
    assert (first.labels != second.labels).mean() > 0.01


def test_motion_is_continuous(drive):
    def change(step: int) -> float:
        pairs = [(drive.frame(i).labels, drive.frame(i + step).labels) for i in (1, 11, 21)]
        return float(np.mean([(a != b).mean() for a, b in pairs]))

    assert 0 < change(1) < 0.7 * change(7)


def test_noise_changes_from_frame_to_frame_while_labels_are_noise_free():
    slow = SyntheticDrive(seed=3, size=SIZE, rate_hz=10000, seconds=0.01)
    first, second = slow.frame(0), slow.frame(1)
    assert (first.infrared != second.infrared).mean() > 0.3
    assert (first.labels != second.labels).mean() < 0.01


def test_night_is_dark_for_one_camera_only(drive):
    day, night = drive.frame(4), drive.frame(15)
    assert night.visible.mean() < 0.45 * day.visible.mean()
    assert night.infrared.mean() > 0.4 * day.infrared.mean()


def test_smoke_hides_the_visible_scene_but_not_the_infrared(drive):
    rough = {"day": [], "smoke": []}
    for index in (3, 6, 23, 26):
        frame = drive.frame(index)
        visible = _roughness(frame.visible[..., 1])
        rough[frame.condition].append((visible, _roughness(frame.infrared)))
    day, smoke = (np.mean(rough[name], axis=0) for name in ("day", "smoke"))
    assert smoke[0] < 0.6 * day[0]
    assert smoke[1] > 0.75 * day[1]


@pytest.mark.parametrize("condition", CONDITIONS)
def test_people_are_warmer_than_their_surroundings(condition):
    warmer = []
    for seed in range(12):
        frame = random_scene(seed, SIZE, condition)
        people = (frame.labels == PERSON).astype(np.uint8)
        around = cv2.dilate(people, np.ones((9, 9), np.uint8)) - people
        if people.sum() > 40:
            warmer.append(
                frame.infrared[people > 0].mean() > 1.3 * frame.infrared[around > 0].mean()
            )
    assert len(warmer) >= 4
    assert np.mean(warmer) > 0.9


def test_random_scenes_show_every_class():
    seen = {}
    for seed in range(60):
        labels = random_scene(seed, SIZE).labels
        for class_id in np.unique(labels):
            seen[class_id] = seen.get(class_id, 0) + 1
    assert sorted(seen) == list(range(len(MFNET)))
    assert min(seen.values()) >= 3


def test_random_scene_follows_its_seed_or_generator():
    for a, b in zip(_arrays(random_scene(5, SIZE)), _arrays(random_scene(5, SIZE)), strict=True):
        np.testing.assert_array_equal(a, b)
    rng = np.random.default_rng(5)
    first, second = random_scene(rng, SIZE), random_scene(rng, SIZE)
    assert (first.visible != second.visible).mean() > 0.5


def test_random_scenes_vary_in_light_and_thermal_contrast():
    frames = [random_scene(seed, SIZE) for seed in range(20)]
    assert {frame.condition for frame in frames} == set(CONDITIONS)
    assert np.std([frame.visible.mean() for frame in frames]) > 20
    assert np.std([frame.infrared.std() for frame in frames]) > 3


def test_scene_of_another_size_shows_the_same_world():
    small = random_scene(11, (160, 120), "day").labels
    large = random_scene(11, (640, 480), "day").labels
    reduced = cv2.resize(large, (160, 120), interpolation=cv2.INTER_NEAREST)
    assert (small == reduced).mean() > 0.93


def test_counts_contain_the_image_in_14_bits(drive):
    frame = drive.frame(5)
    assert frame.counts.max() < 1 << 14
    assert len(np.unique(frame.counts)) > 400
    seen = (frame.infrared > 0) & (frame.infrared < 255)
    correlation = np.corrcoef(frame.counts[seen].astype(float), frame.infrared[seen].astype(float))
    assert correlation[0, 1] > 0.99


def test_nearer_things_hide_farther_ones_in_all_three_images():
    camera = Camera(160, 120, focal=150, horizon=50, center=80, elevation=1.5)
    canvas = Canvas(camera, Light(haze=0.0), DAY_HEAT)
    things = [Cone(0.0, 5.0, height=1.0), Person(0.0, 8.0), Block(0.0, 12.0, width=4, height=3)]
    for thing in painting_order(things, camera.x):
        thing.draw(canvas)
    column, row, scale = (round(v) for v in camera.project_ground(0.0, 5.0))
    middle = row - scale // 3
    assert canvas.labels[middle, column] == CONE
    assert canvas.pixels[middle, column, 3] == pytest.approx(DAY_HEAT["cone"], abs=4)
    chest = round(camera.project_ground(0.0, 8.0)[1] - 1.2 * camera.project_ground(0.0, 8.0)[2])
    assert canvas.labels[chest, column] == PERSON
    # There are only the three labels: no edge is interpolated.
    assert set(np.unique(canvas.labels)) == {0, PERSON, CONE}


def test_painting_order_of_things_side_by_side():
    rail = Guardrail(4.0, 10.0)
    behind_rail, before_rail = Person(5.0, 9.5), Person(3.0, 10.5)
    order = painting_order([before_rail, rail, behind_rail], camera_x=0.0)
    assert order.index(behind_rail) < order.index(rail) < order.index(before_rail)
    # From the other side, the same things hide each other in the opposite order.
    order = painting_order([before_rail, rail, behind_rail], camera_x=8.0)
    assert order.index(before_rail) < order.index(rail) < order.index(behind_rail)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"seed": -1}, "seed"),
        ({"size": (31, 480)}, "size"),
        ({"size": (640.5, 480)}, "size"),
        ({"rate_hz": 0}, "rate_hz"),
        ({"rate_hz": float("nan")}, "rate_hz"),
        ({"seconds": 0}, "seconds"),
        ({"seconds": float("inf")}, "seconds"),
    ],
)
def test_drive_rejects_bad_arguments(arguments, named):
    with pytest.raises(ValueError, match=named):
        SyntheticDrive(**arguments)


def test_random_scene_rejects_bad_arguments():
    with pytest.raises(ValueError, match="condition must be one of day, night, smoke"):
        random_scene(0, SIZE, "fog")
    with pytest.raises(ValueError, match="size"):
        random_scene(0, (640, 16))


@pytest.mark.parametrize("index", [-1, 30])
def test_frames_outside_the_drive_are_rejected(drive, index):
    with pytest.raises(IndexError, match=f"frame {index} of a drive of 30"):
        drive.frame(index)
