"""Hands out live weights at each call, and tells what changed since the last.

A *source* is the parameter or buffer that came as an argument of this very call, so a new ``Parameter``, ``p.data = …``
or a swapped module is always seen. What a source *holds* is watched where someone keeps a copy of it (a derived weight,
a refitted engine): by data pointer and version counter, plus a hook on optimizers, because fused ones write without
bumping the version. Writes that leave no trace (``p.data.add_``, raw storage) need :func:`refresh`.
"""

from __future__ import annotations

import operator
import threading
import weakref
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from .errors import RefitFailed
from .types import Slot, TensorSpec, dtype_name
from .weights import Split

#: TensorRT wants device memory of inputs aligned so; PyTorch's allocator gives 512, a view into a flat buffer may not.
ALIGNMENT = 256
_MAX_SETS = 256  # light records: pointers and derived values that other models may share


class _Writes:
    """Writes that leave no version behind: fused optimizers report here, and so does :func:`refresh`."""

    def __init__(self) -> None:
        self.epoch = 0
        self._touched: dict[int, int] = {}  # data pointer → epoch of its last silent write
        self._hooked = False

    def watch(self) -> None:
        if not self._hooked:
            self._hooked = True
            register_optimizer_step_post_hook(self._stepped)

    def _stepped(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        silent = [p for g in optimizer.param_groups if g.get("fused") or g.get("capturable") for p in g["params"]]
        if silent:
            self.note(silent)

    def note(self, tensors: Iterable[torch.Tensor]) -> None:
        self.epoch += 1
        self._touched.update(dict.fromkeys((t.data_ptr() for t in tensors), self.epoch))

    def count(self, pointers: Iterable[int]) -> int:
        """A number that grows when one of these pointers is written silently."""
        return sum(self._touched.get(p, 0) for p in pointers)


writes = _Writes()
_all_live: weakref.WeakSet[LiveWeights] = weakref.WeakSet()


def version(tensor: torch.Tensor) -> int:
    """The version counter; inference tensors have none, and count as never written."""
    return 0 if tensor.is_inference() else tensor._version


def checked(tensor: torch.Tensor, spec: TensorSpec, device: torch.device, name: str) -> None:
    """Raises RefitFailed if a tensor cannot be the weight that an engine was built for.

    torch 2.11 does not re-check a parameter after ``p.data = …``, so the engine would read foreign memory.
    """
    have = (tuple(tensor.shape), tensor.dtype, tensor.device)
    if have != (spec.shape, spec.dtype, device):
        raise RefitFailed(
            f"weight {name or '?'} is {dtype_name(tensor.dtype)}{list(tensor.shape)} on {tensor.device}; its engine "
            f"was built for {dtype_name(spec.dtype)}{list(spec.shape)} on {device}: compile again (torch.compiler.reset())"
        )


def fits(tensor: torch.Tensor, spec: TensorSpec) -> bool:
    """Whether an engine can read this tensor's memory as it is."""
    if tensor.data_ptr() % ALIGNMENT:
        return False
    return tensor.stride() == spec.stride or TensorSpec.of(tensor).stride == spec.stride == _dense(tensor)


def _dense(tensor: torch.Tensor) -> tuple[int, ...]:
    """Strides with those of size-1 dimensions made canonical."""
    canonical = TensorSpec.of(tensor).stride
    return tuple(c if n == 1 else s for n, s, c in zip(tensor.shape, tensor.stride(), canonical, strict=True))


def laid_out(tensor: torch.Tensor, spec: TensorSpec) -> torch.Tensor:
    """The tensor itself if it fits, else a copy in the layout of ``spec``."""
    if fits(tensor, spec):
        return tensor
    copy = torch.empty_strided(spec.shape, spec.stride, dtype=spec.dtype, device=tensor.device)
    return copy.copy_(tensor)


class Alias:
    """Holds a tensor's memory without its autograd history, so that its address cannot be given to another tensor.

    Counts the holders of each storage, so that a storage which only we hold is known for dead.
    """

    __slots__ = ("storage", "tensor")
    _held: Counter[int] = Counter()

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor.detach()
        self.storage = self.tensor.untyped_storage()._cdata
        Alias._held[self.storage] += 1

    def __del__(self) -> None:
        Alias._held[self.storage] -= 1
        if not Alias._held[self.storage]:
            del Alias._held[self.storage]

    @property
    def alive(self) -> bool:
        """Whether anyone but us still holds the memory."""
        handle = self.tensor.untyped_storage()  # itself one holder while it is looked at
        return bool(torch._C._storage_Use_Count(handle._cdata) > Alias._held[self.storage] + 1)


class WeightSet:
    """What is known of one model's weights: addresses, copies, and what those depend on.

    Attributes:
        pointers: for each partition, the addresses of its slots, which an engine reads.
        stamps: for each partition, what an engine's copy of the slots depends on; equal stamps, equal contents.
        kept: for each partition, the slot tensors that are ours (derived or re-laid-out); None for the model's own.
        values: derived weights in the order of the main graph's placeholders.
        token: replaced whenever anything above is, so that one identity check tells "as before".
    """

    def __init__(self, watch: Sequence[int]) -> None:
        self.pointers: list[tuple[int, ...]] = []
        self.stamps: list[tuple[int, ...]] = []
        self.kept: list[list[torch.Tensor | None]] = []
        self.values: tuple[torch.Tensor, ...] = ()
        self.token = object()
        self.pieces: dict[int, tuple[tuple[int, ...], Sequence[torch.Tensor]]] = {}
        self.watch = tuple(watch)
        self.watched = _gather(self.watch)
        self.state: tuple[int, int] | None = None
        self.aliases: list[Alias] = []


class Bundle(NamedTuple):
    """The weights of one call, as engines take them."""

    set: WeightSet
    sources: tuple[torch.Tensor, ...]
    live: LiveWeights

    def slots(self, partition: int) -> list[torch.Tensor]:
        """The slot tensors of a partition, in order and in the layout of their slots."""
        return self.live.slot_tensors(self.set, self.sources, partition)


class LiveWeights:
    """Finds the weight set of a call.

    Args:
        split: the graph's weights.
        slots: for each partition, ``(weight placeholder name, slot)`` in engine order.
        copies: engines hold copies of all weights (``general``), so every source is watched, not only derived ones'.
        names: where the user's model keeps each source, for messages.
        device: where the engines run.
    """

    def __init__(
        self, split: Split, slots: Sequence[Sequence[tuple[str, Slot]]], *, copies: bool, names: dict[int, str],
        device: torch.device,
    ) -> None:  # fmt: skip
        self.split, self.slots, self.names, self.copies, self.device = split, slots, names, copies, device
        placeholders = [n.name for n in split.module.graph.find_nodes(op="placeholder")]
        self._argument = {name: i for i, name in enumerate(placeholders[: split.arguments])}
        self._derived = placeholders[split.arguments :]
        direct = [self._argument[name] for part in slots for name, _ in part if name in self._argument]
        derive = [i for piece in split.derived for i in piece.sources]
        self._used = tuple(dict.fromkeys([*direct, *derive]))
        self._index = {argument: k for k, argument in enumerate(self._used)}
        self._gather = _gather(self._used)
        self._watch = tuple(self._index[i] for i in (self._used if copies else dict.fromkeys(derive)))
        self._guarded = tuple(self._index[i] for i in dict.fromkeys(derive))
        self._sets: OrderedDict[tuple[int, ...], WeightSet] = OrderedDict()
        self._last: tuple[tuple[int, ...], WeightSet] | None = None
        self._lock = threading.RLock()
        self._generation = 0
        if self._watch:
            writes.watch()
        _all_live.add(self)

    def current(self, args: Sequence[Any]) -> Bundle:
        """The weights of these arguments, derived ones up to date.

        Raises:
            RefitFailed: a weight has another shape, dtype or device than its slot.
        """
        sources = self._gather(args)
        pointers = tuple(map(torch.Tensor.data_ptr, sources))
        last = self._last
        if last is not None and last[0] == pointers:
            found = last[1]
            if not found.watch or found.state == _state(found, sources):
                return Bundle(found, sources, self)
        with self._lock:
            known = self._sets.pop(pointers, None)
            if known is None:
                self.sweep()
            found = known or WeightSet(self._watch)
            if found.state is None or found.state != _state(found, sources):
                self._update(found, sources)
                found.state = _state(found, sources)
            while len(self._sets) >= _MAX_SETS:
                self._sets.popitem(last=False)
            self._sets[pointers] = found
            self._last = (pointers, found)
            return Bundle(found, sources, self)

    def slot_tensors(self, found: WeightSet, sources: Sequence[torch.Tensor], partition: int) -> list[torch.Tensor]:
        own = found.kept[partition]
        return [
            sources[self._index[self._argument[name]]].detach() if kept is None else kept
            for kept, (name, _) in zip(own, self.slots[partition], strict=True)
        ]

    def refresh(self) -> None:
        """Forgets what every source held, so that the next call reads all of them anew."""
        with self._lock:
            self._generation += 1
            self._sets.clear()
            self._last = None

    def sweep(self) -> None:
        """Drops what was kept of models that are gone."""
        with self._lock:
            for pointers, found in list(self._sets.items()):
                if found.aliases and not all(alias.alive for alias in found.aliases):
                    del self._sets[pointers]
                    if self._last is not None and self._last[1] is found:
                        self._last = None

    def _update(self, found: WeightSet, sources: Sequence[torch.Tensor]) -> None:
        values: dict[str, torch.Tensor] = {}
        stamps: dict[str, tuple[int, ...]] = {}
        for k, piece in enumerate(self.split.derived):
            inputs = [sources[self._index[i]] for i in piece.sources]
            stamp = (self._generation, *(x for t in inputs for x in _stamp(t)))
            if k not in found.pieces or found.pieces[k][0] != stamp:
                with torch.no_grad():
                    found.pieces[k] = (stamp, piece.module(*inputs))
            values.update(zip(piece.names, found.pieces[k][1], strict=True))
            stamps.update(dict.fromkeys(piece.names, stamp))
        watch, pointers, part_stamps, kept = dict.fromkeys(self._watch), [], [], []
        for part in self.slots:
            tensors: list[torch.Tensor | None] = []
            addresses: list[int] = []
            content = [self._generation]
            for name, slot in part:
                given = values.get(name)
                if given is None:
                    index = self._index[self._argument[name]]
                    source = sources[index].detach()
                    checked(source, slot.spec, self.device, self.names.get(self._argument[name], name))
                    bound = laid_out(source, slot.spec)
                    own = bound is not source
                    if own:
                        watch[index] = None
                    if own or self.copies:
                        content += _stamp(sources[index])
                else:
                    bound, own = laid_out(given, slot.spec), True
                    content += stamps[name]
                tensors.append(bound if own else None)
                addresses.append(bound.data_ptr())
            pointers.append(tuple(addresses))
            part_stamps.append((*addresses, *content))
            kept.append(tensors)
        found.pointers, found.stamps, found.kept = pointers, part_stamps, kept
        found.values = tuple(values[name] for name in self._derived)
        if tuple(watch) != found.watch or not found.aliases:
            found.watch, found.watched = tuple(watch), _gather(tuple(watch))
            guarded = dict.fromkeys([*self._guarded, *(i for i in watch if i not in self._watch)])
            found.aliases = [Alias(sources[i]) for i in guarded]
        found.token = object()


def _state(found: WeightSet, sources: Sequence[torch.Tensor]) -> tuple[int, int]:
    """Two numbers that differ when a watched source was written: versions only grow, so one sum is exact."""
    watched = found.watched(sources)
    try:
        versions = sum(map(_version_of, watched))
    except RuntimeError:  # inference tensors do not track versions
        versions = sum(map(version, watched))
    return versions, writes.count(map(torch.Tensor.data_ptr, watched)) if writes.epoch else 0


def _stamp(tensor: torch.Tensor) -> tuple[int, int, int]:
    pointer = tensor.data_ptr()
    return pointer, version(tensor), writes.count([pointer])


_version_of = operator.attrgetter("_version")


def _gather(positions: Sequence[int]) -> Callable[[Sequence[Any]], tuple[Any, ...]]:
    """``itemgetter`` that always gives a tuple."""
    if len(positions) > 1:
        return operator.itemgetter(*positions)
    return lambda args: tuple(args[p] for p in positions)


def refresh_all() -> None:
    """Every compiled graph of the process reads its weights anew at the next call."""
    for live in list(_all_live):
        live.refresh()
