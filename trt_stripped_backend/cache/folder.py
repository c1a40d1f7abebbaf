"""One cache directory: entry files, and an index of them kept by diskcache.

::

    <directory>/              0700, the user's own
        cache.db              diskcache's index: which entries there are
        ab/ab12….entry        one entry, named after its key (format: entry.py)
        locks/index.lock      held by whoever has the index open
        locks/ab12….lock      held by whoever builds that entry
        tmp/                  entries being written

The files are the truth: they verify themselves and are named after their keys, so an index that is lost, damaged or
foreign is rebuilt from them, and a directory that cannot be written is read without an index. Everything that changes
an index or a file happens under ``index.lock``; reading an entry needs it only until the file is open, so an entry
that is culled meanwhile stays whole for its reader.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, TypeVar

import diskcache

from ..errors import BadEntry, CacheError
from .disk import Existing, Index, remove_index, secure_database
from .files import DIGEST, ENTRY_NAME, TEMPORARY, WAY_OUT, entry_name, open_private, touch
from .lock import INDEX_LOCK, LOCKS, OsLock

T = TypeVar("T")

log = logging.getLogger("trt_stripped_backend")

#: Seconds to wait for the index; its holder needs milliseconds, and as long as one entry takes to write.
INDEX_TIMEOUT = 60.0

#: What SQLite says when the disk, not the database, is at fault: rebuilding the index would not help.
_DISK_TROUBLE = ("disk is full", "unable to open database", "database is locked")


def _scan(path: str | Path) -> list[os.DirEntry[str]]:
    """What a directory holds; nothing if it cannot be read."""
    try:
        with os.scandir(path) as found:
            return list(found)
    except OSError:
        return []


class TooLarge(CacheError):
    """One entry that is larger than the whole cache may be."""


class Folder:
    """One directory that was found safe (:func:`~.files.examine_directory`)."""

    def __init__(self, path: Path, *, writable: bool, size_limit: int) -> None:
        self.path = path
        self.writable = writable
        self.size_limit = size_limit
        self._index: Index | None = None
        self._stuck = False

    def file(self, digest: str) -> Path:
        return self.path / entry_name(digest)

    def key_lock(self, digest: str) -> OsLock:
        return OsLock(self.path / LOCKS / f"{digest}.lock")

    def open(self, digest: str) -> BinaryIO | None:
        """The entry's file, open for reading, or None. What it holds is not verified.

        Raises:
            ValueError: no digest.
            BadEntry: what lies in its place is not a file of this user's.
            OSError: it is there and cannot be read.
        """
        path = self.file(digest)
        if self.writable:
            try:
                return self._indexed(lambda index: self._fetch(index, digest))
            except CacheError as error:
                log.debug("reading %s without its index: %s", self.path, str(error))
        try:
            return open_private(path)
        except FileNotFoundError:
            return None

    def store(self, digest: str, data: bytes) -> None:
        """Stores an entry in place of any other of that key; the least recently used ones leave to make room.

        Raises:
            ValueError: no digest.
            TooLarge: it is larger than the whole cache may be.
            CacheError: it could not be written.
        """
        path = self.file(digest)
        if len(data) > self.size_limit:
            raise TooLarge(
                f"an entry of {len(data)} bytes is larger than the cache may be ({self.size_limit} bytes): "
                "raise TRT_STRIPPED_CACHE_SIZE or options={'cache_size': …}"
            )

        def act(index: Index) -> None:
            self._remove_temporary()
            if index.bytes() > self.size_limit - len(data):  # else there is no need to look at every file
                self._make_room(index, self.size_limit - len(data), keep=digest)
            try:
                index.set(digest, data)
            except BaseException:
                if digest not in index:
                    path.unlink(missing_ok=True)  # the file came, its row did not
                raise

        self._indexed(act)

    def discard(self, digest: str, seen: os.stat_result | None = None) -> bool:
        """Removes an entry, with ``seen`` only if its file is still that one; whether it did."""

        def act(index: Index) -> bool:
            with suppress(FileNotFoundError):
                now = self.file(digest).lstat()
                if seen is not None and (now.st_ino, now.st_size) != (seen.st_ino, seen.st_size):
                    return False
            self._drop(index, digest)
            return True

        return self._indexed(act)

    def used(self, digest: str) -> None:
        """Marks an entry as the most recently used one."""
        if self.writable:
            with suppress(OSError):  # culled meanwhile: the caller has its bytes all the same
                touch(self.file(digest))

    def sizes(self) -> dict[str, os.stat_result]:
        """Every entry file by its key, least recently used first."""
        found = {}
        for place in _scan(self.path):
            for one in _scan(place.path) if not place.is_symlink() else ():
                match = ENTRY_NAME.fullmatch(f"{place.name}/{one.name}")
                if match:
                    with suppress(OSError):  # culled meanwhile, or the disk does not tell: a miss
                        found[match[2]] = os.lstat(one.path)
        return dict(sorted(found.items(), key=lambda item: (item[1].st_mtime_ns, item[0])))

    def prune(self, limit: int) -> None:
        """Mends the index, removes what killed writers and builders left, and culls down to ``limit`` bytes.

        Raises:
            CacheError: the directory could not be written.
        """

        def act(index: Index) -> None:
            self._remove_temporary()
            self._remove_locks()
            self._reindex(index)
            self._make_room(index, limit)

        self._indexed(act)

    def clear(self) -> None:
        """Removes every entry, also what stands in an entry's place without being one.

        Raises:
            CacheError: the directory could not be written.
        """

        def act(index: Index) -> None:
            self._remove_temporary()
            self._remove_locks()
            for digest in {*index, *self.sizes()}:
                self._drop(index, digest)

        self._indexed(act)

    def inspect(self, look: Callable[[Index], T]) -> T:
        """What ``look`` sees of the index while nobody else changes the directory.

        Raises:
            CacheError: the index cannot be had.
        """
        return self._indexed(look)

    def _indexed(self, act: Callable[[Index], T]) -> T:
        """``act(index)`` under the directory's lock; a damaged index is rebuilt and ``act`` tried once more.

        The database is open only meanwhile: no connection crosses a fork, and none is there when the file is replaced.
        """
        lock = OsLock(self.path / LOCKS / INDEX_LOCK)
        with suppress(OSError):  # deleted since; without it the lock says what is wrong
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._stuck = not lock.take(0 if self._stuck else INDEX_TIMEOUT)
        if self._stuck:
            raise CacheError(f"cache directory {self.path} is locked by a process that does not go on: {WAY_OUT}")
        try:
            try:
                return self._attempt(act)
            except (OSError, BadEntry, diskcache.Timeout):
                raise
            except Exception as error:  # a foreign database can make diskcache raise anything
                if isinstance(error, sqlite3.OperationalError) and any(text in str(error) for text in _DISK_TROUBLE):
                    raise
                self._discard_index(error)
                return self._attempt(act)
        except (CacheError, BadEntry):
            raise
        except Exception as error:
            why = error or type(error).__name__
            raise CacheError(f"cache directory {self.path} cannot be used ({why}): {WAY_OUT}") from error
        finally:
            lock.release()

    def _attempt(self, act: Callable[[Index], T]) -> T:
        empty, index = secure_database(self.path), self._index
        if empty or index is None:
            index = self._index = Index(self.path)
            empty = not len(index)  # also where the database was deleted since it was looked at
        try:
            if empty:
                self._reindex(index)
            return act(index)
        finally:
            index.close()

    def _discard_index(self, reason: Exception) -> None:
        log.warning("the cache index in %s is damaged (%s); rebuilding it from the entries", self.path, str(reason))
        self._index = None
        remove_index(self.path)

    def _reindex(self, index: Index) -> None:
        """Makes the index name the files that are there."""
        files, rows = self.sizes(), set(index)
        for digest in files.keys() - rows:
            index.set(digest, Existing(files[digest].st_size))
        for digest in rows - files.keys():
            index.delete(digest)

    def _fetch(self, index: Index, digest: str) -> BinaryIO | None:
        file: BinaryIO | None = index.get(digest, read=True)
        if file is None and digest in index:
            index.delete(digest)
        elif file is None and self.file(digest).exists():
            # Its writer was killed between the rename and the row.
            index.set(digest, Existing(self.file(digest).lstat().st_size))
            return open_private(self.file(digest))
        return file

    def _make_room(self, index: Index, limit: int, keep: str = "") -> None:
        """Culls the least recently used entries until the rest, without ``keep``, has at most ``limit`` bytes."""
        files = self.sizes()
        files.pop(keep, None)
        total = sum(info.st_size for info in files.values())
        for digest, info in files.items():
            if total <= limit:
                break
            with suppress(PermissionError):  # Windows: someone is reading it
                self._drop(index, digest)
                total -= info.st_size
                log.info("cache: %s leaves %s (%d bytes, least recently used)", digest[:12], self.path, info.st_size)

    def _drop(self, index: Index, digest: str) -> None:
        self.file(digest).unlink(missing_ok=True)
        index.delete(digest)

    def _remove_temporary(self) -> None:
        # Writers hold the lock that is ours now: what is here was left by a killed one.
        for path in (self.path / TEMPORARY).glob("*"):
            path.unlink(missing_ok=True)

    def _remove_locks(self) -> None:
        for path in (self.path / LOCKS).glob("*.lock"):
            lock = OsLock(path)
            if DIGEST.fullmatch(path.stem) and lock.take(0):
                lock.release(forget=True)
