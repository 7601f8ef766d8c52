#!/bin/bash
# Succeed if the fusion node answers that it is active. FUSION_NODE is its full name.
source "/ros2_ws/install/setup.bash"
ros2 lifecycle get --no-daemon --spin-time 3 "${FUSION_NODE:-/fusion}" 2> /dev/null | grep -q '^active '
