"""How the work before TensorRT grows, without a GPU: ``python -m tests.benchmarks.bench_scaling [--out scaling.json]``.

layers       of a plain GPT: milliseconds of splitting off the weights, of cutting into engines (in brackets: where
             repeated layers are found), of the canonical form and key; per layer
partitions   one operator of PyTorch after each block: the same, and finding all engines in the cache
entries      in a cache on disk: opening it, a miss, a hit and a store of 10 kB

Medians of ``--rounds``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from tests.benchmarks.rows import Gpt
from tests.graphs import lower
from trt_stripped_backend import lowering, weights
from trt_stripped_backend.cache import EngineCache
from trt_stripped_backend.key import canonical, make_key
from trt_stripped_backend.ops.library import lookup
from trt_stripped_backend.options import Options
from trt_stripped_backend.partition import partition
from trt_stripped_backend.types import Entry, Key

LAYERS, PARTITIONS, ENTRIES = (6, 12, 24, 48, 96), (1, 5, 10, 20, 40), (1, 100, 1000, 5000)


def middle(act: Callable[[], object], rounds: int) -> float:
    """Milliseconds, the median."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        act()
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


class Chain(nn.Module):
    """Blocks with a running sum after each, which stays in PyTorch."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16)) for _ in range(blocks)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = (x + torch.tanh(block(x))).cumsum(1)
        return x


def lowered(model: nn.Module, x: torch.Tensor) -> lowering.Lowered:
    names, values = zip(*[*model.named_parameters(), *model.named_buffers()], strict=True)

    def fn(*args: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = torch.func.functional_call(model, dict(zip(names, args[:-1], strict=True)), (args[-1],))
        return result

    with torch.no_grad():
        return lower(fn, *(v.detach() for v in values), x, sources=len(values))


def planned(model: nn.Module, x: torch.Tensor, rounds: int) -> dict[str, float]:
    """Milliseconds of the stages for one graph."""
    graph = lowered(model, x)
    split = weights.split(graph)
    plain, deduped = Options.of({}), Options.of({"dedupe_layers": True})
    cut = partition(split, plain, lookup)
    parts = [canonical(part)[0] for part in cut.partitions]
    keys = [make_key({"graph": part}) for part in parts]
    with tempfile.TemporaryDirectory() as folder:
        cache = EngineCache([Path(folder) / "cache"], size_limit=1 << 30, lock_timeout=0, errors="raise")
        for key in keys:
            cache.put(key, Entry(key.digest, {}, os.urandom(10_000)))
        found = middle(lambda: [cache.get(key) for key in keys], rounds)
    return {
        "nodes": len(graph.module.graph.nodes), "engines": len(cut.partitions),
        "split": middle(lambda: weights.split(graph), rounds),
        "cut": middle(lambda: partition(split, plain, lookup), rounds),
        "cut_deduped": middle(lambda: partition(split, deduped, lookup), rounds),
        "key": middle(lambda: [make_key({"graph": canonical(p)[0]}) for p in cut.partitions], rounds),
        "found": found,
    }  # fmt: skip


def cached(entries: int, rounds: int) -> dict[str, float]:
    """Milliseconds of each kind of access to a cache of so many entries."""
    keys = [make_key({"entry": index}) for index in range(entries)]
    data = os.urandom(10_000)
    with tempfile.TemporaryDirectory() as folder:
        where = [Path(folder) / "cache"]

        def opened() -> EngineCache:
            return EngineCache(where, size_limit=1 << 40, lock_timeout=0, errors="raise")

        cache = opened()
        for key in keys:
            cache.put(key, Entry(key.digest, {}, data))
        some = iter(keys * rounds)
        new = iter(range(entries, entries + rounds))

        def store() -> None:
            key = make_key({"entry": next(new)})
            cache.put(key, Entry(key.digest, {}, data))

        return {
            "opened": middle(lambda: opened().get(keys[0]), rounds),
            "miss": middle(lambda: cache.get(Key("0" * 64, {})), rounds),
            "hit": middle(lambda: cache.get(next(some)), rounds),
            "store": middle(store, rounds),
        }  # fmt: skip


def table(title: str, first: str, rows: dict[int, dict[str, float]]) -> Table:
    made = Table(first, *next(iter(rows.values())), title=f"{title}, milliseconds")
    for column in made.columns:
        column.justify = "right"
    for count, row in rows.items():
        made.add_row(str(count), *(f"{v:.0f}" if k in ("nodes", "engines") else f"{v:.2f}" for k, v in row.items()))
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--layers", type=int, nargs="+", default=LAYERS)
    parser.add_argument("--partitions", type=int, nargs="+", default=PARTITIONS)
    parser.add_argument("--entries", type=int, nargs="+", default=ENTRIES)
    parser.add_argument("--out", type=Path, help="JSON")
    given = parser.parse_args()
    ids, x = torch.zeros(1, 16, dtype=torch.int64), torch.randn(2, 8, 16)
    found: dict[str, Any] = {
        "layers": {n: planned(Gpt(n, 64, 4, 100).eval(), ids, given.rounds) for n in given.layers},
        "partitions": {n: planned(Chain(n).eval(), x, given.rounds) for n in given.partitions},
        "entries": {n: cached(n, given.rounds) for n in given.entries},
    }
    for kind, rows in found.items():
        Console().print(table({"entries": "a cache"}.get(kind, "one graph"), kind, rows))
    if given.out:
        about = {
            "torch": torch.__version__, "python": platform.python_version(), "machine": platform.machine(),
            "cores": os.cpu_count(), "date": time.strftime("%Y-%m-%d"), "rounds": given.rounds,
        }  # fmt: skip
        given.out.write_text(json.dumps({"environment": about, **found}, indent=1))


if __name__ == "__main__":
    main()
