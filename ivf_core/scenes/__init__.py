"""Synthetic street scenes for an RGB and a thermal camera, with their ground truth.

Everything is drawn from flat roads, boxes, polygons and noise; nothing is recorded. With
these scenes the demo and the tests run on a machine without data, and they add training
data for the segmentation head to real images. Figures that are measured on them say nothing
about real roads. They are simplified:

- temperatures are levels chosen by material, not physics; nothing reflects in the
  thermal image, and smoke lowers its contrast by a few percent only;
- light is ambient light, one pair of headlights and street lamps, without reflections;
- cars are solids with flat faces, people and bicycles are jointed cut-outs that face the
  camera, trees are flat sprites; the road has no slopes;
- both cameras see from one point, so that the two images are registered exactly, and
  the shutters open at the same moment;
- labels are exact to the pixel, except that the label of a bicycle or of a portable
  fence covers everything seen through it, as annotators draw it; class "curve" is the
  kerb, "car_stop" a portable barricade or a low block.
"""

from ivf_core.scenes.drive import MINIMUM_SIZE, SyntheticDrive
from ivf_core.scenes.random_scenes import random_scene
from ivf_core.scenes.world import CONDITIONS, SceneFrame

__all__ = ["CONDITIONS", "MINIMUM_SIZE", "SceneFrame", "SyntheticDrive", "random_scene"]
