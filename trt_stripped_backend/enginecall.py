"""One partition of a compiled graph: runs its engine, or PyTorch where that failed or is not there yet."""

from __future__ import annotations

import functools
import logging
import threading
import weakref
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from . import refit, run
from .background import worker
from .compilation import VALUED, Compilation
from .errors import BuildFailed, NotWarm, TRTStrippedError
from .live import Bundle
from .pieces import Piece
from .profile import contains, places
from .profile import sizes as told
from .report import stats, warn
from .types import Entry, Ranges, Rejection
from .verify import difference

log = logging.getLogger("trt_stripped_backend")


class EngineCall(nn.Module):
    """One partition in the split graph: the engine, or PyTorch where the engine failed."""

    def __init__(self, index: int, piece: Piece, compilation: Compilation) -> None:
        super().__init__()
        self.index, self.piece, self.compilation = index, piece, compilation
        self.names = [n.name for n in piece.partition.module.graph.find_nodes(op="placeholder")]
        inputs = [name for name in self.names if name not in piece.partition.weights]
        self.inputs = {name: i for i, name in enumerate(inputs)}
        self.slots = {name: i for i, (name, _) in enumerate(piece.signature.slots)}
        self.valued: OrderedDict[tuple[Any, ...], run.Runner | None] | None = None
        # The latest weights' token and runner, where the engine depends on their values. One attribute, as the next.
        self.latest: tuple[object | None, run.Runner | None] = None, None
        self.failed = self.pending = self.stuck = False
        self.why = ""  # there is no engine, or no wider one
        self.verified: weakref.WeakSet[run.Runner] = weakref.WeakSet()
        self.seen: run.Seen | None = None
        self.places = places(piece.signature, inputs)
        self.lock = threading.RLock()
        ranges = compilation.ranges(piece)
        # One attribute, so that a thread never sees the ranges of one engine and the runner of another.
        self.engine: tuple[Ranges, run.Runner | None] = ranges, None
        if compilation.mode in VALUED:
            self.valued = OrderedDict()
        elif piece.pending:
            self._build_later(ranges)
        else:
            self._use(ranges, self._runner(piece.entry))

    def forward(self, weights: Bundle, *inputs: Any) -> tuple[torch.Tensor, ...]:
        return self.execute(weights, inputs)

    def execute(self, weights: Bundle, inputs: Sequence[Any]) -> tuple[torch.Tensor, ...]:
        if self.failed:
            return self._without_engine(weights, *inputs)
        ranges, runner = self.engine
        if ranges or self.pending:
            sizes = told(self.places, inputs)
            if not contains(ranges, sizes):
                if min(sizes) < 0:  # a number that is no size: an engine is told it by a shape, which none can have
                    log.info("%s: runs in PyTorch with %s", self.piece.partition.name, list(sizes))
                    return self.in_torch(weights, *inputs)
                ranges, runner = self._widen(sizes)
            if self.pending:
                self._show(weights, sizes)
        runner = runner if self.valued is None else self._runner_of_values(weights)
        if runner is None:
            return self._without_engine(weights, *inputs)
        try:
            outputs = runner(weights, inputs)
        except (torch.OutOfMemoryError, NotWarm):
            raise
        except (RuntimeError, TRTStrippedError) as error:
            return self._fail("build", str(error), self.in_torch(weights, *inputs))
        if self.compilation.options.verify and runner not in self.verified:
            reference = self.in_torch(weights, *inputs)
            found = difference(outputs, reference, tf32=self.compilation.tf32)
            if found:
                return self._fail("verify", found, reference)
            self.verified.add(runner)
        return outputs

    def load(self) -> None:
        """Loads the engine ahead of the first call, or waits until it is loaded.

        Raises:
            RefitFailed: TensorRT cannot load it.
        """
        runner = self.engine[1]
        if runner is not None:
            runner.pool.preload()

    def _widen(self, sizes: Sequence[int]) -> tuple[Ranges, run.Runner | None]:
        """An engine that takes these sizes too, which all calls use from now on; None if there is none, or none yet."""
        with self.lock:
            if contains(self.engine[0], sizes):
                return self.engine
            if self.stuck:
                return self.engine[0], None
            ranges = self.compilation.ranges(self.piece, sizes)
            if self.compilation.background:
                if not self.pending:
                    self._build_later(ranges)
                return ranges, None
            log.info("%s: sizes %s are outside %s", self.piece.partition.name, list(sizes), list(self.engine[0]))
            if self.valued is not None:
                self.valued.clear()
                self.latest = None, None
                self.engine = ranges, None
            else:
                self._use(ranges, self._had(ranges))
            return self.engine if contains(self.engine[0], sizes) else (self.engine[0], None)

    def _use(self, ranges: Ranges, runner: run.Runner | None) -> None:
        """Takes an engine for all calls from now on. Without one, what there is stays in use for the sizes it takes."""
        if runner is None and self.engine[1] is not None:
            self.stuck = True
        else:
            self.engine, self.failed = (ranges, runner), runner is None

    def _had(self, ranges: Ranges, values: dict[str, torch.Tensor] | None = None) -> run.Runner | None:
        """The runner of an engine from where it can be had; None, and why not."""
        entry, name = self.compilation.entry(self.piece, values, ranges), self.piece.partition.name
        if entry is None:
            self.why = next(r.reason for r in reversed(self.compilation.report.rejections) if r.target == name)
        return self._runner(entry)

    def _build_later(self, ranges: Ranges) -> None:
        self.pending = True
        log.info("%s: runs in PyTorch until its engine is built", self.piece.partition.name)
        _start_libraries(self.compilation.device)
        worker.submit(functools.partial(self._build, ranges))

    def _show(self, weights: Bundle, sizes: tuple[int, ...]) -> None:
        """Keeps what this call has until the worker needs it."""
        seen = run.seen(weights, sizes)
        with self.lock:
            self.seen = seen if self.pending else None

    def _build(self, ranges: Ranges) -> None:
        """In the worker: builds an engine and makes it ready to run; the next call has it."""
        runner = None
        try:
            runner = self._had(ranges)
            seen = self.seen
            if runner is not None and seen is not None and contains(ranges, seen.sizes):
                runner.warm(seen)
        except Exception as error:
            runner, self.why = None, " ".join(str(error).split()) or type(error).__name__
            self.compilation.fell_back(self.piece.partition, self.why)
            stats.add(fallbacks=1)
        with self.lock:
            self._use(ranges, runner)
            self.pending, self.seen = False, None

    def _without_engine(self, weights: Bundle, *inputs: Any) -> tuple[torch.Tensor, ...]:
        if self.why and self.compilation.options.require_full:  # a build that failed after the first plan was made
            raise BuildFailed(f"{self.piece.partition.name} (require_full): {self.why}")
        return self.in_torch(weights, *inputs)

    def in_torch(self, weights: Bundle, *inputs: Any) -> tuple[torch.Tensor, ...]:
        """The same partition in PyTorch."""
        slots = weights.slots(self.index)
        for place, (_, slot) in enumerate(self.piece.signature.slots):
            if slot.relaid:
                slots[place] = slots[place].contiguous()
        values = [inputs[self.inputs[n]] if n in self.inputs else slots[self.slots[n]] for n in self.names]
        result: tuple[torch.Tensor, ...] = self.piece.partition.module(*values)
        return result

    def _runner(self, entry: Entry | None) -> run.Runner | None:
        device = self.compilation.device
        if entry is None or device is None:
            return None
        options = self.compilation.options
        self.compilation.uses[entry.key] += 1  # each piece that runs this engine does with weights of its own
        sets = options.max_weight_sets * self.compilation.uses[entry.key]
        pool = refit.pool(entry, device, sets, options.max_weight_bytes, least=self.compilation.uses[entry.key])
        runner = run.Runner(
            self.index, self.piece.signature, list(self.inputs), pool, self.compilation.cache, _count_refit,
            self._recorded if self.compilation.options.cuda_graphs else None,
        )  # fmt: skip
        runner.preload()
        return runner

    def _recorded(self, why: str) -> None:
        """Notes a CUDA graph, or why there is none."""
        if not why:
            stats.add(cuda_graphs=1)
            return
        note = f"{self.piece.partition.name} runs without CUDA graphs: {' '.join(why.split())}"
        self.compilation.report.notes.append(note)
        warn(note)

    def _runner_of_values(self, weights: Bundle) -> run.Runner | None:
        """The runner for weights of these values; values that changed mean another key, so a lookup or a build."""
        assert self.valued is not None
        token, runner = self.latest
        if weights.set.token is token:
            return runner
        stamp = weights.set.stamps[self.index]
        with self.lock:
            if stamp not in self.valued:
                names = [slot.name for _, slot in self.piece.signature.slots]
                values = dict(zip(names, weights.slots(self.index), strict=True))
                ranges, before = self.engine
                runner = self._had(ranges, values)
                if before is not None and runner is not None:
                    had, has = (one.pool.entry.header["parts"]["weights"] for one in (before, runner))
                    log.info("%s: weights changed, fingerprint %s → %s", self.piece.partition.name, had, has)
                while len(self.valued) >= self.compilation.options.max_weight_sets:
                    self.valued.popitem(last=False)
                self.valued[stamp] = runner
                self.engine = ranges, runner
            self.valued.move_to_end(stamp)
            runner = self.valued[stamp]
            self.latest = weights.set.token, runner
            return runner

    def _fail(self, kind: str, why: str, result: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        part = self.piece.partition
        self.failed = True
        self.compilation.reject(Rejection("", part.name, kind, " ".join(why.split())))
        stats.add(fallbacks=1)
        if self.compilation.options.require_full:
            raise BuildFailed(f"{part.name} (require_full): {why}")
        warn(f"{part.name} ({part.nodes} operators) runs in PyTorch from now on: {why}")
        return result


def _start_libraries(device: torch.device | None) -> None:
    """Starts what reads :mod:`.precision`'s variable when it starts, before a worker changes that."""
    if device is not None and torch.cuda.is_available():
        with torch.cuda.device(device):
            torch.cuda.current_blas_handle()  # type: ignore[no-untyped-call]


def _count_refit(size: int) -> None:
    stats.add(refits=1, refitted_bytes=size)
