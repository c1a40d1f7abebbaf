"""The engine cache: entries by key, in one or several directories."""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ..errors import CacheError
from ..options import Options
from ..types import Entry, Key
from . import upkeep
from .audit import audit
from .diff import differences, nearest
from .entry import canonical, encode
from .files import entry_name
from .folder import Folder, TooLarge
from .folders import Folders
from .lock import OsLock
from .records import Freed, Problem, Record

log = logging.getLogger("trt_stripped_backend")

#: Seconds between two looks at an entry that another process builds.
_POLL = 0.05

#: Entries of each directory that a miss is compared with.
_LOOK = 64


class EngineCache:
    """Entries in ``dirs``: all are searched in order, the first that can be written is written.

    A directory is made when it is first written, mode 0700. One that is a symbolic link, another user's (root's
    excepted), or writable by others is not used, since a plan is code. Nothing is held open between two calls, so a
    cache may be used from threads and across forks. Every entry is verified before it is handed out.

    Args:
        dirs: where entries lie.
        size_limit: bytes of entries in the directory that is written; the least recently used ones leave first.
        lock_timeout: seconds to wait for another process that builds the same entry, before building it too.
        errors: ``"warn"``: trouble is logged once and costs time, never the answer; ``"raise"``: it raises
            ``CacheError`` or ``BadEntry``.
        on_use: told each entry and blob that is found or stored.
    """

    def __init__(
        self, dirs: Sequence[Path], *, size_limit: int, lock_timeout: float, errors: str = "warn",
        on_use: Callable[[Entry], None] | None = None,
    ) -> None:  # fmt: skip
        self.on_use = on_use
        self._folders = Folders(dirs, size_limit=size_limit, errors=errors)
        self.size_limit = size_limit
        self.lock_timeout = lock_timeout

    @property
    def dirs(self) -> tuple[Path, ...]:
        return self._folders.paths

    @property
    def written(self) -> Path | None:
        """The directory that is written, the first that can be; None if there is none."""
        folder = self._folders.writer()
        return None if folder is None else folder.path

    def get(self, key: Key) -> Entry | None:
        """The entry of ``key``, or None. A hit makes it the most recently used one; a bad entry is removed."""
        entry = self._get(key.digest)
        if entry is None:
            log.debug("cache miss %s", key.digest[:12])
        else:
            log.debug("cache hit %s, %s s of building saved", key.digest[:12], entry.header.get("build_seconds", "?"))
        return entry

    def put(self, key: Key, entry: Entry) -> bool:
        """Stores an entry, all or nothing; whether it did.

        Raises:
            ValueError: it is another key's.
        """
        if entry.key != key.digest:
            raise ValueError(f"an entry of key {entry.key} was to be stored under {key}")
        return self._put(entry)

    def get_blob(self, kind: str, name: str) -> bytes | None:
        """What ``put_blob`` stored last, verified, or None."""
        entry = self._get(_blob_digest(kind, name))
        return None if entry is None else entry.plan

    def put_blob(self, kind: str, name: str, data: bytes) -> bool:
        """Keeps bytes beside the plans (a runtime or timing cache), in place of what the name held; whether it did."""
        return self._put(Entry(_blob_digest(kind, name), {"blob": {"kind": kind, "name": name}}, data))

    @contextmanager
    def building(self, key: Key, stop: Callable[[], bool] = lambda: False) -> Iterator[Entry | None]:
        """Single flight: yields None to the one caller that should build, and to all others the entry that it stored.

        Others wait, in this process and elsewhere. A builder that dies gives way at once, one that hangs after
        ``lock_timeout`` seconds. Without a directory that can be written everyone builds.

        Args:
            key: what to build.
            stop: whether to wait no longer.
        """
        folder = self._folders.writer()
        if folder is None:
            yield None
            return
        lock = folder.key_lock(key.digest)
        entry = None
        try:
            try:
                entry = self._await(folder, lock, key, stop)
            except OSError as error:
                self._folders.trouble(folder.path, "lock", error)
            if entry is not None:
                lock.release(forget=True)  # the others need not wait for what is done with the entry
            yield entry
        finally:
            lock.release(forget=True)

    def explain_miss(self, key: Key) -> list[str]:
        """Names of the parts in which ``key`` differs from the nearest other entry; empty if there is none.

        Looked for among the entries that were used last, so that a large cache does not slow down a miss.
        """
        others = [record for folder in self._folders for record in upkeep.records(folder, latest=_LOOK)]
        near = nearest(key.parts, (record.parts for record in others if record.parts and record.key != key.digest))
        return [] if near is None else [found.part for found in differences(near, key.parts)]

    def entries(self) -> list[Record]:
        """What is stored, most recently used first; blobs are not listed, nothing is verified."""
        found = [record for folder in self._folders for record in upkeep.records(folder)]
        return sorted(found, key=lambda record: record.used, reverse=True)

    @property
    def size(self) -> int:
        """Bytes of all entries and blobs, in all directories."""
        return sum(info.st_size for folder in self._folders for info in folder.sizes().values())

    def check(self) -> list[Problem]:
        """Audits every directory: owners and modes, digests of all entries, index against files, left-overs, size."""
        problems: list[Problem] = []
        for path in self.dirs:
            try:
                folder = self._folders.open(path)
                problems.extend(audit(folder) if folder else ())
            except OSError as error:
                problems.append(Problem("directory", path, str(error)))
        return problems

    def prune(self, size_limit: int | None = None) -> Freed:
        """Removes damaged entries and left-overs, mends the index, culls down to ``size_limit`` (default: the cache's).

        Only in the directory that is written.
        """
        limit = self.size_limit if size_limit is None else size_limit
        return self._clean(lambda folder: upkeep.prune(self._folders, folder, limit))

    def clear(self) -> Freed:
        """Removes every entry and blob from the directory that is written."""
        return self._clean(lambda folder: upkeep.measured(folder, folder.clear))

    def pack(self, path: Path | str, keys: Iterable[Key | str] | None = None) -> list[str]:
        """Writes entries to one file; returns their keys.

        By default all of them, and what is kept beside: traces, and the kernels that RTX compiled. Those serve where
        the GPU is the same.

        Raises:
            CacheError: there is no such entry.
            BadEntry: one is damaged.
            OSError: ``path`` cannot be written.
        """
        chosen = [record.key for record in self.entries()] if keys is None else [str(key) for key in keys]
        chosen = list(dict.fromkeys(chosen))
        beside = [digest for folder in self._folders for digest in upkeep.blobs(folder)] if keys is None else []
        upkeep.pack(self._folders, Path(path), [*chosen, *dict.fromkeys(beside)])
        return chosen

    def unpack(self, path: Path | str) -> list[str]:
        """Adds the entries of a file that ``pack`` wrote, after all of it was verified; returns their keys.

        Raises:
            BadEntry: the file is no pack, or damaged; then nothing was added.
            CacheError: no directory can be written, or the cache may not hold so much.
            OSError: ``path`` cannot be read.
        """
        folder = self._folders.writer()
        if folder is None:
            raise self._folders.unwritable()
        return upkeep.unpack(folder, Path(path))

    def close(self) -> None:
        """Forgets the directories; they are examined anew when the cache is used again."""
        self._folders.close()

    def _get(self, digest: str) -> Entry | None:
        found = self._folders.read(digest)
        if found is None:
            return None
        entry, folder = found
        folder.used(digest)
        if self.on_use is not None:
            self.on_use(entry)
        return entry

    def _put(self, entry: Entry) -> bool:
        entry_name(entry.key)  # a key that is no digest is the caller's mistake, not the disk's
        folder = self._folders.writer()
        if folder is None:
            self._folders.trouble(self.dirs[0], "write", self._folders.unwritable())
            return False
        try:
            folder.store(entry.key, encode(entry))
        except TooLarge as error:
            self._folders.trouble(folder.path, f"size {entry.key}", error)
            return False
        except (OSError, TypeError, ValueError) as error:
            self._folders.trouble(folder.path, "write", error)
            return False
        if self.on_use is not None:
            self.on_use(entry)
        return True

    def _await(self, folder: Folder, lock: OsLock, key: Key, stop: Callable[[], bool]) -> Entry | None:
        """The entry once someone has stored it, or None with ``lock`` held, or None after the timeout or a ``stop``."""
        deadline = time.monotonic() + self.lock_timeout
        waited = False
        while True:
            left = deadline - time.monotonic()
            if lock.take(max(0.0, min(_POLL, left))):
                return self.get(key)
            # All who wait go on together as soon as the entry is there, not one after the other.
            # Path.exists raises where the disk does not tell.
            if os.path.exists(folder.file(key.digest)):  # noqa: PTH110
                entry = self.get(key)
                if entry is not None:
                    return entry
            if stop():
                return None
            if left <= 0:
                log.warning("cache: %s is being built for %g s elsewhere; building it too", key, self.lock_timeout)
                return None
            if not waited:
                log.info("cache: waiting for another process that builds %s", key.digest[:12])
                waited = True

    def _clean(self, act: Callable[[Folder], Freed]) -> Freed:
        folder = self._folders.writer()
        if folder is None:
            self._folders.trouble(self.dirs[0], "write", self._folders.unwritable())
            return Freed(0, 0)
        try:
            return act(folder)
        except CacheError as error:
            self._folders.trouble(folder.path, "clean", error)
            return Freed(0, 0)


def _blob_digest(kind: str, name: str) -> str:
    return hashlib.sha256(canonical(["blob", kind, name])).hexdigest()


def open_cache(dir: Path | str | Sequence[Path | str] | None = None) -> EngineCache:
    """The cache in ``dir`` (one or several directories), else where ``TRT_STRIPPED_CACHE_DIR`` or the default says.

    Size, lock timeout and what trouble does come from the variables of these options.

    Raises:
        OptionError: a variable has a bad value.
        CacheError: nothing names a directory, and there is no home directory.
    """
    options = Options.of({} if dir is None else {"cache_dir": dir})
    return EngineCache(
        options.cache_dirs,
        size_limit=options.cache_size,
        lock_timeout=options.lock_timeout,
        errors=options.cache_errors,
    )


def shared_cache(options: Options, on_use: Callable[[Entry], None]) -> EngineCache | None:
    """The cache that all compilations with these options share; None, with a warning, where it has no place.

    Raises:
        CacheError: it has no place, and trouble is to raise.
    """
    try:
        dirs = options.cache_dirs
    except CacheError as error:
        if options.cache_errors == "raise":
            raise
        _do_without(str(error))
        return None
    return _shared(dirs, options.cache_size, options.lock_timeout, options.cache_errors, on_use)


@functools.lru_cache(maxsize=8)
def _shared(
    dirs: Sequence[Path], size: int, timeout: float, errors: str, on_use: Callable[[Entry], None]
) -> EngineCache:
    return EngineCache(dirs, size_limit=size, lock_timeout=timeout, errors=errors, on_use=on_use)


@functools.cache
def _do_without(why: str) -> None:
    log.warning("cache: %s; going on without", why)
