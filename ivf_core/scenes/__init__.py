"""Synthetic street scenes for an RGB and a thermal camera, with their ground truth.

Everything is drawn, nothing is recorded: flat roads, boxes, polygons and noise. The
scenes exist so that the demo and the tests run on a machine without data, and as
training data for the segmentation head beside real pictures; figures measured on
them say nothing about real roads. What they simplify:

- temperatures are levels chosen by material, not physics; nothing reflects in the
  thermal picture, and smoke takes a few percent of its contrast only;
- light is ambient light, one pair of headlights and street lamps, without bounces;
- cars are solids with flat faces, people and bicycles jointed cut-outs that face the
  camera, trees flat sprites; the road has no slopes;
- both cameras see from one point, so the two pictures are registered exactly, and
  the shutters open at the same moment;
- labels are exact to the pixel, except that the label of a bicycle or of a portable
  fence covers what is seen through it, as annotators draw it; class "curve" is the
  kerb, "car_stop" a portable barricade or a low block.
"""

from ivf_core.scenes.drive import MINIMUM_SIZE, SyntheticDrive
from ivf_core.scenes.singles import random_scene
from ivf_core.scenes.world import CONDITIONS, SceneFrame

__all__ = ["CONDITIONS", "MINIMUM_SIZE", "SceneFrame", "SyntheticDrive", "random_scene"]
