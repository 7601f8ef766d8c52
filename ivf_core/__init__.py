"""Infrared and visible image fusion with semantic masks. Needs no ROS."""

__version__ = "0.1.0"
