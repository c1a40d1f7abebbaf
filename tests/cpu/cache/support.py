"""Keys, entries and processes for the cache's tests. Functions here also run in child processes."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from trt_stripped_backend.cache import EngineCache
from trt_stripped_backend.types import Entry, Json, Key

#: Seconds until a test calls a process that does not answer hung.
PATIENCE = 60.0

#: One server that has imported everything; each process is a fork of it, so it starts in milliseconds.
SPAWN = multiprocessing.get_context("forkserver")
SPAWN.set_forkserver_preload(["pytest", "hypothesis.strategies", __name__])


def key(name: object, **parts: Json) -> Key:
    """A key whose digest depends on ``name`` alone."""
    return Key(hashlib.sha256(str(name).encode()).hexdigest(), {"name": str(name), **parts})


def entry(of: Key, size: int = 1000, seed: int = 0) -> Entry:
    """An entry with ``size`` bytes of plan, the same for the same arguments."""
    header = {"build_seconds": 1.5, "parts": of.parts, "seed": seed}
    return Entry(of.digest, header, random.Random(f"{of.digest} {seed}").randbytes(size))


def open_at(directory: Path, **settings: Any) -> EngineCache:
    """A cache in one directory."""
    return EngineCache([directory], **{"size_limit": 1 << 30, "lock_timeout": PATIENCE, "errors": "warn", **settings})


def entry_file(directory: Path, of: Key) -> Path:
    return directory / of.digest[:2] / f"{of.digest}.entry"


def plant(directory: Path, of: Key, data: bytes) -> Path:
    """Writes bytes where an entry's file lies, as a user could."""
    path = entry_file(directory, of)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.write_bytes(data)
    path.chmod(0o600)
    return path


@contextmanager
def running(target: Callable[..., None], *arguments: tuple[Any, ...]) -> Iterator[list[BaseProcess]]:
    """One process for each tuple of arguments; all are reaped at the end, whatever happens."""
    processes = [SPAWN.Process(target=target, args=one, daemon=True) for one in arguments]
    try:
        for process in processes:
            process.start()
        yield processes
    finally:
        for process in processes:
            if process.is_alive():
                process.kill()
            process.join(PATIENCE)


def finish(processes: list[BaseProcess]) -> list[int | None]:
    """Exit codes."""
    for process in processes:
        process.join(PATIENCE)
    return [process.exitcode for process in processes]


def drop_rights() -> None:
    """Root may write everywhere; without it, this process is a user who may not."""
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
