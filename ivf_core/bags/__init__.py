"""Bags without ROS: read, write, salvage and convert rosbag2 and rosbag1."""
