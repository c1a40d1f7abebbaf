"""Real engines through the cache: many processes that start together build once, and TensorRT's timings are kept."""

from __future__ import annotations

import multiprocessing
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import torch

import trt_stripped_backend as ts
from trt_stripped_backend.build import Timings
from trt_stripped_backend.cache import EngineCache

PROCESSES = 8


def _prebuild(directory: Path, pipe: Connection) -> None:
    torch.manual_seed(multiprocessing.current_process().pid or 0)  # every process has weights of its own
    model = torch.nn.Sequential(torch.nn.Linear(32, 64), torch.nn.GELU(), torch.nn.Linear(64, 8)).eval()
    pipe.send("ready")
    pipe.recv()
    report = ts.prebuild(model, (torch.randn(4, 32),), options={"cache_dir": directory, "min_block_size": 1})
    cache = ts.open_cache(directory)
    pipe.send((report.builds, report.hits, [record.key for record in cache.entries()]))


def test_eight_processes_build_a_real_engine_once(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    pipes = [spawn.Pipe() for _ in range(PROCESSES)]
    processes = [spawn.Process(target=_prebuild, args=(tmp_path / "cache", theirs)) for _, theirs in pipes]
    try:
        for process in processes:
            process.start()
        for _, theirs in pipes:
            theirs.close()  # so that a process that dies ends the wait for it
        assert [ours.recv() for ours, _ in pipes] == ["ready"] * PROCESSES
        for ours, _ in pipes:
            ours.send("go")
        results = [ours.recv() for ours, _ in pipes]
    finally:
        for process in processes:
            process.join(60)
            process.kill()
    assert sum(builds for builds, _, _ in results) == 1
    assert all(builds + hits == 1 for builds, hits, _ in results)
    assert len({tuple(entries) for _, _, entries in results}) == 1
    assert not ts.open_cache(tmp_path / "cache").check()


class Config:
    """What a builder config does with timing caches; one that holds ``b"bad"`` is refused, as by another version."""

    def __init__(self) -> None:
        self.timings: Any = None

    def create_timing_cache(self, data: bytes) -> Any:
        return TimingCache(data)

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch, "timings of another GPU or version would be wrong"
        if cache.data == b"bad":
            return False
        self.timings = cache
        return True

    def get_timing_cache(self) -> Any:
        return self.timings


class TimingCache:
    def __init__(self, data: bytes) -> None:
        self.data = data

    def serialize(self) -> bytes:
        return self.data


@pytest.mark.parametrize("stored", [None, b"bad", b"measured"])
def test_timings_are_lent_and_kept(cache: EngineCache, stored: bytes | None) -> None:
    timings = Timings(cache, "tensorrt-11.4-H200-9-0")
    if stored is not None:
        cache.put_blob("timing", timings.name, stored)
    config = Config()
    timings.lend(config)
    assert config.timings.data == (b"measured" if stored == b"measured" else b"")
    config.timings.data += b", more"
    timings.keep(config)
    assert cache.get_blob("timing", timings.name) == config.timings.data
    assert cache.get_blob("timing", "tensorrt-11.4-another-GPU-9-0") is None
