"""Class sets that bags announce beside their images of class ids."""

from __future__ import annotations

import json

from ivf_core.bags.info import BagError
from ivf_core.bags.salvage import Bag
from ivf_core.bags.typestore import decode
from ivf_core.class_sets import ClassSet

__all__ = ["announced_classes", "read_class_set"]

_STRING_TYPE = "std_msgs/msg/String"


def announced_classes(bag: Bag, labels: str | None) -> ClassSet | None:
    """Read the class set of true class ids from the topic `classes` beside theirs.

    Args:
        bag: open for reading.
        labels: topic of the class ids, such as /ground_truth/labels, or None.

    Returns:
        The class set, None if none is announced.

    Raises:
        BagError: what is announced is no class set.
    """
    if labels is None:
        return None
    topic = f"{labels[: labels.rfind('/') + 1]}classes"
    return read_class_set(bag, topic if topic in {t.name for t in bag.info.topics} else None)


def read_class_set(bag: Bag, topic: str | None) -> ClassSet | None:
    """Read the class set in the first message of a topic, as the node publishes it on ~/labels.

    Args:
        bag: open for reading.
        topic: topic of the bag, or None.

    Returns:
        The class set; None without a topic or a message of text, and for a set without classes.

    Raises:
        BagError: the text is no class set.
    """
    message = next(iter(bag.raw([topic])), None) if topic is not None else None
    if message is None or message.type != _STRING_TYPE:
        return None
    text = decode(message.message, message.type).data
    try:
        return ClassSet.from_json(text) if json.loads(text)["names"] else None
    except (ValueError, KeyError, TypeError) as error:
        raise BagError(
            f"bag '{bag.info.path}': {topic} holds {text[:60]!r}, expected a class set as JSON "
            f"with name, names and colors: {error}"
        ) from error
