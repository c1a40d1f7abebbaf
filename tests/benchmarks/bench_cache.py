"""What a hit and a store cost against the size of the plan: ``python -m tests.benchmarks.bench_cache``.

The floor of a hit is reading the file and hashing it; the floor of a store is hashing, writing and syncing.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from trt_stripped_backend.cache import EngineCache
from trt_stripped_backend.types import Entry, Key


def best(act: Callable[[], object], rounds: int) -> float:
    """Milliseconds of the fastest round."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        act()
        times.append(time.perf_counter() - start)
    return 1000 * min(times)


def write_and_sync(path: Path, data: bytes) -> None:
    hashlib.sha256(data).digest()
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def measure(directory: Path, mebibytes: float, rounds: int) -> tuple[float, ...]:
    """Milliseconds of: a look at an absent key, read and hash, a hit, hash and write and sync, a store."""
    cache = EngineCache([directory / "cache"], size_limit=64 << 30, lock_timeout=0, errors="raise")
    key = Key(hashlib.sha256(str(mebibytes).encode()).hexdigest(), {})
    entry = Entry(key.digest, {}, os.urandom(int(mebibytes * 2**20)))
    plain = directory / "plain"
    writes = best(lambda: write_and_sync(plain, entry.plan), rounds)
    stores = best(lambda: cache.put(key, entry), rounds)
    reads = best(lambda: hashlib.sha256(plain.read_bytes()).digest(), rounds)
    hits = best(lambda: cache.get(key), rounds)
    misses = best(lambda: cache.get(Key("0" * 64, {})), rounds)
    return misses, reads, hits, writes, stores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=float, nargs="+", default=[0.1, 1, 10, 30, 100], metavar="MiB")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--dir", type=Path, help="a directory on the disk to measure (default: the temporary one's)")
    given = parser.parse_args()
    table = Table("plan MiB", "miss", "floor", "hit", "ratio", "floor", "store", "ratio", title="milliseconds")
    for column in table.columns:
        column.justify = "right"
    with tempfile.TemporaryDirectory(dir=given.dir) as directory:
        for size in given.sizes:
            misses, reads, hits, writes, stores = measure(Path(directory), size, given.rounds)
            times = f"{misses:.2f}", f"{reads:.1f}", f"{hits:.1f}", f"{hits / reads:.2f}"
            table.add_row(f"{size:g}", *times, f"{writes:.1f}", f"{stores:.1f}", f"{stores / writes:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
