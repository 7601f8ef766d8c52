"""Layouts of data sets: folders of the files of pairs, and splits."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ivf_core.class_sets import ClassSet
from ivf_core.data.pairs import PairFiles, VisibleFile
from ivf_core.images.files import IMAGE_SUFFIXES, list_images

__all__ = ["WHOLE", "FolderLayout", "Layout", "LayoutError", "SplitFiles"]

WHOLE = "all"
"""Name of the only split of a data set that was published without splits."""


class LayoutError(ValueError):
    """Error for a data set without the folders or files of its layout."""


@dataclass
class SplitFiles:
    """Files found in a split.

    Attributes:
        files: complete pairs.
        missing: missing folders, lists and files that the layout requires.
        left_out: files that belong to no pair, one line each.
    """

    files: list[PairFiles] = field(default_factory=list)
    missing: list[Path] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Layout(ABC):
    """Layout of one data set.

    Attributes:
        dataset: name, such as "msrs".
        tree: the layout in one line, for messages.
        class_set: class set of the labels; None if the data set has none of its own.
        objects: names that its boxes may have.
        published: number of pairs by split, if the authors and the users of the data set
            agree on it.
    """

    dataset: str
    tree: str
    class_set: ClassSet | None = None
    objects: tuple[str, ...] = ()
    published: Mapping[str, int] = field(default_factory=dict)

    @abstractmethod
    def splits(self, root: Path) -> tuple[str, ...]:
        """Return the splits, which have no pair in common and together are the data set.

        Args:
            root: directory of the data set.
        """

    @abstractmethod
    def scan(self, root: Path, split: str) -> SplitFiles:
        """Look for the files of a split, and open only the lists of names.

        Args:
            root: directory of the data set.
            split: name of the split.

        Raises:
            LayoutError: no such split.
        """

    @abstractmethod
    def presence(self, root: Path) -> float:
        """Return the share of the layout's folders and lists that exist, 0 to 1.

        Args:
            root: directory of the data set.
        """

    def find(self, root: Path, split: str | None = None) -> SplitFiles:
        """Find the pairs of a split, or of all splits.

        Args:
            root: directory of the data set.
            split: name of the split; all splits by default.

        Returns:
            The pairs; `missing` is empty.

        Raises:
            LayoutError: no such split, or something is missing; the message shows the
                layout and the first thing missing.
        """
        found = SplitFiles()
        for name in self.splits(root) if split is None else (split,):
            part = self.scan(root, name)
            if part.missing:
                raise LayoutError(self.complaint(root, part.missing[0]))
            found.files.extend(part.files)
            found.left_out.extend(part.left_out)
        if not found.files:
            raise LayoutError(f"'{root}': no pairs; {self.dataset} is {self.tree}")
        return found

    def complaint(self, root: Path, missing: Path) -> str:
        """Return the message for a missing file or folder."""
        return f"'{root}': {self.dataset} is {self.tree}; first missing: '{missing}'"

    def _check_split(self, root: Path, split: str) -> None:
        known = self.splits(root)
        if split not in known:
            raise LayoutError(
                f"'{root}': {self.dataset} has no split '{split}', expected {' or '.join(known)}"
            )


@dataclass(frozen=True)
class FolderLayout(Layout):
    """Layout with one folder for each kind of image, and files matched by name.

    In every path `{split}` is replaced by the name of the split.

    Attributes:
        visible: folder of visible images; equal to `infrared` if the files have four
            channels.
        infrared: folder of thermal images; "" if the data set has none, which are then black.
        labels: folder of class ids.
        boxes: folder of XML files.
        lists: text file with one name per line; without it a split is a folder.
        split_names: names of the splits.
        optional: parts that some copies lack, out of "labels", "boxes", "lists" and the names
            of splits that are folders.
    """

    visible: str = ""
    infrared: str = ""
    labels: str = ""
    boxes: str = ""
    lists: str = ""
    split_names: tuple[str, ...] = (WHOLE,)
    optional: tuple[str, ...] = ()

    def splits(self, root: Path) -> tuple[str, ...]:
        """Return `split_names` without missing optional ones; `WHOLE` without optional lists."""
        lists = [root / self.lists.format(split=name) for name in self.split_names]
        if "lists" in self.optional and not any(path.is_file() for path in lists):
            return (WHOLE,)
        return tuple(
            name
            for name in self.split_names
            if name not in self.optional or (root / self.visible.format(split=name)).is_dir()
        )

    def presence(self, root: Path) -> float:
        """Return the share of required folders and lists that exist."""
        paths = {
            path
            for split in self.splits(root)
            for path in (
                *self._folders(root, split, optional=False).values(),
                self._list(root, split),
            )
            # A folder that has only the split's name, such as `train`, tells nothing.
            if path is not None and path.name != split
        }
        return sum(path.exists() for path in paths) / len(paths)

    def scan(self, root: Path, split: str) -> SplitFiles:
        """Match the files of a split by name."""
        names_path = self._list(root, split)
        # There are lists of further splits, such as MFNet's test_night.
        if names_path is None or not names_path.is_file():
            self._check_split(root, split)
        folders = self._folders(root, split)
        found = SplitFiles()
        found.missing = [path for path in dict.fromkeys(folders.values()) if not path.is_dir()]
        if names_path is not None and not names_path.is_file():
            found.missing.append(names_path)
        if found.missing:
            return found
        listings = {
            part: _list_xml(path) if part == "boxes" else list_images(path)
            for part, path in folders.items()
        }
        # A folder `labels` may contain other files than images, such as YOLO's text files.
        for part in self.optional:
            if not listings.get(part, True):
                del listings[part]
        if names_path is not None:
            names = _read_names(names_path)
        else:
            names = sorted({name for listing in listings.values() for name in listing})
        for name in names:
            missing = [
                folders[part] / _likely_name(name, part, listings)
                for part, listing in listings.items()
                if name not in listing
            ]
            found.missing.extend(dict.fromkeys(missing))
            if not missing:
                parts = {part: listing[name] for part, listing in listings.items()}
                if self.infrared:
                    found.files.append(PairFiles(name, **parts))
                else:
                    found.files.append(VisibleFile(name, infrared=parts["visible"], **parts))
        return found

    def _folders(self, root: Path, split: str, *, optional: bool = True) -> dict[str, Path]:
        """Return the folders by part, and optional ones only if they exist and are wanted."""
        folders = {}
        for part in ("visible", "infrared", "labels", "boxes"):
            template = getattr(self, part)
            path = root / template.format(split=split)
            if template and (part not in self.optional or (optional and path.is_dir())):
                folders[part] = path
        return folders

    def _list(self, root: Path, split: str) -> Path | None:
        if not self.lists or (split == WHOLE and "lists" in self.optional):
            return None
        return root / self.lists.format(split=split)


def _list_xml(folder: Path) -> dict[str, Path]:
    return {path.stem: path for path in sorted(folder.glob("*.xml"))}


def _read_names(path: Path) -> list[str]:
    """Read the names in a list, each once, without file suffixes.

    MFNet's train.txt also names the mirrored copies that its make_flip.py writes. They
    are left out: crops are mirrored when they are drawn.
    """
    text = path.read_text(encoding="utf-8", errors="replace")  # a bad name is a missing file
    names = []
    for line in text.splitlines():
        name = line.strip()
        suffix = Path(name).suffix
        if suffix.lower() in IMAGE_SUFFIXES:
            name = name.removesuffix(suffix)
        if name and not name.endswith("_flip"):
            names.append(name)
    return list(dict.fromkeys(names))


def _likely_name(name: str, part: str, listings: Mapping[str, Mapping[str, Path]]) -> str:
    """Return the file name of a missing part, derived from a part that exists."""
    if part == "boxes":
        return f"{name}.xml"
    for other in ("visible", "infrared", "labels"):
        if name in listings.get(other, {}):
            return listings[other][name].name
    return f"{name}.png"
