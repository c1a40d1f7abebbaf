"""Entries in PyTorch's blob of compiler caches: ``torch.compiler.save_cache_artifacts``, ``load_cache_artifacts``.

What a process found or stored in the engine cache travels, TensorRT's own caches too, and is verified before it enters
another cache. PyTorch must know of the kind before it loads: import this module, or :mod:`.backend`, first.
"""

from __future__ import annotations

import logging
from typing import Any

from torch.compiler._cache import CacheArtifact, CacheArtifactFactory, CacheArtifactManager

from .cache import decode, encode, open_cache
from .errors import BadEntry, CacheError
from .types import Entry, Key

log = logging.getLogger("trt_stripped_backend")

KIND = "trt_stripped"


class EngineArtifact(CacheArtifact):
    """One entry. Its bytes are made when PyTorch asks for them, since few processes save any."""

    def __init__(self, key: str, content: Any) -> None:
        object.__setattr__(self, "key", key)
        object.__setattr__(self, "_content", content)

    @property
    def content(self) -> bytes:
        content: Any = vars(self)["_content"]
        return encode(content) if isinstance(content, Entry) else content

    def _bytes(self) -> bytes:
        """What a blob may have changed since it was recorded, without the time at which it is written down."""
        content: Any = vars(self)["_content"]
        return content.plan if isinstance(content, Entry) else content

    def __eq__(self, other: object) -> bool:
        return isinstance(other, EngineArtifact) and (other.key, other._bytes()) == (self.key, self._bytes())

    def __hash__(self) -> int:
        return hash(self.key)

    @staticmethod
    def type() -> str:
        return KIND

    @staticmethod
    def encode(content: Any) -> Any:
        return content

    def populate_cache(self) -> None:
        """Adds the entry to the cache that the environment names; a damaged one is left out, with a warning."""
        try:
            entry = decode(self.content, self.key)
            open_cache().put(Key(entry.key, {}), entry)
        except (BadEntry, CacheError) as error:
            log.warning("cache artifacts: %s; going on without", error)


if KIND not in CacheArtifactFactory._artifact_types:
    CacheArtifactFactory.register(EngineArtifact)


def record(entry: Entry) -> None:
    """Notes an entry that this process uses."""
    CacheArtifactManager.record_artifact(KIND, entry.key, entry)
