"""The weights of one model as they are, and those of the last call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from .derived import Made
from .renewal import Renewal
from .watch import Alias, contents


class WeightSet(NamedTuple):
    """One model's weights as they are: addresses, copies, and what those depend on. Never changed, only replaced.

    Attributes:
        pointers: for each partition, the addresses of its slots, which an engine reads.
        stamps: for each partition, what an engine's copy of the slots depends on; equal stamps, equal contents. Empty
            where engines hold no copies.
        kept: for each partition, the slot tensors that are ours (derived or re-laid-out); None for the model's own.
        values: derived weights in the order of the main graph's placeholders.
        token: stands for all of the above, so that one identity check tells "as before".
        pieces: the derived weights by piece, with what they depend on.
        watched: picks the sources whose contents matter, None if none do; ``state`` is what those were.
        aliases: hold the memory of the watched sources, so that no other tensor gets an address that stands for them.
        refreshes: how often all was refreshed before; see :func:`refresh_all`.
        ready: recorded after what is ours was computed; None if nothing is, or on a CPU.
        streams: numbers of the streams that are ordered after ``ready``; grows.
        held: numbers of the streams that what is ours is held for until they have read it; grows. One object as long as
            all stays where it is.
        bare: what is ours among the slots are derived weights, and nothing else.
        renewal: computes what is ours anew, in its place.
    """

    pointers: list[tuple[int, ...]]
    stamps: list[tuple[int, ...]]
    kept: list[list[torch.Tensor | None]]
    values: tuple[torch.Tensor, ...]
    token: object
    pieces: list[tuple[tuple[Any, ...], Made]]
    watched: Callable[[Sequence[Any]], tuple[Any, ...]] | None
    state: tuple[Any, ...]
    aliases: list[Alias]
    refreshes: int
    ready: torch.cuda.Event | None
    streams: set[int]
    held: set[int]
    bare: bool
    renewal: Renewal

    def as_before(self, sources: Sequence[torch.Tensor]) -> bool:
        return self.watched is None or self.state == contents(self.watched(sources))


class Last(NamedTuple):
    """The weights of the last call: where they lie, a check of their layouts where nobody else has one, and the set."""

    pointers: tuple[int, ...]
    laid_out_alike: Callable[..., bool] | None
    set: WeightSet | None
    where: tuple[Any, ...]

    def is_of(self, pointers: tuple[int, ...], sources: Sequence[torch.Tensor]) -> bool:
        return self.pointers == pointers and (self.laid_out_alike is None or self.laid_out_alike(*sources))
