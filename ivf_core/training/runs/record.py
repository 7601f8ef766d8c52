"""Record of a training run: losses, images, origin, and one page with all of it."""

from __future__ import annotations

import csv
import dataclasses
import json
import logging
import os
import platform
import re
import shlex
import sys
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO

import cv2
import numpy as np
import torch
import yaml
from tqdm import tqdm

from ivf_core import __version__
from ivf_core.images.files import write_image
from ivf_core.images.overlay import side_by_side
from ivf_core.system.atomic import atomic_path, remove_leftovers, remove_leftovers_of, write_json
from ivf_core.system.results import OutputError
from ivf_core.system.revision import git_revision
from ivf_core.training.runs.page import (
    FINISHED,
    IMAGES,
    LOSSES,
    METADATA,
    PAGE,
    RECIPE,
    RUNNING,
    SCORES,
    image_files,
    write_summary,
)

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

__all__ = ["RunRecord", "run_directory"]

_HEADER = ["step", "loss", "value"]
_IMAGE = re.compile(r"\d{8,}\.png")
_log = logging.getLogger(__name__)


def run_directory(output: str | os.PathLike[str]) -> Path:
    """Return the directory of a run's record, next to the weights file that the run writes.

    `runs/student.safetensors` has `runs/student/`; a name without that suffix gets `.run` at
    its end.

    Args:
        output: the weights file.
    """
    path = Path(output)
    return path.with_suffix("" if path.suffix == ".safetensors" else f"{path.suffix}.run")


class RunRecord:
    """Progress bar, curves, images and origin of one training run.

        with RunRecord(run_directory(recipe.output), part="student", recipe=recipe,
                       total_steps=recipe.steps) as record:
            for step in range(recipe.steps):
                ...
                record.losses(step, {"features": 0.5, "output": 0.1})
            record.summary({"PSNR in dB": {"roadscene": 31.2}})

    The directory gets recipe.yaml, which `load_recipe` reads again; metadata.json: each session
    with its command, revision, versions, machine, times and outcome; losses.csv (step, loss,
    value), images/, TensorBoard's events, scores.json, and at the end summary.html, one page
    with all of it, also if the run fails. Warnings that the package logs meanwhile are recorded.

    A run that starts at step 0 replaces an earlier record. A run that is resumed keeps it up to
    `first_step`, and drops everything that an earlier session recorded after that.

    Args:
        directory: directory of the record; may hold other files.
        part: name of the trained part, such as "teacher" or "student".
        recipe: a dataclass.
        total_steps: steps of the whole run.
        first_step: first step of this session.
        enabled: do nothing if False, as in all but the first of several processes.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        part: str,
        recipe: object,
        total_steps: int,
        first_step: int = 0,
        enabled: bool = True,
    ) -> None:
        self.directory = Path(directory)
        self.enabled = enabled
        self._part = part
        self._recipe = recipe
        self._total = total_steps
        self._first = first_step
        self._shown: Mapping[str, float] = {}
        self._bar: tqdm | None = None
        self._events: SummaryWriter | None = None
        self._handler = _Keep(self._keep_warning)

    def __enter__(self) -> RunRecord:
        if not self.enabled:
            return self
        self.directory.mkdir(parents=True, exist_ok=True)
        self._metadata = self._open_metadata()
        self._session: dict[str, Any] = self._metadata["sessions"][-1]
        self._drop_later_steps()
        names = (RECIPE, METADATA, LOSSES, SCORES, PAGE)
        remove_leftovers_of(self.directory / name for name in names)
        remove_leftovers(self.directory / IMAGES, _IMAGE.fullmatch)
        with atomic_path(self.directory / RECIPE) as temporary:
            options = dataclasses.asdict(self._recipe)  # type: ignore[call-overload]
            temporary.write_text(yaml.safe_dump(options, sort_keys=False), encoding="utf-8")
        self._write_metadata()
        # By lines: what the run has logged survives its kill.
        self._file: TextIO = (self.directory / LOSSES).open(
            "a", buffering=1, newline="", encoding="utf-8"
        )
        self._rows = csv.writer(self._file, lineterminator="\n")
        logging.getLogger("ivf_core").addHandler(self._handler)
        self._events = _open_events(self.directory / "tensorboard", self._first)
        return self

    def losses(self, step: int, values: Mapping[str, float]) -> None:
        """Record the losses of one step; steps may have different ones.

        Args:
            step: number of the step, from 0.
            values: losses by name; "NETWORK/TERM" if several networks learn.
        """
        if not self.enabled:
            return
        self._rows.writerows([step, name, float(value)] for name, value in values.items())
        if self._events is not None:
            for name, value in values.items():
                tag = name if "/" in name else f"{self._part}/{name}"
                self._events.add_scalar(tag, value, step)
        self._session["last_step"] = step
        if self._bar is None:
            self._bar = tqdm(total=self._total, initial=self._first, desc=self._part, mininterval=5)
        # With those of the step before: networks that take turns are both shown.
        both, self._shown = {**self._shown, **values}, values
        self._bar.set_postfix({n: f"{v:.4g}" for n, v in both.items()}, refresh=False)
        self._bar.update(step + 1 - self._bar.n)

    def images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        """Record one row of images under their names.

        Args:
            step: number of the step, from 0.
            images: each H x W x 3 uint8 RGB, H x W uint8, or masks, K x H x W bool, which
                are drawn in colours, the first over the others.

        Raises:
            ValueError: an image is none of these, or there are none.
        """
        if not self.enabled:
            return
        row = side_by_side([_drawn(name, image) for name, image in images.items()], list(images))
        write_image(self.directory / IMAGES / f"{step:08d}.png", row)
        if self._events is not None:
            self._events.add_image(f"{self._part}/images", row, step, dataformats="HWC")

    def summary(self, tables: Mapping[str, Mapping[str, float | str]]) -> None:
        """Record final scores.

        Args:
            tables: values by name, by the title of their table.
        """
        if self.enabled:
            write_json(self.directory / SCORES, tables)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        if not self.enabled:
            return
        logging.getLogger("ivf_core").removeHandler(self._handler)
        if self._bar is not None:
            self._bar.close()
        self._session["ended"] = _now()
        self._session["outcome"] = FINISHED
        if kind is not None:
            self._session["outcome"] = f"{kind.__name__}: {error}".removesuffix(": ")
        try:
            self._file.close()
            if self._events is not None:
                self._events.close()
            self._write_metadata()
            page = write_summary(self.directory)
            print(f"record of the run: {page}", file=sys.stderr)
        except Exception:
            if kind is None:
                raise
            _log.exception("the record of the run in '%s' is incomplete", self.directory)

    def _open_metadata(self) -> dict[str, Any]:
        """Return the metadata of earlier sessions, if this one resumes, with a new session."""
        metadata: dict[str, Any] = {"sessions": [], "warnings": []}
        path = self.directory / METADATA
        if self._first and path.is_file():
            try:
                metadata = json.loads(path.read_text(encoding="utf-8"))
            except ValueError as error:
                raise ValueError(f"'{path}': expected the metadata of a run: {error}") from error
        metadata.update(part=self._part, total_steps=self._total)
        for session in metadata["sessions"]:
            if session["outcome"] == RUNNING:
                session["outcome"] = "killed"
        metadata["sessions"].append(_new_session(self._first))
        return metadata

    def _drop_later_steps(self) -> None:
        """Remove losses, images and scores of an earlier session from `first_step` on."""
        path = self.directory / LOSSES
        if not (self.directory / METADATA).is_file():
            names = [name for name in (LOSSES, SCORES, PAGE) if (self.directory / name).exists()]
            names += [f"{IMAGES}/{image.name}" for image in image_files(self.directory).values()]
            if names:
                raise OutputError(
                    f"output '{self.directory}': {names[0]} is there already, and no {METADATA} of "
                    "an earlier run; choose another folder"
                )
        rows = [_HEADER]
        if self._first and path.is_file():
            with path.open(newline="", encoding="utf-8") as file:
                found = list(csv.reader(file))[1:]
            # A kill may have cut the last row.
            rows += [row for row in found if len(row) == 3 and int(row[0]) < self._first]
        with (
            atomic_path(path) as temporary,
            temporary.open("w", newline="", encoding="utf-8") as file,
        ):
            csv.writer(file, lineterminator="\n").writerows(rows)
        for step, image in image_files(self.directory).items():
            if step >= self._first:
                image.unlink()
        for name in (SCORES, PAGE):
            (self.directory / name).unlink(missing_ok=True)

    def _keep_warning(self, text: str) -> None:
        if text not in self._metadata["warnings"]:
            self._metadata["warnings"].append(text)
            self._write_metadata()

    def _write_metadata(self) -> None:
        write_json(self.directory / METADATA, self._metadata)


class _Keep(logging.Handler):
    """Handler that passes on the text of warnings and errors."""

    def __init__(self, keep: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._keep = keep

    def emit(self, record: logging.LogRecord) -> None:
        self._keep(record.getMessage())
        # Without any other handler, logging would show the message itself.
        if not logging.getLogger().handlers and logging.lastResort is not None:
            logging.lastResort.handle(record)


def _open_events(directory: Path, first_step: int) -> SummaryWriter | None:
    """Open TensorBoard's writer; it hides what was written for `first_step` and later."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        _log.warning("TensorBoard is not installed (extra `training`): it gets no events")
        return None
    return SummaryWriter(str(directory), purge_step=first_step, flush_secs=10)


def _drawn(name: str, image: np.ndarray) -> np.ndarray:
    if image.dtype == np.uint8 and (image.ndim == 2 or image.shape[2:] == (3,)):
        return image
    if image.dtype == bool and image.ndim == 3:
        return _color_masks(image)
    raise ValueError(
        f"image '{name}' is {image.shape} {image.dtype}, expected H x W x 3 or H x W uint8, "
        "or K x H x W bool"
    )


def _color_masks(masks: np.ndarray) -> np.ndarray:
    """Draw K x H x W bool as H x W x 3 uint8: hues far from each other, black without a mask."""
    colored = np.zeros((*masks.shape[1:], 3), np.uint8)
    for number in reversed(range(len(masks))):
        hue = round(180 * (number * 0.618034 % 1))
        pixel = np.uint8([[[hue, 170, 255]]])  # type: ignore[arg-type]
        colored[masks[number]] = cv2.cvtColor(pixel, cv2.COLOR_HSV2RGB)[0, 0]
    return colored


def _new_session(first_step: int) -> dict[str, Any]:
    return {
        "first_step": first_step,
        "last_step": None,
        "started": _now(),
        "ended": None,
        "outcome": RUNNING,
        "command": shlex.join(sys.argv),
        "revision": git_revision(),
        "versions": {
            "ivf_core": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "opencv": cv2.__version__,
        },
        "machine": _machine(),
    }


def _machine() -> dict[str, str | int]:
    gpus = range(torch.cuda.device_count() if torch.cuda.is_available() else 0)
    return {
        "host": platform.node(),
        "system": platform.platform(),
        "processors": os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
        "gpus": ", ".join(torch.cuda.get_device_name(number) for number in gpus) or "none",
    }


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
