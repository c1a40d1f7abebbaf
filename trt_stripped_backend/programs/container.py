"""One file of named blobs, each byte of it under a SHA-256. It is a safetensors file, so other tools can list it.

::

    offset  size  what
    0       8     header length H, unsigned, little endian
    8       H     header: JSON, filled up with spaces
    8+H     32    SHA-256 of all before: the blob "sha256"
    40+H    …     the other blobs, in order, without gaps

The JSON is ``{"__metadata__": {"format", "version", "content", "digests"}, name: {"dtype": "U8", "shape": [bytes],
"data_offsets": [begin, end]}, …}``, where ``content`` is what the blobs are about and ``digests`` their SHA-256, both
as JSON texts, because safetensors has strings there. Nothing is looked at before its SHA-256 has been compared, and
nothing in the header can run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..cache.files import write_whole
from ..errors import BadEntry
from ..types import Json

FORMAT = 1

_START = b'{"__metadata__":{"format":"trt_stripped_backend","version":"'
_DIGEST = "sha256"
_DIGEST_SIZE = hashlib.sha256().digest_size


def write(path: Path, content: Json, blobs: Mapping[str, bytes]) -> None:
    """Puts a file at ``path``, see :func:`~..cache.files.write_whole`.

    Raises:
        OSError: the disk is full, the folder is missing, …; then nothing is left behind.
    """
    head = _head(content, blobs)
    write_whole(path, [head, hashlib.sha256(head).digest(), *blobs.values()])


def _head(content: Json, blobs: Mapping[str, bytes]) -> bytes:
    metadata = {
        "format": "trt_stripped_backend",
        "version": str(FORMAT),
        "content": _json(content),
        "digests": _json({name: hashlib.sha256(blob).hexdigest() for name, blob in blobs.items()}),
    }
    header: dict[str, Json] = {"__metadata__": metadata}
    begin = 0
    for name, size in [(_DIGEST, _DIGEST_SIZE), *((name, len(blob)) for name, blob in blobs.items())]:
        header[name] = {"dtype": "U8", "shape": [size], "data_offsets": [begin, begin + size]}
        begin += size
    text = _json(header).encode("ascii")
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _json(value: Json) -> str:
    return json.dumps(value, separators=(",", ":"))


def read(path: Path) -> tuple[Json, dict[str, bytes]]:
    """What :func:`write` was given.

    Raises:
        BadEntry: truncated, changed, of another format version, or something else altogether.
        OSError: it cannot be read.
    """
    try:
        return _parsed(path.read_bytes())
    except BadEntry as error:
        raise BadEntry(f"{path} {error}") from None


def _parsed(data: bytes) -> tuple[Json, dict[str, bytes]]:
    if data[8 : 8 + len(_START)] != _START:
        raise BadEntry("is not a stripped program: StrippedProgram.save writes those")
    version = data[8 + len(_START) :][:20].partition(b'"')[0]
    if version != str(FORMAT).encode():
        found = version.decode("ascii", "replace")
        raise BadEntry(f"has format {found}, and this version of trt_stripped_backend reads {FORMAT}: export again")
    end = 8 + int.from_bytes(data[:8], "little")
    start = end + _DIGEST_SIZE
    if start > len(data):
        raise BadEntry("is truncated: copy it again")
    if hashlib.sha256(data[:end]).digest() != data[end:start]:
        raise BadEntry("is damaged: its header does not match its SHA-256: copy it again")
    try:
        header: Any = json.loads(data[8:end])
        metadata = header.pop("__metadata__")
        content, digests = json.loads(metadata["content"]), json.loads(metadata["digests"])
        places = {name: one["data_offsets"] for name, one in header.items() if name != _DIGEST}
        blobs = {name: data[end + first : end + last] for name, (first, last) in places.items()}
        wanted = {name: digests[name] for name in places}
        total = sum(last - first for first, last in places.values())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BadEntry(f"has an unreadable header ({type(error).__name__}): export again") from error
    if total != len(data) - start:
        raise BadEntry("is truncated, or something was added to it: copy it again")
    for name, blob in blobs.items():
        if hashlib.sha256(blob).hexdigest() != wanted[name]:
            raise BadEntry(f"is damaged: its blob {name} does not match its SHA-256: copy it again")
    return content, blobs
