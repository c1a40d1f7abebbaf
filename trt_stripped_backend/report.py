"""What a compilation did and why, and counters of the process."""

from __future__ import annotations

import logging
import threading
import warnings
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TextIO

from rich.console import ConsoleRenderable

from .types import Json, Rejection
from .view import page, text
from .view.drawing import DerivedWeight, Drawing

log = logging.getLogger("trt_stripped_backend")


@dataclass(frozen=True)
class EngineReport:
    """One partition.

    Attributes:
        name: ``engine_0``, … in its graph.
        nodes: operators inside.
        ops: how many of each.
        key: digest of its key.
        status: ``hit`` (from the cache), ``shared`` (loaded already in this process), ``built``, ``miss`` (explain does
            not build), ``pending`` (to be built in the background), ``unknown`` (the key needs the weights' values), or
            ``failed``.
        seconds: of the build or of the lookup.
        saved_seconds: what a hit did not spend on building.
        plan_bytes: size of the plan.
        weights: slots; ``weight_bytes`` their size.
        differs: for a miss, the parts of the key in which the nearest entry differs.
        graph: which of Dynamo's graphs, from 0.
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
    graph: int = 0

    def __str__(self) -> str:
        """One line, as the log has it."""
        return text.engine_line(self)


@dataclass
class Report:
    """What runs where, and why: of a whole model from ``explain`` and ``prebuild``, of one graph from ``reports()``.

    ``print(report)`` shows it as text, ``report.show()`` as tables on a terminal, ``report.to_html("report.html")`` as
    a page with the graph drawn.

    Attributes:
        flavour: the TensorRT in use, or why there is none.
        mode: the refit mode that ``auto`` became, and ``why``.
        graphs: Dynamo's graphs; more than one means that the model breaks the graph.
        partitions: one for each engine.
        rejections: why the other operators stay in PyTorch.
        nodes: operators in all graphs, parameters-only arithmetic and literals not counted.
        notes: what else was asked for and cannot be had, such as a CUDA graph, and why engines end where nothing stays
            in PyTorch.
        derived_weights: weights computed from parameters, in PyTorch, when those change.
        drawings: the graphs, for the page; of ``explain`` and ``prebuild`` only.
    """

    flavour: str = ""
    mode: str = ""
    why: str = ""
    graphs: int = 0
    partitions: list[EngineReport] = field(default_factory=list)
    rejections: list[Rejection] = field(default_factory=list)
    nodes: int = 0
    derived_weights: list[DerivedWeight] = field(default_factory=list)
    drawings: list[Drawing] = field(default_factory=list, repr=False)
    notes: list[str] = field(default_factory=list)

    def anew(self) -> Report:
        """An empty report of the same setting."""
        return Report(flavour=self.flavour, mode=self.mode, why=self.why)

    def note(self, engine: EngineReport) -> None:
        """Adds an engine, in place of what was said while it was pending."""
        for index, before in enumerate(self.partitions):
            if (before.name, before.graph, before.status) == (engine.name, engine.graph, "pending"):
                self.partitions[index] = engine
                return
        self.partitions.append(engine)

    @property
    def hits(self) -> int:
        """Engines that were in the cache, or loaded already."""
        return sum(p.status in ("hit", "shared") for p in self.partitions)

    @property
    def misses(self) -> int:
        """Engines that were not, built or not."""
        return sum(p.status in ("built", "miss", "pending", "failed") for p in self.partitions)

    @property
    def builds(self) -> int:
        """Engines that were built."""
        return sum(p.status == "built" for p in self.partitions)

    @property
    def nodes_in_engines(self) -> int:
        """Operators in engines."""
        return sum(p.nodes for p in self.partitions if p.status != "failed")

    @property
    def derived(self) -> int:
        """Weights computed from parameters."""
        return len(self.derived_weights)

    def to_dict(self) -> Json:
        """The report as JSON, without the drawings."""
        return {
            "flavour": self.flavour, "mode": self.mode, "why": self.why, "graphs": self.graphs, "nodes": self.nodes,
            "nodes_in_engines": self.nodes_in_engines, "derived": self.derived,
            "partitions": [vars(p) | {"differs": list(p.differs)} for p in self.partitions],
            "rejections": [vars(r) for r in self.rejections], "notes": list(self.notes),
            "derived_weights": [vars(d) | {"sources": list(d.sources)} for d in self.derived_weights],
        }  # fmt: skip

    def to_html(self, path: str | Path | None = None) -> str:
        """The report as one page that needs no network: summary, the graph, tables, search.

        Args:
            path: where to write it, if anywhere.

        Returns:
            The page.
        """
        html = page.page(self.to_dict(), [drawing.to_json() for drawing in self.drawings], str(self))
        if path is not None:
            Path(path).write_text(html, encoding="utf-8")
        return html

    def show(self, file: TextIO | None = None) -> None:
        """Prints tables on a terminal, and the plain text elsewhere.

        Args:
            file: default: ``sys.stdout``.
        """
        text.show(self, file)

    def __rich__(self) -> ConsoleRenderable:
        return text.tables(self)

    def __str__(self) -> str:
        return text.plain(self)


def merged(reports: Sequence[Report]) -> Report:
    """One report of several of the same setting, with their graphs numbered across them."""
    total = reports[0].anew()
    for one in reports:
        total.partitions += [replace(p, graph=p.graph + total.graphs) for p in one.partitions]
        total.graphs += one.graphs
        total.nodes += one.nodes
        total.rejections += one.rejections
        total.notes += one.notes
        total.derived_weights += one.derived_weights
        total.drawings += one.drawings
    return total


class Stats:
    """Counters; thread-safe."""

    NAMES = (
        "builds", "hits", "misses", "shared", "refits", "refitted_bytes", "engines", "fallbacks", "build_seconds",
        "saved_seconds", "graphs", "traces", "cuda_graphs",
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
_warned: set[str] = set()
_warn_lock = threading.Lock()


def warn(message: str) -> None:
    """A log line each time, a warning once."""
    log.warning(message)
    with _warn_lock:
        if message in _warned:
            return
        _warned.add(message)
    warnings.warn(f"trt_stripped: {message}", stacklevel=3)
