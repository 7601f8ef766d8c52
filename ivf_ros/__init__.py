"""ROS 2 package of the fusion node, and of the nodes and launch helpers around it."""
