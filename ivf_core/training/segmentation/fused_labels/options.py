"""Options of `ivf train labels`: sets of images, teachers, and how their votes are fused."""

from __future__ import annotations

from dataclasses import dataclass

from ivf_core.class_sets import STREET, STREET_MAPPINGS
from ivf_core.training.runs.recipe import Bounds, Recipe, option
from ivf_core.training.segmentation.fused_labels.networks import NETWORKS
from ivf_core.training.segmentation.fused_labels.pair_votes import check_teachers

__all__ = ["FusionOptions", "GivenLabels", "LabelRecipe", "LabelSet"]


@dataclass(frozen=True, kw_only=True)
class FusionOptions:
    """Options of the fusion."""

    temper: float = 1.2
    """Factor of the summed log-odds, which would be 1 for independent teachers."""
    minimum: float = 0.38
    """Confidence below which a pixel is ignored."""
    accepted_box: float = 0.8
    """Probability above which boxes of several detectors are an object."""
    doubtful_box: float = 0.3
    """Probability above which such boxes are ignored."""
    dependence: float = 0.85
    """Exponent of the probability that all detectors of a box err, below 1 as they err together."""
    largest_box: float = 0.45
    """Share of the image above which a box is no object."""
    widest_person: float = 1.2
    """Width of a person's box, relative to its height, above which it is doubted."""
    support: float = 0.15
    """Mean probability by segmenters below which a vehicle's box is doubted."""
    edge_radius: int = 6
    """Radius in pixels of the guided filter that fits votes to the image's edges; 0 for none."""


@dataclass(frozen=True, kw_only=True)
class GivenLabels:
    """Labels that exist already, a teacher like the networks."""

    name: str
    """Name of the teacher in tables and pages."""
    folder: str
    """Folder of class ids, relative to the data directory; images without a file have none."""
    confidence: str = ""
    """Folder of confidences 0..255 of the same stems, if there is one."""
    class_set: str = "mfnet"
    """Class set of the ids."""

    def __post_init__(self) -> None:
        Bounds(choices=STREET_MAPPINGS).check("class_set", self.class_set)


@dataclass(frozen=True, kw_only=True)
class LabelSet:
    """One set of images to label: folders of images, or a folder of videos."""

    name: str
    """Name of the set's folder in the output, and of the set in the file of points."""
    visible: tuple[str, ...] = ()
    """Folders of visible images, relative to the data directory."""
    infrared: str = ""
    """Folder of thermal images of the same stems; empty for none."""
    videos: str = ""
    """Folder of NAME_visible.mp4 and NAME_infrared.mp4, in place of folders of images."""
    every: int = 10
    """Videos only: every n-th frame is labelled, and those that the points name."""
    night_below: int = 0
    """An image is of the night where the median luma of its upper third is lower."""
    boxes: str = ""
    """Folder of published boxes in YOLO's lines, classes 0 person, 1 bicycle, 2 car."""
    detect_every: int = 3
    """Published boxes only: detectors are then but measured, on every n-th image."""
    cold_sky: bool = False
    """Take a smooth coldest region at the thermal image's upper border for a teacher's sky."""
    absent: tuple[str, ...] = ()
    """Classes that no image of the set shows, as seen by eye: CLASS, or STEM:CLASS for images
    whose stems begin with STEM."""
    truth: tuple[str, ...] = ()
    """Folders of dense labels set by hand, one for each folder of visible images."""
    truth_classes: str = "camvid"
    """Class set of `truth`."""
    given: tuple[GivenLabels, ...] = ()
    """Labels that networks have predicted before."""

    def __post_init__(self) -> None:
        Bounds(choices=STREET_MAPPINGS).check("truth_classes", self.truth_classes)
        if not self.name or bool(self.visible) == bool(self.videos):
            raise ValueError(f"set '{self.name}': expected a name, and either visible or videos")
        if self.truth and len(self.truth) != len(self.visible):
            raise ValueError(f"set '{self.name}': expected one folder of truth for each of visible")
        for name in self.absent:
            if name.rpartition(":")[2] not in STREET.names:
                raise ValueError(f"set '{self.name}': absent '{name}' is no class of 'street'")
        if min(self.every, self.detect_every) < 1:
            raise ValueError(f"set '{self.name}': every and detect_every must be at least 1")


@dataclass(frozen=True, kw_only=True)
class LabelRecipe(Recipe):
    """Labels of several teachers, fused into the class set `street`."""

    sets: tuple[LabelSet, ...] = option(nonempty=True)
    """Sets of images to label."""
    output: str = option(nonempty=True)
    """Directory of the labels: SET/labels, SET/confidence, SET/sources, and index.html."""
    networks: str = option("teachers")
    """Folder of the networks' files, relative to the data directory."""
    teachers: tuple[str, ...] = option(tuple(NETWORKS))
    """Names of the networks that vote, and KIND:FILE of those that segment pairs, such as
    sartm:runs/sartm.safetensors."""
    points: str = ""
    """File of points that measure the teachers and the labels, relative to the data directory."""
    fusion: FusionOptions = option(factory=FusionOptions)  # noqa: RUF009
    """Options of the fusion."""
    threads: int = option(1, minimum=1, changeable=True)
    """Number of threads of the networks."""
    sample: int = option(12, minimum=0, changeable=True)
    """Number of images of each set that the page shows."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_teachers(self.teachers)
        names = [entry.name for entry in self.sets]
        if len(set(names)) < len(names):
            raise ValueError(f"sets: names must differ, got {', '.join(names)}")
