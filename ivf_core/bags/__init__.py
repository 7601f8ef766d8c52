"""Bags without ROS: read, write, salvage, convert."""
