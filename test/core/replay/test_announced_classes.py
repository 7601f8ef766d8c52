"""Class set of true class ids, as the bag announces it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from networks import tiny_with
from replays import rewrite, write_drive

from ivf_core.bags.convert import CLASSES_TOPIC, LABELS_TOPIC
from ivf_core.bags.info import BagError, BagMessage
from ivf_core.bags.reader import BagReader
from ivf_core.bags.typestore import message
from ivf_core.class_sets import MFNET, PST900, STREET, ClassSet
from ivf_core.models.checkpoints import FusionModel
from ivf_core.replay.announced_classes import announced_classes
from ivf_core.replay.run import replay_bag
from ivf_core.replay.settings import ReplaySettings


def replayed(
    bag: Path, classes: ClassSet, tiny_model: FusionModel, folder: Path, **settings: str
) -> dict:
    """Replay a bag with weights of these classes, and return the summary."""
    weights = str(tiny_with(classes, tiny_model, folder / f"{classes.name}.safetensors"))
    chosen = ReplaySettings(
        weights=weights, engine="torch", precision="fp32", threads=1, **settings
    )
    return replay_bag(bag, folder / "replay", chosen)


def announcing(text: str, folder: Path) -> Path:
    """Write a drive whose class set is announced by this text."""

    def change(item: BagMessage) -> BagMessage:
        if item.topic != CLASSES_TOPIC:
            return item
        return item._replace(message=message(item.type, data=text))

    return rewrite(write_drive(folder / "drive", 3, labels=True), folder / "bag", change)


def test_true_ids_are_mapped_onto_the_classes_of_the_weights(
    tmp_path: Path, tiny_model: FusionModel
) -> None:
    bag = write_drive(tmp_path / "drive", 3, labels=True)
    summary = replayed(bag, STREET, tiny_model, tmp_path)
    counts = np.array(summary["segmentation"]["confusion"])
    true = {STREET.names[k] for k in np.flatnonzero(counts.sum(1))}
    assert true == {"person"}  # id 2 of MFNet; as an id of `street` it would be a building


def test_true_ids_without_a_mapping_are_not_compared(
    tmp_path: Path, tiny_model: FusionModel
) -> None:
    bag = write_drive(tmp_path / "drive", 3, labels=True)
    summary = replayed(bag, PST900, tiny_model, tmp_path)
    assert summary["segmentation"] is None
    texts = [w["text"] for w in summary["warnings"] if w["code"] == "labels_classes"]
    assert len(texts) == 1
    assert "labels of 'mfnet' cannot be compared with masks of 'pst900'" in texts[0]


def test_the_setting_comes_before_the_announcement(tmp_path: Path, tiny_model: FusionModel) -> None:
    bag = write_drive(tmp_path / "drive", 3, labels=True, class_set=PST900)
    summary = replayed(bag, MFNET, tiny_model, tmp_path, labels_classes="mfnet")
    assert np.array(summary["segmentation"]["confusion"])[2].sum() == 3 * 40 * 30


def test_the_announcement_is_beside_the_labels(tmp_path: Path) -> None:
    with BagReader(write_drive(tmp_path / "drive", 2, labels=True, class_set=STREET)) as bag:
        assert announced_classes(bag, LABELS_TOPIC) == STREET
        assert announced_classes(bag, "/elsewhere/labels") is None
        assert announced_classes(bag, None) is None
    with BagReader(write_drive(tmp_path / "without", 2)) as bag:
        assert CLASSES_TOPIC not in {topic.name for topic in bag.info.topics}


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"name": "x", "names": ["a"], "colors": 3}']
)
def test_other_text_is_an_error(text: str, tmp_path: Path) -> None:
    with (
        BagReader(announcing(text, tmp_path)) as bag,
        pytest.raises(BagError, match=f"{CLASSES_TOPIC} holds .*, expected a class set as JSON"),
    ):
        announced_classes(bag, LABELS_TOPIC)
