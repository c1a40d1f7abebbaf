"""What a compilation makes of a graph, from a partition to its engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from .errors import Unsupported
from .partition import Partitioned
from .types import Entry, Json, Key, Partition, Ranges, Signature
from .weights import Split


@dataclass(frozen=True)
class Piece:
    """A partition on its way to an engine.

    Attributes:
        graph: its canonical form.
        entry: the engine; None if the build failed, if only a look was asked for, or if the mode needs values first.
        pending: it is not in the cache, and is to be built in the background.
        limits: the ranges that the engine was built for, where another process chose them.
    """

    partition: Partition
    signature: Signature
    graph: Json
    entry: Entry | None
    pending: bool = False
    limits: Ranges | None = None


@dataclass(frozen=True)
class Wanted:
    """The engine that a piece needs.

    Attributes:
        mode: that it is built in. A piece without weights has nothing to refit, and is built as in ``bound``: RTX takes
            longer for a refittable engine.
        parts: of its key, without the ranges.
        values: of the weights, in the modes that build them in.
    """

    piece: Piece
    mode: str
    parts: dict[str, Json]
    key: Key
    values: Mapping[str, torch.Tensor] | None
    ranges: Ranges
    tf32: bool
    half_sums: bool


@dataclass(frozen=True)
class Had:
    """What came of looking for an engine: the entry, its status in the report, seconds, and why there is none."""

    entry: Entry | None
    status: str
    seconds: float
    why: str


#: A cut, its pieces, and the engine that each needs or why it can have none; nothing of the last in VALUED modes.
Attempted = tuple[Partitioned, list[Piece], list[Wanted | Unsupported]]


@dataclass(frozen=True)
class Planned:
    """What a lowered graph became."""

    split: Split
    cut: Partitioned
    pieces: tuple[Piece, ...]
