"""The file of a stored program: what is read is what was written, or a BadEntry."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors
import torch
from hypothesis import given
from hypothesis import strategies as st

from trt_stripped_backend.errors import BadEntry
from trt_stripped_backend.programs import container, graph
from trt_stripped_backend.programs.export import traced
from trt_stripped_backend.programs.flat import flat
from trt_stripped_backend.programs.program import StrippedProgram

CONTENT = {"engines": [{"key": "k", "slots": []}], "text": "größer", "number": 1.5, "none": None}
BLOBS = {"program": b"\0\1\2" * 50, "plan/k": b"plan", "value/empty": b""}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("container") / "whole"
    container.write(path, CONTENT, BLOBS)
    return path.read_bytes()


def read(data: bytes, folder: Path) -> Any:
    path = folder / "file"
    path.write_bytes(data)
    return container.read(path)


def test_round_trip(whole: bytes, tmp_path: Path) -> None:
    assert read(whole, tmp_path) == (CONTENT, BLOBS)


def test_it_is_a_safetensors_file(whole: bytes, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(whole)
    with safetensors.safe_open(path, framework="pt") as file:
        assert set(file.keys()) == {"sha256", *BLOBS}
        for name, blob in BLOBS.items():
            assert bytes(file.get_tensor(name).numpy().tobytes()) == blob
        assert file.metadata()["version"] == str(container.FORMAT)


@given(st.data())
def test_a_changed_bit_is_found(whole: bytes, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    position = data.draw(st.integers(0, len(whole) - 1))
    bit = data.draw(st.integers(0, 7))
    changed = bytearray(whole)
    changed[position] ^= 1 << bit
    with pytest.raises(BadEntry):
        read(bytes(changed), tmp_path_factory.getbasetemp())


@given(st.data())
def test_a_cut_or_grown_file_is_found(
    whole: bytes, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    length = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(BadEntry):
        read(whole[:length], tmp_path_factory.getbasetemp())
    with pytest.raises(BadEntry, match="added to it"):
        read(whole + data.draw(st.binary(min_size=1, max_size=9)), tmp_path_factory.getbasetemp())


@given(st.binary(max_size=200))
def test_anything_else_is_found(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    for start in (b"", struct.pack("<Q", len(data)) + container._START):
        with pytest.raises(BadEntry):
            read(start + data, tmp_path_factory.getbasetemp())


def test_a_foreign_safetensors_file_is_told(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"weight": torch.zeros(3)}, tmp_path / "model.safetensors")
    with pytest.raises(BadEntry, match=r"model\.safetensors is not a stripped program"):
        container.read(tmp_path / "model.safetensors")


def test_a_newer_format_is_told(whole: bytes, tmp_path: Path) -> None:
    newer = whole.replace(b'"version":"1"', b'"version":"2"')
    with pytest.raises(BadEntry, match="has format 2, and this version of trt_stripped_backend reads 1: export again"):
        read(newer, tmp_path)


def signed(header: dict[str, Any], rest: bytes) -> bytes:
    """A file with a right digest over a header of anybody's making."""
    import hashlib

    text = json.dumps(header, separators=(",", ":")).encode()
    head = len(text).to_bytes(8, "little") + text
    return head + hashlib.sha256(head).digest() + rest


METADATA = {"format": "trt_stripped_backend", "version": "1"}
CRAFTED: list[dict[str, Any]] = [
    METADATA,
    {**METADATA, "content": "1", "digests": "[]"},
    {**METADATA, "content": "{", "digests": "{}"},
    {**METADATA, "content": 1, "digests": 2},
    {**METADATA, "content": "[" * 100_000, "digests": "{}"},
]


@pytest.mark.parametrize("metadata", CRAFTED, ids=range(len(CRAFTED)))
def test_a_header_that_makes_no_sense(metadata: dict[str, Any], tmp_path: Path) -> None:
    blob = {"dtype": "U8", "shape": [4], "data_offsets": [32, 36]}
    with pytest.raises(BadEntry):
        read(signed({"__metadata__": metadata, "blob": blob}, b"data"), tmp_path)


def test_content_that_makes_no_sense(tmp_path: Path) -> None:
    for number, content in enumerate(({}, [], {"engines": 3}, {"engines": [{}]}, {"engines": [], "report": {}})):
        container.write(tmp_path / str(number), content, {"program": b""})
        with pytest.raises(BadEntry, match="cannot read"):
            StrippedProgram.load(tmp_path / str(number))
    container.write(tmp_path / "less", CONTENT, {"program": b""})
    with pytest.raises(BadEntry, match="lacks plan/k"):
        StrippedProgram.load(tmp_path / "less")


def test_a_link_stays_one(whole: bytes, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("real")
    container.write(tmp_path / "link", CONTENT, BLOBS)
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real").read_bytes() == whole


class Constant(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.constant = torch.arange(4.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.constant


def archive(change: Callable[[str, bytes], bytes]) -> bytes:
    """The PyTorch part of a program with a constant, changed member by member."""
    made, changed = graph.dump(flat(traced(Constant(), (torch.ones(4),), None, None)).program), io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(made)) as old, zipfile.ZipFile(changed, "w") as new:
        for one in old.infolist():
            new.writestr(one, change(one.filename, old.read(one)))
    return changed.getvalue()


def samples(name: str, data: bytes) -> bytes:
    return pickle.dumps(print) if name.endswith("sample_inputs/model.pt") else data


def flagged(name: str, data: bytes) -> bytes:
    return data.replace(b'"use_pickle": false', b'"use_pickle": true') if name.endswith("_config.json") else data


def renamed(name: str, data: bytes) -> bytes:
    return data.replace(b'"tensor_0"', b'"opaque_obj_0"') if name.endswith("_config.json") else data


@pytest.mark.parametrize("change", [samples, flagged, renamed])
def test_nothing_is_unpickled(change: Callable[[str, bytes], bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    assert graph.parse(archive(lambda _, data: data)).constants
    monkeypatch.setattr(torch.export, "load", None)
    with pytest.raises(BadEntry, match="holds a pickle"):
        graph.parse(archive(change))


def test_a_failed_write_leaves_what_was_there(
    whole: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_bytes(whole)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        container.write(path, {"other": 1}, BLOBS)
    assert path.read_bytes() == whole
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(FileNotFoundError):
        container.write(tmp_path / "missing" / "file", CONTENT, BLOBS)
    with pytest.raises(FileNotFoundError):
        container.read(tmp_path / "nothing")
