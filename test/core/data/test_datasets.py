"""Tests of the layouts of public data sets on small trees of noise, and of broken files."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from ivf_core.class_sets import FMB, MFNET, UNLABELED
from ivf_core.cli import build_parser, main
from ivf_core.data.boxes import (
    M3FD_OBJECTS,
    STREET_OBJECTS,
    find_box_files,
    read_boxes,
    read_yolo_boxes,
)
from ivf_core.data.check import check_dataset, format_report
from ivf_core.data.datasets import DATASETS, PairDataset, open_dataset, open_split
from ivf_core.data.layouts import LayoutError
from ivf_core.data.pairs import CropSampler, Pair, hold_out
from ivf_core.data.points import read_points
from ivf_core.images.files import read_labels, write_image

DATA = Path(os.environ.get("IVF_DATA", Path(__file__).parents[4] / "shared" / "data"))
needs_data = pytest.mark.skipif(
    not (DATA / "msrs").is_dir(), reason=f"no MSRS pairs at {DATA} (set IVF_DATA)"
)
SIZE = (24, 32)
Tree = Callable[[Path], None]


def noise(name: str, *, classes: int = 256, size: tuple[int, int] = SIZE) -> np.ndarray:
    """Draw an image of noise that depends only on its name."""
    return np.random.default_rng(zlib.crc32(name.encode())).integers(0, classes, size, np.uint8)


def write_images(folder: Path, names: list[str], *, classes: int = 256, suffix: str = ".png",
                   rgb: bool = False) -> None:  # fmt: skip
    for name in names:
        image = noise(f"{folder.name}/{name}", classes=classes)
        write_image(folder / f"{name}{suffix}", np.dstack([image] * 3) if rgb else image)


def write_split(
    root: Path, names: list[str], visible: str, infrared: str, labels: str = "", classes: int = 1
) -> None:
    write_images(root / visible, names, rgb=True)
    write_images(root / infrared, names)
    if labels:
        write_images(root / labels, names, classes=classes)


def fmb(root: Path) -> None:
    write_split(root / "train", ["00001", "00002"], "Visible", "Infrared", "Label", 15)
    write_split(root / "test", ["00003"], "Visible", "Infrared", "Label", 15)


def mfnet(root: Path) -> None:
    for name in ("00001D", "00002N", "00003D", "00004N"):
        color, thermal = noise(f"images/{name}"), noise(f"thermal/{name}")
        (root / "images").mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(root / f"images/{name}.png"), np.dstack([color] * 3 + [thermal]))
        write_images(root / "labels", [name], classes=9)
    (root / "train.txt").write_text("00001D\n00001D_flip\n00002N\n00002N_flip\n\n")
    (root / "val.txt").write_text("00003D\n")
    (root / "test.txt").write_text("00004N\n")
    (root / "test_night.txt").write_text("00004N\n")


def m3fd(root: Path) -> None:
    names = ["00000", "00001"]
    write_split(root, names, "Vis", "Ir")
    write_boxes(root / "Annotation/00000.xml", "Car", "People", "Car")
    write_boxes(root / "Annotation/00001.xml")


def write_boxes(path: Path, *names: str, corners: str = "1 2 30 20") -> None:
    keys = ("xmin", "ymin", "xmax", "ymax")
    box = "".join(f"<{k}>{v}</{k}>" for k, v in zip(keys, corners.split(), strict=True))
    objects = (f"<object><name>{n}</name><bndbox>{box}</bndbox></object>" for n in names)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"<annotation>{''.join(objects)}</annotation>")


def msrs(root: Path) -> None:
    write_split(root / "train", ["00001D"], "vi", "ir", "Segmentation_labels", 9)
    write_split(root / "test", ["00002N", "00003D"], "vi", "ir", "Segmentation_labels", 9)


def pst900(root: Path) -> None:
    for split, name in (("train", "1_bag"), ("test", "2_bag")):
        write_split(root / split, [name], "rgb", "thermal", "labels", 5)
        (root / split / "depth").mkdir()


def roadscene(root: Path) -> None:
    names = ["FLIR_00006", "FLIR_00018"]
    write_images(root / "crop_LR_visible", names, suffix=".jpg", rgb=True)
    write_images(root / "cropinfrared", names, suffix=".jpg")
    for other in ("crop_HR_visible", "infrared"):
        (root / other).mkdir()


def tno(root: Path) -> None:
    scenes = {
        "Athena_images/heather": ("VIS_hei_vis_r", "IR_hei_vis_g", "hei_vis-rg"),
        "Triclobs_images/Farm": ("Farm_Vis", "Farm_IR", "Farm_II", "photo"),
        "Triclobs_images/barbed_wire_1": ("R_Vis", "B_LWIR", "G_NIR", "RGB"),
        "Triclobs_images/Balls": ("VIS", "NIR"),
    }
    for folder, names in scenes.items():
        write_images(root / folder, list(names), suffix=".bmp")
    sequence = root / "FEL_images/Tree_sequence"
    write_images(sequence / "visual", ["4900v", "4901v"], suffix=".bmp")
    write_images(sequence / "thermal", ["4900i", "4901i"], suffix=".bmp")
    fire = root / "DHV_images/Fire_sequence/part_1"
    write_images(fire / "dhv", ["DHV2", "DHV10"], suffix=".bmp")
    write_images(fire / "thermal", ["RAD10"], suffix=".bmp")
    write_images(root / "tank", ["Vis", "LWIR"], suffix=".tif")


def camvid(root: Path) -> None:
    for split in ("train", "val"):
        write_images(root / split, [f"{split}_1"], rgb=True, suffix=".jpg")
        write_images(root / f"{split}annot", [f"{split}_1"], classes=12)


def folder(root: Path) -> None:
    write_split(root, ["a", "b"], "visible", "infrared", "labels", 9)


def vi_ir(root: Path) -> None:
    write_split(root, ["a", "b"], "vi", "ir")
    (root / "labels").mkdir()
    (root / "labels/a.txt").write_text("0 0.5 0.5 0.1 0.1")  # YOLO's: no image


TREES: dict[str, tuple[Tree, dict[str, list[str]]]] = {
    "fmb": (fmb, {"train": ["00001", "00002"], "test": ["00003"]}),
    "mfnet": (
        mfnet, {"train": ["00001D", "00002N"], "val": ["00003D"], "test": ["00004N"]},
    ),
    "m3fd": (m3fd, {"all": ["00000", "00001"]}),
    "msrs": (msrs, {"train": ["00001D"], "test": ["00002N", "00003D"]}),
    "pst900": (pst900, {"train": ["1_bag"], "test": ["2_bag"]}),
    "roadscene": (roadscene, {"all": ["FLIR_00006", "FLIR_00018"]}),
    "tno": (
        tno,
        {
            "all": [
                "Athena_images/heather", "DHV_images/Fire_sequence/part_1/10",
                "FEL_images/Tree_sequence/4900", "FEL_images/Tree_sequence/4901",
                "Triclobs_images/Farm", "Triclobs_images/barbed_wire_1", "tank",
            ]
        },
    ),
    "camvid": (camvid, {"train": ["train_1"], "val": ["val_1"]}),
    "folder": (folder, {"all": ["a", "b"]}),
}  # fmt: skip


@pytest.mark.parametrize("dataset", DATASETS)
def test_every_layout_is_recognised_and_read(dataset: str, tmp_path: Path) -> None:
    write, splits = TREES[dataset]
    write(tmp_path)
    opened = [open_dataset(tmp_path, split=split) for split in splits]
    assert [[pair.name for pair in part] for part in opened] == list(splits.values())
    assert {part.name for part in opened} == {dataset}
    whole = open_dataset(tmp_path, dataset)
    assert [files.name for files in whole.files] == [n for names in splits.values() for n in names]
    labelled = dataset not in ("m3fd", "roadscene", "tno")
    for pair in whole:
        assert pair.luma.shape == pair.infrared.shape == SIZE
        assert pair.luma.dtype == pair.infrared.dtype == np.uint8
        assert (pair.labels is not None) == labelled
    with pytest.raises(LayoutError, match="has no split 'dev'"):
        open_dataset(tmp_path, split="dev")


@pytest.mark.parametrize(
    ("dataset", "visible", "infrared", "labels"),
    [
        ("fmb", "Visible/00001", "Infrared/00001", "Label/00001"),
        ("mfnet", "images/00001D", "thermal/00001D", "labels/00001D"),
        ("msrs", "vi/00001D", "ir/00001D", "Segmentation_labels/00001D"),
        ("pst900", "rgb/1_bag", "thermal/1_bag", "labels/1_bag"),
        ("m3fd", "Vis/00000", "Ir/00000", ""),
        ("folder", "visible/a", "infrared/a", "labels/a"),
        ("tno", "heather/VIS_hei_vis_r", "heather/IR_hei_vis_g", ""),
    ],
)
def test_every_plane_comes_from_its_own_file(
    dataset: str, visible: str, infrared: str, labels: str, tmp_path: Path
) -> None:
    TREES[dataset][0](tmp_path)
    pair = open_dataset(tmp_path)[0]
    np.testing.assert_array_equal(pair.luma, noise(visible))
    np.testing.assert_array_equal(pair.infrared, noise(infrared))
    if labels:
        classes = {"fmb": 15, "pst900": 5}.get(dataset, 9)
        np.testing.assert_array_equal(pair.labels, noise(labels, classes=classes))


@pytest.mark.parametrize(
    ("dataset", "missing"),
    [
        ("fmb", "test/Infrared/00003.png"),
        ("fmb", "test/Label"),
        ("mfnet", "images/00003D.png"),
        ("mfnet", "val.txt"),
        ("m3fd", "Annotation/00001.xml"),
        ("m3fd", "Vis/00001.png"),
        ("msrs", "train/vi"),
        ("pst900", "test/thermal/2_bag.png"),
        ("roadscene", "cropinfrared/FLIR_00018.jpg"),
        ("camvid", "valannot"),
        ("folder", "labels/b.png"),
    ],
)
def test_a_wrong_layout_shows_the_right_one_and_what_is_missing(
    dataset: str, missing: str, tmp_path: Path
) -> None:
    TREES[dataset][0](tmp_path)
    (tmp_path / missing).rename(tmp_path / "elsewhere")
    for name in (None, dataset):
        with pytest.raises(LayoutError) as caught:
            open_dataset(tmp_path, name)
        assert DATASETS[dataset][0].tree in str(caught.value)
        assert str(caught.value).endswith(f"first missing: '{tmp_path / missing}'")


def test_a_directory_of_another_kind(tmp_path: Path) -> None:
    with pytest.raises(LayoutError, match="no such folder"):
        open_dataset(tmp_path / "none")
    with pytest.raises(LayoutError, match=r"none of the known layouts: fmb: \{train,test\}"):
        open_dataset(tmp_path)
    with pytest.raises(LayoutError, match=r"tno is .*first missing: .*Athena_images"):
        open_dataset(tmp_path, "tno")
    with pytest.raises(ValueError, match="data set 'kaist': expected one of fmb, mfnet"):
        open_dataset(tmp_path, "kaist")
    (tmp_path / "visible").mkdir()
    (tmp_path / "infrared").mkdir()
    for use in (open_dataset, check_dataset):
        with pytest.raises(LayoutError, match="no pairs; folder is"):
            use(tmp_path)


def test_mfnet_lists(tmp_path: Path) -> None:
    mfnet(tmp_path)
    assert [pair.name for pair in open_dataset(tmp_path, split="test_night")] == ["00004N"]
    # Mirrored copies of make_flip.py are no pairs of their own, even where they exist.
    for kind in ("images", "labels"):
        (tmp_path / kind / "00001D_flip.png").write_bytes(
            (tmp_path / kind / "00001D.png").read_bytes()
        )
    assert len(open_dataset(tmp_path, split="train")) == 2
    write_images(tmp_path / "images", ["00001D"], rgb=True)
    with pytest.raises(ValueError, match=r"00001D\.png': 24 x 32 x 3 uint8, expected four"):
        open_dataset(tmp_path)[0]


def test_m3fd_with_a_split(tmp_path: Path) -> None:
    m3fd(tmp_path)
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta/train.txt").write_text("00001.png\n")
    (tmp_path / "meta/val.txt").write_text("00000.png\n")
    assert [pair.name for pair in open_dataset(tmp_path)] == ["00001", "00000"]
    assert [pair.name for pair in open_dataset(tmp_path, split="val")] == ["00000"]


def test_m3fd_fusion_has_no_boxes(tmp_path: Path) -> None:
    write_split(tmp_path, ["00000"], "Vis", "Ir")
    assert open_dataset(tmp_path).files[0].boxes is None


def test_boxes(tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    write_boxes(path, "Truck")
    assert read_boxes(path, M3FD_OBJECTS) == [("Truck", 1, 2, 30, 20)]
    for text, message in (
        ("Dog", "object 'Dog', expected People"),
        ("Car|1 2 1 20", "box of a Car is empty"),
        ("Car|1 2 x 20", "expected four numbers"),
    ):
        name, _, corners = text.partition("|")
        write_boxes(path, name, corners=corners or "1 2 30 20")
        with pytest.raises(ValueError, match=rf"boxes '.*a\.xml': .*{message}"):
            read_boxes(path, M3FD_OBJECTS)
    path.write_text("<annotation><object>")
    with pytest.raises(ValueError, match=r"a\.xml': cannot be read"):
        read_boxes(path, M3FD_OBJECTS)


def test_tno_reports_files_without_a_pair(tmp_path: Path) -> None:
    tno(tmp_path)
    left_out = open_dataset(tmp_path).left_out
    assert [line.split("'")[1] for line in left_out] == [
        str(tmp_path / "DHV_images/Fire_sequence/part_1/dhv/DHV2.bmp"),
        str(tmp_path / "Triclobs_images/Balls"),
    ]


def test_camvid_has_no_thermal_images(tmp_path: Path) -> None:
    camvid(tmp_path)
    pair = open_dataset(tmp_path, split="val")[0]
    assert not pair.infrared.any()
    assert pair.labels is not None
    np.testing.assert_array_equal(pair.labels, noise("valannot/val_1", classes=12))


def test_yolo_boxes(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("2 0.5 0.25 0.2 0.5\n\n0 0.95 0.5 0.2 0.1\n")
    boxes = read_yolo_boxes(path, STREET_OBJECTS, (40, 100))
    # The second box is cut off at the right border.
    assert [box.name for box in boxes] == ["car", "person"]
    np.testing.assert_allclose([box[1:] for box in boxes], [(40, 0, 60, 20), (85, 18, 100, 22)])
    path.write_text("")
    assert read_yolo_boxes(path, STREET_OBJECTS, (40, 100)) == []
    for line, message in (
        ("3 0.5 0.5 0.1 0.1", "id 3, expected 0 to 2"),
        ("0 0.5 0.5 0.1", "expected an id and four numbers"),
        ("0 1.5 0.5 0.1 0.1", "has no pixel in the image"),
    ):
        path.write_text(f"0 0.5 0.5 0.1 0.1\n{line}\n")
        with pytest.raises(ValueError, match=f"a.txt', line 2: .*{message}"):
            read_yolo_boxes(path, STREET_OBJECTS, (40, 100))


def test_box_files_are_found_by_stem(tmp_path: Path) -> None:
    for name in ("a.txt", "b.xml", "other.txt"):
        (tmp_path / name).write_text("")
    found = find_box_files(tmp_path, ["a", "b", "c"])
    assert found == {"a": tmp_path / "a.txt", "b": tmp_path / "b.xml"}
    with pytest.raises(ValueError, match="no file is named as an image"):
        find_box_files(tmp_path, ["c"])
    (tmp_path / "a.xml").write_text("")
    with pytest.raises(ValueError, match=r"a\.txt and a\.xml share a stem"):
        find_box_files(tmp_path, ["a"])


def test_points(tmp_path: Path) -> None:
    path = tmp_path / "points.csv"
    head = "set,stem,time,kind,x,y,label\n"
    path.write_text(
        f"{head}s,a,day,uniform,3,4,road\ns,a,day,object,1,2,unsure\ns,b,night,x,0,0,sky\n"
    )
    assert read_points(path, {"a", "c"}) == {"a": [("day", "uniform", 3, 4, "road")]}
    with pytest.raises(ValueError, match="no point is in any of the 1 images"):
        read_points(path, {"c"})
    path.write_text(f"{head}s,a,day,uniform,3,4,road\nt,a,day,uniform,3,4,road\n")
    with pytest.raises(ValueError, match="line 3: image 'a' is of the sets 's' and 't'"):
        read_points(path, {"a"})
    path.write_text(f"{head}s,a,day,uniform,3,,road\n")
    with pytest.raises(ValueError, match="line 2: x and y are '3' and ''"):
        read_points(path, {"a"})
    path.write_text("set,stem,x,y,label\n")
    with pytest.raises(ValueError, match="column time, kind is missing"):
        read_points(path, {"a"})


def test_test_images_stay_out_of_training(tmp_path: Path) -> None:
    """Training uses published splits if there are any, else it holds out each n-th pair."""

    def names(root: Path) -> list[list[str]]:
        return [[pair.name for pair in part] for part in open_split(root, 2)]

    fmb(tmp_path / "fmb")
    assert names(tmp_path / "fmb") == [["00001", "00002"], ["00003"]]
    mfnet(tmp_path / "mfnet")
    assert [name[:5] for part in names(tmp_path / "mfnet") for name in part][-1] == "00004"
    m3fd(tmp_path / "m3fd")
    assert names(tmp_path / "m3fd") == [["00001"], ["00000"]]
    (tmp_path / "m3fd/meta").mkdir()
    (tmp_path / "m3fd/meta/train.txt").write_text("00000\n")
    (tmp_path / "m3fd/meta/val.txt").write_text("00001\n")
    assert names(tmp_path / "m3fd") == [["00000"], ["00001"]]
    write_split(tmp_path / "plain", ["a", "b", "c"], "visible", "infrared")
    assert names(tmp_path / "plain") == [["b"], ["a", "c"]]


def test_folder_names_in_code_of_papers(tmp_path: Path) -> None:
    vi_ir(tmp_path)
    dataset = open_dataset(tmp_path)
    assert dataset.name == "folder"
    assert [pair.labels for pair in dataset] == [None, None]


def test_labels_and_classes_of_a_plain_folder(tmp_path: Path) -> None:
    folder(tmp_path)
    (tmp_path / "labels").rename(tmp_path / "pseudo")
    assert open_dataset(tmp_path)[0].labels is None
    dataset = open_dataset(tmp_path, labels="pseudo", class_set=MFNET)
    assert dataset.class_set == MFNET
    np.testing.assert_array_equal(dataset[1].labels, noise("labels/b", classes=9))
    with pytest.raises(LayoutError, match=r"first missing: .*none"):
        open_dataset(tmp_path, labels="none")
    other = tmp_path / "other"
    msrs(other)
    with pytest.raises(ValueError, match="is msrs, which has its own labels and classes"):
        open_dataset(other, class_set=FMB)


def test_ids_are_checked_when_a_pair_is_opened(tmp_path: Path) -> None:
    msrs(tmp_path)
    path = tmp_path / "train/Segmentation_labels/00001D.png"
    ids = noise("x", classes=9)
    ids[0, :2] = UNLABELED
    write_image(path, ids)
    np.testing.assert_array_equal(open_dataset(tmp_path)[0].labels, ids)
    ids[3, :2] = (9, 254)
    write_image(path, ids)
    dataset = open_dataset(tmp_path)
    with pytest.raises(ValueError, match=r"00001D\.png': ids 9, 254 are not of 'mfnet'.* 0 to 8"):
        dataset[0]
    assert dataset[1].name == "00002N"


def make_png(ids: np.ndarray, bits: int, *, palette: bool) -> bytes:
    """Write a PNG with a palette or with less than 8 bits, which OpenCV cannot write."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)

    height, width = ids.shape
    rows = b""
    for row in ids:
        text = "".join(f"{value:0{bits}b}" for value in row)
        text += "0" * (-len(text) % 8)
        rows += b"\0" + int(text, 2).to_bytes(len(text) // 8, "big")
    header = struct.pack(">IIBBBBB", width, height, bits, 3 if palette else 0, 0, 0, 0)
    colors = np.random.default_rng(0).integers(0, 256, 3 * 2**bits, np.uint8).tobytes()
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + (chunk(b"PLTE", colors) + chunk(b"tRNS", b"\0") if palette else b"")
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("palette", [False, True])
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_ids_are_read_as_stored(bits: int, palette: bool, tmp_path: Path) -> None:
    ids = noise("ids", classes=2**bits, size=(13, 21))
    data = make_png(ids, bits, palette=palette)
    (tmp_path / "a.png").write_bytes(data)
    np.testing.assert_array_equal(read_labels(tmp_path / "a.png"), ids)
    if bits < 8 or palette:  # OpenCV alone would not return the ids
        decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        assert decoded.shape != ids.shape or (decoded != ids).any()
    (tmp_path / "a.png").write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(ValueError, match=r"a\.png"):
        read_labels(tmp_path / "a.png")


def test_labels_in_color_are_rejected(tmp_path: Path) -> None:
    write_images(tmp_path, ["a"], rgb=True)
    with pytest.raises(ValueError, match=r"a\.png': expected a single-channel 8-bit"):
        read_labels(tmp_path / "a.png")


def test_pairs_are_read_when_they_are_accessed(tmp_path: Path) -> None:
    fmb(tmp_path)
    (tmp_path / "train/Visible/00002.png").write_bytes(b"damaged")
    write_image(tmp_path / "test/Infrared/00003.png", noise("x", size=(24, 30)))
    dataset = open_dataset(tmp_path)
    assert len(dataset) == 3
    assert isinstance(dataset[1:], PairDataset)
    assert dataset[:1][0].name == "00001"
    with pytest.raises(ValueError, match=r"00002\.png': damaged"):
        dataset[1]
    with pytest.raises(ValueError, match=r"00003\.png' is 30 x 24, but .*Visible.* is 32 x 24"):
        dataset[-1]
    train, held_out = hold_out(dataset.files, 2)
    assert [files.name for files in train] == ["00002"]
    good = replace(dataset, files=tuple(held_out[:1]))
    luma, _, labels = next(CropSampler(good, (8, 12), seed=1).batches(3))
    assert luma.shape == (3, 1, 8, 12)
    assert 0 <= labels.min() <= labels.max() < len(FMB)


def test_thermal_counts_are_rejected(tmp_path: Path) -> None:
    folder(tmp_path)
    write_image(tmp_path / "infrared/a.png", np.full(SIZE, 3000, np.uint16))
    with pytest.raises(ValueError, match=r"a\.png': pixels are uint16, expected uint8"):
        open_dataset(tmp_path)[0]


@pytest.mark.parametrize("size", [(20, 30), (70, 40)])  # within the pair, and beyond it
def test_crops_move_masks_with_labels(size: tuple[int, int]) -> None:
    labels = noise("labels", classes=4, size=(60, 50))
    masks = np.stack([labels == value for value in (1, 2, 3)] + [labels > 1])
    pair = Pair("x", noise("a", size=(60, 50)), noise("b", size=(60, 50)), labels, masks)
    sampler = CropSampler([pair], size, scales=(0.5, 1.5), seed=2)
    for crop in (sampler.crop() for _ in range(10)):
        assert crop.masks.shape == (4, *size)
        for mask, value in zip(crop.masks, (1, 2, 3), strict=False):
            np.testing.assert_array_equal(mask, crop.labels == value)
        np.testing.assert_array_equal(crop.masks[3], crop.labels > 1)
    assert CropSampler([replace(pair, masks=None)], size).crop().masks.shape == (0, *size)


def test_masks_change_no_other_number() -> None:
    pair = Pair("x", noise("a"), noise("b"), noise("c", classes=3))
    masked = replace(pair, masks=np.ones((2, *SIZE), bool))
    first, second = (
        next(CropSampler([one], (16, 16), scales=(0.5, 1.5), smoke=0.5, seed=5).batches(6))
        for one in (pair, masked)
    )
    for plain, with_masks in zip(first, second, strict=True):
        np.testing.assert_array_equal(plain, with_masks)


def test_check_counts_files(tmp_path: Path) -> None:
    msrs(tmp_path)
    for name, value in (("00002N", 2), ("00003D", 0)):
        ids = np.full(SIZE, value, np.uint8)
        ids[:6] = UNLABELED
        write_image(tmp_path / f"test/Segmentation_labels/{name}.png", ids)
    seen: list[tuple[int, int]] = []
    report = check_dataset(tmp_path, progress=lambda *counts: seen.append(counts))
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert report.broken == []
    train, test = report.splits
    assert (train.pairs, train.published, test.pairs, test.published) == (1, 1083, 2, 361)
    assert test.sizes == {(32, 24): 2}
    assert {i: int(n) for i, n in enumerate(test.pixels) if n} == {
        0: 18 * 32, 2: 18 * 32, UNLABELED: 2 * 6 * 32,
    }  # fmt: skip
    assert [int(test.images[i]) for i in (0, 1, 2, UNLABELED)] == [1, 0, 1, 2]
    text = format_report(report)
    assert "msrs, 3 pairs" in text
    assert "test   2 pairs of 361 published; 32x24 (2)" in text
    person = next(line for line in text.splitlines() if "2 person" in line)
    assert person.split()[-2:] == ["37.500%", "1"]
    assert "broken" not in text


def test_check_names_all_broken_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = list("abcdefg")
    write_split(tmp_path, names, "visible", "infrared", "labels", 9)
    assert main(["data", "check", str(tmp_path), "--classes", "mfnet"]) == 0
    assert "folder, 7 pairs" in capsys.readouterr().out
    (tmp_path / "visible/a.png").write_bytes((tmp_path / "visible/a.png").read_bytes()[:300])
    (tmp_path / "infrared/a.png").write_bytes(b"")
    write_image(tmp_path / "infrared/b.png", noise("x", size=(20, 32)))
    write_image(tmp_path / "labels/c.png", noise("x", size=(20, 32), classes=9))
    write_image(tmp_path / "labels/d.png", np.full(SIZE, 77, np.uint8))
    (tmp_path / "infrared/e.png").unlink()
    write_images(tmp_path / "labels", ["f"], rgb=True)
    report = check_dataset(tmp_path, class_set=MFNET)
    faults = [
        ("infrared/e.png", "missing"),
        ("visible/a.png", "damaged"),
        ("infrared/a.png", "damaged"),
        ("infrared/b.png", "is 32 x 20"),
        ("labels/c.png", "is 32 x 20"),
        ("labels/d.png", "ids 77 are not of 'mfnet'"),
        ("labels/f.png", "single-channel"),
    ]
    assert len(report.broken) == len(faults)
    for line, (path, fault) in zip(report.broken, faults, strict=True):
        assert f"'{tmp_path / path}'" in line
        assert fault in line
    assert main(["data", "check", str(tmp_path), "--classes", "mfnet"]) == 1
    text = capsys.readouterr().out
    assert "broken: 7" in text
    assert all(line in text for line in report.broken)


def test_check_counts_boxes(tmp_path: Path) -> None:
    m3fd(tmp_path)
    report = check_dataset(tmp_path)
    assert report.splits[0].objects == {"Car": 2, "People": 1}
    assert "Car               2 boxes   66.67%" in format_report(report)
    write_boxes(tmp_path / "Annotation/00001.xml", "Horse")
    assert ["object 'Horse'" in line for line in check_dataset(tmp_path).broken] == [True]


def test_check_of_a_broken_mfnet_file_is_one_line(tmp_path: Path) -> None:
    mfnet(tmp_path)
    (tmp_path / "images/00001D.png").write_bytes(b"damaged")
    assert len(check_dataset(tmp_path).broken) == 1


def test_check_of_half_a_download(tmp_path: Path) -> None:
    """Complete pairs are still counted; a data set without any pair is an error."""
    fmb(tmp_path)
    (tmp_path / "test").rename(tmp_path / "elsewhere")
    report = check_dataset(tmp_path)
    assert [split.pairs for split in report.splits] == [2, 0]
    assert len(report.broken) == 3
    (tmp_path / "train/Label").rename(tmp_path / "Label")
    with pytest.raises(LayoutError, match=r"first missing: .*train/Label"):
        check_dataset(tmp_path)


def test_the_command_names_every_data_set(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        build_parser().parse_args(["data", "check", "--help"])
    text = capsys.readouterr().out
    assert all(name in text for name in DATASETS)


@pytest.mark.data
@needs_data
@pytest.mark.parametrize(("name", "count"), [("roadscene", 176), ("tno", 16)])
def test_roadscene_and_tno_pairs_are_complete(name: str, count: int) -> None:
    report = check_dataset(DATA / name)
    assert report.layout.dataset == "folder"
    assert report.splits[0].pairs == sum(report.splits[0].sizes.values()) == count
    assert report.broken == []


@pytest.mark.data
@needs_data
def test_msrs_pseudo_labels_are_of_their_class_set() -> None:
    dataset = open_dataset(DATA / "msrs", labels="pseudo_labels", class_set=MFNET)
    assert len(dataset) == 280
    for pair in dataset[::40]:
        assert pair.labels is not None
        assert pair.labels.shape == (480, 640)
