"""One compilation: lowering's graph → weights → partition → key → cache → build, with a report of all of it."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from . import megacache, profile, refit, unbuilt, weights
from .bisection import Attempt, bisected
from .build import Timings, build
from .cache import EngineCache, shared_cache
from .errors import BuildFailed, Unsupported
from .fingerprint import fingerprint
from .flavour import Flavour, refit_mode
from .key import canonical, digest, environment, make_key
from .lowering import Lowered
from .ops.library import lookup
from .ops.registry import is_getitem
from .options import Options
from .partition import partition
from .pieces import Attempted, Had, Piece, Planned, Wanted
from .precision import Settlement, exact_in_tf32, half_sums_allowed, has_half, settlement, tf32_allowed
from .progress import ending, shown_here
from .report import EngineReport, Report, stats, warn
from .types import Entry, Json, Key, Partition, Ranges, Rejection
from .view.drawing import derived_weights, draw, op_name

log = logging.getLogger("trt_stripped_backend")

#: Modes whose plans depend on the weights' values, so that nothing can be looked up before those are known.
VALUED = ("identical", "immutable")
#: What a hardware-compatible plan is for: every GPU since Ampere, whichever built it.
AMPERE = "ampere+"


@dataclass
class Compilation:
    """The pipeline from a lowered graph to entries, for one of Dynamo's graphs.

    Attributes:
        device: where the engines will run; None when only plans are made, for any GPU.
        look_only: search the cache, and build nothing.
        exact: TF32 loses nothing of the products of the graph that was planned last.
        drawn: the report gets a drawing of the graph.
        settlement: what was settled on TF32 where the engines will run.
        uses: how many pieces run the engine of a key.
    """

    options: Options
    flavour: Flavour
    mode: str
    device: torch.device | None
    cache: EngineCache | None
    tf32: bool
    half_sums: bool
    report: Report = field(default_factory=Report)
    look_only: bool = False
    exact: bool = False
    drawn: bool = False
    settlement: Settlement = settlement
    uses: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of(
        cls, options: Options, flavour: Flavour, device: torch.device | None, *, look_only: bool = False
    ) -> Compilation:
        mode, why = refit_mode(options, flavour)
        report = Report(flavour=str(flavour), mode=mode, why=why)
        cache = None if mode == "immutable" else _cache(options)
        # Nothing runs here without a device, so nothing is settled: a look tells what this process would do next, a
        # plan is for a process that starts with it.
        stand = settlement if device is not None else Settlement(settlement if look_only else None)
        return cls(
            options, flavour, mode, device, cache, tf32_allowed(), half_sums_allowed(), report, look_only,
            settlement=stand,
        )  # fmt: skip

    @property
    def background(self) -> bool:
        """Whether engines are built by a worker while their partitions run in PyTorch."""
        return self.options.build == "background" and self.device is not None

    def plan(self, lowered: Lowered) -> Planned:
        """Partitions of a lowered graph with their entries, in the order of execution.

        Raises:
            BuildFailed: with ``require_full``, when anything would run in PyTorch; names all of it.
        """
        split = weights.split(lowered, mode=self.mode, rtx=self.flavour.is_rtx)
        self.exact = exact_in_tf32(split.module.graph)
        had: dict[str, Had] = {}
        cut, pieces, wanted = bisected(lambda apart: self._attempt(split, apart, had), self.options.min_block_size)
        self.reject(*cut.rejections)
        for note in cut.notes:
            self.report.notes.append(note)
            log.info("%s", note)
        self.report.graphs += 1
        self.report.derived_weights += derived_weights(split, lowered.names)
        if self.drawn:
            self.report.drawings.append(draw(split, cut, lowered.names))
        self.report.nodes += sum(p.nodes for p in cut.partitions) + len(cut.rejections)
        if self.mode not in VALUED:
            pieces = self._with_entries(pieces, wanted, had)
        elif self.look_only:
            for piece in pieces:
                self.note(piece, None, None, "unknown", 0.0)
        if self.options.require_full and self.report.rejections:
            listed = "\n  ".join(map(str, self.report.rejections))
            raise BuildFailed(f"require_full: these would run in PyTorch:\n  {listed}")
        return Planned(split, cut, tuple(pieces))

    def ranges(self, piece: Piece, values: Sequence[int] | None = None) -> Ranges:
        """The range of each dynamic size of a piece; ``values`` must fit, if given."""
        if values is None and piece.limits is not None:
            return piece.limits
        return profile.ranges(piece.partition, piece.signature, self.options.dynamic_range, values)

    def entry(
        self, piece: Piece, values: Mapping[str, torch.Tensor] | None = None, ranges: Ranges | None = None
    ) -> Entry | None:
        """The engine of a piece: in use already, from the cache, or built. None, with a Rejection, if it cannot be had.

        Args:
            piece: the partition in canonical form.
            values: its weights by slot name, in the layout of their slots, for the modes that need them.
            ranges: those of its dynamic sizes; None for :meth:`ranges`.
        """
        wanted = self._wanted(piece, values, ranges)
        return self._told(piece, wanted, self._had(wanted) if isinstance(wanted, Wanted) else None)

    def _attempt(self, split: weights.Split, apart: Collection[str], had: dict[str, Had]) -> Attempt[Attempted]:
        """Cuts a graph, also before the nodes ``apart``, and adds the engines of its pieces to ``had``, by key: those
        that are alike share one, and several are built at once."""
        cut = partition(split, self.options, lookup, refit=self.mode != "immutable", apart=apart)
        forms = [canonical(part) for part in cut.partitions]
        pieces = [Piece(part, form[1], form[0], None) for part, form in zip(cut.partitions, forms, strict=True)]
        if self.mode in VALUED:
            return Attempt((cut, pieces, []), (), 0)
        wanted = [self._wanted(piece) for piece in pieces]
        new: dict[str, Wanted] = {}
        for one in wanted:
            if isinstance(one, Wanted) and one.key.digest not in had:
                new.setdefault(one.key.digest, one)
        had.update(zip(new, self._had_all(list(new.values())), strict=True))
        whys = [had[one.key.digest].why if isinstance(one, Wanted) else "" for one in wanted]
        told = list(zip(cut.partitions, whys, strict=True))
        failed = () if ending.is_set() else tuple((part, why) for part, why in told if why)
        return Attempt((cut, pieces, wanted), failed, sum(part.nodes for part, why in told if not why))

    def _with_entries(
        self, pieces: Sequence[Piece], wanted: Sequence[Wanted | Unsupported], had: dict[str, Had]
    ) -> list[Piece]:
        """The pieces with their engines."""
        made = []
        for piece, one in zip(pieces, wanted, strict=True):
            found = had[one.key.digest] if isinstance(one, Wanted) else None
            entry = self._told(piece, one, found)
            made.append(replace(piece, entry=entry, pending=found is not None and found.status == "pending"))
            if entry is not None and isinstance(one, Wanted):  # the pieces that are alike
                had[one.key.digest] = Had(entry, "shared", 0.0, "")
        return made

    def _had_all(self, wanted: Sequence[Wanted]) -> list[Had]:
        """Engines in the order that they are asked for. RTX builds in several threads: it measures no kernels."""
        fixed = not any(one.piece.signature.symbols for one in wanted)  # PyTorch's shape environment is no thread's
        build = not self.background
        if len(wanted) < 2 or not (self.flavour.is_rtx and fixed and build) or self.look_only:
            return [self._had(one, build=build) for one in wanted]
        stop, show = threading.Event(), self.options.progress
        options = replace(self.options, progress=shown_here() if show is None else show)
        cuda = self.device is not None and self.device.type == "cuda"

        def had(one: Wanted) -> Had:
            with torch.cuda.device(self.device) if cuda else contextlib.nullcontext():  # a thread starts on the first
                return self._had(one, options=options, stop=stop)

        with ThreadPoolExecutor(min(len(wanted), os.cpu_count() or 1), "trt_stripped_build") as pool:
            futures = [pool.submit(had, one) for one in wanted]
            try:
                return [future.result() for future in futures]
            except BaseException:  # Ctrl-C: nobody waits for the others any more
                stop.set()
                raise

    def _wanted(
        self, piece: Piece, values: Mapping[str, torch.Tensor] | None = None, ranges: Ranges | None = None
    ) -> Wanted | Unsupported:
        """What engine a piece needs, or why it can have none."""
        ranges = self.ranges(piece) if ranges is None else ranges
        try:
            tf32 = self.engine_tf32()
        except Unsupported as error:
            return error
        half_sums = self.half_sums and has_half(piece.partition.module.graph)
        mode = "bound" if self.mode == "general" and not piece.signature.slots else self.mode
        environ = environment(
            (self.flavour.name, str(self.flavour.version)), self.target(), mode,
            self.options.in_key(self.flavour.name), tf32=tf32, half_sums=half_sums,
        )  # fmt: skip
        parts = {"graph": piece.graph, **environ}
        if values is not None:
            parts["weights"] = fingerprint(list(values.values()))
        key = make_key({**parts, "ranges": _listed(ranges)} if ranges else parts)
        return Wanted(piece, mode, parts, key, values, ranges, tf32, half_sums)

    def _had(
        self, wanted: Wanted, *, build: bool = True, options: Options | None = None, stop: threading.Event = ending
    ) -> Had:
        """An engine from where it can be had; ``build`` False leaves one that is nowhere for later."""
        start = time.perf_counter()
        entry, status, why = None, "failed", ""
        try:
            entry, status = self._found(wanted)
            if entry is None and build and not self.look_only:
                entry, status = self._built(wanted, options or self.options, stop)
            elif entry is None:
                if self.cache is not None:
                    unbuilt.check(self.cache, wanted.key, wanted.piece.partition.name)
                status = status if self.look_only else "pending"
        except BuildFailed as error:
            status, why = "failed", " ".join(str(error).split())
        return Had(entry, status, time.perf_counter() - start, why)

    def _told(self, piece: Piece, wanted: Wanted | Unsupported, had: Had | None) -> Entry | None:
        """Notes what became of a piece; gives its engine."""
        if had is None or not isinstance(wanted, Wanted):
            self.fell_back(piece.partition, str(wanted))
            self.note(piece, None, None, "failed", 0.0)
            return None
        if had.why:
            self.fell_back(piece.partition, had.why)
        self.note(piece, wanted.key, had.entry, had.status, had.seconds)
        return had.entry

    def engine_tf32(self) -> bool:
        """Whether the next engine rounds float32 products to TF32; see :meth:`.precision.Settlement.tf32`."""
        return self.settlement.tf32(self.tf32, self.exact) if self.flavour.is_rtx else self.tf32

    def fell_back(self, part: Partition, why: str) -> None:
        """Keeps why a piece has no engine, and warns: nobody asked for it."""
        self.reject(Rejection("", part.name, "build", why))
        if not (self.look_only or self.options.require_full or ending.is_set()):
            warn(f"{part.name} ({part.nodes} operators) stays in PyTorch: {why}")

    def reject(self, *rejections: Rejection) -> None:
        """Keeps and logs why something stays in PyTorch."""
        self.report.rejections.extend(rejections)
        for rejection in rejections:
            log.info("in PyTorch: %s", rejection)

    def _found(self, wanted: Wanted) -> tuple[Entry | None, str]:
        """What is in use or cached, of a key or of one that differs in nothing but the sizes to optimize for.

        RTX compiles kernels for the sizes that it meets, so there any such engine does: one that was built ahead serves
        whatever size comes first.
        """
        near = profile.neighbours(wanted.ranges) if self.flavour.is_rtx else ()
        keys = [wanted.key, *(make_key({**wanted.parts, "ranges": _listed(one)}) for one in near)]
        for one in keys:
            in_use = refit.loaded(one.digest, self.device) if self.device is not None else None
            if in_use is not None:
                return in_use, "shared"
        for one in keys:
            found = self.cache.get(one) if self.cache is not None else None
            if found is not None:
                return found, "hit"
        return None, "miss"

    def _built(self, wanted: Wanted, options: Options, stop: threading.Event) -> tuple[Entry | None, str]:
        piece, key = wanted.piece, wanted.key
        make = functools.partial(
            build, piece.partition, piece.signature, key, flavour=self.flavour, mode=wanted.mode, options=options,
            tf32=wanted.tf32, values=wanted.values, timings=self._timings(), ranges=wanted.ranges,
            half_sums=wanted.half_sums, stop=stop,
        )  # fmt: skip
        if self.cache is None:
            return make(), "built"
        with self.cache.building(key, lambda: stop.is_set() or ending.is_set()) as other:
            if other is not None:
                return other, "hit"
            with unbuilt.remembered(self.cache, key, piece.partition.name):
                entry = make()
            self.cache.put(key, entry)
            return entry, "built"

    def _timings(self) -> Timings | None:
        if self.cache is None or self.flavour.is_rtx:  # RTX measures nothing when it builds
            return None
        return Timings(self.cache, "-".join(map(str, (self.flavour.name, self.flavour.version, *self._gpu()))))

    def target(self) -> Json:
        """What a plan is for. RTX plans run on every GPU since Ampere, so no GPU is named and a build needs none."""
        if self.flavour.is_rtx:
            return "portable"
        gpu = self._gpu()
        return AMPERE if self.options.hardware_compatible and gpu[1] >= 8 else gpu

    def _gpu(self) -> list[Any]:
        properties = torch.cuda.get_device_properties(self.device or torch.cuda.current_device())
        return [properties.name, properties.major, properties.minor]

    def note(self, piece: Piece, key: Key | None, entry: Entry | None, status: str, seconds: float) -> None:
        """Reports and counts what became of a piece; see :class:`.report.EngineReport`."""
        part = piece.partition
        built = float(entry.header["build_seconds"]) if entry is not None else 0.0
        saved = max(built - seconds, 0.0) if status in ("hit", "shared") else 0.0
        nodes = [n for n in part.module.graph.nodes if n.op == "call_function" and not is_getitem(n)]
        ops = Counter(map(op_name, nodes))
        differs: tuple[str, ...] = ()
        if self.cache is not None and key is not None and status in ("miss", "built"):
            differs = tuple(self.cache.explain_miss(key))
        specs = [slot.spec for _, slot in piece.signature.slots]
        name = entry.key if entry is not None else key.digest if key is not None else ""
        report = EngineReport(
            part.name, part.nodes, dict(ops), name, status, seconds, saved,
            len(entry.plan) if entry else 0, len(specs), sum(s.nbytes for s in specs), differs, self.report.graphs - 1,
        )  # fmt: skip
        self.report.note(report)
        counts: dict[str, float] = {"engines": status not in ("failed", "pending"), "saved_seconds": saved}
        names = {"built": "builds", "hit": "hits", "shared": "shared", "failed": "fallbacks"}
        counts |= {names[status]: 1} if status in names else {}
        counts |= {"misses": 1, "build_seconds": built} if status in ("built", "miss") else {}
        stats.add(**counts)
        if key is None:
            return
        log.info("%s", report)
        log.debug("key %s: %s", key.digest[:12], {name: digest(value)[:12] for name, value in key.parts.items()})


def _listed(ranges: Ranges) -> Json:
    return [list(one) for one in ranges]


def _cache(options: Options) -> EngineCache | None:
    return shared_cache(options, megacache.record) if options.cache else None
