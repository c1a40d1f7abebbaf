"""Single flight: one builds, the others wait and get what it stored."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from trt_stripped_backend.cache import EngineCache
from trt_stripped_backend.errors import BadEntry

from .support import SPAWN, entry, finish, key, open_at, plant, running

Make = Callable[..., EngineCache]
Said = Callable[[], list[str]]
KEY, OTHER = key("wanted"), key("other")


def build_once(directory: Path, start: Barrier) -> None:
    """What a process of a fleet does: look, wait its turn, build if nobody did."""
    cache = open_at(directory)
    start.wait()
    found = cache.get(KEY)
    if found is None:
        with cache.building(KEY) as found:
            if found is None:
                note = os.open(directory.parent / "builds", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
                os.write(note, b"x")
                found = entry(KEY, 100_000)
                assert cache.put(KEY, found)
    assert found == entry(KEY, 100_000)


def test_sixty_four_processes_build_once(cache: EngineCache, tmp_path: Path) -> None:
    start = SPAWN.Barrier(64)
    with running(build_once, *[(cache.dirs[0], start)] * 64) as processes:
        assert finish(processes) == [0] * 64
    assert (tmp_path / "builds").read_bytes() == b"x"
    assert [path.name for path in (cache.dirs[0] / "locks").iterdir()] == ["index.lock"]


def test_threads_of_one_process_build_once(cache: EngineCache) -> None:
    start = threading.Barrier(16)
    builds, results = [], []

    def work() -> None:
        start.wait()
        with cache.building(KEY) as found:
            if found is None:
                builds.append(threading.get_ident())
                found = entry(KEY)
                cache.put(KEY, found)
        results.append(found)

    threads = [threading.Thread(target=work) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(builds) == 1
    assert results == [entry(KEY)] * 16


def hold(directory: Path, pipe: Connection) -> None:
    """A builder that begins, and goes on when it is told to."""
    cache = open_at(directory)
    with cache.building(KEY) as found:
        assert found is None
        pipe.send("building")
        if pipe.recv() == "store":
            cache.put(KEY, entry(KEY))
            pipe.send("stored")
            pipe.recv()


def test_the_entry_is_handed_out_before_its_builder_lets_go(cache: EngineCache) -> None:
    ours, theirs = SPAWN.Pipe()
    with running(hold, (cache.dirs[0], theirs)):
        assert ours.recv() == "building"
        ours.send("store")
        assert ours.recv() == "stored"
        with cache.building(KEY) as found:
            assert found == entry(KEY)
        with cache.building(OTHER) as found:
            assert found is None
        ours.send("end")


def test_a_killed_builder_gives_way_at_once(cache: EngineCache) -> None:
    ours, theirs = SPAWN.Pipe()
    with running(hold, (cache.dirs[0], theirs)) as (builder,):
        assert ours.recv() == "building"
        waiting: list[object] = []

        def wait() -> None:
            with cache.building(KEY) as found:
                waiting.append(found)

        thread = threading.Thread(target=wait)
        thread.start()
        assert builder.pid is not None
        os.kill(builder.pid, signal.SIGKILL)
        thread.join(20)  # the lock's own timeout is longer
        assert waiting == [None]
    cache.prune()


def test_a_builder_that_gives_up_gives_way(cache: EngineCache) -> None:
    with pytest.raises(RuntimeError, match="TensorRT"), cache.building(KEY):
        raise RuntimeError("TensorRT failed")
    with cache.building(KEY) as found:
        assert found is None


@pytest.mark.parametrize("timeout", [0, 0.2])
def test_a_hung_builder_is_overtaken(make: Make, warnings_said: Said, timeout: float) -> None:
    cache = make(lock_timeout=timeout)
    ours, theirs = SPAWN.Pipe()
    with running(hold, (cache.dirs[0], theirs)) as processes:
        assert ours.recv() == "building"
        with cache.building(KEY) as found:
            assert found is None
            assert cache.put(KEY, entry(KEY))
        assert ["building it too" in line for line in warnings_said()] == [True]
        ours.send("end")
        assert finish(processes) == [0]
    assert cache.get(KEY) == entry(KEY)


def test_building_within_building_ends(make: Make, warnings_said: Said) -> None:
    cache = make(lock_timeout=0.1)
    with cache.building(KEY) as outer, cache.building(KEY) as inner:
        assert outer is inner is None
    assert len(warnings_said()) == 1
    with cache.building(KEY) as found:
        assert found is None


def test_a_bad_entry_met_while_waiting_is_built_anew(make: Make) -> None:
    cache = make(errors="raise")
    cache.put(OTHER, entry(OTHER))
    plant(cache.dirs[0], KEY, b"damaged")
    with pytest.raises(BadEntry), cache.building(KEY):
        pass
    with cache.building(KEY) as found:
        assert found is None


def fork_and_wait(directory: Path, pipe: Connection) -> None:
    """Forks while it builds, and dies; the child lives on."""
    cache = open_at(directory)
    with cache.building(KEY):
        child = os.fork()
        if child == 0:
            pipe.recv()
            os._exit(0)
        pipe.send(child)
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_forked_child_does_not_keep_its_dead_parents_lock(make: Make) -> None:
    cache = make(lock_timeout=20)
    ours, theirs = SPAWN.Pipe()
    with running(fork_and_wait, (cache.dirs[0], theirs)) as processes:
        child = ours.recv()
        try:
            assert finish(processes) == [-signal.SIGKILL]
            with cache.building(KEY) as found:
                assert found is None
                assert (cache.dirs[0] / "locks" / f"{KEY.digest}.lock").exists(), "held, not overtaken"
        finally:
            os.kill(child, signal.SIGKILL)
    cache.prune()


def use_after_fork(directory: Path) -> None:
    """A cache used before a fork works on both sides of it."""
    cache = open_at(directory)
    cache.put(KEY, entry(KEY))
    child = os.fork()
    for turn in range(5):
        mine = key(f"{child == 0} {turn}")
        if cache.get(KEY) != entry(KEY) or not cache.put(mine, entry(mine)) or cache.get(mine) != entry(mine):
            os._exit(1)
    if child == 0:
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0


def test_a_cache_is_used_across_a_fork(cache: EngineCache) -> None:
    with running(use_after_fork, (cache.dirs[0],)) as processes:
        assert finish(processes) == [0]
    assert len(cache.entries()) == 11


def test_who_may_not_wait_goes_on(cache: EngineCache) -> None:
    """A process that ends must not wait for another one's build."""
    found: list[object] = []

    def other() -> None:
        with cache.building(KEY, stop=lambda: True) as one:
            found.append(one)

    with cache.building(KEY) as mine:
        assert mine is None
        thread = threading.Thread(target=other)
        thread.start()
        thread.join(60)
        assert found == [None]
