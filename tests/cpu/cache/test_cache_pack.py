"""Packs, and names for what differs between keys."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trt_stripped_backend.cache import EngineCache, encode
from trt_stripped_backend.cache.diff import differences, nearest
from trt_stripped_backend.cache.pack import write_pack
from trt_stripped_backend.errors import BadEntry, CacheError
from trt_stripped_backend.types import Entry, Json

from .support import entry, entry_file, key, plant

Make = Callable[..., EngineCache]
A, B, C = (key(name) for name in "abc")


@pytest.fixture
def full(cache: EngineCache) -> EngineCache:
    for one in (A, B, C):
        cache.put(one, entry(one))
    cache.put_blob("runtime", "name", b"kernels")
    return cache


def test_a_pack_carries_all_entries_elsewhere(full: EngineCache, make: Make, tmp_path: Path) -> None:
    before = {record.key: record.created for record in full.entries()}
    assert set(full.pack(tmp_path / "fleet.pack")) == set(before)
    there = make("there")
    assert set(there.unpack(tmp_path / "fleet.pack")) == set(before)
    assert all(there.get(one) == entry(one) for one in (A, B, C))
    assert {record.key: record.created for record in there.entries()} == before
    assert there.get_blob("runtime", "name") == b"kernels"


def test_a_pack_of_chosen_entries(full: EngineCache, make: Make, tmp_path: Path) -> None:
    assert full.pack(tmp_path / "some.pack", [B, A.digest, B.digest]) == [B.digest, A.digest]
    there = make("there")
    assert there.unpack(tmp_path / "some.pack") == [B.digest, A.digest]
    assert there.get(C) is there.get_blob("runtime", "name") is None
    assert full.pack(tmp_path / "none.pack", []) == there.unpack(tmp_path / "none.pack") == []


def test_packing_what_is_not_there_writes_nothing(full: EngineCache, tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="no entry"):
        full.pack(tmp_path / "out.pack", [A, key("absent")])
    data = bytearray(entry_file(full.dirs[0], C).read_bytes())
    data[-40] ^= 1
    path = plant(full.dirs[0], C, bytes(data))
    with pytest.raises(BadEntry, match=rf"digest \({path}\): trt-stripped cache prune"):
        full.pack(tmp_path / "out.pack")
    assert not list(tmp_path.glob("*.pack*")) and not list(tmp_path.glob(".*"))
    path.unlink()
    full.prune()


def test_a_link_stays_and_a_pipe_is_written_into(full: EngineCache, make: Make, tmp_path: Path) -> None:
    real, link, pipe = tmp_path / "real.pack", tmp_path / "link.pack", tmp_path / "pipe"
    real.write_bytes(b"old")
    link.symlink_to(real)
    assert full.pack(str(link)) == full.pack(real)
    assert link.is_symlink() and make("there").unpack(str(link)) == make("there").unpack(real)
    os.mkfifo(pipe)
    with ThreadPoolExecutor(1) as reader:
        read = reader.submit(pipe.read_bytes)
        full.pack(pipe)
        assert read.result() == real.read_bytes()
    assert pipe.is_fifo()
    with pytest.raises(IsADirectoryError):
        full.pack("")


@pytest.mark.parametrize("name", ["../../evil", "", "A" * 64, "a" * 64 + "\n"])
def test_a_key_that_is_no_digest_adds_nothing(make: Make, tmp_path: Path, name: str) -> None:
    write_pack(tmp_path / "some.pack", 2, [encode(entry(A)), encode(Entry(name, {}, b""))])
    with pytest.raises(BadEntry, match="whose key is no digest"):
        make().unpack(tmp_path / "some.pack")
    assert make().entries() == []


def test_a_damaged_pack_adds_nothing(full: EngineCache, make: Make, tmp_path: Path) -> None:
    path = tmp_path / "fleet.pack"
    full.pack(path)
    data = path.read_bytes()
    chance = random.Random(0)
    there = make("there")
    for turn in range(400):
        changed = bytearray(data)
        if turn % 3 == 0:
            del changed[chance.randrange(len(data)) :]
        elif turn % 3 == 1:
            changed[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        else:
            changed += b"\0"
        path.write_bytes(changed)
        with pytest.raises(BadEntry):
            there.unpack(path)
    assert there.entries() == []


@given(st.binary(max_size=100), st.booleans())
def test_foreign_bytes_are_no_pack(tmp_path_factory: pytest.TempPathFactory, data: bytes, dressed: bool) -> None:
    from trt_stripped_backend.cache.pack import MAGIC, read_pack

    path = tmp_path_factory.getbasetemp() / "foreign.pack"
    path.write_bytes((MAGIC + b"\1\0\0\0" if dressed else b"") + data)
    with path.open("rb") as file, pytest.raises(BadEntry):
        list(read_pack(file))


def test_a_pack_larger_than_the_cache_is_refused(full: EngineCache, make: Make, tmp_path: Path) -> None:
    full.pack(tmp_path / "fleet.pack")
    small = make("small", size_limit=2500)
    with pytest.raises(CacheError, match="TRT_STRIPPED_CACHE_SIZE"):
        small.unpack(tmp_path / "fleet.pack")
    assert small.entries() == []


def test_unpacking_needs_a_directory_to_write(full: EngineCache, make: Make, tmp_path: Path) -> None:
    full.pack(tmp_path / "fleet.pack")
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    with pytest.raises(CacheError, match="no cache directory can be written"):
        EngineCache([tmp_path / "open"], size_limit=10**6, lock_timeout=0).unpack(tmp_path / "fleet.pack")


# ------------------------------------------------------------------------------------------------ differences


def parts(**changes: Json) -> dict[str, Json]:
    nodes = [
        ["input", {"shape": [2, 8], "dtype": "float32"}],
        ["aten.relu.default", {"self": {"node": 0}}, ["float32", [2, 8]]],
        ["aten.sub.Tensor", {"self": {"node": 1}, "other": {"node": 0}}, ["float32", [2, 8]]],
    ]
    return {
        "format": 1,
        "graph": {"nodes": nodes, "outputs": [[2, {"shape": [2, 8]}]]},
        "options": {"workspace_size": None, "optimization_level": 3},
        "flavour": ["tensorrt_rtx", "1.7.1"],
        "gpu": "NVIDIA H200",
        "device": {"name": "NVIDIA H200", "capability": [9, 0]},
        **changes,
    }


def changed_graph(index: int, position: int, value: Json) -> dict[str, Json]:
    other = parts()
    other["graph"]["nodes"][index][position] = value
    return other


@pytest.mark.parametrize(
    ("other", "names"),
    [
        (parts(), []),
        (parts(options={"workspace_size": 1 << 30, "optimization_level": 3}), ["options.workspace_size"]),
        (parts(options={"workspace_size": None}), ["options.optimization_level"]),
        (parts(gpu="NVIDIA L4"), ["gpu"]),
        (parts(flavour=["tensorrt_rtx", "1.6.1"]), ["flavour"]),
        (parts(device={"name": "NVIDIA L4", "capability": [8, 9]}), ["device.name", "device.capability"]),
        (parts(extra={"new": True}), ["extra.new"]),
        (changed_graph(2, 1, {"self": {"node": 0}, "other": {"node": 1}}), ["node 2 args"]),
        (changed_graph(1, 0, "aten.tanh.default"), ["node 1 target"]),
        (parts(graph={"nodes": parts()["graph"]["nodes"], "outputs": [[1, {"shape": [2, 8]}]]}), ["graph.outputs.0.0"]),
        (
            parts(graph={**parts()["graph"], "nodes": parts()["graph"]["nodes"][:2]}),
            ["node 2 target", "node 2 args"],
        ),
    ],
)
def test_differences_have_names_that_one_recognises(other: dict[str, Json], names: list[str]) -> None:
    assert [one.part for one in differences(parts(), other)] == names
    assert [(one.part, one.left, one.right) for one in differences(parts(), other)] == [
        (one.part, one.right, one.left) for one in differences(other, parts())
    ]


def test_true_and_one_differ() -> None:
    assert [one.part for one in differences({"a": True}, {"a": 1})] == ["a"]


def test_the_nearest_key_shares_most_parts_then_most_details() -> None:
    far = {"format": 1, "graph": {"nodes": []}}
    option = parts(options={"workspace_size": 1, "optimization_level": 3})
    two = parts(options={"workspace_size": 1, "optimization_level": 5}, gpu="NVIDIA L4")
    node = changed_graph(1, 0, "aten.tanh.default")
    everything = changed_graph(1, 0, "aten.tanh.default")
    everything["graph"]["nodes"][0] = everything["graph"]["nodes"][2] = ["other"]
    assert nearest(parts(), []) is None
    assert nearest(parts(), [far, two, option]) is option
    assert nearest(parts(), [everything, node, far]) is node


def test_a_miss_is_explained_by_the_nearest_entry(cache: EngineCache) -> None:
    wanted = key("wanted", **parts())
    assert cache.explain_miss(wanted) == []
    for name, stored in {
        "far": parts(flavour=["tensorrt", "10.9"], gpu="NVIDIA L4", options={}),
        "near": parts(options={"workspace_size": 5, "optimization_level": 3}),
    }.items():
        one = key(name)
        cache.put(one, Entry(one.digest, {"parts": {"name": "wanted", **stored}}, b""))
    assert cache.explain_miss(wanted) == ["options.workspace_size"]
    cache.put(wanted, entry(wanted))
    assert cache.explain_miss(wanted) == ["options.workspace_size"], "also after it was built"
    nothing = key("no parts")
    cache.put(nothing, Entry(nothing.digest, {}, b""))
    assert cache.explain_miss(wanted) == ["options.workspace_size"]
