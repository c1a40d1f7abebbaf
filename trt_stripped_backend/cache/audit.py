"""The audit of one cache directory: every file looked at, every digest computed."""

from __future__ import annotations

import os
import re
import stat
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import diskcache

from ..errors import BadEntry, CacheError
from .disk import COMPANIONS, DATABASE, Index
from .entry import OtherVersion, read
from .files import ENTRY_NAME, TEMPORARY, distrust, open_private
from .folder import Folder
from .lock import LOCKS
from .records import Problem

_DIRECTORY = re.compile(f"[0-9a-f]{{2}}|{LOCKS}|{TEMPORARY}")
_FILE = re.compile(rf"{re.escape(DATABASE)}({'|'.join(COMPANIONS)})?|{LOCKS}/[^/]+\.lock|{TEMPORARY}/[^/]+")


class _Snapshot(NamedTuple):
    """The directory while nobody wrote to it."""

    rows: set[str]
    files: dict[str, os.stat_result]
    temporary: list[Path]
    complaints: list[str]


def audit(folder: Folder) -> Iterator[Problem]:
    """Everything that is wrong with a directory. Entries of another format version are misses, not problems."""
    files = folder.sizes()
    if folder.writable:
        try:
            seen = folder.inspect(lambda index: _snapshot(folder, index))
        except CacheError as error:
            yield Problem("index", folder.path / DATABASE, str(error))
        else:
            files = seen.files
            yield from _compare(folder, seen)
    for digest in files:
        yield from _verify(folder, digest)
    for path in folder.path.rglob("*"):
        yield from _look(path, path.relative_to(folder.path))
    total = sum(info.st_size for info in files.values())
    if folder.writable and total > folder.size_limit:
        yield Problem("size", folder.path, f"{total} bytes of entries, {folder.size_limit} allowed")


def _snapshot(folder: Folder, index: Index) -> _Snapshot:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        # diskcache knows neither the locks nor the temporary files.
        ours = (diskcache.UnknownFileWarning, diskcache.EmptyDirWarning)
        complaints = [str(found.message) for found in index.check() if not issubclass(found.category, ours)]
    temporary = list((folder.path / TEMPORARY).glob("*"))
    return _Snapshot(set(index), folder.sizes(), temporary, complaints)


def _compare(folder: Folder, seen: _Snapshot) -> Iterator[Problem]:
    for complaint in seen.complaints:
        if not complaint.startswith(("file not found", "wrong file size")):  # told below, and by the entry's digest
            yield Problem("index", folder.path / DATABASE, complaint)
    for path in seen.temporary:
        yield Problem("temporary", path, "left by a writer that was killed; prune removes it")
    for digest in sorted(seen.files.keys() - seen.rows):
        yield Problem("orphan", folder.file(digest), "the index does not know this entry; prune or a hit takes it in")
    for digest in sorted(seen.rows - seen.files.keys()):
        yield Problem("missing", folder.file(digest), "the index names it and its file is gone; prune mends that")


def _verify(folder: Folder, digest: str) -> Iterator[Problem]:
    path = folder.file(digest)
    try:
        with open_private(path) as file:
            read(file, os.fstat(file.fileno()).st_size, digest)
    except (FileNotFoundError, OtherVersion):
        return  # culled meanwhile; or a miss like any other
    except (BadEntry, OSError) as error:
        yield Problem("damaged", path, str(error))


def _look(path: Path, name: Path) -> Iterator[Problem]:
    try:
        info = path.lstat()
    except FileNotFoundError:
        return  # culled meanwhile
    if stat.S_ISDIR(info.st_mode):
        ours = _DIRECTORY.fullmatch(str(name))
    else:
        ours = _FILE.fullmatch(name.as_posix()) or ENTRY_NAME.fullmatch(name.as_posix())
    if not ours:
        yield Problem("unknown", path, "nothing of the cache's")
    elif stat.S_ISLNK(info.st_mode):
        yield Problem("permission", path, "it is a symbolic link")
    elif distrust(info):
        yield Problem("permission", path, distrust(info))
