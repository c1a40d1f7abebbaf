"""A run of many graphs: seeded chunks, shared out among processes. What fails is made smaller."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from hypothesis import HealthCheck, Phase, given, seed, settings

from .check import Found, found_in, reproduction
from .draw import graphs
from .graph import Graph
from .layers import row
from .shrink import shrink

#: Graphs that hypothesis draws with one seed.
CHUNK = 25
#: Seconds to make a failure smaller.
PATIENCE = 30.0
#: Engines get their weights in either way, chunk by chunk.
MODES = ("bound", "general")


@dataclass
class Totals:
    """What a run has seen so far.

    Attributes:
        graphs: that PyTorch could run.
        engines: of these.
        inside: operators in engines, of ``nodes``.
        checked: elements compared, and ``open``: not compared.
        failures: each a text with code that shows it.
        reasons: why operators stayed in PyTorch.
        steps: how often each function was called.
    """

    graphs: int = 0
    engines: int = 0
    inside: int = 0
    nodes: int = 0
    checked: int = 0
    open: int = 0
    failures: list[str] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)
    steps: Counter[str] = field(default_factory=Counter)

    def add(self, graph: Graph, found: Found) -> None:
        if not found.invalid:
            self.graphs += 1
            self.engines += found.engines
            self.inside, self.nodes = self.inside + found.inside, self.nodes + found.nodes
            self.checked, self.open = self.checked + found.checked, self.open + found.open
            self.reasons.update(found.reasons)
            self.steps.update(step.fn for step in graph.steps)

    def line(self) -> str:
        """All of it as JSON, for another process."""
        return json.dumps(vars(self))

    def merge(self, line: dict[str, object]) -> None:
        """Adds what another process wrote with :meth:`line`."""
        for name, value in line.items():
            mine = getattr(self, name)
            if isinstance(mine, Counter):
                mine.update(value)
            else:
                setattr(self, name, mine + value)

    def __str__(self) -> str:
        inside, compared = self.inside / max(self.nodes, 1), self.checked / max(self.checked + self.open, 1)
        return (
            f"{self.graphs} graphs, {self.engines} engines, {self.inside} of {self.nodes} operators inside "
            f"({inside:.1%}), {self.checked} elements compared ({compared:.2%}), {len(self.failures)} wrong"
        )


def chunk(
    index: int, count: int, *, base: int, device: str, built: bool, totals: Totals, layers: int = 0,
    dynamic: bool = False, large: bool = False,
) -> None:  # fmt: skip
    """Draws and checks ``count`` graphs, or rows of so many layers; each that fails is made smaller, and noted in
    ``totals``.

    Args:
        large: of the rows' tensors, larger ones.
    """
    how: dict[str, Any] = {
        "device": device, "built": built, "mode": MODES[index % len(MODES)], "dynamic": dynamic,
    }  # fmt: skip

    def look(graph: Graph) -> None:
        found = found_in(graph, **how)
        totals.add(graph, found)
        if found.wrong:
            small = shrink(graph, lambda one: bool(found_in(one, **how).wrong), PATIENCE)
            wrong = found_in(small, **how).wrong or found.wrong
            totals.failures.append(f"WRONG {wrong}\n\n{reproduction(small, **how)}")
            sys.stderr.write(totals.failures[-1] + "\n")

    if layers:
        made = (row(base + index * CHUNK + number, layers, large) for number in range(count))
        for graph in filter(None, made):
            look(graph)
        return

    @seed(base * 1_000_003 + index)
    @settings(
        max_examples=count, database=None, deadline=None, phases=[Phase.generate], print_blob=False,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(graphs(index))
    def run(graph: Graph) -> None:
        look(graph)

    run()


def run(
    count: int, *, base: int, device: str, built: bool, until: float, layers: int = 0, dynamic: bool = False,
    large: bool = False, shard: int = 0, shards: int = 1,
) -> Totals:  # fmt: skip
    """This shard's chunks."""
    torch.set_num_threads(1)
    totals = Totals()
    for index in range(shard, -(-count // CHUNK), shards):
        if time.monotonic() > until:
            break
        most = min(CHUNK, count - index * CHUNK)
        chunk(
            index, most, base=base, device=device, built=built, totals=totals, layers=layers, dynamic=dynamic,
            large=large,
        )  # fmt: skip
    return totals


def run_processes(arguments: Sequence[str], jobs: int, out: Path) -> Totals:
    """One process a shard. One that dies is a failure of its own."""
    command = [sys.executable, "-m", "tests.fuzz", *arguments, "--jobs", "1"]
    files = [out / f"{index}.json" for index in range(jobs)]
    processes = [
        subprocess.Popen([*command, "--shard", f"{index}/{jobs}", "--out", str(file)])
        for index, file in enumerate(files)
    ]
    totals = Totals()
    for index, (process, file) in enumerate(zip(processes, files, strict=True)):
        process.wait()
        if file.exists():
            totals.merge(json.loads(file.read_text()))
        else:
            totals.failures.append(f"shard {index} of {jobs} died with {process.returncode}")
    return totals
