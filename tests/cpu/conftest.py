"""What tests without a GPU share."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import torch

import trt_stripped_backend as ts
from tests.cpu.warm import Run, warm
from tests.emulated import World, emulated

# Where this logger has a handler, and pytest gives it one, PyTorch writes each graph it traces as a text and a stack.
logging.getLogger("torch.__trace").addHandler = lambda hdlr: None  # type: ignore[method-assign]


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """Emulated engines, a compiler that knows nothing, counters at zero."""
    torch._dynamo.reset()
    ts.clear_stats()
    with emulated() as one:
        yield one
        monkeypatch.undo()  # first, or it would put the emulation back that a test replaced, for all tests to come
    torch._dynamo.reset()


@pytest.fixture(scope="session")
def run_warm() -> Iterator[Run]:
    """Runs a script in a process of its own that has PyTorch imported already."""
    with warm() as run:
        yield run
