"""Index of a rosbag2 folder, metadata.yaml: its files and topics, and where these differ."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

from ivf_core.bags.plain_files import is_compressed
from ivf_core.bags.storage import StoredTopic, normal_qos
from ivf_core.system.yaml_text import parse_yaml

__all__ = ["BagIndex", "index_differences", "read_index", "storage_files"]

_NAME = "metadata.yaml"
_STORAGE = re.compile(r"\.(mcap|db3)(\.zstd)?$")


@dataclass(frozen=True)
class BagIndex:
    """Content of metadata.yaml.

    Attributes:
        files: names of the storage files in the order of recording.
        counts: number of messages by topic and type.
        qos: offered QoS by topic and type, as it stands there.
        fault: reason why it cannot be used, "" if it can.
    """

    files: list[str] = field(default_factory=list)
    counts: Mapping[tuple[str, str], int] = field(default_factory=dict)
    qos: Mapping[tuple[str, str], Any] = field(default_factory=dict)
    fault: str = ""


def read_index(folder: Path) -> BagIndex:
    """Read metadata.yaml of a rosbag2 folder, of any version.

    Args:
        folder: the bag.
    """
    try:
        text = (folder / _NAME).read_text(encoding="utf-8")
    except FileNotFoundError:
        return BagIndex(fault=f"{_NAME} is missing")
    except (OSError, UnicodeDecodeError) as error:
        return BagIndex(fault=f"{_NAME} cannot be read ({error})")
    try:
        content: Any = parse_yaml(text)
        index = content["rosbag2_bagfile_information"]
        topics = [
            (topic["topic_metadata"], int(topic["message_count"]))
            for topic in index["topics_with_message_count"]
        ]
        return BagIndex(
            [PurePath(name).name for name in index["relative_file_paths"]],
            {(topic["name"], topic["type"]): count for topic, count in topics},
            {
                (topic["name"], topic["type"]): topic.get("offered_qos_profiles", "")
                for topic, _ in topics
            },
        )
    except KeyError as error:
        return BagIndex(fault=f"{_NAME} has no {error}")
    except (TypeError, ValueError, AttributeError) as error:
        return BagIndex(fault=f"{_NAME} is damaged ({' '.join(str(error).split())})")


def storage_files(folder: Path, index: BagIndex) -> tuple[list[Path], list[Path], list[str]]:
    """Find the storage files of a rosbag2 folder.

    Args:
        folder: the bag.
        index: its index.

    Returns:
        The files that the index lists, those that only the folder has, both in the order of
        recording, and a line for each listed one that is missing.
    """
    present = _recorded(path for path in folder.iterdir() if _STORAGE.search(path.name))
    by_name = {path.name: path for path in present}
    listed, lines = [], []
    for name in index.files:
        # A file may have been compressed, or decompressed, since.
        found = by_name.get(name) or by_name.get(f"{name}.zstd")
        found = found or by_name.get(name.removesuffix(".zstd"))
        if found is None:
            lines.append(f"{_NAME} lists {name}, which is missing")
        elif found not in listed:
            listed.append(found)
    twins = {path.name.removesuffix(".zstd") for path in listed}
    extra = [path for path in present if path.name.removesuffix(".zstd") not in twins]
    plain = {path.name for path in extra if not is_compressed(path)}
    return listed, [p for p in extra if not is_compressed(p) or p.stem not in plain], lines


def index_differences(index: BagIndex, topics: Iterable[StoredTopic]) -> list[str]:
    """Compare the topics of an index with those of the storage files.

    Args:
        index: index of the bag.
        topics: topics of all storage files.

    Returns:
        A line for each kind of difference.
    """
    counts: dict[tuple[str, str], int] = {}
    qos: dict[tuple[str, str], set[object]] = {}
    for topic in topics:
        key = topic.name, topic.type
        counts[key] = counts.get(key, 0) + topic.count
        qos.setdefault(key, set()).add(normal_qos(topic.qos))
    lines = []
    wrong = [
        f"{name} ({kind}) {announced} instead of {held}"
        for name, kind in sorted({*counts, *index.counts})
        if (announced := index.counts.get((name, kind), 0)) != (held := counts.get((name, kind), 0))
    ]
    if wrong:
        lines.append(f"{_NAME} announces other numbers of messages: {', '.join(wrong)}")
    shared = sorted(qos.keys() & index.qos.keys())
    other = [key[0] for key in shared if normal_qos(index.qos[key]) not in qos[key]]
    if other:
        lines.append(f"{_NAME} states another QoS of {', '.join(other)}")
    return lines


def _recorded(paths: Iterable[Path]) -> list[Path]:
    """Sort storage files by their number; hidden files are none."""

    def number(path: Path) -> tuple[int, str]:
        found = re.search(r"_(\d+)\.", path.name)
        return int(found[1]) if found else 0, path.name

    return sorted((path for path in paths if not path.name.startswith(".")), key=number)
