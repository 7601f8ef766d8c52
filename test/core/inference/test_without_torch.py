"""Tests of engines and commands where PyTorch is not installed, and of graphs beside weights."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import cv2
import numpy as np
import pytest

from ivf_core.cli import main
from ivf_core.images.files import write_image
from ivf_core.inference.engine import create_engine
from ivf_core.inference.selection import real_looking_pair
from ivf_core.models.checkpoints import FusionModel, load_model, save_model
from ivf_core.models.weights_files import GRAPH_FORMAT, open_weights, shipped_weights

# Python takes a module that is None for one that is not installed.
_BLOCK = "import sys; sys.modules.update(dict.fromkeys({blocked}))\n"


def run_without(packages: set[str], code: str, *arguments: object) -> subprocess.CompletedProcess:
    """Run code in an interpreter in which packages cannot be imported."""
    source = _BLOCK.format(blocked=packages) + textwrap.dedent(code)
    return subprocess.run(
        [sys.executable, "-c", source, *map(str, arguments)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("weights", shipped_weights())
@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_shipped_graphs_are_those_of_the_weights(weights: str, engine: str) -> None:
    pytest.importorskip(engine)
    file = open_weights(weights)
    assert file.read_graph() is not None
    assert file.digest == load_model(file).digest()
    pair = real_looking_pair((61, 83), 5)
    options = {"device": "cpu", "precision": "fp32"}
    found = create_engine(file, engine=engine, **options)(*pair, confidence=True)
    expected = create_engine(load_model(file), engine="torch", **options)(*pair, confidence=True)
    assert cv2.absdiff(found.fused, expected.fused).max() <= 1
    if file.class_set is None:
        assert found.labels is found.confidence is None
        return
    assert np.mean(found.labels == expected.labels) >= 0.99
    assert cv2.absdiff(found.confidence, expected.confidence).max() <= 1


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime", "auto"])
def test_fusion_without_torch(engine: str) -> None:
    if engine != "auto":
        pytest.importorskip(engine)
    done = run_without(
        {"torch"},
        """
        from ivf_core import FusionPipeline, ImagePair
        from ivf_core.inference.selection import real_looking_pair

        pipeline = FusionPipeline("fast", engine=sys.argv[1])
        result = pipeline(ImagePair(*real_looking_pair((64, 96), 0)))
        assert result.fused.shape == (64, 96, 3) and result.labels.shape == (32, 48)
        print(pipeline.engine.name)
        """,
        engine,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in ("openvino", "onnxruntime")


def test_openvino_needs_openvino_alone() -> None:
    pytest.importorskip("openvino")
    done = run_without(
        {"torch", "onnx", "onnxruntime"},
        """
        from ivf_core import FusionPipeline

        FusionPipeline("clear", precision="int8").warm_up((32, 48))
        """,
    )
    assert done.returncode == 0, done.stderr


def test_commands_without_torch(tmp_path: Path) -> None:
    visible, infrared = real_looking_pair((64, 96), 0)
    for name, image in (("visible", visible), ("infrared", infrared)):
        write_image(tmp_path / name / "a.png", image)
    run = "from ivf_core.cli import main; sys.exit(main(sys.argv[1:]))"
    fuse = ("fuse", "--visible", tmp_path / "visible", "--infrared", tmp_path / "infrared")
    for words in (("weights",), (*fuse, "--output", tmp_path / "out"), ("replay", "--help")):
        done = run_without({"torch"}, run, *words)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "fused" / "a.png").is_file()


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_weights_without_a_graph_say_what_to_do(
    engine: str, tiny_weights: Path, tmp_path: Path
) -> None:
    pytest.importorskip(engine)
    code = """
    from ivf_core import FusionPipeline

    try:
        FusionPipeline(sys.argv[1], engine=sys.argv[2], device="cpu")
    except ValueError as error:
        print(error)
    """
    path = tmp_path / "mine.safetensors"
    path.write_bytes(tiny_weights.read_bytes())
    done = run_without({"torch"}, code, path, engine)
    assert done.returncode == 0, done.stderr
    assert f"ivf export --weights {path}" in done.stdout
    assert "pip install torch" in done.stdout
    assert main(["export", "--weights", str(path)]) == 0
    assert path.with_suffix(".onnx").is_file()
    done = run_without({"torch"}, code, path, engine)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_engine_torch_without_torch() -> None:
    done = run_without(
        {"torch"},
        """
        from ivf_core import FusionPipeline

        try:
            FusionPipeline("clear", engine="torch")
        except ValueError as error:
            print(error)
        """,
    )
    assert "engine 'torch' is not installed: pip install torch" in done.stdout, done.stderr


def test_graphs_of_other_weights_are_not_used(tiny_model: FusionModel, tmp_path: Path) -> None:
    path, other = tmp_path / "mine.safetensors", tmp_path / "other.safetensors"
    save_model(tiny_model, path)
    graph = path.with_suffix(".onnx")
    assert main(["export", "--weights", str(path)]) == 0
    content = graph.read_bytes()
    assert open_weights(path).read_graph() == content
    # The same weights under another name, and with other notes, have the same graph.
    save_model(FusionModel(**{**vars(tiny_model), "ranges": {}}), other, source="elsewhere")
    other.with_suffix(".onnx").write_bytes(content)
    assert open_weights(other).read_graph() == content
    earlier = content.replace(GRAPH_FORMAT.encode(), b"ivf-graph-1")
    assert earlier != content
    other.with_suffix(".onnx").write_bytes(earlier)
    assert open_weights(other).read_graph() is None
    changed = load_model(path)
    changed.student.decoder.bias += 1  # type: ignore[union-attr,operator]
    save_model(changed, path)
    assert open_weights(path).read_graph() is None
    for damaged in (b"", content[:50], content[:-9], b"\xff" * 40, b"no graph at all"):
        other.with_suffix(".onnx").write_bytes(damaged)
        assert open_weights(other).read_graph() is None
