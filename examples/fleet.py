"""Four processes start together and need the same engine: one builds it, three wait and find it.

    python examples/fleet.py

They share nothing but the cache folder. A lock of the operating system decides, which dies with its holder: were the
builder killed, another one would take over at once.
"""

from __future__ import annotations

import multiprocessing
import sys
import time
from multiprocessing.synchronize import Barrier
from typing import Any

import torch
from torch import nn

import trt_stripped_backend

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
OPTIONS = {"min_block_size": 1}
PROCESSES = 4


def worker(rank: int, together: Barrier, results: Any) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(rank)  # a checkpoint of its own
    layers = [m for _ in range(8) for m in (nn.Linear(128, 128), nn.GELU())]
    model, x = nn.Sequential(*layers).to(DEVICE).eval(), torch.randn(16, 128, device=DEVICE)
    together.wait()
    start = time.perf_counter()
    with torch.no_grad():
        if DEVICE == "cuda":
            fast = torch.compile(model, backend="trt_stripped", options=OPTIONS)
            error = float((fast(x) - model(x)).norm() / model(x).norm())
            key = trt_stripped_backend.reports()[-1].partitions[0].key
        else:
            report = trt_stripped_backend.prebuild(model, (x,), options=OPTIONS)
            error, key = 0.0, report.partitions[0].key
    count = trt_stripped_backend.stats()
    results.put((rank, count["builds"], count["hits"], time.perf_counter() - start, error, key))


def main() -> int:
    spawn = multiprocessing.get_context("spawn")
    together, results = spawn.Barrier(PROCESSES), spawn.Queue()
    fleet = [spawn.Process(target=worker, args=(rank, together, results)) for rank in range(PROCESSES)]
    for process in fleet:
        process.start()
    told = sorted(results.get(timeout=300) for _ in fleet)
    for process in fleet:
        process.join()
    for rank, builds, hits, seconds, error, key in told:
        what = "built the engine" if builds else "found it" if hits else "has no engine"
        print(f"process {rank}: {what} [{key[:12]}] after {seconds:.2f} s, error against eager {error:.1e}")
    built = sum(builds for _, builds, *_ in told)
    print(f"{built} engines built by {PROCESSES} processes")
    if DEVICE == "cpu":
        print("There is no GPU here: the plan waits in the cache, and no model ran.")
    right = all(error < 1e-5 and builds + hits == 1 for _, builds, hits, _, error, _ in told)
    alone = built <= 1 and len({key for *_, key in told}) == 1
    return 0 if right and alone and not any(process.exitcode for process in fleet) else 1


if __name__ == "__main__":
    sys.exit(main())
