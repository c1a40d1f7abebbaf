"""What tests without a GPU share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

import trt_stripped_backend as ts
from tests.emulated import World, emulated


@pytest.fixture
def world() -> Iterator[World]:
    """Emulated engines, a compiler that knows nothing, counters at zero."""
    torch._dynamo.reset()
    ts.clear_stats()
    with emulated() as one:
        yield one
    torch._dynamo.reset()
