"""Masks of one class set compared with labels of another."""

from __future__ import annotations

import numpy as np

from ivf_core.class_sets import CLASS_SETS, STREET, STREET_MAPPINGS, UNLABELED, ClassSet

__all__ = ["LABEL_SETS", "check_comparable", "comparable_ids", "true_ids", "void_ids"]

LABEL_SETS = {
    **CLASS_SETS,
    **{name: mapping.source for name, mapping in STREET_MAPPINGS.items()},
}
"""Class sets that labels can have, by name."""

_VOID = "void"

# Label classes that a predicted class of `STREET` stands for, beside those that the mappings
# onto `STREET` name. CamVid's cars include trucks, its bicyclists the bicycle, its trees the
# grass; in MFNet what has no class is unlabeled.
_PREDICTED = {
    "camvid": {"truck": "car", "bicycle": "bicyclist", "terrain": "tree"},
    "mfnet": {"sidewalk": "unlabeled", "barrier": "unlabeled", "obstacle": "unlabeled"},
}
_NO_CLASS = ("void", "unlabeled")


def void_ids(class_set: ClassSet) -> tuple[int, ...]:
    """Return the ids of classes for pixels that labels leave open, such as CamVid's void."""
    return tuple(k for k, name in enumerate(class_set.names) if name == _VOID)


def check_comparable(name: str, predicted: ClassSet, labels: ClassSet) -> None:
    """Raise unless masks of a class set can be compared with labels of another.

    Args:
        name: name of the method, for the message.
        predicted: class set of the masks.
        labels: class set of the labels.

    Raises:
        ValueError: names both.
    """
    if predicted.names == labels.names:
        return
    if labels.name not in STREET_MAPPINGS or not set(_NO_CLASS) & set(labels.names):
        raise ValueError(f"'{name}' has the classes '{predicted.name}', not '{labels.name}'")


def true_ids(labels: np.ndarray, class_set: ClassSet) -> np.ndarray:
    """Return labels with `UNLABELED` where they are void.

    Args:
        labels: H x W uint8 ids of the class set.
        class_set: class set of the labels.
    """
    void = void_ids(class_set)
    return np.where(np.isin(labels, void), np.uint8(UNLABELED), labels) if void else labels


def comparable_ids(predicted: np.ndarray, labels: np.ndarray, class_set: ClassSet) -> np.ndarray:
    """Map predictions onto the class set of the labels that they are compared with.

    Where `STREET` does not tell apart what the labels do (CamVid's pole and sign, pedestrian
    and bicyclist), the true one of these counts as predicted.

    Args:
        predicted: H x W uint8 ids of `STREET`, `UNLABELED` for none of them.
        labels: H x W uint8 ids of `class_set`.
        class_set: class set of the labels.

    Returns:
        H x W uint8 ids of `class_set`, which `check_comparable` has accepted.
    """
    mapping = STREET_MAPPINGS[class_set.name]
    rest = [class_set.names.index(name) for name in _NO_CLASS if name in class_set.names]
    first = np.full(256, rest[0], np.uint8)
    further = _PREDICTED.get(class_set.name, {})
    for index, name in enumerate(STREET.names):
        same = [k for k, label in enumerate(class_set.names) if mapping.names[label] == name]
        if name in further:
            first[index] = class_set.names.index(further[name])
        elif same:
            first[index] = same[0]
    true = (mapping.table[labels] == predicted) & (predicted != UNLABELED)
    return np.where(true, labels, first[predicted])
