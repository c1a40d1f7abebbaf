"""What a cache tells of itself: its entries, what is wrong with it, what a clean-up freed."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from ..types import Json
from .entry import Envelope


@dataclass(frozen=True)
class Record:
    """One entry, without its plan and not verified.

    Attributes:
        key: the key's digest.
        created: when it was built, Unix seconds.
        used: when it was last read or written, Unix seconds.
        size: bytes on disk.
        plan_bytes: bytes of the plan in it.
        header: the entry's header.
        directory: the cache directory that holds it.
    """

    key: str
    created: float
    used: float
    size: int
    plan_bytes: int
    header: dict[str, Json] = field(repr=False)
    directory: Path

    @classmethod
    def of(cls, envelope: Envelope, *, used: float, size: int, directory: Path) -> Record:
        return cls(envelope.key, envelope.created, used, size, envelope.plan_bytes, envelope.header, directory)

    @property
    def build_seconds(self) -> float | None:
        """What the build took, so what a hit saves; None if the header does not say."""
        seconds = self.header.get("build_seconds")
        try:
            return float(seconds) if isinstance(seconds, (int, float)) and math.isfinite(seconds) else None
        except OverflowError:  # an int of hundreds of digits
            return None

    @property
    def parts(self) -> dict[str, Json]:
        """The parts of the key."""
        parts = self.header.get("parts")
        return parts if isinstance(parts, dict) else {}

    @property
    def summary(self) -> str:
        """Flavour, mode and size of the graph, as far as the header says."""
        flavour, mode, nodes = (self.header.get(name) for name in ("flavour", "mode", "nodes"))
        words = [" ".join(map(str, flavour)) if isinstance(flavour, list) else flavour, mode]
        words += [f"{nodes} operators"] if isinstance(nodes, int) else []
        return ", ".join(str(word) for word in words if word)


@dataclass(frozen=True)
class Problem:
    """Something wrong with a cache.

    Attributes:
        kind: ``directory`` (not safe, or not usable), ``permission``, ``damaged`` (an entry), ``index``, ``orphan`` (an
            entry that the index lacks), ``missing`` (an entry that only the index has), ``temporary`` (left by a killed
            writer), ``unknown`` (a file of someone else's), ``size`` (more than the cache may hold).
        path: where.
        message: what, in one sentence.
    """

    kind: str
    path: Path
    message: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.path}: {self.message}"


class Freed(NamedTuple):
    """What a clean-up removed: entries (blobs count too), and their bytes."""

    entries: int
    bytes: int
