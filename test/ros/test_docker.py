"""Files for containers: they agree with the package. Docker itself is not run."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from ivf_ros.launch_arguments import FUSION_ARGUMENTS, NODE_NAME

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = (ROOT / "docker" / "Dockerfile").read_text(encoding="utf-8")


def test_copied_files_exist_and_are_not_ignored() -> None:
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    copied = [line.split()[1:-1] for line in DOCKERFILE.splitlines() if line.startswith("COPY")]
    sources = [word for words in copied for word in words if not word.startswith("--")]
    assert {"package.xml", ".", "docker/entrypoint.sh", "docker/healthcheck.sh"} == set(sources)
    for source in sources:
        assert (ROOT / source).exists()
        assert source not in ignored
    for needed in ("ivf_core", "ivf_ros", "launch", "config", "resource", "setup.py", "README.md"):
        assert needed not in ignored


def test_versions_of_pip_packages_are_those_of_setup() -> None:
    bounds = re.findall(r'"([a-z0-9]+>=[0-9.]+)"', DOCKERFILE)
    setup = (ROOT / "setup.py").read_text(encoding="utf-8")
    assert len(bounds) == 3
    for bound in bounds:
        assert f'"{bound}"' in setup


def test_container_does_not_run_as_root() -> None:
    users = re.findall(r"^USER (\w+)", DOCKERFILE, re.MULTILINE)
    assert users == ["ros"]
    assert f'useradd --non-unique --uid "$USER_ID" --create-home {users[0]}' in DOCKERFILE
    assert DOCKERFILE.index("USER ros") > DOCKERFILE.index("colcon build")


def test_compose_launches_with_arguments_that_exist() -> None:
    compose = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text(encoding="utf-8"))
    (service,) = compose["services"].values()
    assert (ROOT / "docker" / service["build"]["context"] / service["build"]["dockerfile"]).exists()
    assert service["build"]["args"].keys() <= set(re.findall(r"^ARG (\w+)", DOCKERFILE, re.M))
    assert (service["network_mode"], service["ipc"]) == ("host", "host")
    arguments = [word.partition(":=")[0] for word in service["command"] if ":=" in word]
    assert set(arguments) <= {argument.name for argument in FUSION_ARGUMENTS}
    named = {volume.partition(":")[0] for volume in service["volumes"]}
    assert named == compose["volumes"].keys()


@pytest.mark.parametrize("name", ["entrypoint.sh", "healthcheck.sh"])
def test_scripts_are_valid(name: str) -> None:
    path = ROOT / "docker" / name
    assert f"/usr/local/bin/{name}" in DOCKERFILE
    assert subprocess.run(["bash", "-n", path]).returncode == 0
    if name == "healthcheck.sh":
        assert f"${{FUSION_NODE:-/{NODE_NAME}}}" in path.read_text(encoding="utf-8")
