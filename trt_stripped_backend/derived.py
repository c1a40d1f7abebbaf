"""Derived weights as they are computed at run time, and shared by all graphs of a model that have the same."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from .errors import NotWarm
from .placement import checked
from .watch import capturing, gather
from .weights import Derived

UNRECORDED = "a weight's copy is out of date while a CUDA graph is recorded: call the model once before recording it"

_lock = threading.Lock()


class Made:
    """The outputs of one derived piece; shared by all graphs of a model while any of them holds it.

    When a source is written, the new values come into the same memory: what holds its address, a recorded CUDA graph
    too, reads the new ones. Whoever may write to a source must have waited for what reads it, so nobody reads the old.
    """

    __slots__ = ("__weakref__", "key", "ready", "tensors")

    def __init__(self, key: tuple[Any, ...], tensors: Sequence[torch.Tensor]) -> None:
        self.key, self.tensors = key, tuple(tensors)
        self.ready: torch.cuda.Event | None = None

    def update(self, key: tuple[Any, ...], tensors: Sequence[torch.Tensor]) -> None:
        torch._foreach_copy_(self.tensors, tuple(tensors))
        self.rename(key)

    def rename(self, key: tuple[Any, ...]) -> None:
        """They depend on this now."""
        with _lock:
            if _made.get(self.key) is self:
                del _made[self.key]
            self.key = key

    def share(self, ready: torch.cuda.Event | None) -> None:
        """Lets other graphs of the model have it, after the event: what computes it is enqueued."""
        self.ready = ready
        with _lock:
            _made[self.key] = self


def enqueued(device: torch.device) -> torch.cuda.Event | None:
    """What the current stream has enqueued until now; None without a GPU, and while a CUDA graph is recorded."""
    if not torch.cuda.is_initialized() or capturing(device):  # type: ignore[no-untyped-call]
        return None
    event = torch.cuda.Event()  # type: ignore[no-untyped-call]
    event.record(torch.cuda.current_stream(device))
    return event


_made: weakref.WeakValueDictionary[tuple[Any, ...], Made] = weakref.WeakValueDictionary()


class Derivation:
    """A derived piece as it is looked at when weights changed.

    Args:
        piece: the piece.
        index: where an argument of the graph is among the sources of a call.
        device: where the engines run.

    Attributes:
        pick: picks its inputs, or what is known of them, from those of all sources.
    """

    def __init__(self, piece: Derived, index: Mapping[int, int], device: torch.device) -> None:
        self.device, self._module = device, piece.module
        self.pick = gather([index[argument] for argument in piece.sources])
        graph = piece.module.graph
        fakes = [node.meta["val"] for node in graph.find_nodes(op="placeholder")]
        self._traced = [(i, tuple(f.shape), f.dtype) for i, f in zip(piece.sources, fakes, strict=True)]
        # Literals are attributes and not in the text, so such a piece is nobody else's.
        literal = any(node.op == "get_attr" for node in graph.nodes)
        self._code = piece.module.code, id(piece) if literal else None, device

    def check(self, inputs: Sequence[torch.Tensor], name: Callable[[int], str]) -> None:
        """Raises RefitFailed if its inputs cannot be what was traced; ``name`` gives an argument's in the model."""
        for (argument, shape, dtype), tensor in zip(self._traced, inputs, strict=True):
            checked(tensor, shape, dtype, self.device, name(argument))

    def on(self, refreshes: int, known: Sequence[tuple[Any, ...]]) -> tuple[Any, ...]:
        """All that its outputs depend on, by what is known of all sources."""
        return refreshes, self.pick(known)

    def computed(
        self, on: tuple[Any, ...], mine: Made | None, inputs: Sequence[torch.Tensor], recording: bool
    ) -> tuple[Made, bool]:
        """Its outputs that depend on this, and whether they are to be shared: nobody had them, and now they are made.

        Args:
            on: what :meth:`on` gives.
            mine: the outputs before, whose memory is kept.
            inputs: its inputs.
            recording: a CUDA graph is being recorded.

        Raises:
            NotWarm: a CUDA graph is being recorded, and nobody has them.
        """
        shared = *self._code, *on
        made = _made.get(shared)
        if made is not None and (mine is None or made is mine):
            if made.ready is not None and not recording:
                torch.cuda.current_stream(self.device).wait_event(made.ready)
            return made, False
        if recording:
            raise NotWarm(UNRECORDED)
        if made is not None and made.ready is not None:
            torch.cuda.current_stream(self.device).wait_event(made.ready)
        # What this graph reads stays where it is, also if another graph of the model was faster.
        tensors = made.tensors if made is not None else self._module(*inputs)
        if mine is None:
            mine = Made(shared, tensors)
        else:
            mine.update(shared, tensors)
        return mine, made is None

    def into(self, made: Made, inputs: Sequence[torch.Tensor]) -> None:
        """Computes its outputs to where they are."""
        torch._foreach_copy_(made.tensors, tuple(self._module(*inputs)))

    def renewed(self, on: tuple[Any, ...], mine: Made, ready: torch.cuda.Event | None) -> None:
        """Notes that its outputs are computed anew before the event, and depend on this."""
        mine.rename((*self._code, *on))
        mine.share(ready)
