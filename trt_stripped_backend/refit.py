"""Entry + live tensors → Ready engine.

An engine is Empty after deserialization and Ready once every weight that it lists was given. TensorRT does not tell
(``get_missing_weights()`` is empty on RTX for engines that miss some, and an Empty engine runs and returns nonsense),
so our own record decides: the engine's own list of weights against what was set, each ``set_named_weights`` checked.
"""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch

from .build import decode_literal
from .errors import RefitFailed
from .flavour import logger, messages, trt
from .live import Bundle
from .ops.network import to_trt
from .precision import applied
from .types import Entry, TensorSpec
from .watch import Alias


class Engine:
    """One deserialized engine on one device.

    Attributes:
        engine: the ``trt.ICudaEngine``.
        lock: held from refit to enqueue, so that the two never overlap, and where contexts begin and end.
        idle: contexts of threads that ended, for those that come.
        retired: CUDA graphs that nobody replays any more, which end when the lock is held next.
        token: the weight set's token that it was refitted for; None while Empty.
        stamp: what its contents depend on.
        refits: how often it was refitted.
        event: recorded on the stream of the last refit; another stream waits for it before it runs.
    """

    def __init__(self, entry: Entry, device: torch.device) -> None:
        messages.clear()
        self.device = device
        with torch.cuda.device(device):
            self.runtime = trt.Runtime(logger())  # must outlive the engine
            self.engine = self.runtime.deserialize_cuda_engine(entry.plan)
        if self.engine is None:
            raise RefitFailed(f"TensorRT cannot load the engine of key {entry.key[:12]}: {messages.text()}")
        self.lock = threading.RLock()
        self.tf32 = bool(entry.header["tf32"])
        self.needs_weights = entry.header["mode"] in ("general", "identical")
        self.identical = entry.header["mode"] == "identical"
        self.dynamic = bool(entry.header["ranges"])
        self.slots = [name for name, _ in entry.header["slots"]]
        self.literals = {name: decode_literal(data) for name, data in entry.header["literals"].items()}
        self.token: object | None = None
        self.stamp: tuple[int, ...] | None = None
        self.refits = 0
        self.event: torch.cuda.Event | None = None
        self.runs: dict[int, torch.cuda.Event] = {}
        self.idle: list[Any] = []
        self.retired: list[Any] = []
        self.aliases: list[Alias] = []
        self._pointers: dict[str, int] = {}
        self._refitter: Any = None
        if not self.needs_weights:
            self.token = self

    @property
    def ready(self) -> bool:
        return self.token is not None

    def ran(self, stream: torch.cuda.Stream) -> None:
        """Notes a run on ``stream``, which a refit on another stream must wait for."""
        if stream.cuda_stream not in self.runs:
            self.runs[stream.cuda_stream] = torch.cuda.Event()  # type: ignore[no-untyped-call]
        self.runs[stream.cuda_stream].record(stream)

    def refit(self, tensors: Sequence[torch.Tensor], stream: torch.cuda.Stream) -> int:
        """Gives the engine all its weights, from device memory, ordered on ``stream``. All or nothing.

        Args:
            tensors: one for each slot, in order, in the layout of its spec.
            stream: the refit's; runs on other streams are waited for.

        Returns:
            Bytes read.

        Raises:
            RefitFailed: a weight was refused, or one that the engine lists was not given; the engine is Empty then.
        """
        self.token = self.stamp = None
        self.refits += 1
        self.retired.clear()
        messages.clear()
        if self._refitter is None:
            self._refitter = trt.Refitter(self.engine, logger())
            self._refitter.weights_validation = False  # concerns narrowing and sparsity, neither of which we ask for
            self._names = set(self._refitter.get_all_weights())
        given = dict(zip(self.slots, tensors, strict=True))
        missing = self._names - given.keys() - self.literals.keys()
        if missing:
            raise RefitFailed(f"the engine lists weights that nobody gives: {', '.join(sorted(missing))}")
        if not self.identical and (fixed := given.keys() - self._names):
            raise RefitFailed(f"the engine does not list weights that it needs: {', '.join(sorted(fixed))}")
        size = 0
        for name in self._names:
            value = given.get(name)
            if value is None:
                self._set(name, self.literals[name], trt.TensorLocation.HOST)
                continue
            size += value.numel() * value.element_size()
            self._set(name, value, trt.TensorLocation.DEVICE)
        for event in self.runs.values():
            stream.wait_event(event)
        # Held before the refit reads them: memory that comes and goes must not be taken for these.
        aliases = [Alias(t) for t in tensors]
        with applied(self.tf32):
            done = self._refitter.refit_cuda_engine_async(stream.cuda_stream)
        if not done:
            self._pointers.clear()
            raise RefitFailed(f"TensorRT could not refit the engine: {messages.text()}")
        if not self.identical:  # its key holds the values, so whose they were does not matter
            self.aliases = aliases
        self.event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        self.event.record(stream)
        return size

    def _set(self, name: str, value: torch.Tensor, location: Any) -> None:
        # Registered pointers stay, so a refit after an in-place update sets nothing anew.
        pointer = value.data_ptr()
        if self._pointers.get(name) == pointer and location == trt.TensorLocation.DEVICE:
            return
        weights = trt.Weights(to_trt(value.dtype), pointer, value.numel())
        if not self._refitter.set_named_weights(name, weights, location):
            self._pointers.clear()
            raise RefitFailed(f"TensorRT refused weight {name}: {messages.text()}")
        self._pointers[name] = pointer


class EnginePool:
    """The loaded engines of one plan on one device.

    Engines that hold no weights (``bound``), or values that the key holds too, are one for all. Engines that hold a
    copy of what may change (``general``) are one for each set of weights, at most ``limit``; beyond that the least
    recently used one is refitted for the new set, by the first that has its lock; until then it serves the old one.

    Args:
        entry: the plan's.
        device: where its engines run.
        limit: how many there may be.
    """

    def __init__(self, entry: Entry, device: torch.device, limit: int) -> None:
        self.entry, self.device, self.limit = entry, device, limit
        self.kernels: bytes | None = None  # what RTX compiled for this plan, once a context has run
        self._engines: OrderedDict[tuple[int, ...], Engine] = OrderedDict()
        self._spare: Engine | None = None  # loaded for the first that asks
        self._lock = threading.RLock()

    def engine(self, weights: Bundle, partition: int) -> Engine:
        """The engine for a weight set: refitted already, or one that the caller must refit.

        Raises:
            RefitFailed: TensorRT cannot load the plan.
        """
        shared = self.entry.header["mode"] != "general"  # identical: the key holds the values, so one engine does
        identity = () if shared else weights.set.pointers[partition]
        with self._lock:
            engine = self._engines.pop(identity, None) or self._reusable()
            self._engines[identity] = engine or self._spare or Engine(self.entry, self.device)
            self._spare = None if engine is None else self._spare
            return self._engines[identity]

    def preload(self) -> Engine:
        """Loads an engine if there is none, for whoever asks first.

        Raises:
            RefitFailed: TensorRT cannot load the plan.
        """
        with self._lock:
            known = next(reversed(self._engines.values()), None) or self._spare
            if known is None:
                known = self._spare = Engine(self.entry, self.device)
            return known

    def _reusable(self) -> Engine | None:
        """An engine to refit for new weights: one whose model is gone, else, at the limit, the least recently used."""
        dead = self.sweep()
        engine = dead[0] if dead else None
        if engine is None and len(self._engines) >= self.limit:
            engine = self._engines.popitem(last=False)[1]
        return engine

    def sweep(self) -> list[Engine]:
        """Lets go of engines whose weights nobody else holds, and returns them."""
        with self._lock:
            dead = [i for i, engine in self._engines.items() if not all(alias.alive for alias in engine.aliases)]
            return [self._engines.pop(identity) for identity in dead]

    def __len__(self) -> int:
        return len(self._engines)


_pools: weakref.WeakValueDictionary[tuple[str, torch.device], EnginePool] = weakref.WeakValueDictionary()
_pools_lock = threading.Lock()


def pool(entry: Entry, device: torch.device, sets: int, budget: int | None = None, least: int = 1) -> EnginePool:
    """The pool of an entry on a device: one in the process, whichever compiled graph asks, while one holds it.

    Args:
        entry: the plan's.
        device: where its engines run.
        sets: how many sets of weights may be held.
        budget: how many bytes they may take together; None for a quarter of the GPU's memory.
        least: how many sets may be held whatever they take.
    """
    if budget is None:
        budget = torch.cuda.get_device_properties(device).total_memory // 4
    one = sum(TensorSpec.from_json(spec).nbytes for _, spec in entry.header["slots"])
    limit = max(min(sets, budget // max(one, 1)), least)
    with _pools_lock:
        found = _pools.get((entry.key, device))
        if found is None:
            found = _pools[entry.key, device] = EnginePool(entry, device, limit)
        found.limit = max(found.limit, limit)
        return found


def loaded(key: str, device: torch.device) -> Entry | None:
    """The entry of a plan that this process has in use on a device."""
    with _pools_lock:
        found = _pools.get((key, device))
        return found.entry if found is not None else None


def clear_pools() -> None:
    """Forgets all loaded engines; those that a compiled graph still holds live on with it."""
    with _pools_lock:
        _pools.clear()
