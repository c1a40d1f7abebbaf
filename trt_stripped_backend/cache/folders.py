"""The directories of one cache: which may be used, which is written, and what is said when one may not."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..errors import BadEntry, CacheError
from ..types import Entry
from .entry import OtherVersion, read
from .files import examine_directory
from .folder import Folder

log = logging.getLogger("trt_stripped_backend")

_warned: set[tuple[str, str]] = set()


class Folders:
    """Directories in the order of search, each examined when it is first used.

    Args:
        paths: the directories.
        size_limit: bytes of entries that each may hold.
        errors: ``"warn"`` or ``"raise"``, see :meth:`trouble`.
    """

    def __init__(self, paths: Sequence[Path], *, size_limit: int, errors: str) -> None:
        if errors not in ("warn", "raise"):
            raise ValueError(f"errors is 'warn' or 'raise', not {errors!r}")
        self.paths = tuple(Path(path).absolute() for path in paths)
        self.size_limit = size_limit
        self.errors = errors
        self._known: dict[Path, Folder] = {}

    def __iter__(self) -> Iterator[Folder]:
        """The directories that are there and safe."""
        return self._examined(create=False)

    def _examined(self, *, create: bool) -> Iterator[Folder]:
        for path in self.paths:
            folder = self._known.get(path)
            if folder is None:
                try:
                    folder = self.open(path, create=create)
                except OSError as error:
                    self.trouble(path, "directory", error)
                if folder is None:
                    continue
                self._known[path] = folder
            yield folder

    def open(self, path: Path, *, create: bool = False) -> Folder | None:
        """The directory, or None where there is none.

        Raises:
            CacheError: it is not safe.
            OSError: it cannot be made or looked at.
        """
        try:
            writable = examine_directory(path)
        except FileNotFoundError:
            if not create:
                return None
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            writable = examine_directory(path)
        return Folder(path, writable=writable, size_limit=self.size_limit)

    def writer(self) -> Folder | None:
        """The first directory that can be written; made, if need be and if none before it can."""
        return next((folder for folder in self._examined(create=True) if folder.writable), None)

    def unwritable(self) -> CacheError:
        """What to say where there is no :meth:`writer`."""
        where = ", ".join(map(str, self.paths))
        return CacheError(f"no cache directory can be written ({where}): name one in TRT_STRIPPED_CACHE_DIR")

    def read(self, digest: str) -> tuple[Entry, Folder] | None:
        """The entry, verified, and the directory that has it; a bad entry is removed.

        Raises:
            ValueError: no digest.
            BadEntry, CacheError: trouble, where ``errors="raise"``.
        """
        for folder in self:
            entry = self.read_from(folder, digest)
            if entry is not None:
                return entry, folder
        return None

    def read_from(self, folder: Folder, digest: str) -> Entry | None:
        """As :meth:`read`, from one directory."""
        seen: os.stat_result | None = None
        try:
            file = folder.open(digest)
            if file is None:
                return None
            with file:
                seen = os.fstat(file.fileno())
                return read(file, seen.st_size, digest)
        except OtherVersion as error:
            log.debug("cache: %s in %s", str(error), folder.path)
        except BadEntry as error:
            self._reject(folder, digest, seen, error)
        except (OSError, MemoryError) as error:
            self.trouble(folder.path, "read", error)
        return None

    def _reject(self, folder: Folder, digest: str, seen: os.stat_result | None, error: BadEntry) -> None:
        removed = False
        if folder.writable:
            try:
                removed = folder.discard(digest, seen)
            except OSError as failure:
                self.trouble(folder.path, "discard", failure)
        # Each bad entry is said once: it is gone, or it stays where nobody can remove it.
        cause = f"bad {digest} {removed and seen}"
        self.trouble(folder.path, cause, BadEntry(f"{error} ({folder.file(digest)}{', removed' if removed else ''})"))

    def trouble(self, where: Path, cause: str, error: BaseException) -> None:
        """Logs a warning, once a process for each directory and cause; raises instead where ``errors="raise"``.

        Raises:
            BadEntry, CacheError: what the trouble is.
        """
        if self.errors == "raise":
            if isinstance(error, (BadEntry, CacheError)):
                raise error
            raise CacheError(f"cache: {error}") from error
        if (str(where), cause) not in _warned:
            _warned.add((str(where), cause))
            # As text: whoever keeps the record would keep the traceback, and with it an open database.
            text = str(error) or type(error).__name__
            log.warning("%s; going on without", text if text.startswith("cache ") else f"cache: {text}")

    def close(self) -> None:
        """Forgets what was found; the directories are examined anew at the next use."""
        self._known = {}
