"""What TensorRT did not build, remembered beside the plans: no start waits for it twice."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator

import torch

from .errors import BuildFailed, NotBuilt
from .types import BlobStore, Key

#: In the cache, beside the plans.
KIND = "unbuilt"
#: Seconds after which TensorRT is asked again.
DAY = 86400.0


def check(cache: BlobStore, key: Key, part: str) -> None:
    """Says so if a build came to nothing within the last day.

    Args:
        cache: where it is remembered.
        key: of the engine.
        part: the partition's name, for the message.

    Raises:
        BuildFailed: it came to nothing.
    """
    data = cache.get_blob(KIND, _name(key))
    told = {"time": 0.0} if data is None else json.loads(data)
    age = time.time() - told["time"]
    if 0 <= age < DAY:
        raise BuildFailed(
            f"{part}: {told['why']} ({_ago(age)} ago; asked again after a day, or once the cache is cleared)"
        )


@contextlib.contextmanager
def remembered(cache: BlobStore, key: Key, part: str) -> Iterator[None]:
    """Around a build: :func:`check` before, and remembers if it comes to nothing."""
    check(cache, key, part)
    try:
        yield
    except NotBuilt as error:
        why = str(error).removeprefix(f"{part}: ")
        cache.put_blob(KIND, _name(key), json.dumps({"time": time.time(), "why": why}).encode())
        raise


def _name(key: Key) -> str:
    """A key of RTX names no GPU, since its plans are the same for all; but beside none it builds less."""
    return f"{key.digest} {'beside a GPU' if torch.cuda.is_available() else 'without a GPU'}"


def _ago(seconds: float) -> str:
    return f"{seconds / 3600:.0f} h" if seconds >= 3600 else f"{seconds / 60:.0f} min"
