"""How diskcache keeps keys and values here: plain text and plain bytes, and nothing else.

diskcache's own ``Disk`` pickles what it does not know and unpickles what a row says is pickled. This one refuses both.
It also writes each value to a file named after its key, by an atomic rename: replacing an entry is one rename, readers
see the old bytes or the new ones, and the SQLite index holds nothing that the files could not give back.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import diskcache
from diskcache.core import MODE_BINARY, UNKNOWN

from ..errors import BadEntry
from .files import DIGEST, ENTRY_NAME, entry_name, open_private, write_private

DATABASE = "cache.db"
#: What SQLite may leave beside its database.
COMPANIONS = ("-journal", "-wal", "-shm")

_SETTINGS: dict[str, Any] = {
    "eviction_policy": "none",  # this package culls by bytes and last use: diskcache may drop the entry just stored
    "cull_limit": 0,
    "statistics": 0,
    "disk_min_file_size": 0,  # every value is a file
    "sqlite_journal_mode": "delete",  # a write-ahead log needs shared memory, which network file systems lack
    "sqlite_synchronous": 0,  # the files are synced; an index lost in a power cut is rebuilt from them
    "sqlite_mmap_size": 0,  # a mapped database that someone truncates kills the process with SIGBUS
}


class DamagedIndex(Exception):
    """The index names something that this package never stores. No OSError: diskcache would take that for a miss."""


@dataclass(frozen=True)
class Existing:
    """Stands for a value whose file is already in its place, for taking it into the index."""

    size: int


class Disk(diskcache.Disk):  # type: ignore[misc]
    """Keys are SHA-256 digests in hexadecimal, values are bytes; no pickle is written or read."""

    def __init__(self, directory: str, **settings: Any) -> None:
        super().__init__(directory, **settings)
        self.root = Path(directory)

    def put(self, key: Any) -> tuple[str, bool]:
        if not isinstance(key, str) or not DIGEST.fullmatch(key):
            raise TypeError(f"a cache key is a digest in hexadecimal, not {key!r}")
        return key, True

    def get(self, key: Any, raw: Any) -> str:
        if not raw or not isinstance(key, str) or not DIGEST.fullmatch(key):
            raise DamagedIndex("the index holds a key that is no digest")
        return key

    def store(self, value: Any, read: bool, key: Any = UNKNOWN) -> tuple[int, int, str, None]:
        name = entry_name(key)
        if isinstance(value, Existing):
            return value.size, MODE_BINARY, name, None
        if not isinstance(value, bytes):
            raise TypeError(f"a cache value is bytes, not {type(value).__name__}")
        write_private(self.root, name, value)
        return len(value), MODE_BINARY, name, None

    def fetch(self, mode: Any, filename: Any, value: Any, read: bool) -> bytes | BinaryIO:
        if mode != MODE_BINARY or not isinstance(filename, str) or not ENTRY_NAME.fullmatch(filename):
            raise DamagedIndex("the index holds a value that is no entry file")
        file = open_private(self.root / filename)
        if read:
            return file
        with file:
            return file.read()

    def filename(self, key: Any = UNKNOWN, value: Any = UNKNOWN) -> tuple[str, str]:
        name = entry_name(key)
        return name, str(self.root / name)

    def remove(self, file_path: Any) -> None:
        """Nothing: after a replacement this is the new value's file. :class:`~.folder.Folder` unlinks what it drops."""


def secure_database(path: Path) -> bool:
    """Makes the database's file if need be; whether it is still empty. SQLite would give it the umask's mode.

    Raises:
        DamagedIndex: what is there could be another user's; SQLite would follow a link.
        OSError: the file cannot be written.
    """
    try:
        with open_private(path / DATABASE, os.O_RDWR | os.O_CREAT) as file:
            return os.fstat(file.fileno()).st_size == 0
    except BadEntry as error:
        raise DamagedIndex(str(error)) from error


class Index(diskcache.Cache):  # type: ignore[misc]
    """The ``diskcache.Cache`` of a directory whose database is secured; whatever it raises, it leaves nothing open."""

    def __init__(self, path: Path) -> None:
        try:
            super().__init__(str(path), timeout=10, disk=Disk, **_SETTINGS)
        except BaseException:
            self.close()
            raise

    def bytes(self) -> int:
        """The size of all values together, as the rows have it."""
        (total,) = self._sql("SELECT COALESCE(SUM(size), 0) FROM Cache").fetchone()
        return int(total)


def remove_index(path: Path) -> None:
    """Deletes the database; only for who holds the directory's lock, so that no process has it open."""
    for suffix in ("", *COMPANIONS):
        (path / f"{DATABASE}{suffix}").unlink(missing_ok=True)
