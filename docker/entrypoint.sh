#!/bin/bash
# Run a command with the workspace sourced.
set -e
source "/ros2_ws/install/setup.bash"
exec "$@"
