"""What a cache does not use: other users' files, links, pickles, damaged indexes, full and read-only disks."""

from __future__ import annotations

import os
import pickle
import random
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import diskcache
import pytest

from trt_stripped_backend.cache import EngineCache, encode
from trt_stripped_backend.cache.disk import Disk
from trt_stripped_backend.cache.entry import FORMAT
from trt_stripped_backend.errors import CacheError

from .support import entry, entry_file, key, open_at, plant

Make = Callable[..., EngineCache]
Said = Callable[[], list[str]]
A, B, C, D = (key(name) for name in "abcd")


# ------------------------------------------------------------------------------------------------ directories


def refused(cache: EngineCache, said: Said, why: str) -> None:
    """The cache does nothing with its directory, and says so once."""
    for _ in range(2):
        assert cache.get(A) is None
        assert not cache.put(A, entry(A))
        with cache.building(A) as found:
            assert found is None
    (problem,) = cache.check()
    assert problem.kind == "directory" and why in problem.message
    assert sum(why in line for line in said()) == 1
    loud = EngineCache(cache.dirs, size_limit=1 << 20, lock_timeout=0, errors="raise")
    with pytest.raises(CacheError, match=why):
        loud.get(A)


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702])
def test_a_directory_that_others_may_write_is_refused(tmp_path: Path, mode: int, warnings_said: Said) -> None:
    directory = tmp_path / "open"
    open_at(directory).put(A, entry(A))
    directory.chmod(mode)
    refused(open_at(directory), warnings_said, f"chmod go-w {directory}")
    directory.chmod(0o700)
    assert open_at(directory).get(A) == entry(A)


def test_another_users_directory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, warnings_said: Said
) -> None:
    directory = tmp_path / "theirs"
    open_at(directory).put(A, entry(A))
    if os.geteuid() == 0:
        os.chown(directory, 12345, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: directory.stat().st_uid + 1)
    refused(open_at(directory), warnings_said, "it belongs to user")


def test_a_directory_for_everyone_is_not_to_be_closed(tmp_path: Path, warnings_said: Said) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o1777)
    refused(open_at(tmp_path / "shared"), warnings_said, f"name a directory inside, such as {tmp_path / 'shared'}/")
    assert warnings_said()[0].startswith("cache directory ")


def test_a_linked_directory_is_refused_and_its_target_named(tmp_path: Path, warnings_said: Said) -> None:
    directory, link = tmp_path / "real", tmp_path / "link"
    open_at(directory).put(A, entry(A))
    link.symlink_to(directory)
    refused(open_at(link), warnings_said, f"name {directory}")


def test_a_file_in_its_place_is_no_directory(tmp_path: Path, warnings_said: Said) -> None:
    (tmp_path / "file").write_text("hello")
    refused(open_at(tmp_path / "file"), warnings_said, "is not a directory")
    assert (tmp_path / "file").read_text() == "hello"


def test_a_name_that_diskcache_would_expand_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, warnings_said: Said
) -> None:
    monkeypatch.setenv("ELSEWHERE", str(tmp_path / "elsewhere"))
    (tmp_path / "$ELSEWHERE").mkdir(mode=0o700)
    refused(open_at(tmp_path / "$ELSEWHERE"), warnings_said, "names a variable")


# ------------------------------------------------------------------------------------------------ files


def test_files_that_others_may_have_written_are_misses(cache: EngineCache, warnings_said: Said) -> None:
    cache.put(A, entry(A))
    path = entry_file(cache.dirs[0], A)
    path.chmod(0o666)
    assert [problem.kind for problem in cache.check()] == ["damaged", "permission"]
    assert cache.get(A) is None
    assert not path.exists()
    assert "others may write" in warnings_said()[0]


def test_links_in_place_of_files_are_not_followed(cache: EngineCache, tmp_path: Path) -> None:
    cache.put(B, entry(B))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(encode(entry(A)))
    path = plant(cache.dirs[0], A, b"")
    path.unlink()
    path.symlink_to(elsewhere)
    for _ in range(2):
        assert cache.get(A) is None
    assert elsewhere.exists() and not path.is_symlink()
    path.symlink_to(elsewhere)
    assert cache.put(A, entry(A, seed=1))
    assert not path.is_symlink()
    assert elsewhere.read_bytes() != path.read_bytes()


def test_a_pipe_in_place_of_a_file_holds_nobody_up(cache: EngineCache) -> None:
    cache.put(A, entry(A))
    path = entry_file(cache.dirs[0], A)
    path.unlink()
    os.mkfifo(path, 0o600)
    assert cache.get(A) is None
    assert cache.put(A, entry(A)) and cache.get(A)


def test_a_directory_in_place_of_a_file_costs_its_entry(cache: EngineCache, warnings_said: Said) -> None:
    cache.put(B, entry(B))
    path = entry_file(cache.dirs[0], A)
    path.mkdir(parents=True, mode=0o700)
    assert cache.get(A) is None
    assert not cache.put(A, entry(A))
    assert cache.get(B) == entry(B)
    assert warnings_said()
    path.rmdir()
    assert cache.put(A, entry(A))


def test_foreign_files_are_told_and_left_alone(cache: EngineCache) -> None:
    cache.put(A, entry(A))
    note = cache.dirs[0] / "README.txt"
    note.write_text("mine")
    assert [(problem.kind, problem.path) for problem in cache.check()] == [("unknown", note)]
    cache.prune()
    cache.clear()
    assert note.read_text() == "mine"
    note.unlink()


def test_damage_of_every_kind_is_a_miss_and_never_more(cache: EngineCache, caplog: pytest.LogCaptureFixture) -> None:
    """2,000 truncated, changed and foreign files: none is handed out, none raises, each is gone afterwards."""
    caplog.set_level("ERROR")
    chance = random.Random(1)
    good = encode(entry(A, 300))
    for turn in range(2000):
        data = bytearray(good)
        if turn % 4 == 0:
            del data[chance.randrange(len(data)) :]
        elif turn % 4 == 1:
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        elif turn % 4 == 2:
            data[:] = chance.randbytes(chance.randrange(500))
        else:
            data[:] = encode(entry(key(turn), 300))
        path = plant(cache.dirs[0], A, bytes(data))
        assert cache.get(A) is None
        assert not path.exists() or data[8:12] != good[8:12]  # that would say: of another format


def test_entries_of_other_formats_are_misses_and_stay(cache: EngineCache, warnings_said: Said) -> None:
    cache.put(A, entry(A))
    data = bytearray(encode(entry(B)))
    data[8:12] = (FORMAT + 1).to_bytes(4, "little")
    path = plant(cache.dirs[0], B, bytes(data))
    assert cache.get(B) is None
    assert path.exists()
    assert warnings_said() == []


# ------------------------------------------------------------------------------------------------ pickles


class Bomb:
    """Runs code when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


def test_planted_pickles_are_not_executed(make: Make, tmp_path: Path) -> None:
    cache = make()
    cache.put(A, entry(A))
    cache.put(C, entry(C))
    root, mark = cache.dirs[0], tmp_path / "executed"
    bomb = pickle.dumps(Bomb(mark))
    (root / "bomb.val").write_bytes(bomb)
    with closing(sqlite3.connect(root / "cache.db")) as database, database:
        set_value = "UPDATE Cache SET mode = 4, filename = ?, value = ? WHERE key = ?"
        database.execute(set_value, (None, bomb, A.digest))
        database.execute(set_value, ("bomb.val", None, C.digest))
        database.execute("INSERT INTO Cache (key, raw, mode, value) VALUES (?, 0, 4, ?)", (bomb, bomb))
        database.execute("UPDATE Settings SET value = 4 WHERE key = 'disk_pickle_protocol'")
    plant(root, D, bomb)
    fresh = make()
    for one in (A, C):
        assert fresh.get(one) == entry(one)  # the files are whole: the index is rebuilt from them
    assert fresh.get(B) is None
    assert fresh.get(D) is None
    fresh.entries()
    fresh.check()
    fresh.prune()
    fresh.clear()
    assert not mark.exists()
    pickle.loads(bomb)
    assert mark.exists()
    (root / "bomb.val").unlink()


@pytest.mark.parametrize("value", [{"a": 1}, ["x"], None, 5, 1.5, "text", bytearray(b"x")])
def test_our_disk_writes_no_pickle(tmp_path: Path, value: object) -> None:
    with diskcache.Cache(str(tmp_path), disk=Disk, disk_min_file_size=0) as cache:
        with pytest.raises(TypeError):
            cache[A.digest] = value
        with pytest.raises(TypeError):
            cache[("a", "tuple")] = b""
        with pytest.raises(TypeError):
            cache[b"bytes"] = b""
        cache[A.digest] = b"bytes"
        assert cache[A.digest] == b"bytes"
