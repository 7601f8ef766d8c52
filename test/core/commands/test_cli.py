"""Tests of the command ivf: complete runs, errors and examples."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ivf_core.cli import COMMANDS, build_parser, main
from ivf_core.images.files import read_infrared, read_visible, write_image
from ivf_core.images.pair_sources import open_pairs
from ivf_core.images.videos import VideoWriter
from ivf_core.inference import FusionPipeline, ImagePair
from ivf_core.inference.pipeline import resize_labels
from ivf_core.models.checkpoints import FusionModel, load_model, save_model
from ivf_core.models.student import FusionStudent

ROOT = Path(__file__).parents[3]


def run(*words: object) -> int:
    return main([str(word) for word in words])


def make_image(
    path: Path, seed: int, *, gray: bool = False, size: tuple[int, int] = (48, 64)
) -> Path:
    values = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    write_image(path, values[..., 0].copy() if gray else values)
    return path


def test_fuse_an_image(
    tiny_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    visible = make_image(tmp_path / "rgb.png", 1)
    infrared = make_image(tmp_path / "ir.png", 2, gray=True)
    output = tmp_path / "out"
    assert run("fuse", "--visible", visible, "--infrared", infrared, "--output", output,
               "--weights", tiny_weights, "--device", "cpu") == 0  # fmt: skip
    result = FusionPipeline(load_model(tiny_weights), device="cpu")(
        ImagePair(read_visible(visible), read_infrared(infrared))
    )
    assert result.labels is not None
    np.testing.assert_array_equal(read_visible(output / "fused/rgb.png"), result.fused)
    np.testing.assert_array_equal(
        read_infrared(output / "mask/rgb.png"), resize_labels(result.labels, (48, 64))
    )
    assert (output / "overlay/rgb.png").is_file()
    assert "1 pairs fused" in capsys.readouterr().out


def test_fuse_a_folder_with_a_stray_file(
    tiny_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in "ab":
        make_image(tmp_path / "v" / f"{name}.png", 1)
        make_image(tmp_path / "i" / f"{name}.png", 2, gray=True)
    make_image(tmp_path / "v" / "alone.png", 3)
    output = tmp_path / "out"
    run("fuse", "--visible", tmp_path / "v", "--infrared", tmp_path / "i", "--output", output,
        "--weights", tiny_weights)  # fmt: skip
    assert sorted(p.name for p in (output / "fused").iterdir()) == ["a.png", "b.png"]
    assert "alone" in capsys.readouterr().err


def make_videos(folder: Path, frames: int = 6) -> tuple[Path, Path]:
    paths = folder / "rgb.mp4", folder / "thermal.mp4"
    for path in paths:
        with VideoWriter(path, 10.0, (48, 64)) as video:
            for number in range(frames):
                video.write(np.full((48, 64, 3), 30 * number, np.uint8))
    return paths


def test_fuse_a_video(tiny_weights: Path, tmp_path: Path) -> None:
    visible, infrared = make_videos(tmp_path)
    output = tmp_path / "out"
    assert run("fuse", "--visible", visible, "--infrared", infrared, "--output", output,
               "--weights", tiny_weights) == 0  # fmt: skip
    frames = list(open_pairs(output / "fused.mp4", output / "overlay.mp4"))
    assert len(frames) == 6
    assert len(list((output / "mask").iterdir())) == 6
    assert not list(output.glob(".*")), "no temporary file is left"


def test_bag_from_video_and_info(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    visible, infrared = make_videos(tmp_path)
    bag = tmp_path / "drive"
    arguments = ["bag", "from-video", "--visible", visible, "--infrared", infrared, "--output", bag]
    assert run(*arguments) == 0
    capsys.readouterr()
    assert run("bag", "info", bag) == 0
    text = capsys.readouterr().out
    assert "rosbag2 mcap" in text
    assert re.search(r"/rgb/image_raw +6 +10\.0 Hz +sensor_msgs/msg/Image", text)
    assert run(*arguments) == 1
    assert f"ivf: bag '{bag}'" in capsys.readouterr().err


def test_weights(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("weights") == 0
    text = capsys.readouterr().out
    assert [line.split()[0] for line in text.splitlines() if "student '" in line] == [
        "clear",
        "fast",
        "sage",
        "street",
    ]
    assert "color_cone" in text


def test_a_damaged_image_is_left_out(
    tiny_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in "ab":
        make_image(tmp_path / "v" / f"{name}.png", 1)
        make_image(tmp_path / "i" / f"{name}.png", 2, gray=True)
    (tmp_path / "v" / "a.png").write_text("damaged")
    output = tmp_path / "out"
    assert run("fuse", "--visible", tmp_path / "v", "--infrared", tmp_path / "i",
               "--output", output, "--weights", tiny_weights) == 1  # fmt: skip
    assert [p.name for p in (output / "fused").iterdir()] == ["b.png"]
    assert f"left out: image '{tmp_path / 'v/a.png'}'" in capsys.readouterr().err


def make_recipe(folder: Path, weights: Path, **changes: object) -> Path:
    """Write a recipe for a student of four noisy pairs in the data directory `folder`."""
    for number in range(4):
        make_image(folder / "pairs/visible" / f"{number}.png", number)
        make_image(folder / "pairs/infrared" / f"{number}.png", number, gray=True)
    options = {
        "reference": str(weights), "folders": ["pairs"], "output": str(folder / "w.safetensors"),
        "steps": 5, "batch_size": 1, "crop": [32, 32], **changes,
    }  # fmt: skip
    (folder / "recipe.yaml").write_text(json.dumps(options))
    return folder / "recipe.yaml"


def test_training_that_diverges_ends_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("IVF_DATA", str(tmp_path))
    save_model(FusionModel(FusionStudent().eval()), tmp_path / "reference.safetensors")
    recipe = make_recipe(tmp_path, tmp_path / "reference.safetensors", learning_rate=1e30)
    assert run("train", "student", "--config", recipe, "--set", "alone_until=0") == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert re.match(r"ivf: step \d, features: features is nan", last)
    assert not (tmp_path / "w.safetensors").exists()


def test_running_out_of_memory_is_one_line_in_training_only(
    tiny_weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Other commands ask for a report, since their RuntimeError may be a bug."""

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("out of\n  memory")

    monkeypatch.setattr("ivf_core.training.students.student.train_student", fail)
    monkeypatch.setattr("ivf_core.inference.fuse_files.fuse_files", fail)
    assert run("train", "student", "--config", make_recipe(tmp_path, tiny_weights)) == 1
    assert capsys.readouterr().err == "ivf: out of memory\n"
    image = make_image(tmp_path / "a.png", 0)
    assert run("fuse", "--visible", image, "--infrared", image, "--output", tmp_path / "out",
               "--weights", tiny_weights) == 1  # fmt: skip
    assert "ivf: unexpected RuntimeError: out of memory (please report" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("fuse --visible {here}/no.png --infrared {here}/no.png --output {here}/o", "no.png"),
        ("fuse --visible {here} --infrared {here}/a.png --output {here}/o", "{here}"),
        (
            "fuse --visible {here}/a.png --infrared {here}/a.png --output {here}/o --weights x",
            "weights 'x': no such file",
        ),
        (
            "fuse --visible {here}/a.png --infrared {here}/a.png --output {here}/o --device tpu",
            "device 'tpu'",
        ),
        ("bag info {here}/nothing", "{here}/nothing"),
        ("train head --config {here}/no.yaml", "recipe {here}/no.yaml"),
        ("train student --config {here}/no.yaml", "recipe {here}/no.yaml"),
        ("train student --config {here}/recipe.yaml --set 'steps=['", "--set steps=[: while"),
        ("train student --config {here}/recipe.yaml --set steps=x", "steps: expected int, got 'x'"),
    ],
)
def test_errors_are_one_line(
    words: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_image(tmp_path / "a.png", 0)
    (tmp_path / "recipe.yaml").write_text("{reference: r, folders: [pairs], output: o}")
    assert run(*shlex.split(words.format(here=tmp_path))) == 1
    error = capsys.readouterr().err.strip()
    assert message.format(here=tmp_path) in error
    assert "Traceback" not in error
    *before, last = error.splitlines()
    assert last.startswith("ivf: ")
    assert not any(line.startswith(" ") for line in before)


def test_every_command_has_help_and_an_example_that_parses(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for command in COMMANDS:
        with pytest.raises(SystemExit) as ended:
            run(*command.words.split(), "--help")
        assert ended.value.code == 0
        assert command.example in capsys.readouterr().out
        program, *words = shlex.split(command.example)
        assert program == "ivf"
        assert build_parser().parse_args(words).run is command.run


def test_benchmark(tiny_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Candidates and both baselines run in their own processes."""
    path = tmp_path / "benchmark.json"
    assert run("benchmark", "--weights", tiny_weights, "--engine", "torch", "--precision", "fp32",
               "--size", "64x48", "--rounds", 2, "--json", path) == 0  # fmt: skip
    rows = json.loads(path.read_text())
    assert [(row["engine"], row["head"]) for row in rows] == [
        ("eager, default memory", False), ("eager", False), ("torch", False), ("torch", True),
    ]  # fmt: skip
    for row in rows:
        assert row["size"] == [64, 48]
        assert 0 < row["min_ms"] <= row["median_ms"] <= row["p95_ms"]
        assert row["ratio_eager_kept"] == pytest.approx(rows[1]["median_ms"] / row["median_ms"])
        assert row["ratio_eager"] == pytest.approx(rows[0]["median_ms"] / row["median_ms"])
        assert row["max_abs_diff_255"] == 0
        assert row["peak_share"] > 0
    assert rows[0]["params"] == 135_617
    assert rows[0]["gmacs"] == pytest.approx(65_060 * 64 * 48 / 1e9, rel=0.01)
    assert rows[3]["gmacs"] > rows[2]["gmacs"]
    out, progress = capsys.readouterr()
    assert "| eager, default memory |" in out
    assert "preparing 4 of 4: " in progress
    assert "turn 2 of 2" in progress
    # A product in bfloat16 takes minutes on some processors, and no candidate uses it.
    assert "measuring a matrix product in fp32\n" in progress


def test_benchmark_of_replays(
    tiny_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "benchmark.json"
    assert run("benchmark", "--replay", "--weights", tiny_weights, "--engine", "openvino",
               "--precision", "fp32", "--size", "64x48", "--pairs", 12, "--rounds", 2,
               "--json", path) == 0  # fmt: skip
    (row,) = json.loads(path.read_text())
    assert row["engine"] == "openvino on cpu in fp32"
    assert (row["size"], row["pairs"], row["rounds"]) == ([64, 48], 12, 2)
    assert set(row["stages_ms"]) == {"read", "write", "score", "fuse"}
    for value in (row["alone_hz"], row["replay_hz"], row["ratio"], *row["stages_ms"].values()):
        assert value > 0
    assert "| openvino on cpu in fp32 | 64x48 |" in capsys.readouterr().out


def test_benchmark_of_missing_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("benchmark", "--weights", tmp_path / "none.safetensors", "--size", "64x48") == 1
    assert "no such file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--rate", 30), "--rate needs --node"),
        (("--outputs", "mask"), "--outputs needs --node"),
        (("--pairs", 9), "--pairs needs --replay"),
        (("--replay", "--rate", 30), "--rate needs --node"),
        (("--replay", "--head", "no"), "--head cannot be used with --replay"),
        (("--node", "--rounds", 3), "--rounds cannot be used with --node"),
        (("--node", "--head", "no"), "--head cannot be used with --node"),
    ],
)
def test_options_of_the_other_benchmark(
    words: tuple[object, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("benchmark", *words) == 1
    assert message in capsys.readouterr().err


def test_benchmark_of_the_node_without_ros(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "rclpy.py").write_text("raise ImportError('librcl.so: not here')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    assert run("benchmark", "--node") == 1
    errors = capsys.readouterr().err
    assert "ivf benchmark --node needs ROS 2" in errors
    assert "ImportError: librcl.so: not here" in errors
    assert "Traceback" not in errors


def test_parser_loads_nothing_heavy() -> None:
    code = (
        "import sys; from ivf_core.cli import build_parser; build_parser(); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
