"""The bytes of one cache entry: a header (JSON) and a plan, with a digest over both.

::

    offset   size  what
    0        8     magic: 89 54 52 54 53 45 0D 0A ("\\x89TRTSE\\r\\n"; the line end shows a transfer in text mode)
    8        4     format version, unsigned, little endian
    12       4     header length H, unsigned, little endian
    16       H     header: canonical JSON (ASCII, sorted keys, no spaces)
    16+H     P     plan, as TensorRT serialized it
    16+H+P   32    SHA-256 of all before

The JSON is ``{"created": Unix seconds, "header": Entry.header, "key": digest, "plan_bytes": P}``. Nothing of it is
looked at before the SHA-256 has been compared, and nothing in it can run.
"""

from __future__ import annotations

import hashlib
import io
import json
import struct
import time
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from ..errors import BadEntry
from ..types import Entry, Json, Key

MAGIC = b"\x89TRTSE\r\n"
FORMAT = 1

_HEAD = struct.Struct("<8sII")
_DIGEST_SIZE = hashlib.sha256().digest_size


class OtherVersion(BadEntry):
    """An entry of an older or newer format: a miss like any other, but nothing is wrong with it."""


@dataclass(frozen=True)
class Envelope:
    """What stands before the plan: whose entry it is, when it was made (Unix seconds), its header, the plan's size."""

    key: str
    created: float
    header: dict[str, Json] = field(repr=False)
    plan_bytes: int


def canonical(value: Json) -> bytes:
    """JSON with one spelling for each value; infinities and NaN are written as Python's ``json`` does."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode("ascii")


def encode(entry: Entry, *, created: float | None = None) -> bytes:
    """The entry as bytes; ``created`` is now unless given.

    Raises:
        TypeError, ValueError: the header is not JSON.
    """
    text = canonical(
        {
            "created": time.time() if created is None else created,
            "header": entry.header,
            "key": entry.key,
            "plan_bytes": len(entry.plan),
        }
    )
    parts = (_HEAD.pack(MAGIC, FORMAT, len(text)), text, entry.plan)
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return b"".join((*parts, digest.digest()))


def decode(data: bytes, key: Key | str | None = None) -> Entry:
    """The entry in ``data``; with ``key``, only if it is that key's.

    Raises:
        BadEntry: truncated, changed, of another format version, or another key's.
    """
    return read(io.BytesIO(data), len(data), key)


def read(file: BinaryIO, size: int, key: Key | str | None = None) -> Entry:
    """As :func:`decode`, from a file of ``size`` bytes; the plan is read once and not copied."""
    head, text = _read_start(file, size)
    plan = _exactly(file, size - len(head) - len(text) - _DIGEST_SIZE)
    found = _exactly(file, _DIGEST_SIZE)
    digest = hashlib.sha256(head)
    digest.update(text)
    digest.update(plan)
    if file.read(1) or digest.digest() != found:
        raise BadEntry("a cache entry does not match its digest")
    envelope = _parse(text)
    if envelope.plan_bytes != len(plan):
        raise BadEntry(f"a cache entry holds {len(plan)} bytes of plan where its header says {envelope.plan_bytes}")
    if key is not None and envelope.key != str(key):
        raise BadEntry(f"a cache entry of key {envelope.key} lies where {key} should be")
    return Entry(envelope.key, envelope.header, plan)


def peek(file: BinaryIO, size: int) -> Envelope:
    """What stands before the plan, **not verified**: for listings, never for use.

    Raises:
        BadEntry: what can be seen without reading the plan is wrong.
    """
    head, text = _read_start(file, size)
    envelope = _parse(text)
    if len(head) + len(text) + envelope.plan_bytes + _DIGEST_SIZE != size:
        raise BadEntry(f"a cache entry is {size} bytes long, which its header contradicts")
    return envelope


def _read_start(file: BinaryIO, size: int) -> tuple[bytes, bytes]:
    head = _exactly(file, _HEAD.size)
    magic, version, length = _HEAD.unpack(head)
    if magic != MAGIC:
        raise BadEntry("not a cache entry")
    if version != FORMAT:
        raise OtherVersion(f"a cache entry of format {version}; this is format {FORMAT}")
    if _HEAD.size + length + _DIGEST_SIZE > size:
        raise BadEntry("a truncated cache entry")
    return head, _exactly(file, length)


def _exactly(file: BinaryIO, count: int) -> bytes:
    data = file.read(count)
    if len(data) != count:
        raise BadEntry("a truncated cache entry")
    return data


def _parse(text: bytes) -> Envelope:
    try:
        data: Any = json.loads(text)
        envelope = Envelope(data["key"], data["created"], data["header"], data["plan_bytes"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BadEntry(f"a cache entry with an unreadable header ({type(error).__name__})") from error
    kinds = ((envelope.key, str), (envelope.created, (int, float)), (envelope.header, dict), (envelope.plan_bytes, int))
    if not all(isinstance(value, kind) for value, kind in kinds):
        raise BadEntry("a cache entry with an unreadable header")
    return envelope
