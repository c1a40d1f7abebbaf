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


@contextlib.contextmanager
def remembered(cache: BlobStore, key: Key, part: str) -> Iterator[None]:
    """Around a build: refuses it if it came to nothing within the last day, and remembers if it comes to nothing.

    A key says nothing of the GPU that RTX builds beside, and without one RTX builds less, so the name does.

    Args:
        cache: where it is remembered.
        key: of the engine.
        part: the partition's name, for messages.

    Raises:
        BuildFailed: it came to nothing before.
    """
    name = f"{key.digest} {torch.cuda.get_device_name() if torch.cuda.is_available() else 'no GPU'}"
    data = cache.get_blob(KIND, name)
    told = {"time": 0.0} if data is None else json.loads(data)
    age = time.time() - told["time"]
    if 0 <= age < DAY:
        raise BuildFailed(
            f"{part}: {told['why']} ({_ago(age)} ago; asked again after a day, or once the cache is cleared)"
        )
    try:
        yield
    except NotBuilt as error:
        why = str(error).removeprefix(f"{part}: ")
        cache.put_blob(KIND, name, json.dumps({"time": time.time(), "why": why}).encode())
        raise


def _ago(seconds: float) -> str:
    return f"{seconds / 3600:.0f} h" if seconds >= 3600 else f"{seconds / 60:.0f} min"
