"""Listing, cleaning, packing and unpacking of cache directories."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path

from ..errors import BadEntry, CacheError
from .entry import Envelope, decode, peek
from .files import open_private
from .folder import Folder
from .folders import Folders
from .pack import read_pack, write_pack
from .records import Freed, Record


def records(folder: Folder, latest: int | None = None) -> Iterator[Record]:
    """Entries of a directory (the ``latest`` used), last used first; blobs and what cannot be read are left out."""
    for digest, info in islice(reversed(folder.sizes().items()), latest):
        envelope = _peek(folder, digest)
        if envelope and not _is_blob(envelope):
            yield Record.of(envelope, used=info.st_mtime_ns / 1e9, size=info.st_size, directory=folder.path)


def blobs(folder: Folder) -> Iterator[str]:
    """Digests of what is kept in a directory beside entries."""
    for digest in folder.sizes():
        envelope = _peek(folder, digest)
        if envelope and _is_blob(envelope):
            yield digest


def _is_blob(envelope: Envelope) -> bool:
    return "blob" in envelope.header


def _peek(folder: Folder, digest: str) -> Envelope | None:
    try:
        with open_private(folder.file(digest)) as file:
            return peek(file, os.fstat(file.fileno()).st_size)
    except (BadEntry, OSError):
        return None


def prune(folders: Folders, folder: Folder, limit: int) -> Freed:
    """Removes damaged entries and left-overs from a directory, mends its index, and culls down to ``limit`` bytes."""

    def act() -> None:
        for digest in folder.sizes():
            with suppress(BadEntry):  # removed, which is what was asked for
                folders.read_from(folder, digest)
        folder.prune(limit)

    return measured(folder, act)


def measured(folder: Folder, act: Callable[[], None]) -> Freed:
    """What ``act`` removed from a directory."""
    before = folder.sizes()
    act()
    after = folder.sizes()
    gone = [before[digest].st_size for digest in before if digest not in after]
    return Freed(len(gone), sum(gone))


def pack(folders: Folders, path: Path, digests: list[str]) -> None:
    """Writes the entries of ``digests`` to one file.

    Raises:
        CacheError: there is no such entry.
        BadEntry: one is damaged.
        OSError: ``path`` cannot be written.
    """
    write_pack(path, len(digests), (_verified(folders, digest) for digest in digests))


def _verified(folders: Folders, digest: str) -> bytes:
    for folder in folders:
        file = folder.open(digest)
        if file is not None:
            with file:
                data = file.read()
            try:
                decode(data, digest)
            except BadEntry as error:
                where = folder.file(digest)
                raise BadEntry(f"{error} ({where}): trt-stripped cache prune removes it") from error
            return data
    raise CacheError(f"the cache has no entry {digest}")


def unpack(folder: Folder, path: Path) -> list[str]:
    """Adds what a pack holds to a directory, after all of it was verified; keys of the entries, without the blobs.

    Raises:
        BadEntry: the file is no pack, or damaged; then nothing was added.
        CacheError: the directory could not be written, or would have to hold too much.
        OSError: ``path`` cannot be read.
    """
    with path.open("rb") as file:
        total = sum(len(data) for _, data in read_pack(file))
        if total > folder.size_limit:
            raise CacheError(
                f"{path} holds {total} bytes of entries, the cache may hold {folder.size_limit}: "
                "raise TRT_STRIPPED_CACHE_SIZE"
            )
        file.seek(0)
        keys = []
        for digest, data in read_pack(file):
            folder.store(digest, data)
            if not _is_blob(peek(io.BytesIO(data), len(data))):
                keys.append(digest)
    return keys
