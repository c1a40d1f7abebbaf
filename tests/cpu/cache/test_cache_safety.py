"""What a cache does not use: other users' files, links, pickles, damaged indexes, full and read-only disks."""

from __future__ import annotations

import errno
import os
import pickle
import random
import resource
import sqlite3
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import diskcache
import pytest

from trt_stripped_backend.cache import EngineCache, encode
from trt_stripped_backend.cache.disk import Disk
from trt_stripped_backend.cache.entry import FORMAT
from trt_stripped_backend.errors import CacheError

from .support import SPAWN, drop_rights, entry, entry_file, finish, key, open_at, plant, running

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


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702, 0o1777])
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


# ------------------------------------------------------------------------------------------------ the index


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b"not a database, but long enough to look at" * 100),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:5000]),
        lambda path: path.unlink(),
        lambda path: path.chmod(0o666),
        lambda path: (path.unlink(), path.symlink_to("/etc/passwd")),
        lambda path: (path.unlink(), sqlite3.connect(path).execute("CREATE TABLE Cache (other)").connection.close()),
        lambda path: (path.unlink(), sqlite3.connect(path).execute("CREATE TABLE Settings (x)").connection.close()),
    ],
    ids=["foreign", "empty", "truncated", "deleted", "mode", "link", "other tables", "other settings"],
)
def test_a_damaged_index_is_rebuilt_from_the_entries(make: Make, damage: Callable[[Path], object]) -> None:
    make().put(A, entry(A))
    make().put(B, entry(B))
    cache = make()
    assert cache.get(B)
    damage(cache.dirs[0] / "cache.db")
    for one in (cache, make()):
        assert one.get(A) == entry(A)
        assert one.put(C, entry(C))
    assert {record.key for record in cache.entries()} == {A.digest, B.digest, C.digest}
    assert stat.S_IMODE((cache.dirs[0] / "cache.db").lstat().st_mode) == 0o600


def test_random_damage_of_the_index_loses_nothing(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("ERROR")
    chance = random.Random(2)
    cache = make()
    for one in (A, B):
        cache.put(one, entry(one))
    path = cache.dirs[0] / "cache.db"
    for turn in range(150):
        data = bytearray(path.read_bytes())
        for _ in range(chance.randrange(1, 40)):
            start = chance.randrange(len(data))
            data[start : start + chance.randrange(1, 64)] = chance.randbytes(chance.randrange(64))
        path.write_bytes(bytes(data[: chance.randrange(len(data))] if turn % 3 == 0 else data))
        fresh = make()
        assert fresh.get(A) == entry(A)
        assert fresh.put(B, entry(B))
        assert fresh.get(B) == entry(B)
    path.unlink()  # pages that none of this touched may still be damaged
    cache.prune()


def test_a_database_that_cannot_be_replaced_leaves_reading(cache: EngineCache, warnings_said: Said) -> None:
    cache.put(A, entry(A))
    path = cache.dirs[0] / "cache.db"
    path.unlink()
    (path / "in the way").mkdir(parents=True)
    assert cache.get(A) == entry(A)
    assert not cache.put(B, entry(B))
    assert cache.get(A) == entry(A)
    assert len(warnings_said()) == 1
    (path / "in the way").rmdir()
    path.rmdir()


def test_an_index_that_somebody_holds_leaves_reading(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trt_stripped_backend.cache.folder.INDEX_TIMEOUT", 0.1)
    cache = make()
    cache.put(A, entry(A))
    theirs, ours = SPAWN.Pipe()
    with running(hold_index, (cache.dirs[0], theirs)):
        assert ours.recv() == "held"
        assert cache.get(A) == entry(A)
        assert not cache.put(B, entry(B))
    assert cache.put(B, entry(B))


def hold_index(directory: Path, pipe: Connection) -> None:
    """A process that stops with the index in its hands."""
    folder = open_at(directory)._folders.writer()
    assert folder is not None
    folder.inspect(lambda index: (pipe.send("held"), pipe.recv()))


# ------------------------------------------------------------------------------------------------ disks


def test_a_directory_without_write_permission_is_read(shared: Path) -> None:
    open_at(shared / "fleet").put(A, entry(A))
    for path in [*(shared / "fleet").rglob("*"), shared / "fleet"]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    with running(read_only, (shared,)) as processes:
        assert finish(processes) == [0]
    assert sorted(path.name for path in (shared / "fleet").iterdir()) == [A.digest[:2], "cache.db", "locks", "tmp"]


def read_only(shared: Path) -> None:
    """A user who may only read uses a fleet's directory, alone and behind one of his own."""
    drop_rights()
    fleet = open_at(shared / "fleet")
    before = {path: path.lstat().st_mtime_ns for path in (shared / "fleet").rglob("*")}
    assert fleet.get(A) == entry(A)
    assert fleet.get(B) is None
    assert not fleet.put(B, entry(B))
    assert not fleet.put_blob("runtime", "name", b"")
    with fleet.building(B) as found:
        assert found is None
    assert [record.key for record in fleet.entries()] == [A.digest]
    assert fleet.explain_miss(B) == ["name"]
    assert fleet.prune() == fleet.clear() == (0, 0)
    assert fleet.check() == []
    assert {path: path.lstat().st_mtime_ns for path in (shared / "fleet").rglob("*")} == before
    with tempfile.TemporaryDirectory() as own:
        for order in ((Path(own) / "own", shared / "fleet"), (shared / "fleet", Path(own) / "own")):
            both = EngineCache(order, size_limit=1 << 20, lock_timeout=1, errors="raise")
            assert both.get(A) == entry(A)
            assert both.put(B, entry(B))
            assert both.get(B) == entry(B)
            assert (Path(own) / "own" / B.digest[:2]).is_dir()
            assert both.clear().entries == 1
            assert both.get(A) == entry(A)


def test_nowhere_to_write_costs_one_warning(shared: Path) -> None:
    (shared / "locked").mkdir(mode=0o555)
    with running(no_place, (shared / "locked" / "cache",)) as processes:
        assert finish(processes) == [0]


def no_place(directory: Path) -> None:
    """A user whose cache directory cannot be made."""
    import logging

    drop_rights()
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("trt_stripped_backend").addHandler(handler)
    cache = open_at(directory)
    for _ in range(3):
        assert cache.get(A) is None
        assert not cache.put(A, entry(A))
        with cache.building(A) as found:
            assert found is None
    assert [line for line in lines if "Permission" in line] and len(lines) == 2, lines


@contextmanager
def small_disk(size: str) -> Iterator[Path]:
    """A file system of its own."""
    with tempfile.TemporaryDirectory() as place:
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "tmpfs", place], check=True)
        try:
            yield Path(place)
        finally:
            subprocess.run(["umount", place], check=True)


def may_mount() -> bool:
    """Whether this process may mount a file system: root on a machine of its own."""
    try:
        with small_disk("64k"):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


if may_mount():  # elsewhere the limit on file sizes below stands for a full disk

    def test_a_full_disk_costs_one_warning(warnings_said: Said) -> None:
        with small_disk("1m") as disk:
            cache = open_at(disk / "cache")
            stored = 0
            while cache.put(key(stored), entry(key(stored), 100_000)):
                stored += 1
            assert 5 < stored < 11
            assert not cache.put(A, entry(A, 900_000))
            assert [("No space left" in line) for line in warnings_said()] == [True]
            for number in range(stored):
                assert cache.get(key(number)) == entry(key(number), 100_000)
            assert cache.check() == []
            # Not one byte left, not even for the index.
            with (disk / "filler").open("wb", buffering=0) as filler, pytest.raises(OSError, match="No space"):
                while True:
                    filler.write(bytes(4096))
            fresh = open_at(disk / "cache")
            assert fresh.get(key(0)) == entry(key(0), 100_000)
            assert not fresh.put(B, entry(B))
            assert len(warnings_said()) == 1
            (disk / "filler").unlink()
            assert fresh.put(B, entry(B, 10))
            assert fresh.check() == []


def test_a_write_that_fails_half_way_leaves_nothing(make: Make) -> None:
    cache = make()
    cache.put(A, entry(A, 10_000))
    with running(write_too_much, (cache.dirs[0],)) as processes:
        assert finish(processes) == [0]
    assert cache.get(A) == entry(A, 10_000)
    assert cache.get(B) is None


def write_too_much(directory: Path) -> None:
    """A process whose files may not grow beyond 100,000 bytes."""
    cache = open_at(directory)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    assert not cache.put(B, entry(B, 200_000))
    assert not cache.put(A, entry(A, 200_000))
    assert cache.put(C, entry(C, 20_000))
    assert cache.check() == []


@pytest.mark.parametrize("call", ["write", "fsync", "utime", "replace", "mkdir"])
def test_any_failing_call_leaves_the_old_entry_or_none(make: Make, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    make().put(A, entry(A))

    def fail(*arguments: Any, **named: Any) -> None:
        raise OSError(errno.EIO, "broken disk")

    with monkeypatch.context() as broken:
        broken.setattr(os, call, fail)
        cache = make()
        stored = [cache.put(one, entry(one, seed=1)) for one in (A, B)]
        found = [cache.get(one) for one in (A, B)]
    assert found[0] == entry(A, seed=int(stored[0]))
    assert found[1] == (entry(B, seed=1) if stored[1] else None)
    assert make().get(A) == entry(A, seed=int(stored[0]))
