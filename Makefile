# make help lists the targets.

PYTHON ?= python3
OUTPUT ?= demo_output
BAG ?=
VISIBLE ?=
INFRARED ?=

SOURCE = $(if $(BAG),--bag "$(BAG)") $(if $(VISIBLE),--visible "$(VISIBLE)") $(if $(INFRARED),--infrared "$(INFRARED)")

VENV := .venv
RUN := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed
DEVELOPER := $(VENV)/.developer
DOCUMENTER := $(VENV)/.documenter

# The environment has ROS wheels of its own; a sourced distribution must not mix with them.
ifneq ($(and $(ROS_DISTRO),$(filter-out rosdep colcon,$(or $(MAKECMDGOALS),help))),)
unexport AMENT_PREFIX_PATH COLCON_PREFIX_PATH LD_LIBRARY_PATH PYTHONPATH
endif

# The wheels bring Fast DDS only.
unexport RMW_IMPLEMENTATION

# Tests run in several processes, each with its share of the processors and about 2 GB.
TEST_PROCESSES ?= $(shell n=$$(nproc); echo $$((n < 4 ? n : 4)))
TEST_OPTIONS ?=

# Packages of PyPI beside those of a ROS distribution: see package.xml and docs/distributions.md.
ROS_PIP = openvino rosbags 'torch>=2.10' 'onnx>=1.21' safetensors \
  $(if $(filter humble,$(ROS_DISTRO)),'numpy>=1.26$(comma)<2' 'opencv-python-headless>=4.8.1.78$(comma)<4.10')
comma := ,

# Duration of a campaign of fuzz tests.
SECONDS ?= 900

.PHONY: help setup develop demo test fuzz lint docs site wheel rosdep colcon clean

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST)

setup: $(INSTALLED)  ## make .venv to run the node and ivf (PYTHON=python3.12 chooses the interpreter)
	@[ "$(origin PYTHON)" = file ] || [ "$$($(RUN) -V)" = "$$("$(PYTHON)" -V)" ] || { \
	  echo "make: $(VENV) has $$($(RUN) -V), '$(PYTHON)' is $$("$(PYTHON)" -V)." \
	       "To change it: make clean && make setup PYTHON=$(PYTHON)" >&2; exit 1; }

develop: $(DEVELOPER)  ## add PyTorch, training, tests and checks to .venv

demo: $(INSTALLED)  ## play a synthetic drive, BAG=... or VISIBLE=... INFRARED=..., fuse and record it to OUTPUT=demo_output
	$(RUN) -m ivf_ros.demo --output "$(OUTPUT)" $(SOURCE)

test: $(DEVELOPER)  ## run the tests
	$(RUN) -m pytest -n $(TEST_PROCESSES) --dist worksteal $(TEST_OPTIONS)

fuzz: $(DEVELOPER)  ## try random hostile inputs on all parts for SECONDS=900, and print the figures
	FUZZ_SECONDS="$(SECONDS)" $(RUN) -m pytest -q test/fuzz $(TEST_OPTIONS)

lint: $(DEVELOPER)  ## check style, docstrings, plain language, types, direction of imports and vulnerabilities
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) test/lint/plain_language.py
	$(RUN) -m mypy
	$(VENV)/bin/lint-imports
	$(RUN) test/lint/audit.py

docs: $(DEVELOPER)  ## write what is generated: config/fusion.yaml, docs/interfaces.md, tables of docs/architecture.md
	$(RUN) -m ivf_ros.interfaces
	$(RUN) test/lint/architecture.py

site: $(DOCUMENTER)  ## build the site of the documentation into site/, and check its links
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict

wheel: $(INSTALLED)  ## build a wheel into dist/, and run it from an environment of its own
	$(RUN) -m pip wheel --no-deps --wheel-dir dist .
	$(RUN) -m venv --clear build/wheel
	build/wheel/bin/pip install "$$(ls -t dist/*.whl | head -n 1)[openvino]"
	build/wheel/bin/ivf weights

rosdep:  ## install what colcon needs, in a sourced ROS distribution, as root
	@[ -n "$(ROS_DISTRO)" ] || { echo "make: source /opt/ros/DISTRIBUTION/setup.bash first" >&2; exit 1; }
	apt-get update
	apt-get install --yes python3-pip
	rosdep update --rosdistro "$(ROS_DISTRO)"
	rosdep install --from-paths . --ignore-src --default-yes
	PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install $(ROS_PIP)

colcon:  ## build and test with colcon, in a sourced ROS distribution
	@[ -n "$(ROS_DISTRO)" ] || { echo "make: source /opt/ros/DISTRIBUTION/setup.bash first" >&2; exit 1; }
	colcon build --packages-select ivf_ros
	colcon test --packages-select ivf_ros --event-handlers console_direct+
	colcon test-result --verbose

clean:  ## remove .venv and everything that was built
	rm -rf $(VENV) build dist install log site ./*.egg-info demo_output .*_cache .hypothesis

$(INSTALLED): setup.py setup.cfg pyproject.toml
	@[ "$$(uname -sm)" = "Linux x86_64" ] || { \
	  echo "make: the ROS wheels on PyPI are for Linux on x86-64, this is $$(uname -sm)." \
	       "With a ROS distribution, build with colcon: see docs/quick_start_robot.md" >&2; exit 1; }
	@command -v "$(PYTHON)" > /dev/null || { \
	  echo "make: no '$(PYTHON)' here. Choose one: make setup PYTHON=/path/to/python3" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 14))' || { \
	  echo "make: Python 3.10 to 3.14 is needed, '$(PYTHON)' is $$("$(PYTHON)" -V)." \
	       "Choose another: make setup PYTHON=python3.12" >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2> /dev/null || { \
	  echo "make: '$(PYTHON)' cannot make virtual environments." \
	       "On Debian and Ubuntu: sudo apt install python3-venv" >&2; exit 1; }
	[ -x $(RUN) ] && $(RUN) -m pip --version > /dev/null || "$(PYTHON)" -m venv --clear $(VENV)
	$(RUN) -m pip install --upgrade pip
	$(RUN) -m pip install --editable '.[ros,openvino]'
	@touch $@

$(DEVELOPER): $(INSTALLED)
	$(RUN) -m pip install --editable '.[ros,openvino,onnxruntime,training,test,lint]'
	@touch $@

$(DOCUMENTER): $(INSTALLED)
	$(RUN) -m pip install --editable '.[docs]'
	@touch $@
