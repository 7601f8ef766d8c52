"""Storage files whose names, index, compression, companions or channels are unusual."""

from __future__ import annotations

import re
import sqlite3
import struct
from contextlib import closing
from pathlib import Path

import pytest
from replays import write_drive
from rosbags.rosbag2 import CompressionMode, StoragePlugin
from small_bags import STORAGES, drive_frames, write_compressed

from ivf_core.bags.convert import RGB_TOPIC, THERMAL_TOPIC, write_drive_bag
from ivf_core.bags.info import BagMessage
from ivf_core.bags.reader import BagReader, bag_info
from ivf_core.bags.salvage import open_bag

TOPICS = [RGB_TOPIC, THERMAL_TOPIC]
NAMES = ["run#2", "what?", "run 50%20", "a:b", "ä&b=c;d", "file:x"]


def contents(path: Path) -> list[BagMessage]:
    with BagReader(path) as reader:
        return list(reader.raw(TOPICS))


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("name", NAMES)
def test_any_name_is_written_and_read(tmp_path: Path, storage: str, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    write_drive(folder / name, 3, storage=storage)
    assert [path.name for path in folder.iterdir()] == [name]
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert len(contents(folder / name)) == 6
    assert not bag_info(folder / name).differences
    file = folder / name / f"{name}{STORAGES[storage]}"
    assert len(contents(file)) == 6
    file.write_bytes(file.read_bytes()[:-100])  # salvaged from here on
    with open_bag(file, []) as bag:
        assert len(list(bag.raw(TOPICS))) >= 4


class TestIndex:
    """metadata.yaml that says something else than the storage files."""

    @pytest.fixture(params=STORAGES)
    def bag(self, request: pytest.FixtureRequest, tmp_path: Path) -> Path:
        path = tmp_path / "drive"
        write_drive_bag(path, drive_frames(4, labels=False), 10.0, storage=request.param)
        return path

    @staticmethod
    def edit(bag: Path, old: str, new: str) -> None:
        path = bag / "metadata.yaml"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    @pytest.mark.parametrize(
        ("old", "new", "difference"),
        [
            ("offered_qos_profiles: ''", "offered_qos_profiles: '- history: 1'", "another QoS of"),
            ("offered_qos_profiles: ''", "offered_qos_profiles: '- : ['", "another QoS of"),
            ("RIHS01_d31d", "RIHS01_ffff", None),
            ("name: /rgb/image_raw", "name: /camera/rgb", r"/camera/rgb .* 4 instead of 0"),
            ("  - message_count: 4", "  - message_count: 7", r"/rgb/image_raw .* 7 instead of 4"),
            ("version: 8", "version: 99", None),
            ("serialization_format: cdr", "serialization_format: xml", None),
            ("- drive.", "- drive_0.", r"lists drive_0\.(mcap|db3), which is missing"),
        ],
    )
    def test_storage_is_read_and_the_difference_stated(
        self, bag: Path, old: str, new: str, difference: str | None
    ) -> None:
        whole = contents(bag)
        self.edit(bag, old, new)
        assert contents(bag) == whole
        lines = bag_info(bag).differences
        assert bool(lines) == (difference is not None)
        if difference is not None:
            assert any(re.search(difference, line) for line in lines)

    @pytest.mark.parametrize(
        "text",
        [None, "", "a: [", "[" * 5000, "? [1]\n: 2", "rosbag2_bagfile_information: {version: 5}"],
    )
    def test_missing_or_damaged_index(self, bag: Path, text: str | None) -> None:
        whole = contents(bag)
        if text is None:
            (bag / "metadata.yaml").unlink()
        else:
            (bag / "metadata.yaml").write_text(text)
        assert contents(bag) == whole
        (line,) = bag_info(bag).differences
        assert line.startswith("metadata.yaml ")
        assert line.endswith("the storage files are read without it")

    def test_file_that_the_index_does_not_list(self, tmp_path: Path, bag: Path) -> None:
        later = tmp_path / "later"
        write_drive_bag(later, drive_frames(2), 10.0, start_ns=1_800_000_000_000_000_000)
        (later / "later.mcap").rename(bag / "drive_1.mcap")
        assert len(contents(bag)) == 8 + 4
        assert any("drive_1.mcap is not in metadata.yaml; it is read" in line
                   for line in bag_info(bag).differences)  # fmt: skip

    def test_copy_of_a_file_is_not_read_twice(self, bag: Path) -> None:
        whole = contents(bag)
        (file,) = (path for path in bag.iterdir() if path.suffix != ".yaml")
        (bag / f"copy{file.suffix}").write_bytes(file.read_bytes())
        assert contents(bag) == whole
        (line,) = bag_info(bag).differences
        assert f"copy{file.suffix} is not in metadata.yaml and not read: it overlaps" in line


@pytest.mark.parametrize("plugin", [StoragePlugin.MCAP, StoragePlugin.SQLITE3])
@pytest.mark.parametrize("mode", [CompressionMode.FILE, CompressionMode.MESSAGE])
def test_compressed_bag_without_its_index(
    tmp_path: Path, plugin: StoragePlugin, mode: CompressionMode
) -> None:
    write_drive(tmp_path / "drive", 5)
    whole = contents(tmp_path / "drive")
    write_compressed(tmp_path / "packed", whole, plugin, mode)
    (tmp_path / "packed" / "metadata.yaml").unlink()
    assert contents(tmp_path / "packed") == whole
    (file,) = (tmp_path / "packed").iterdir()
    assert contents(file) == whole
    left_out: list[str] = []
    file.write_bytes(file.read_bytes()[: -(file.stat().st_size // 3)])
    with open_bag(file, left_out) as bag:
        part = list(bag.raw([t for t in TOPICS if t in {x.name for x in bag.info.topics}]))
    assert part
    assert part == whole[: len(part)]
    assert left_out


class TestOpenDatabase:
    """Databases that were not closed: their last messages are in files beside them."""

    @staticmethod
    def copy(folder: Path, target: Path) -> None:
        target.mkdir()
        for path in folder.iterdir():
            (target / path.name).write_bytes(path.read_bytes())

    def test_write_ahead_log(self, tmp_path: Path) -> None:
        bag = write_drive(tmp_path / "drive", 5, storage="sqlite3")
        whole = contents(bag)
        with closing(sqlite3.connect(bag / "drive.db3")) as database:
            database.execute("PRAGMA journal_mode = WAL").fetchall()
            database.execute("PRAGMA wal_autocheckpoint = 0").fetchall()
            rows = database.execute("SELECT topic_id, timestamp, data FROM messages").fetchall()
            database.executemany(
                "INSERT INTO messages (topic_id, timestamp, data) VALUES (?, ?, ?)",
                [(topic, time_ns + 10**9, data) for topic, time_ns, data in rows],
            )
            database.commit()
            self.copy(bag, tmp_path / "crashed")  # as a power cut leaves it
        crashed = tmp_path / "crashed"
        assert (crashed / "drive.db3-wal").stat().st_size
        before = {path.name: path.read_bytes() for path in crashed.iterdir()}
        messages = contents(crashed)
        assert len(messages) == 2 * len(whole)
        assert messages[: len(whole)] == whole
        assert any("5 instead of 10" in line for line in bag_info(crashed).differences)
        assert {path.name: path.read_bytes() for path in crashed.iterdir()} == before
        (crashed / "drive.db3-wal").unlink()
        (crashed / "drive.db3-wal").mkdir()  # is no file: not a companion
        assert contents(crashed) == whole

    def test_journal_of_an_unfinished_transaction(self, tmp_path: Path) -> None:
        bag = write_drive(tmp_path / "drive", 5, storage="sqlite3")
        whole = contents(bag)
        with closing(sqlite3.connect(bag / "drive.db3", isolation_level=None)) as database:
            database.execute("PRAGMA journal_mode = DELETE").fetchall()
            database.execute("PRAGMA cache_size = 1").fetchall()
            database.execute("BEGIN IMMEDIATE")
            database.execute("DELETE FROM messages WHERE id > 2")
            database.execute("PRAGMA cache_spill = 1").fetchall()
            rows = [(1, 5, b"x" * 4000)] * 200
            database.executemany(
                "INSERT INTO messages (topic_id, timestamp, data) VALUES (?, ?, ?)", rows
            )
            self.copy(bag, tmp_path / "crashed")
            database.execute("ROLLBACK")
        assert (tmp_path / "crashed" / "drive.db3-journal").stat().st_size
        assert contents(tmp_path / "crashed") == whole

    def test_companion_that_cannot_be_read_is_named(self, tmp_path: Path) -> None:
        bag = write_drive(tmp_path / "drive", 5, storage="sqlite3")
        (bag / "drive.db3-journal").symlink_to("/proc/self/mem")
        (bag / "drive.db3-wal").write_bytes(b"no log")
        assert len(contents(bag)) == 10


def mcap(path: Path, channels: list[tuple[str, str, str, bytes, str]], *, profile: str = "ros2",
         index: bool = True) -> None:  # fmt: skip
    """Write an MCAP file with a message on each channel.

    A channel is its topic and encoding, and its schema's encoding, data and name.
    """

    def text(value: str | bytes) -> bytes:
        data = value.encode() if isinstance(value, str) else value
        return struct.pack("<I", len(data)) + data

    def record(kind: int, content: bytes) -> bytes:
        return struct.pack("<BQ", kind, len(content)) + content

    magic = b"\x89MCAP0\r\n"
    tables = b""
    messages = b""
    for number, (topic, encoding, schema, data, name) in enumerate(channels, 1):
        tables += record(3, struct.pack("<H", number) + text(name) + text(schema) + text(data))
        tables += record(
            4, struct.pack("<HH", number, number) + text(topic) + text(encoding) + text(b"")
        )
        message = struct.pack("<HIQQ", number, 0, number * 10, number * 10)
        messages += record(5, message + b"\0\1\0\0" + topic.encode())
    head = magic + record(1, text(profile) + text("test"))
    body = tables + messages + record(15, bytes(4))
    counts = b"".join(struct.pack("<HQ", n, 1) for n in range(1, len(channels) + 1))
    statistics = record(
        11,
        struct.pack("<QHIIIIQQ", len(channels), len(channels), len(channels), 0, 0, 0, 10,
                    10 * len(channels)) + text(counts),
    )  # fmt: skip
    start = len(head) + len(body) if index else 0
    summary = tables + statistics if index else b""
    footer = record(2, struct.pack("<QQI", start, 0, 0))
    path.write_bytes(head + body + summary + footer + magic)


@pytest.mark.parametrize("index", [True, False])
@pytest.mark.parametrize("profile", ["ros2", "", "own"])
def test_channels_that_are_not_of_ros(tmp_path: Path, profile: str, index: bool) -> None:
    path = tmp_path / "drive.mcap"
    channels = [
        ("/status", "json", "jsonschema", b"{}", "Status"),
        ("/chatter", "cdr", "ros2msg", b"string data", "std_msgs/msg/String"),
        ("/proto", "protobuf", "protobuf", b"\xff\xfe\x80binary", "foxglove.Grid"),
        ("/flat", "flatbuffer", "flatbuffer", b"\x80", "Flat"),
    ]
    mcap(path, channels, profile=profile, index=index)
    with BagReader(path) as reader:
        assert [topic.name for topic in reader.topics] == ["/chatter"]
        assert [message.topic for message in reader.raw()] == ["/chatter"]
        lines = reader.info.differences
    assert [line.split()[0] for line in lines] == ["/flat", "/proto", "/status"]
    assert "/status is not read: its messages are 'json', not CDR" in lines
    path.write_bytes(path.read_bytes()[:-20])  # read record by record
    with open_bag(path, []) as bag:
        assert [topic.name for topic in bag.info.topics] == ["/chatter"]


def test_overlapping_files_are_merged_by_time(tmp_path: Path) -> None:
    for name, start in (("a", 0), ("b", 50_000_000)):
        write_drive_bag(
            tmp_path / name, drive_frames(4, labels=False), 10.0, start_ns=10**18 + start
        )
    (tmp_path / "b" / "b.mcap").rename(tmp_path / "a" / "b.mcap")
    (tmp_path / "a" / "metadata.yaml").unlink()
    times = [message.time_ns for message in contents(tmp_path / "a")]
    assert len(times) == 16
    assert times == sorted(times)
