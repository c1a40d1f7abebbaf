"""The bytes of an entry."""

from __future__ import annotations

import hashlib
import io
import json
import random
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trt_stripped_backend.cache import decode, encode
from trt_stripped_backend.cache.entry import FORMAT, OtherVersion, canonical, peek
from trt_stripped_backend.errors import BadEntry
from trt_stripped_backend.types import Entry

from .support import entry, key

KEY = key("a model")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def sealed(head: bytes, text: bytes, plan: bytes) -> bytes:
    """An entry with any content and the right digest."""
    data = head + text + plan
    return data + hashlib.sha256(data).digest()


@given(header=st.dictionaries(st.text(), JSON, max_size=5), plan=st.binary(max_size=300))
def test_what_goes_in_comes_out(header: dict[str, object], plan: bytes) -> None:
    one = Entry(KEY.digest, header, plan)
    data = encode(one)
    assert decode(data) == one
    assert decode(data, KEY) == decode(data, KEY.digest) == one


def test_bytes_lie_where_the_docstring_says() -> None:
    one = entry(KEY, 50)
    data = encode(one, created=12.5)
    magic, version, length = struct.unpack("<8sII", data[:16])
    assert (magic, version) == (b"\x89TRTSE\r\n", FORMAT)
    text = data[16 : 16 + length]
    assert json.loads(text) == {"created": 12.5, "header": one.header, "key": KEY.digest, "plan_bytes": 50}
    assert text == canonical(json.loads(text))
    assert data[16 + length : -32] == one.plan
    assert data[-32:] == hashlib.sha256(data[:-32]).digest()
    assert encode(one, created=12.5) == data


def test_every_truncation_and_every_flipped_bit_is_seen() -> None:
    data = encode(entry(KEY, 20))
    for length in range(len(data)):
        with pytest.raises(BadEntry):
            decode(data[:length], KEY)
    for bit in range(8 * len(data)):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(BadEntry):
            decode(bytes(changed), KEY)
    with pytest.raises(BadEntry):
        decode(data + b"\0", KEY)


@settings(max_examples=500)
@given(st.binary(max_size=200), st.booleans())
def test_foreign_bytes_are_no_entry(data: bytes, dressed: bool) -> None:
    with pytest.raises(BadEntry):
        decode((b"\x89TRTSE\r\n" + struct.pack("<I", FORMAT) if dressed else b"") + data)


def test_another_keys_entry_is_refused() -> None:
    with pytest.raises(BadEntry, match="where"):
        decode(encode(entry(KEY)), key("another"))


@pytest.mark.parametrize("version", [0, FORMAT + 1, 2**32 - 1])
def test_older_and_newer_formats_are_told_apart_from_damage(version: int) -> None:
    with pytest.raises(OtherVersion):
        decode(sealed(struct.pack("<8sII", b"\x89TRTSE\r\n", version, 2), b"{}", b""))


@pytest.mark.parametrize(
    "text",
    [
        b"", b"{", b"[]", b"null", b"{}", b"\xff\xfe", b"[" * 100_000,
        b'{"created": 0, "header": [], "key": "", "plan_bytes": 0}',
        b'{"created": 0, "header": {}, "key": 5, "plan_bytes": 0}',
        b'{"created": "", "header": {}, "key": "", "plan_bytes": 0}',
        b'{"created": 0, "header": {}, "key": "", "plan_bytes": 7}',
        b'{"created": 0, "header": {}, "key": "", "plan_bytes": null}',
    ],
)  # fmt: skip
def test_a_header_with_a_right_digest_and_wrong_content_is_refused(text: bytes) -> None:
    data = sealed(struct.pack("<8sII", b"\x89TRTSE\r\n", FORMAT, len(text)), text, b"")
    for look in (lambda: decode(data), lambda: peek(io.BytesIO(data), len(data))):
        with pytest.raises(BadEntry):
            look()


def test_a_length_that_the_file_does_not_have_allocates_nothing() -> None:
    with pytest.raises(BadEntry, match="truncated"):
        decode(struct.pack("<8sII", b"\x89TRTSE\r\n", FORMAT, 2**32 - 1) + bytes(100))


def test_peek_reads_all_but_the_plan() -> None:
    data = encode(entry(KEY, 5000), created=3)
    file = io.BytesIO(data)
    found = peek(file, len(data))
    assert (found.key, found.created, found.plan_bytes) == (KEY.digest, 3, 5000)
    assert found.header == entry(KEY, 5000).header
    assert file.tell() < len(data) - 5000
    with pytest.raises(BadEntry, match="contradicts"):
        peek(io.BytesIO(data), len(data) - 1)


def test_infinite_literals_survive() -> None:
    one = Entry(KEY.digest, {"fill": [float("-inf"), 1e308]}, b"")
    assert decode(encode(one)) == one


def test_a_header_that_is_no_json_is_not_encoded() -> None:
    with pytest.raises(TypeError):
        encode(Entry(KEY.digest, {"dtype": object()}, b""))


def test_random_damage_of_a_large_entry_is_seen() -> None:
    chance = random.Random(0)
    data = encode(entry(KEY, 200_000))
    for _ in range(200):
        changed = bytearray(data)
        start = chance.randrange(len(data))
        changed[start : start + chance.randrange(1, 4096)] = chance.randbytes(chance.randrange(4096))
        if bytes(changed) != data:
            with pytest.raises(BadEntry):
                decode(bytes(changed), KEY)
