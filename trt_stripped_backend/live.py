"""Hands out live weights at each call, and tells what changed since the last.

A *source* is the parameter or buffer that came as an argument of this very call, so a new ``Parameter``, ``p.data = …``
or a swapped module is always seen. What a source *holds* is watched where someone keeps a copy of it (a derived weight,
a refitted engine), see :mod:`.watch`. Writes that leave no trace (``p.data.add_``, raw storage) need
:func:`refresh_all`.
"""

from __future__ import annotations

import operator
import threading
import weakref
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from packaging.version import Version

from .derived import UNRECORDED, Derivation, Made, enqueued
from .errors import NotWarm
from .placement import checked, fits, laid_out
from .renewal import Renewal
from .types import Slot, TensorSpec
from .watch import Alias, Disguised, capturing, contents, current_handle, gather, same_layout, stamp, writes
from .weights import Split
from .weightset import Last, WeightSet

_MAX_SETS = 256  # small records: addresses, and derived weights that the model's other graphs share
#: Before 2.13 Dynamo does not look at a parameter again after ``p.data = …``, so its layout may change at one address.
_UNGUARDED = Version(torch.__version__).release < (2, 13)

_pointer = torch.Tensor.data_ptr
_shape_and_dtype = operator.attrgetter("shape", "dtype")

_all_live: weakref.WeakSet[LiveWeights] = weakref.WeakSet()
#: How often :func:`refresh_all` was called: a part of all that tells one state of weights from another.
_refreshes = 0
_lock = threading.Lock()


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
        suspects: arguments that may be data, see :class:`.watch.Disguised`.
        guarded: Dynamo looks at the layouts of parameters before each call, in the versions of PyTorch where it does.
    """

    def __init__(
        self, split: Split, slots: Sequence[Sequence[tuple[str, Slot]]], *, copies: bool, names: dict[int, str],
        device: torch.device, suspects: Mapping[int, bool] | None = None, guarded: bool = True,
    ) -> None:  # fmt: skip
        self._unguarded = _UNGUARDED or not guarded
        self.split, self.slots, self.names, self.copies, self.device = split, slots, names, copies, device
        placeholders = [n.name for n in split.module.graph.find_nodes(op="placeholder")]
        self._argument = {name: i for i, name in enumerate(placeholders[: split.arguments])}
        self._derived = placeholders[split.arguments :]
        direct = [self._argument[name] for part in slots for name, _ in part if name in self._argument]
        derive = [i for piece in split.derived for i in piece.sources]
        self._derived_slots = [
            (number, place, name, slot)
            for number, part in enumerate(slots) for place, (name, slot) in enumerate(part)
            if name not in self._argument
        ]  # fmt: skip
        self._used = tuple(dict.fromkeys([*direct, *derive]))
        self._index = {argument: k for k, argument in enumerate(self._used)}
        self._gather = gather(self._used)
        self._derivations = [Derivation(piece, self._index, device) for piece in split.derived]
        known = {self._index[i]: written for i, written in (suspects or {}).items() if i in self._index}
        self._disguised = Disguised(known)
        self._derived_of = tuple(self._index[i] for i in dict.fromkeys(derive))
        self._watch = tuple(range(len(self._used))) if copies else self._derived_of
        self._sets: OrderedDict[tuple[Any, ...], WeightSet] = OrderedDict()
        self._last: Last | None = None
        self._lock = threading.RLock()
        if self._watch:
            writes.watch()
        _all_live.add(self)

    def current(self, args: Sequence[Any]) -> Bundle:
        """The weights of these arguments, derived ones up to date.

        Raises:
            RefitFailed: a weight has another shape, dtype or device than was traced, or its memory was freed.
            NotWarm: a CUDA graph is being recorded, and a derived weight is not up to date.
        """
        sources = self._gather(args)
        pointers = tuple(map(_pointer, sources))
        last = self._last
        if last is not None and last.is_of(pointers, sources):
            found = last.set
            assert found is not None
            if found.watched is None or found.state == contents(found.watched(sources)):
                self._disguised.calls = 0
                if found.ready is not None:
                    self._order(found)
                return Bundle(found, sources, self)
        found = self._found(pointers, sources)
        if found.ready is not None:
            self._order(found)
        return Bundle(found, sources, self)

    def _order(self, found: WeightSet) -> None:
        """Makes the caller's stream wait for what is ours, and what is ours wait for it before it is freed."""
        handle = current_handle(self.device.index)
        if handle in found.streams or capturing(self.device):  # whoever records has called before, and synchronized
            return
        assert found.ready is not None
        stream = torch.cuda.current_stream(self.device)
        stream.wait_event(found.ready)
        if handle not in found.held:
            for tensor in (*found.values, *(t for own in found.kept for t in own if t is not None)):
                tensor.record_stream(stream)
            found.held.add(handle)
        found.streams.add(handle)

    def _found(self, pointers: tuple[int, ...], sources: tuple[torch.Tensor, ...]) -> WeightSet:
        with self._lock:
            stamps = self._stamps(sources)
            self._disguised.look(stamps)
            last = self._last
            if last is None or not last.is_of(pointers, sources):
                last = self._known(pointers, sources)
            known = last.set
            if known is None:
                self.sweep()
            found = known
            if known is None or known.refreshes != _refreshes or not known.as_before(sources):
                # What is ours may be read and written in any mode later, which an inference tensor may not.
                with torch.inference_mode(False), torch.no_grad():
                    found = self._rewritten(known, sources, stamps) or self._renewed(known, sources, stamps)
            assert found is not None
            self._sets[last.where] = found
            self._sets.move_to_end(last.where)
            while len(self._sets) > _MAX_SETS:
                self._sets.popitem(last=False)
            self._last = last._replace(set=found)
            return found

    def _known(self, pointers: tuple[int, ...], sources: tuple[torch.Tensor, ...]) -> Last:
        where: tuple[Any, ...] = pointers
        if self._unguarded:
            where = (pointers, tuple(map(torch.Tensor.stride, sources)), tuple(map(_shape_and_dtype, sources)))
        laid_out_alike = same_layout(sources) if self._unguarded and sources else None
        return Last(pointers, laid_out_alike, self._sets.get(where), where)

    def _stamps(self, sources: Sequence[torch.Tensor]) -> list[tuple[Any, ...]]:
        """What differs when a source changed, where anybody asks: of those that something is computed of, or of all."""
        if self._disguised.suspects:
            return [stamp(source) for source in sources]
        stamps: list[tuple[Any, ...]] = [()] * len(sources)
        for index in self._derived_of:
            stamps[index] = stamp(sources[index])
        return stamps

    @property
    def data(self) -> frozenset[int]:
        """Arguments that were taken for weights and are data."""
        found = self._disguised.found
        return frozenset(self._used[k] for k in found) if found else found

    def name(self, argument: int) -> str:
        """What the user's model calls an argument."""
        return self.names.get(argument) or f"#{argument}"

    def slot_tensors(self, found: WeightSet, sources: Sequence[torch.Tensor], partition: int) -> list[torch.Tensor]:
        return [
            sources[self._index[self._argument[name]]].detach() if kept is None else kept
            for kept, (name, _) in zip(found.kept[partition], self.slots[partition], strict=True)
        ]

    def look_again(self) -> None:
        """Makes the next call ask what it knows. What was made stays in place, for graphs that read it."""
        with self._lock:
            self._last = None
            self.sweep()

    def sweep(self) -> None:
        """Drops what was kept of models that are gone."""
        with self._lock:
            for where, found in list(self._sets.items()):
                if found.aliases and not all(alias.alive for alias in found.aliases):
                    del self._sets[where]
                    if self._last is not None and self._last.set is found:
                        self._last = None

    def _rewritten(
        self, before: WeightSet | None, sources: Sequence[torch.Tensor], known: Sequence[tuple[Any, ...]]
    ) -> WeightSet | None:
        """The set after writes to weights that stay where they are: only what is computed of them is new, in its old
        place. None if there is more to it."""
        if before is None or not before.bare or before.refreshes != _refreshes or capturing(self.device):
            return None
        pieces = self._launched(before, known)
        if pieces is None:
            pieces = self._derive(before, sources, known, before.refreshes)
            if any(made is not had for (_, made), (_, had) in zip(pieces, before.pieces, strict=True)):
                return None
            if not self._lay_out(before):
                return None
            if self._most(before, pieces):
                before.renewal.again(lambda: self._compute(before, sources))
        assert before.watched is not None
        ready = enqueued(self.device) if pieces else None
        return before._replace(
            token=object(), pieces=pieces, state=contents(before.watched(sources)), ready=ready or before.ready,
            streams=set(), stamps=self._stamped(before.pointers, pieces, sources, before.refreshes),
        )  # fmt: skip

    def _lay_out(self, found: WeightSet) -> bool:
        """Copies derived weights to where engines read them in another layout; False if that is elsewhere now."""
        values = dict(zip(self._derived, found.values, strict=True))
        return all(
            laid_out(values[name], slot.spec, found.kept[number][place]) is found.kept[number][place]
            for number, place, name, slot in self._derived_slots
        )

    def _compute(self, found: WeightSet, sources: Sequence[torch.Tensor]) -> None:
        """Enqueues all that makes derived weights, in their places, of sources in theirs."""
        for derivation, (_, made) in zip(self._derivations, found.pieces, strict=True):
            derivation.into(made, derivation.pick(sources))
        self._lay_out(found)

    def _most(self, before: WeightSet, pieces: Sequence[tuple[tuple[Any, ...], Made]]) -> bool:
        """Whether so many pieces have changed that all may as well be computed."""
        changed = sum(on != had for (on, _), (had, _) in zip(pieces, before.pieces, strict=True))
        return 2 * changed > len(pieces)

    def _launched(
        self, before: WeightSet, known: Sequence[tuple[Any, ...]]
    ) -> list[tuple[tuple[Any, ...], Made]] | None:
        """The pieces after a launch that computed all of them; None where that is not recorded, or would not pay."""
        if not before.renewal.recorded:
            return None
        pieces = [
            (derivation.on(before.refreshes, known), made)
            for derivation, (_, made) in zip(self._derivations, before.pieces, strict=True)
        ]
        if not self._most(before, pieces):
            return None
        before.renewal.launch()
        ready = enqueued(self.device)
        for derivation, (on, made), (had, _) in zip(self._derivations, pieces, before.pieces, strict=True):
            if on != had:
                derivation.renewed(on, made, ready)
        return pieces

    def _renewed(
        self, before: WeightSet | None, sources: Sequence[torch.Tensor], known: Sequence[tuple[Any, ...]]
    ) -> WeightSet:
        watch, refreshes = dict.fromkeys(self._watch), _refreshes  # once, since it may grow meanwhile
        pieces = self._derive(before, sources, known, refreshes)
        values: dict[str, torch.Tensor] = {}
        earlier: dict[str, torch.Tensor] = {}
        for piece, (_, made) in zip(self.split.derived, before.pieces if before is not None else (), strict=False):
            earlier.update(zip(piece.names, made.tensors, strict=True))
        for piece, (_, made) in zip(self.split.derived, pieces, strict=True):
            values.update(zip(piece.names, made.tensors, strict=True))
        pointers: list[tuple[int, ...]] = []
        kept: list[list[torch.Tensor | None]] = []
        bare = True
        for number, part in enumerate(self.slots):
            own: list[torch.Tensor | None] = []
            addresses: list[int] = []
            for place, (name, slot) in enumerate(part):
                old = before.kept[number][place] if before is not None else None
                old = None if old is earlier.get(name) else old
                source = values.get(name)
                index = None if source is not None else self._index[self._argument[name]]
                if index is None:
                    assert source is not None
                    bound, ours = self._laid_out(source, slot.spec, old), True
                else:
                    source = sources[index]
                    checked(source, slot.spec.shape, slot.spec.dtype, self.device, self.name(self._argument[name]))
                    bound = self._laid_out(source.detach(), slot.spec, old)
                    ours = bound.data_ptr() != source.data_ptr()
                    if ours:
                        watch[index], bare = None, False
                own.append(bound if ours else None)
                addresses.append(bound.data_ptr())
            pointers.append(tuple(addresses))
            kept.append(own)
        watched = gather(tuple(watch)) if len(watch) < len(sources) else tuple
        ours = bool(self._derived) or any(t is not None for own in kept for t in own)
        ready = enqueued(self.device) if ours else None
        if ready is None and before is not None:  # recorded: nothing was computed
            ready = before.ready
        return WeightSet(
            pointers, self._stamped(pointers, pieces, sources, refreshes), kept,
            tuple(values[name] for name in self._derived), object(), pieces,
            watched if watch else None, contents(watched(sources)), [Alias(sources[i]) for i in watch],
            refreshes, ready, set(), set(), bare, Renewal(self.device),
        )  # fmt: skip

    def _stamped(
        self, pointers: Sequence[tuple[int, ...]], pieces: Sequence[tuple[tuple[Any, ...], Made]],
        sources: Sequence[torch.Tensor], refreshes: int,
    ) -> list[tuple[Any, ...]]:  # fmt: skip
        """For each partition, what an engine's copy of its slots depends on; nothing where engines hold none."""
        if not self.copies:
            return [()] * len(self.slots)
        depends = {name: on for piece, (on, _) in zip(self.split.derived, pieces, strict=True) for name in piece.names}
        return [
            (*addresses, refreshes, *(
                depends[name] if name in depends else stamp(sources[self._index[self._argument[name]]])
                for name, _ in part
            ))
            for part, addresses in zip(self.slots, pointers, strict=True)
        ]  # fmt: skip

    def _derive(
        self, before: WeightSet | None, sources: Sequence[torch.Tensor], known: Sequence[tuple[Any, ...]],
        refreshes: int,
    ) -> list[tuple[tuple[Any, ...], Made]]:  # fmt: skip
        """The derived weights by piece with what they depend on, those computed for which that changed."""
        recording = bool(self._derivations) and capturing(self.device)
        pieces, fresh = [], []
        for k, derivation in enumerate(self._derivations):
            had = before.pieces[k] if before is not None else None
            on = derivation.on(refreshes, known)
            if had is None or had[0] != on:
                inputs = derivation.pick(sources)
                if had is None:  # else they were looked at: weights are known by their addresses and layouts
                    derivation.check(inputs, self.name)
                made, share = derivation.computed(on, had[1] if had is not None else None, inputs, recording)
                fresh += [made] if share else []
                had = on, made
            pieces.append(had)
        ready = enqueued(self.device) if fresh else None
        for made in fresh:
            made.share(ready)
        return pieces

    def _laid_out(self, tensor: torch.Tensor, spec: TensorSpec, into: torch.Tensor | None) -> torch.Tensor:
        if not fits(tensor, spec) and capturing(self.device):
            raise NotWarm(UNRECORDED)
        return laid_out(tensor, spec, into)

def refresh_all() -> None:
    """Every compiled graph of the process, also one that is compiled later, reads its weights anew."""
    global _refreshes
    with _lock:
        _refreshes += 1
    for live in list(_all_live):
        live.look_again()
