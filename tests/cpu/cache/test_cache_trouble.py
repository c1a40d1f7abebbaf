"""Trouble with the index and with disks: damage, locks, read-only and full file systems."""

from __future__ import annotations

import errno
import os
import random
import resource
import sqlite3
import stat
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from trt_stripped_backend.cache import EngineCache, folder
from trt_stripped_backend.errors import CacheError

from .support import SPAWN, drop_rights, entry, finish, key, open_at, running

Make = Callable[..., EngineCache]
Said = Callable[[], list[str]]
A, B, C, D = (key(name) for name in "abcd")


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


def test_a_database_deleted_while_it_is_opened_is_rebuilt(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    make().put(A, entry(A))
    look = folder.secure_database

    def and_delete(path: Path) -> bool:
        monkeypatch.setattr(folder, "secure_database", look)
        found = look(path)
        (path / "cache.db").unlink()
        return found

    cache = make()
    monkeypatch.setattr(folder, "secure_database", and_delete)
    assert cache.put(B, entry(B))
    assert not cache.check() and {record.key for record in cache.entries()} == {A.digest, B.digest}


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


def test_an_entry_that_the_disk_does_not_tell_of_is_a_miss(
    make: Make, monkeypatch: pytest.MonkeyPatch, warnings_said: Said
) -> None:
    """As a network file system says it of one file."""
    cache = make()
    cache.put(A, entry(A))
    stat_of = os.stat

    def stale(path: Any, *arguments: Any, **named: Any) -> os.stat_result:
        if str(path).endswith(".entry"):
            raise OSError(errno.ESTALE, "Stale file handle")
        return stat_of(path, *arguments, **named)

    taken, done = threading.Event(), threading.Event()

    def build() -> None:
        with cache.building(B):
            taken.set()
            done.wait()

    with monkeypatch.context() as broken, ThreadPoolExecutor(1) as other:
        broken.setattr(os, "stat", stale)
        broken.setattr(os, "lstat", lambda path, **named: stale(path, follow_symlinks=False, **named))
        assert (cache.entries(), cache.explain_miss(C), cache.size) == ([], [], 0)
        other.submit(build)
        taken.wait()
        with cache.building(B, stop=lambda: True) as found:
            assert found is None
        done.set()
    assert all("Stale file handle; going on without" in line for line in warnings_said())
    assert cache.get(A) == entry(A)


@pytest.mark.parametrize("errors", ["warn", "raise"])
def test_trouble_while_waiting_for_another_builder(
    make: Make, monkeypatch: pytest.MonkeyPatch, warnings_said: Said, errors: str
) -> None:
    cache = make(errors=errors)

    def fail(*_: Any) -> None:
        raise OSError(errno.EIO, "broken disk")

    with monkeypatch.context() as broken:
        broken.setattr(EngineCache, "_await", fail)
        expected = pytest.raises(CacheError, match="broken disk") if errors == "raise" else nullcontext()
        with expected, cache.building(A) as found:
            assert found is None
    assert [("broken disk" in line) for line in warnings_said()] == [True] * (errors == "warn")


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
