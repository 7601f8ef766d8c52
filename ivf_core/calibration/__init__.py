"""Calibration of rigs: registration from recordings of a scene, and from images of boards."""
