"""Layout of the TNO Image Fusion Dataset, which names its files in several ways."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ivf_core.data.layouts import WHOLE, Layout, SplitFiles
from ivf_core.data.pairs import PairFiles
from ivf_core.images.files import list_images

__all__ = ["TnoLayout"]

_BANDS = {"vis": "visible", "ir": "infrared", "lwir": "infrared"}
_VISUAL = ("visual", "dhv")
_THERMAL = ("thermal", "rad")


@dataclass(frozen=True)
class TnoLayout(Layout):
    """Layout of the TNO Image Fusion Dataset as unpacked (Toet, 2014, figshare 1008029).

    Scenes are at several depths, in one of two forms: a folder with one file for each
    band, named VIS or Vis and IR or LWIR; or a sequence, with a folder `visual` or
    `dhv` next to one named `thermal` or `rad`, whose frames match by number. Some
    have no thermal band (near infrared does not count) and are left out.

    Attributes:
        folders: folders at the top; a copy may lack some, since each is complete in itself.
    """

    folders: tuple[str, ...] = ()

    def splits(self, root: Path) -> tuple[str, ...]:
        """Return `WHOLE`: the data set has no splits."""
        return (WHOLE,)

    def presence(self, root: Path) -> float:
        """Return the share of the top folders that exist."""
        return sum((root / name).is_dir() for name in self.folders) / len(self.folders)

    def scan(self, root: Path, split: str) -> SplitFiles:
        """Search all folders for scenes and sequences."""
        self._check_split(root, split)
        found = SplitFiles()
        if not self.presence(root):
            found.missing = [root / name for name in self.folders]
            return found
        for top in (root / name for name in self.folders if (root / name).is_dir()):
            for folder in [top, *sorted(path for path in top.rglob("*") if path.is_dir())]:
                title = folder.relative_to(root).as_posix()
                inside = {path.name.lower(): path for path in folder.iterdir() if path.is_dir()}
                visual = next((inside[name] for name in _VISUAL if name in inside), None)
                thermal = next((inside[name] for name in _THERMAL if name in inside), None)
                if visual is not None and thermal is not None:
                    _add_sequence(title, visual, thermal, found)
                if folder.name.lower() not in _VISUAL + _THERMAL:
                    _add_scene(title, folder, found)
        return found


def _add_sequence(title: str, visual: Path, thermal: Path, found: SplitFiles) -> None:
    first, second = (
        {_number(stem): path for stem, path in list_images(folder).items()}
        for folder in (visual, thermal)
    )
    for number in sorted(first.keys() | second.keys(), key=lambda text: (len(text), text)):
        if number in first and number in second:
            found.files.append(PairFiles(f"{title}/{number}", first[number], second[number]))
        else:
            alone = first.get(number) or second[number]
            found.left_out.append(f"'{alone}': no partner")


def _add_scene(title: str, folder: Path, found: SplitFiles) -> None:
    images = list_images(folder)
    pair = _bands(images, leading=True) or _bands(images, leading=False)
    if pair is not None:
        found.files.append(PairFiles(title, *pair))
    elif images:
        found.left_out.append(f"'{folder}': not one image named VIS and one named IR or LWIR")


def _bands(images: Mapping[str, Path], *, leading: bool) -> tuple[Path, Path] | None:
    """Return the visible and the thermal image of a scene, or None unless it has one of each.

    Args:
        images: files of the scene by stem.
        leading: names must begin with their band, so that IR_hei_vis_g is no VIS.
    """
    bands: dict[str, list[Path]] = {"visible": [], "infrared": []}
    for stem, path in images.items():
        words = re.findall("[a-z]+", stem.lower())[: 1 if leading else None]
        band = next((_BANDS[word] for word in words if word in _BANDS), None)
        if band is not None:
            bands[band].append(path)
    if len(bands["visible"]) != 1 or len(bands["infrared"]) != 1:
        return None
    return bands["visible"][0], bands["infrared"][0]


def _number(stem: str) -> str:
    """Return the last number in a name."""
    numbers = re.findall(r"\d+", stem)
    return numbers[-1] if numbers else stem
