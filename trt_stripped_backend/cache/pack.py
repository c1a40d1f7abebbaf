"""Several entries in one file, so that a fleet gets prebuilt engines without sharing a disk.

::

    offset   size   what
    0        8      magic: 89 54 52 54 53 50 0D 0A ("\\x89TRTSP\\r\\n")
    8        4      format version, unsigned, little endian
    12       4      number of entries N, unsigned, little endian
    16              N times: length L (8 bytes, unsigned, little endian), then an entry of L bytes (format: entry.py)
    end-32   32     SHA-256 of all before

Unpacking verifies this digest and each entry's own before it adds the first one. The digests protect against damage,
not against an author: a plan is code, so unpack only what you would also run.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from ..errors import BadEntry
from .entry import OtherVersion, decode
from .files import DIGEST, write_whole

MAGIC = b"\x89TRTSP\r\n"
FORMAT = 1

_HEAD = struct.Struct("<8sII")
_LENGTH = struct.Struct("<Q")
_DIGEST_SIZE = hashlib.sha256().digest_size


def write_pack(path: Path, count: int, entries: Iterable[bytes]) -> None:
    """Writes ``count`` entries to ``path``, all or nothing.

    Raises:
        OSError: ``path`` cannot be written.
    """

    def digested() -> Iterator[bytes]:
        digest = hashlib.sha256()
        for part in _parts(count, entries):
            digest.update(part)
            yield part
        yield digest.digest()

    write_whole(path, digested())


def _parts(count: int, entries: Iterable[bytes]) -> Iterator[bytes]:
    yield _HEAD.pack(MAGIC, FORMAT, count)
    for data in entries:
        yield _LENGTH.pack(len(data))
        yield data


def read_pack(file: BinaryIO) -> Iterator[tuple[str, bytes]]:
    """Key and bytes of each entry, each verified; whether the file is whole is known only when the last one was taken.

    Raises:
        BadEntry: not a pack, or truncated, or changed.
    """
    size = os.fstat(file.fileno()).st_size
    digest = hashlib.sha256()

    def take(count: int) -> bytes:
        if count > size - file.tell() - _DIGEST_SIZE:
            raise BadEntry("a truncated pack")
        data = file.read(count)
        digest.update(data)
        return data

    magic, version, count = _HEAD.unpack(take(_HEAD.size))
    if magic != MAGIC:
        raise BadEntry("not a pack of cache entries")
    if version != FORMAT:
        raise OtherVersion(f"a pack of format {version}; this is format {FORMAT}")
    for _ in range(count):
        data = take(_LENGTH.unpack(take(_LENGTH.size))[0])
        key = decode(data).key
        if not DIGEST.fullmatch(key):  # it would be the name of a file
            raise BadEntry("a pack holds an entry whose key is no digest")
        yield key, data
    if file.read() != digest.digest():
        raise BadEntry("a pack does not match its digest")
