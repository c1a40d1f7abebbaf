"""Writers that are killed with SIGKILL at any line of a write: what is read afterwards is whole, or a miss."""

from __future__ import annotations

import os
import random
import signal
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType
from typing import Any

import diskcache
import pytest

from trt_stripped_backend import cache as package
from trt_stripped_backend.cache import EngineCache

from .support import SPAWN, entry, entry_file, finish, key, open_at, running

Make = Callable[..., EngineCache]
OLD, NEW, OTHER = key("replaced"), key("new"), key("other")

#: What a write runs: this package's cache, and of diskcache the part that changes rows.
_HERE = str(Path(str(package.__file__)).parent)
_ROWS = {"set", "delete", "__delitem__", "_transact", "_row_insert", "_row_update"}


def in_a_write(frame: FrameType) -> bool:
    code = frame.f_code
    return code.co_filename.startswith(_HERE) or (code.co_filename == diskcache.core.__file__ and code.co_name in _ROWS)


def write_and_die(directory: Path, last: int, told: Connection) -> None:
    """Stores two entries, replacing one, culling another; is killed at line number ``last``, or tells how many ran."""
    count = 0

    def watch(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal count
        if not in_a_write(frame):
            return None
        if event == "line":
            count += 1
            if count == last:
                os.kill(os.getpid(), signal.SIGKILL)
        return watch

    write = os.write
    os.write = lambda descriptor, data: write(descriptor, data[:2000])  # so that a line is reached between the pieces
    cache = open_at(directory, size_limit=37_000)
    sys.settrace(watch)
    cache.put(OLD, entry(OLD, 10_000, seed=1))
    cache.put(NEW, entry(NEW, 10_000))
    sys.settrace(None)
    told.send(count)


def one_run(directory: Path, last: int) -> int | None:
    """The number of lines, or None where the writer was killed."""
    ours, theirs = SPAWN.Pipe(duplex=False)
    with ours, theirs, running(write_and_die, (directory, last, theirs)) as processes:
        (code,) = finish(processes)
        assert code in (0, -signal.SIGKILL)
        return ours.recv() if code == 0 else None


def prepare(cache: EngineCache) -> None:
    cache.clear()
    for one in (key("culled"), OLD, OTHER):
        assert cache.put(one, entry(one, 10_000))


@pytest.mark.parametrize("part", range(4))
def test_a_killed_writer_leaves_whole_entries_only(make: Make, part: int) -> None:
    cache = make(size_limit=37_000, lock_timeout=0)
    prepare(cache)
    total = one_run(cache.dirs[0], 0)
    assert total is not None and total > 300
    assert cache.get(OLD) == entry(OLD, 10_000, seed=1) and cache.get(NEW) and cache.get(OTHER)
    assert cache.get(key("culled")) is None
    chance = random.Random(part)
    seen = set()
    for turn in range(50):  # four parts: 200 lines, evenly spread
        prepare(cache)
        # A run's lines vary a little with how long it waits for a lock: stop short of the last ones.
        last = 1 + (total - 20) * (4 * turn + part) // 200 + chance.randrange(total // 200)
        assert one_run(cache.dirs[0], last) is None
        fresh = make(size_limit=37_000)
        found = [fresh.get(one) for one in (OLD, NEW, OTHER)]
        assert found[0] in (entry(OLD, 10_000), entry(OLD, 10_000, seed=1))
        assert found[1] in (None, entry(NEW, 10_000))
        assert found[2] == entry(OTHER, 10_000)
        seen.add((found[0] == entry(OLD, 10_000), found[1] is None))
        assert fresh.put(NEW, entry(NEW, 10_000, seed=2)), "the next writer goes on"
        assert fresh.get(NEW) == entry(NEW, 10_000, seed=2)
        if turn % 10 == 9:
            fresh.prune()
            assert fresh.check() == []
    assert len(seen) == 3, "kills before, between and after the two writes"
    cache.prune()


def test_what_a_killed_writer_leaves_is_told_and_swept(make: Make) -> None:
    cache = make()
    cache.put(OTHER, entry(OTHER))
    with running(die_in_fsync, (cache.dirs[0],)) as processes:
        assert finish(processes) == [-signal.SIGKILL]
    assert [problem.kind for problem in cache.check()] == ["temporary"]
    assert cache.get(NEW) is None
    assert cache.put(NEW, entry(NEW)), "the next write sweeps"
    assert cache.check() == []


def die_in_fsync(directory: Path) -> None:
    os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)
    open_at(directory).put(NEW, entry(NEW))


def test_an_entry_whose_row_was_not_written_is_taken_in(make: Make) -> None:
    cache = make()
    cache.put(OTHER, entry(OTHER))
    with running(die_before_the_row, (cache.dirs[0],)) as processes:
        assert finish(processes) == [-signal.SIGKILL]
    assert entry_file(cache.dirs[0], NEW).exists()
    assert [problem.kind for problem in cache.check()] == ["orphan"]
    assert cache.get(NEW) == entry(NEW)
    assert cache.check() == []


def die_before_the_row(directory: Path) -> None:
    diskcache.Cache._row_insert = lambda *arguments: os.kill(os.getpid(), signal.SIGKILL)
    open_at(directory).put(NEW, entry(NEW))
