"""Build with colcon: a complete ament_python package."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

import ivf_core

ROOT = Path(__file__).resolve().parents[2]
EXECUTABLES = ("fusion_node", "ivf", "player_node", "recorder_node", "view_node")


def files_of_the_tree() -> list[str]:
    """Return the files of the checkout: tracked ones, and new ones that git does not ignore."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listing.returncode != 0:
        pytest.skip("not a git checkout")
    return [name for name in listing.stdout.split("\0") if name and (ROOT / name).is_file()]


def environment_without_ros() -> dict[str, str]:
    """Return an environment without a sourced distribution and without this checkout."""
    dropped = ("PYTHONPATH", "AMENT_PREFIX_PATH", "COLCON_PREFIX_PATH", "ROS_DISTRO")
    return {name: value for name, value in os.environ.items() if name not in dropped}


@pytest.fixture(scope="module")
def install(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build a colcon workspace with a copy of this tree; return its install space."""
    pytest.importorskip("colcon_core", reason="colcon is not installed")
    workspace = tmp_path_factory.mktemp("workspace")
    for name in files_of_the_tree():
        copy = workspace / "src" / "ivf_ros" / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, copy)
    command = [sys.executable, "-m", "colcon", "--log-base", "log", "build"]
    build = subprocess.run(
        command, cwd=workspace, env=environment_without_ros(), capture_output=True, text=True
    )
    assert build.returncode == 0, build.stdout + build.stderr
    return workspace / "install" / "ivf_ros"


def site_packages(install: Path) -> Path:
    (folder,) = install.glob("lib/python3*/site-packages")
    return folder


def test_executables_are_where_ros2_run_looks(install: Path) -> None:
    folder = install / "lib" / "ivf_ros"
    assert sorted(path.name for path in folder.iterdir()) == list(EXECUTABLES)
    assert all(os.access(path, os.X_OK) for path in folder.iterdir())


def test_share_has_marker_manifest_launch_files_and_config(install: Path) -> None:
    share = install / "share"
    assert (share / "ament_index/resource_index/packages/ivf_ros").is_file()
    assert (share / "ivf_ros/package.xml").read_bytes() == (ROOT / "package.xml").read_bytes()
    for folder, pattern in (("launch", "*.launch.py"), ("config", "*")):
        expected = {path.name for path in (ROOT / folder).glob(pattern) if path.is_file()}
        installed = {path.name for path in (share / "ivf_ros" / folder).iterdir()}
        assert installed == expected
        assert expected


def test_both_python_packages_are_complete(install: Path) -> None:
    site = site_packages(install)
    for package in ("ivf_core", "ivf_ros"):
        expected = {
            path.relative_to(ROOT)
            for path in (ROOT / package).rglob("*")
            if path.suffix in (".py", ".safetensors") and "__pycache__" not in path.parts
        }
        assert {path for path in expected if not (site / path).is_file()} == set()
    assert list((site / "ivf_core/weights").glob("*.safetensors"))
    assert not (site / "test").exists()


def test_installed_code_finds_its_own_files(install: Path) -> None:
    code = (
        "import ivf_core, ivf_ros.transport as t; print(ivf_core.__file__); print(t.profile_path())"
    )
    output = subprocess.run(
        [sys.executable, "-c", code],
        cwd=install,
        env={**environment_without_ros(), "PYTHONPATH": str(site_packages(install))},
        capture_output=True,
        text=True,
        check=True,
    )
    module, profile = map(Path, output.stdout.split())
    assert module.is_relative_to(install)
    assert profile == (install / "share/ivf_ros/config/fastdds.xml").resolve()


def test_installed_command_lists_the_weights(install: Path) -> None:
    output = subprocess.run(
        [install / "lib" / "ivf_ros" / "ivf", "weights"],
        cwd=install,
        env={**environment_without_ros(), "PYTHONPATH": str(site_packages(install))},
        capture_output=True,
        text=True,
    )
    assert output.returncode == 0, output.stderr
    for path in site_packages(install).glob("ivf_core/weights/*.safetensors"):
        assert path.stem in output.stdout


def test_versions_agree(install: Path) -> None:
    version = ElementTree.parse(ROOT / "package.xml").findtext("version")
    (installed,) = site_packages(install).glob("ivf_ros-*.egg-info")
    assert installed.name.startswith(f"ivf_ros-{version}-")
    assert version == ivf_core.__version__
    assert f"## [{version}] - " in (ROOT / "CHANGELOG.md").read_text()


def test_plugins_of_a_sourced_distribution_are_not_loaded(tmp_path: Path) -> None:
    """Jazzy's end pytest 9: their hooks have arguments that it has no longer."""
    for name, plugin in (
        ("launch_testing", "launch_testing"),
        ("launch_testing_ros", "launch_ros"),
        ("launch_pytest", "launch_pytest"),
    ):
        (tmp_path / f"{name}_hooks.py").write_text(f"raise ImportError('{name} is loaded')\n")
        info = tmp_path / f"{name}-3.4.10.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 3.4.10\n")
        (info / "entry_points.txt").write_text(f"[pytest11]\n{plugin} = {name}_hooks\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "test/core/test_pairing.py"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(tmp_path), str(ROOT)))},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "test_pairing.py" in done.stdout
