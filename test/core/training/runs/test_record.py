"""Records of runs are complete after an end, a failure, a kill and a resume."""

from __future__ import annotations

import base64
import csv
import json
import logging
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from ivf_core.images.files import read_visible
from ivf_core.system.revision import git_revision
from ivf_core.training.runs.page import image_files, read_losses, write_summary
from ivf_core.training.runs.recipe import load_recipe
from ivf_core.training.runs.record import RunRecord, run_directory


@dataclass(frozen=True)
class Recipe:
    output: str = "runs/a <b>.safetensors"
    crop: tuple[int, int] = (160, 192)
    learning_rate: float = 1e-5
    folders: tuple[str, ...] = ()
    bfloat16: bool = True


def record(directory: Path, first_step: int = 0, **options: bool) -> RunRecord:
    return RunRecord(
        directory, part="student", recipe=Recipe(), total_steps=8, first_step=first_step, **options
    )


def rows(directory: Path) -> list[tuple[int, str, float]]:
    with (directory / "losses.csv").open(newline="") as file:
        header, *found = csv.reader(file)
    assert header == ["step", "loss", "value"]
    return [(int(step), name, float(value)) for step, name, value in found]


def metadata(directory: Path) -> dict:
    return json.loads((directory / "metadata.json").read_text())


def drawn_curves(directory: Path) -> str:
    page = (directory / "summary.html").read_text()
    match = re.search(r"data:image/svg\+xml;base64,([^\"]+)", page)
    assert match is not None
    return base64.b64decode(match[1]).decode()


def scalars(directory: Path) -> dict[str, list[tuple[int, float]]]:
    """Scalars that TensorBoard shows."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(directory / "tensorboard")).Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.scalars.Keys()}


def test_place_of_the_record() -> None:
    assert run_directory("runs/student_fast.safetensors") == Path("runs/student_fast")
    assert run_directory("runs/teacher") == Path("runs/teacher.run")
    assert run_directory("runs/v1.2") == Path("runs/v1.2.run")


def test_a_whole_run(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    directory = tmp_path / "x & y"
    shapes = {"visible": (20, 30, 3), "infrared": (20, 30)}
    with record(directory) as run:
        for step in range(8):
            losses = {"student": 10.0**-step} if step % 2 else {"teacher": 0.5 + 0.1 * step}
            run.losses(step, losses)
            images = {name: np.full(shape, 30 * step, np.uint8) for name, shape in shapes.items()}
            run.images(step, {**images, "masks": np.zeros((2, 20, 30), bool)})
        run.summary({"PSNR in dB": {"<tno>": 31.2345}, "made of": {"priors": "crops"}})

    assert rows(directory)[:2] == [(0, "teacher", 0.5), (1, "student", 0.1)]
    assert len(rows(directory)) == 8
    assert load_recipe(Recipe, directory / "recipe.yaml") == Recipe()
    (session,) = metadata(directory)["sessions"]
    assert session["outcome"] == "finished"
    assert (session["first_step"], session["last_step"]) == (0, 7)
    assert session["revision"] == git_revision()
    assert session["started"] <= session["ended"]
    assert list(image_files(directory)) == list(range(8))
    assert read_visible(directory / "images" / "00000007.png").shape == (40, 90, 3)
    shown = dict(scalars(directory)["student/teacher"])
    assert shown == pytest.approx({step: 0.5 + 0.1 * step for step in (0, 2, 4, 6)})

    page = (directory / "summary.html").read_text()
    assert "<title>student: x &amp; y</title>" in page
    for part in ("Finished, 8 of 8 steps", "&lt;tno&gt;", "31.23", "a &lt;b&gt;.safetensors"):
        assert part in page
    assert re.findall(r"<p>Step (\d+)</p>", page) == ["0", "4", "7"]
    assert "<script" not in page
    assert "default-src 'none'" in page, "the browser blocks requests as well"
    assert not re.search(r"""(src|href)=["'](?!data:)""", page)  # needs nothing beside it
    # matplotlib writes each text's source beside its outlines.
    assert "<!-- teacher -->" in drawn_curves(directory)
    assert "10^{" in drawn_curves(directory)  # seven decades


def test_images_of_older_records_are_shown_and_dropped(tmp_path: Path) -> None:
    with record(tmp_path) as run:
        for step in range(4):
            run.losses(step, {"loss": 1.0})
            run.images(step, {"a": np.zeros((20, 20), np.uint8)})
    (tmp_path / "images").rename(tmp_path / "pictures")  # plain: pictures
    assert list(image_files(tmp_path)) == [0, 1, 2, 3]
    assert "<p>Step 3</p>" in write_summary(tmp_path).read_text()
    with record(tmp_path, first_step=2) as run:
        run.losses(2, {"loss": 1.0})
        run.images(2, {"a": np.zeros((20, 20), np.uint8)})
    assert [path.parent.name for path in image_files(tmp_path).values()] == [
        "pictures", "pictures", "images",  # plain: pictures
    ]  # fmt: skip
    assert list(image_files(tmp_path)) == [0, 1, 2]


def test_curves_of_few_decades_or_with_gaps(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    with record(tmp_path) as run:
        for step, value in enumerate((3.0, float("nan"), float("inf"), -1.0)):
            run.losses(step, {"one": value, "other": 1.0})
    assert "10^{" not in drawn_curves(tmp_path)
    steps, values = read_losses(tmp_path)["one"]
    assert steps.tolist() == [0, 1, 2, 3]
    np.testing.assert_array_equal(values, [3, np.nan, np.inf, -1])


_KILLED = """
import os, signal, sys
import numpy as np
from pathlib import Path
from test_record import record

run = record(Path(sys.argv[1])).__enter__()
for step in range(6):
    run.losses(step, {"loss": step + 0.5})
    run.images(step, {"a": np.zeros((20, 20), np.uint8)})
run._events.flush()
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_resume_after_a_kill(tmp_path: Path) -> None:
    """The checkpoint was at step 4: what was done after it is done again, and counts once."""
    done = subprocess.run(
        [sys.executable, "-c", _KILLED, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": ":".join([str(Path(__file__).parent), *sys.path])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == -9, done.stderr
    assert [step for step, _, _ in rows(tmp_path)] == list(range(6))
    with (tmp_path / "losses.csv").open("a") as file:
        file.write("6,lo")  # cut by the kill
    time.sleep(1)  # TensorBoard orders its files by the second in which they were begun
    with record(tmp_path, first_step=4) as run:
        for step in range(4, 8):
            run.losses(step, {"loss": step + 0.25})
    expected = [(0, 0.5), (1, 1.5), (2, 2.5), (3, 3.5), (4, 4.25), (5, 5.25), (6, 6.25), (7, 7.25)]
    assert [(step, value) for step, _, value in rows(tmp_path)] == expected
    assert scalars(tmp_path)["student/loss"] == expected
    assert list(image_files(tmp_path)) == [0, 1, 2, 3]
    assert [s["outcome"] for s in metadata(tmp_path)["sessions"]] == ["killed", "finished"]
    with record(tmp_path, first_step=8):  # nothing is left to do
        pass
    assert "Finished, 8 of 8 steps" in (tmp_path / "summary.html").read_text()

    with record(tmp_path) as run:
        run.losses(0, {"again": 1.0})
    assert rows(tmp_path) == [(0, "again", 1.0)]
    assert not image_files(tmp_path)
    assert len(metadata(tmp_path)["sessions"]) == 1


def fail(run: RunRecord) -> None:
    assert not (run.directory / "summary.html").exists()  # that of a run before
    run.summary({"scores": {"a": 1.0}})
    run.losses(2, {"loss": float("nan")})
    raise FloatingPointError("step 2: the loss is <nan>")


def fail_without_record(run: RunRecord) -> None:
    (run.directory / "losses.csv").unlink()
    fail(run)


def test_a_run_that_fails_says_why(tmp_path: Path) -> None:
    with record(tmp_path) as run:
        run.summary({"of the run before": {"a": 1.0}})
    with pytest.raises(FloatingPointError, match="the loss is <nan>"), record(tmp_path) as run:
        fail(run)
    assert metadata(tmp_path)["sessions"][0]["outcome"].startswith("FloatingPointError: step 2")
    page = (tmp_path / "summary.html").read_text()
    assert "The run stopped, 3 of 8 steps: FloatingPointError: step 2: the loss is &lt;nan" in page
    assert "of the run before" not in page
    with pytest.raises(KeyboardInterrupt), record(tmp_path):
        raise KeyboardInterrupt
    assert "The run stopped, 0 of 8 steps: KeyboardInterrupt" in write_summary(tmp_path).read_text()


def test_a_failure_is_not_hidden_by_that_of_its_record(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    directory = tmp_path / "run"
    with pytest.raises(FloatingPointError), record(directory) as run:
        fail_without_record(run)
    assert f"the record of the run in '{directory}' is incomplete" in caplog.text
    with pytest.raises(OSError, match=r"losses\.csv"), record(directory):
        (directory / "losses.csv").unlink()


def test_warnings_are_kept_and_still_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A handler of ours must not take the place of the one that prints where there is none."""
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    log = logging.getLogger("ivf_core.training.masks.priors")
    with record(tmp_path):
        log.info("small talk")
        for _ in range(2):
            log.warning("priors are %s", "<crops>")
    log.warning("afterwards")
    assert metadata(tmp_path)["warnings"] == ["priors are <crops>"]
    assert "priors are &lt;crops&gt;" in (tmp_path / "summary.html").read_text()
    shown = capsys.readouterr().err
    assert "priors are <crops>" in shown
    assert "small talk" not in shown


def test_without_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("torch.utils.tensorboard", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, name, None)
    with record(tmp_path) as run:
        run.losses(0, {"loss": 1.0})
        run.images(0, {"a": np.zeros((20, 20), np.uint8)})
    assert not (tmp_path / "tensorboard").exists()
    assert "TensorBoard is not installed (extra `training`)" in metadata(tmp_path)["warnings"][0]
    page = (tmp_path / "summary.html").read_text()
    assert "matplotlib is not installed" in page
    assert "<p>Step 0</p>" in page


def test_other_processes_write_nothing(tmp_path: Path) -> None:
    directory = tmp_path / "none"
    with record(directory, enabled=False) as run:
        run.losses(0, {"loss": 1.0})
        run.images(0, {"a": np.zeros((20, 20), np.uint8)})
        run.summary({})
    assert not directory.exists()


def test_masks_are_told_apart(tmp_path: Path) -> None:
    masks = np.zeros((3, 20, 40), bool)
    masks[0, :, :10] = masks[1, :, :20] = masks[2, :, 30:] = True
    with record(tmp_path) as run:
        run.images(0, {"masks": masks})
    row = read_visible(tmp_path / "images" / "00000000.png")[-20:]
    columns = [tuple(row[5, column].tolist()) for column in (5, 15, 25, 35)]
    assert columns[2] == (0, 0, 0)
    assert len(set(columns)) == 4


@pytest.mark.parametrize(
    "image", [np.zeros((4, 4)), np.zeros((4, 4, 2), np.uint8), np.zeros((4, 4), bool)]
)
def test_bad_images(tmp_path: Path, image: np.ndarray) -> None:
    with (
        pytest.raises(ValueError, match=r"image 'odd' is \(4, 4.*expected H x W x 3 or H x W"),
        record(tmp_path) as run,
    ):
        run.images(0, {"odd": image})


def test_damaged_metadata(tmp_path: Path) -> None:
    with record(tmp_path):
        pass
    (tmp_path / "metadata.json").write_text("{")
    with pytest.raises(ValueError, match=r"metadata\.json': expected the metadata of a run"):
        record(tmp_path, first_step=3).__enter__()
