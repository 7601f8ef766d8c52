"""Package `ivf_ros`: built by colcon as an ament_python package, by pip as a plain one."""

from pathlib import Path
from xml.etree import ElementTree

from setuptools import find_packages, setup

# Version, description, maintainer and licence are written down in package.xml alone.
MANIFEST = ElementTree.parse("package.xml").getroot()
NAME = MANIFEST.findtext("name")

# The ROS 2 Jazzy client from PyPI, for machines without a ROS distribution.
ROS_WHEELS = [
    "ros-rclpy[fastrtps]==7.1.*",
    "ros-sensor-msgs==5.3.*",
    "ros-std-msgs==5.3.*",
    "ros-diagnostic-msgs==5.3.*",
    "ros-std-srvs==5.3.*",
    "ros-builtin-interfaces==2.0.*",
    "ros-lifecycle-msgs==2.0.*",
    "ros-rcl-interfaces==2.0.*",
    "ros-rosgraph-msgs==2.0.*",
]

# Lower bounds are at releases without published vulnerabilities in what we use of them; `make lint`
# audits them where there is a network. In the loading of weights: torch 2.10 (CVE-2025-32434,
# CVE-2026-24747), onnx 1.21 (CVE-2026-27489, CVE-2026-34445), transformers 4.48. In files of
# images: OpenCV 4.8.1.78 (CVE-2023-4863), but not 4.10 and 4.11 (CVE-2025-53644). Others: PyYAML
# 5.4 (CVE-2020-14343), jinja2 3.1.6 (CVE-2025-27516), tqdm 4.66.3 (CVE-2024-34062), ray 2.54
# (CVE-2025-62593, CVE-2026-27482).
EVALUATION = ["matplotlib>=3.6"]
FLEET = ["ray>=2.54"]


def files(folder: str, pattern: str) -> list[str]:
    """Return the sorted paths of a folder's files, relative to this file as data_files asks."""
    return sorted(str(path) for path in Path(folder).glob(pattern))


setup(
    name=NAME,
    version=MANIFEST.findtext("version"),
    description=MANIFEST.findtext("description"),
    long_description=Path("README.md").read_text() if Path("README.md").exists() else "",
    long_description_content_type="text/markdown",
    license=MANIFEST.findtext("license"),
    maintainer=MANIFEST.findtext("maintainer"),
    maintainer_email=MANIFEST.find("maintainer").get("email"),
    python_requires=">=3.10",
    packages=find_packages(include=["ivf_core", "ivf_core.*", "ivf_ros", "ivf_ros.*"]),
    package_data={
        "ivf_core": [
            "weights/*.safetensors",
            "weights/*.onnx",
            "weights/*.md",
            "replay/report/reference_bands.json",
            "html/templates/*.*",
            "html/templates/vendor/*.*",
        ]
    },
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
        (f"share/{NAME}/launch", files("launch", "*.launch.py")),
        (f"share/{NAME}/config", files("config", "*.*")),
    ],
    zip_safe=False,
    install_requires=[
        # lz4 and zstd: the chunks of compressed bags, read record by record where a bag is damaged.
        'backports.zstd>=1.0; python_version < "3.14"',
        "jinja2>=3.1.6",
        "lz4>=4.3",
        "numpy>=1.26",
        "opencv-python-headless>=4.8.1.78,!=4.10.*,!=4.11.*",
        "pyyaml>=5.4",
        "rosbags>=0.11",
        "tqdm>=4.66.3",
    ],
    extras_require={
        "ros": ROS_WHEELS,
        # Engines. On a CPU OpenVINO is the fastest; CUDA takes PyTorch. Weights without an
        # .onnx file beside them are exported by PyTorch with onnx.
        "openvino": ["openvino>=2024.4"],
        "onnxruntime": ["onnx>=1.21", "onnxruntime>=1.17"],
        "torch": ["onnx>=1.21", "safetensors>=0.4", "torch>=2.10"],
        # The figures of ivf evaluate.
        "evaluation": EVALUATION,
        # ivf replay of many bags over several machines.
        "fleet": FLEET,
        # Masks for teachers: SAM, which needs torchvision, and superpixels.
        # Devices, precision and nodes: Fabric. Segmenters to train with: transformers.
        # Published networks that label: OpenVINO, and TensorFlow Lite where it has wheels.
        "training": [
            'ai-edge-litert>=1.0; sys_platform == "linux" and python_version < "3.15"',
            "lightning-fabric>=2.4",
            "matplotlib>=3.6",
            "onnx>=1.21",
            "openvino>=2024.4",
            "safetensors>=0.4",
            "scikit-image>=0.22",
            "segment-anything>=1.0",
            "tensorboard>=2.14",
            "torch>=2.10",
            "torchvision>=0.25",
            "transformers>=4.57",
        ],
        # BRISQUE, NIQE, MUSIQ, PaQ-2-PiQ. Not for commercial use: PolyForm Noncommercial.
        "no-reference": ["pyiqa>=0.1.13"],
        # colcon brings setuptools below 80 with it: it calls setup.py, and needs the
        # options of `develop` that 80 dropped.
        "test": [
            *EVALUATION,
            *FLEET,
            "colcon-common-extensions",
            "colcon-ros",
            "hypothesis>=6.80",
            "playwright>=1.40",  # drives the system's Chromium, where there is one
            "pytest>=7.4",
            "pytest-xdist>=3.5",
            "rosbags-image>=0.10",
        ],
        # The site of the documentation. ruff lays out the signatures of the API.
        "docs": [
            "mkdocs>=1.6",
            "mkdocs-material>=9.6",
            "mkdocstrings[python]>=0.30",
            "ruff>=0.6",
        ],
        "lint": [
            "import-linter>=2.17",
            "mypy>=1.10",
            "packaging",
            "pip-audit>=2.7",
            "ruff>=0.6",
            "types-PyYAML",
        ],
    },
    entry_points={
        "console_scripts": [
            "fusion_node = ivf_ros.fusion_node:main",
            "player_node = ivf_ros.player_node:main",
            "recorder_node = ivf_ros.recorder_node:main",
            "view_node = ivf_ros.view_node:main",
            "ivf = ivf_core.cli:main",
        ]
    },
)
