"""What a compilation did and why, and counters of the process."""

from __future__ import annotations

import threading
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any

from .types import Json, Rejection


@dataclass(frozen=True)
class EngineReport:
    """One partition.

    Attributes:
        name: ``engine_0``, … in its graph.
        nodes: operators inside.
        ops: how many of each.
        key: digest of its key.
        status: ``hit`` (from the cache), ``shared`` (loaded already in this process), ``built``, ``miss`` (explain does
            not build), ``unknown`` (the key needs the weights' values), or ``failed``.
        seconds: of the build or of the lookup.
        saved_seconds: what a hit did not spend on building.
        plan_bytes: size of the plan.
        weights: slots; ``weight_bytes`` their size.
        differs: for a miss, the parts of the key in which the nearest entry differs.
    """

    name: str
    nodes: int
    ops: dict[str, int]
    key: str
    status: str
    seconds: float = 0.0
    saved_seconds: float = 0.0
    plan_bytes: int = 0
    weights: int = 0
    weight_bytes: int = 0
    differs: tuple[str, ...] = ()


@dataclass
class Report:
    """What runs where, and why; one for each :func:`~.explain`, over all graphs that Dynamo made of the model.

    Attributes:
        flavour: the TensorRT in use, or why there is none.
        mode: the refit mode that ``auto`` became, and ``why``.
        graphs: Dynamo's graphs; more than one means that the model breaks the graph.
        partitions: one for each engine.
        rejections: why the other operators stay in PyTorch.
        nodes: operators in all graphs, parameters-only arithmetic and literals not counted.
        derived: weights computed from parameters, in PyTorch, when those change.
        notes: what else was asked for and cannot be had, such as a CUDA graph.
    """

    flavour: str = ""
    mode: str = ""
    why: str = ""
    graphs: int = 0
    partitions: list[EngineReport] = field(default_factory=list)
    rejections: list[Rejection] = field(default_factory=list)
    nodes: int = 0
    derived: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def hits(self) -> int:
        return sum(p.status in ("hit", "shared") for p in self.partitions)

    @property
    def misses(self) -> int:
        return sum(p.status in ("built", "miss", "failed") for p in self.partitions)

    @property
    def builds(self) -> int:
        return sum(p.status == "built" for p in self.partitions)

    @property
    def nodes_in_engines(self) -> int:
        return sum(p.nodes for p in self.partitions if p.status != "failed")

    def to_dict(self) -> Json:
        """The report as JSON."""
        return {
            "flavour": self.flavour, "mode": self.mode, "why": self.why, "graphs": self.graphs, "nodes": self.nodes,
            "nodes_in_engines": self.nodes_in_engines, "derived": self.derived,
            "partitions": [vars(p) | {"differs": list(p.differs)} for p in self.partitions],
            "rejections": [vars(r) for r in self.rejections], "notes": list(self.notes),
        }  # fmt: skip

    def __str__(self) -> str:
        head = f"{self.flavour}, refit mode {self.mode} ({self.why})" if self.mode else self.flavour
        lines = [
            head,
            f"{self.graphs} graph(s); {self.nodes_in_engines} of {self.nodes} operators in {len(self.partitions)} "
            f"engine(s); {self.derived} derived weight(s)",
        ]
        for p in self.partitions:
            spent = {
                "built": f"built in {p.seconds:.2f} s",
                "miss": "miss: not in the cache",
                "unknown": "known once it has the weights' values",
                "failed": "failed: runs in PyTorch",
            }.get(p.status, f"{p.status}, saved {p.saved_seconds:.2f} s")
            ops = ", ".join(
                f"{name.removeprefix('aten.')}×{count}" for name, count in sorted(p.ops.items(), key=lambda o: -o[1])
            )
            size = f"{p.plan_bytes / 1e6:.2f} MB plan for {p.weight_bytes / 1e6:.2f} MB of weights"
            lines.append(f"  {p.name} [{p.key[:12]}]: {p.nodes} operators, {spent}, {size}")
            lines.append(f"      {ops}")
            if p.differs:
                shown = ", ".join(p.differs[:6]) + (f" and {len(p.differs) - 6} more" if len(p.differs) > 6 else "")
                lines.append(f"      nearest entry differs in: {shown}")
        groups = Counter((r.target, r.kind, r.reason) for r in self.rejections)
        places = {(r.target, r.kind, r.reason): r.where for r in reversed(self.rejections)}
        if groups:
            lines.append("in PyTorch:")
        for group, count in groups.most_common():
            target, kind, reason = group
            at = f"  ({places[group]})" if places[group] else ""
            lines.append(f"  {count:4} × {target} [{kind}]: {reason}{at}")
        lines += [f"note: {note}" for note in self.notes]
        return "\n".join(lines)


class Stats:
    """Counters; thread-safe."""

    NAMES = (
        "builds", "hits", "misses", "shared", "refits", "refitted_bytes", "engines", "fallbacks", "build_seconds",
        "saved_seconds", "graphs", "cuda_graphs",
    )  # fmt: skip

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[str, Any] = dict.fromkeys(self.NAMES, 0)

    def add(self, **counts: float) -> None:
        with self._lock:
            for name, count in counts.items():
                self._counts[name] += count

    def snapshot(self) -> dict[str, Any]:
        with self._lock:
            return dict(self._counts)

    def reset(self) -> None:
        with self._lock:
            self._counts = dict.fromkeys(self.NAMES, 0)


#: Counters of the whole process.
stats = Stats()
#: Reports of the latest compilations, oldest first.
recent: deque[Report] = deque(maxlen=256)
