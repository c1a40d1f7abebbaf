"""Storing, finding, forgetting."""

from __future__ import annotations

import os
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trt_stripped_backend.cache import EngineCache, decode, encode, open_cache
from trt_stripped_backend.cache.folder import Folder
from trt_stripped_backend.errors import BadEntry, CacheError, OptionError
from trt_stripped_backend.types import Entry, Key

from .support import entry, entry_file, key, open_at, plant

Make = Callable[..., EngineCache]
Said = Callable[[], list[str]]
A, B, C, D = (key(name) for name in "abcd")


def size_of(of: Key, plan: int) -> int:
    return len(encode(entry(of, plan), created=1.5e9 + 0.1234567))


def test_a_stored_entry_is_found_also_by_others(cache: EngineCache, make: Make) -> None:
    assert cache.get(A) is None
    assert cache.put(A, entry(A))
    assert cache.get(A) == make().get(A) == entry(A)
    assert cache.get(B) is None


def test_a_look_makes_no_directory(cache: EngineCache) -> None:
    assert cache.get(A) is None
    assert cache.entries() == cache.check() == []
    assert cache.size == 0
    assert not cache.dirs[0].exists()


def test_an_entry_is_replaced(cache: EngineCache) -> None:
    assert cache.put(A, entry(A, 5000))
    assert cache.put(A, entry(A, 10, seed=1))
    assert cache.get(A) == entry(A, 10, seed=1)
    assert [record.plan_bytes for record in cache.entries()] == [10]


def test_an_entry_of_another_key_is_not_stored(cache: EngineCache) -> None:
    with pytest.raises(ValueError, match="stored under"):
        cache.put(A, entry(B))


@pytest.mark.parametrize("digest", ["", "abc", "../../../etc/passwd", "A" * 64, "0" * 63, "0" * 65])
def test_a_key_that_is_no_digest_is_a_mistake_of_the_caller(cache: EngineCache, digest: str) -> None:
    wrong = Key(digest, {})
    cache.put(A, entry(A))
    with pytest.raises(ValueError, match="SHA-256"):
        cache.get(wrong)
    with pytest.raises(ValueError, match="SHA-256"):
        cache.put(wrong, Entry(digest, {}, b""))
    with pytest.raises(ValueError, match="SHA-256"), cache.building(wrong):
        pass


def test_a_header_that_is_no_json_costs_a_warning(cache: EngineCache, warnings_said: Said) -> None:
    assert not cache.put(A, Entry(A.digest, {"dtype": object()}, b""))
    assert len(warnings_said()) == 1
    assert cache.get(A) is None


def test_files_and_directories_are_private(cache: EngineCache) -> None:
    old = os.umask(0)
    try:
        cache.put(A, entry(A))
        with cache.building(B):
            pass
    finally:
        os.umask(old)
    for path in [cache.dirs[0], *cache.dirs[0].rglob("*")]:
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path


def test_records_tell_of_an_entry_without_its_plan(cache: EngineCache) -> None:
    one = Entry(
        A.digest,
        {"flavour": ["tensorrt_rtx", "1.7.1"], "mode": "bound", "nodes": 48, "build_seconds": 7.5, "parts": A.parts},
        bytes(500),
    )
    cache.put(A, one)
    cache.put(B, Entry(B.digest, {}, b""))
    second, first = cache.entries()
    assert (first.key, first.plan_bytes, first.build_seconds, first.parts) == (A.digest, 500, 7.5, A.parts)
    assert first.summary == "tensorrt_rtx 1.7.1, bound, 48 operators"
    assert first.size == entry_file(cache.dirs[0], A).stat().st_size
    assert first.directory == cache.dirs[0]
    assert 0 < first.created <= first.used <= second.used
    assert (second.build_seconds, second.parts, second.summary) == (None, {}, "")
    assert cache.size == first.size + second.size


def test_creation_time_outlives_use(cache: EngineCache) -> None:
    cache.put(A, entry(A))
    before = cache.entries()[0]
    cache.get(A)
    after = cache.entries()[0]
    assert after.created == before.created
    assert after.used > before.used


# ------------------------------------------------------------------------------------------------ size


def test_the_least_recently_used_entry_leaves(make: Make) -> None:
    cache = make(size_limit=3 * size_of(A, 1000) + 100)
    for one in (A, B, C):
        cache.put(one, entry(one))
    assert cache.get(A)
    assert cache.put(D, entry(D))
    assert [record.key for record in cache.entries()] == [D.digest, A.digest, C.digest]
    assert cache.get(B) is None


def test_a_store_looks_at_no_other_file_while_there_is_room(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = make(size_limit=3 * size_of(A, 1000) + 100)
    cache.put(A, entry(A))
    looks, sizes = [], Folder.sizes
    monkeypatch.setattr(Folder, "sizes", lambda self: (looks.append(self), sizes(self))[1])
    cache.put(B, entry(B))
    cache.put(C, entry(C))
    assert not looks
    cache.put(D, entry(D))
    assert looks
    assert cache.get(A) is None


def test_an_entry_larger_than_the_cache_is_refused_aloud(make: Make, warnings_said: Said) -> None:
    cache = make(size_limit=2000)
    assert cache.put(A, entry(A, 100))
    assert not cache.put(B, entry(B, 5000))
    assert not cache.put(C, entry(C, 5000))
    assert ["larger than the cache" in line for line in warnings_said()] == [True, True]
    assert cache.get(A) == entry(A, 100)


def test_replacing_counts_an_entry_once(make: Make) -> None:
    cache = make(size_limit=2 * size_of(A, 1000) + 100)
    cache.put(A, entry(A))
    cache.put(B, entry(B))
    for seed in range(5):
        assert cache.put(A, entry(A, seed=seed))
    assert cache.get(B)


def test_an_entry_that_is_read_while_it_leaves_stays_whole(make: Make) -> None:
    cache = make(size_limit=150_000)
    cache.put(A, entry(A, 100_000))
    folder = next(iter(cache._folders))
    file = folder.open(A.digest)
    assert file is not None
    with file:
        cache.put(B, entry(B, 100_000))
        assert cache.get(A) is None
        assert decode(file.read(), A) == entry(A, 100_000)


STEPS = st.lists(st.tuples(st.booleans(), st.integers(0, 5), st.integers(0, 1500)), min_size=5, max_size=40)


@settings(max_examples=20, deadline=None)
@given(STEPS)
def test_what_stays_is_what_was_used_last(steps: list[tuple[bool, int, int]]) -> None:
    limit = 4000
    model: OrderedDict[int, int] = OrderedDict()
    with tempfile.TemporaryDirectory() as directory:
        cache = open_at(Path(directory) / "cache", size_limit=limit)
        for write, number, plan in steps:
            of = key(number)
            if not write:
                assert (cache.get(of) is not None) == (number in model)
            else:
                assert cache.put(of, entry(of, plan))
                model.pop(number, None)
                size = entry_file(cache.dirs[0], of).stat().st_size
                while sum(model.values()) + size > limit:
                    model.popitem(last=False)
                model[number] = size
            if number in model:
                model.move_to_end(number)
            assert [record.key for record in cache.entries()] == [key(one).digest for one in reversed(model)]
        assert cache.check() == []


# ------------------------------------------------------------------------------------------------ blobs


def test_blobs_are_kept_beside_plans(cache: EngineCache, make: Make) -> None:
    assert cache.get_blob("runtime", "rtx 1.7.1, H200") is None
    assert cache.put_blob("runtime", "rtx 1.7.1, H200", b"first")
    assert cache.put_blob("runtime", "rtx 1.7.1, H200", b"kernels")
    assert cache.put_blob("timing", "rtx 1.7.1, H200", b"times")
    assert make().get_blob("runtime", "rtx 1.7.1, H200") == b"kernels"
    assert cache.get_blob("timing", "rtx 1.7.1, H200") == b"times"
    assert cache.get_blob("timing", "rtx 1.7.1") is None
    assert cache.entries() == []


def test_blobs_are_bounded_and_lost_without_harm(make: Make) -> None:
    cache = make(size_limit=4000)
    assert cache.put_blob("runtime", "old", bytes(3000))
    assert cache.put(A, entry(A))
    assert cache.put(B, entry(B))
    assert cache.get_blob("runtime", "old") is None
    assert cache.get(A) and cache.get(B)


def test_a_damaged_blob_is_a_miss(cache: EngineCache) -> None:
    cache.put_blob("runtime", "name", b"kernels")
    (path,) = cache.dirs[0].glob("??/*.entry")
    path.write_bytes(path.read_bytes()[:-1])
    assert cache.get_blob("runtime", "name") is None
    assert not path.exists()


# ------------------------------------------------------------------------------------------------ clearing


def test_clear_removes_everything(cache: EngineCache) -> None:
    for one in (A, B):
        cache.put(one, entry(one))
    cache.put_blob("runtime", "name", b"")
    size = cache.size
    assert cache.clear() == (3, size)
    assert cache.entries() == [] and cache.size == 0
    assert cache.put(A, entry(A)) and cache.get(A)


def test_prune_culls_to_a_size(cache: EngineCache) -> None:
    for one in (A, B, C):
        cache.put(one, entry(one))
    cache.get(A)
    assert cache.prune() == (0, 0)
    assert cache.prune(size_of(A, 1000) + 100).entries == 2
    assert [record.key for record in cache.entries()] == [A.digest]


def test_prune_removes_what_killed_processes_leave(cache: EngineCache) -> None:
    for one in (A, B, C):
        cache.put(one, entry(one))
    root = cache.dirs[0]
    (root / "tmp" / "half").write_bytes(b"\x89TRTSE")
    (root / "locks" / f"{D.digest}.lock").touch(mode=0o600)
    plant(root, D, encode(entry(D)))  # complete, and its row was never written
    entry_file(root, A).unlink()
    plant(root, B, encode(entry(B))[:-1])
    kinds = sorted(problem.kind for problem in cache.check())
    assert kinds == ["damaged", "missing", "orphan", "temporary"]
    assert cache.prune().entries == 1
    assert cache.check() == []
    assert {record.key for record in cache.entries()} == {C.digest, D.digest}
    assert [path.name for path in (root / "locks").iterdir()] == ["index.lock"]


def test_a_whole_entry_without_its_row_is_found(cache: EngineCache) -> None:
    cache.put(A, entry(A))
    plant(cache.dirs[0], B, encode(entry(B)))
    assert cache.get(B) == entry(B)


def test_deleting_the_directory_under_a_cache_only_costs_the_entries(cache: EngineCache) -> None:
    import shutil

    cache.put(A, entry(A))
    shutil.rmtree(cache.dirs[0])
    assert cache.get(A) is None
    assert cache.put(A, entry(A))
    assert cache.get(A) == entry(A)


# ------------------------------------------------------------------------------------------------ opening


def test_open_cache_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    two = f"{tmp_path / 'one'}{os.pathsep}{tmp_path / 'two'}"
    monkeypatch.setenv("TRT_STRIPPED_CACHE_DIR", two)
    monkeypatch.setenv("TRT_STRIPPED_CACHE_SIZE", "3MiB")
    monkeypatch.setenv("TRT_STRIPPED_LOCK_TIMEOUT", "7")
    cache = open_cache()
    assert cache.dirs == (tmp_path / "one", tmp_path / "two")
    assert (cache.size_limit, cache.lock_timeout) == (3 << 20, 7)
    assert open_cache(tmp_path / "three").dirs == (tmp_path / "three",)
    monkeypatch.setenv("TRT_STRIPPED_CACHE_SIZE", "much")
    with pytest.raises(OptionError, match="TRT_STRIPPED_CACHE_SIZE"):
        open_cache()


def test_errors_is_one_of_two_words(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'warn' or 'raise'"):
        open_at(tmp_path, errors="ignore")


def test_errors_raise_turns_trouble_into_exceptions(make: Make) -> None:
    cache = make(errors="raise", size_limit=5000)
    assert cache.get(A) is None
    cache.put(A, entry(A))
    plant(cache.dirs[0], A, b"foreign")
    with pytest.raises(BadEntry, match=r"not a cache entry|truncated"):
        cache.get(A)
    assert cache.get(A) is None
    with pytest.raises(CacheError, match="larger"):
        cache.put(A, entry(A, 9000))
    plant(cache.dirs[0], A, b"foreign")
    assert cache.prune().entries == 1


def test_closing_only_forgets(cache: EngineCache) -> None:
    cache.put(A, entry(A))
    cache.close()
    assert cache.get(A) == entry(A)


def test_threads_share_a_cache(cache: EngineCache) -> None:
    start = threading.Barrier(8)
    wrong: list[str] = []

    def work(number: int) -> None:
        start.wait()
        for turn in range(6):
            of = key((number + turn) % 4)
            found = cache.get(of)
            if found not in (None, entry(of)):
                wrong.append(f"bad entry {of}")
            if found is None and not cache.put(of, entry(of)):
                wrong.append(f"not stored {of}")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(cache.entries()) == 4
