"""Storage files made plain: decompressed, and databases together with their companions."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from ivf_core.bags.records import Note, zstd_package
from ivf_core.bags.sqlite_file import COMPANIONS

__all__ = ["is_compressed", "plain_file", "storage_suffix"]

_BLOCK_BYTES = 1 << 20


def is_compressed(path: Path) -> bool:
    """Return whether a storage file is compressed as a whole, by its name."""
    return path.suffix == ".zstd"


def storage_suffix(path: Path) -> str:
    """Return the suffix that tells a storage file's format, ".mcap" for "drive.mcap.zstd"."""
    if path.name.endswith(".bag.active"):  # a rosbag1 file whose recorder did not close it
        return ".bag"
    return Path(path.stem).suffix if is_compressed(path) else path.suffix


@contextmanager
def plain_file(path: Path, note: Note) -> Iterator[Path]:
    """Give the path of a plain copy of a storage file, or of the file itself if it is plain.

    A database that was not closed has its last messages in a write-ahead log (-wal), or is to
    be rolled back (-journal): SQLite does that in the copy, so that the original stays. Copies
    are in the folder for temporary files until the block ends.

    Args:
        path: file of any name.
        note: takes a line for what cannot be read.

    Raises:
        MissingPackageError: the file is compressed, and the package for it is missing.
        OSError: a compressed file cannot be read, or there is no room for the copy.
    """
    companions = [
        other
        for other in (path.with_name(path.name + ending) for ending in COMPANIONS)
        if path.suffix == ".db3" and other.is_file() and other.stat().st_size
    ]
    if not is_compressed(path) and not companions:
        yield path
        return
    with TemporaryDirectory(prefix="ivf-bag-") as folder:
        copy = Path(folder, path.name.removesuffix(".zstd"))
        if is_compressed(path):
            _decompress(path, copy, note)
        elif not _recover(path, copy, companions, note):
            copy = path
        yield copy


def _decompress(path: Path, copy: Path, note: Note) -> None:
    """Decompress a file as far as it can be read."""
    zstd = zstd_package()
    with path.open("rb") as packed, copy.open("wb") as plain:
        try:
            with zstd.open(packed, "rb") as stream:
                while block := stream.read1(_BLOCK_BYTES):
                    plain.write(block)
        except (zstd.ZstdError, EOFError) as error:
            note(f"{path.name} is cut off or damaged after {plain.tell()} bytes ({error})")


def _recover(path: Path, copy: Path, companions: list[Path], note: Note) -> bool:
    """Copy a database and what is beside it, and let SQLite unite them; return whether it did."""
    names = " and ".join(other.name for other in companions)
    try:
        shutil.copyfile(path, copy)
        for other in companions:
            shutil.copyfile(other, copy.with_name(copy.name + other.name[len(path.name) :]))
        with closing(sqlite3.connect(copy)) as database:
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            database.execute("PRAGMA journal_mode = DELETE").fetchall()
            database.execute("SELECT COUNT(*) FROM sqlite_master").fetchall()
    except (OSError, sqlite3.Error) as error:
        note(f"{names} cannot be read ({error}): the messages that only these hold are missing")
        return False
    return True
