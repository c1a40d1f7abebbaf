"""Streams are one thread's at a time, and none is made while one is idle."""

from __future__ import annotations

import contextlib
import itertools
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from trt_stripped_backend import streams
from trt_stripped_backend.streams import back, borrow

ONE, TWO = torch.device("cuda", 0), torch.device("cuda", 1)


@pytest.fixture(autouse=True)
def driver(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Numbers the streams from 1; ``status`` is what it answers."""
    numbers = itertools.count(1)
    stand_in = SimpleNamespace(status=0)

    def create(out: Any, flags: int) -> int:
        assert flags == 1, "ordered with the default stream"
        out._obj.value = next(numbers)
        return stand_in.status

    stand_in.cuStreamCreate = create
    stand_in.cuGetErrorString = lambda status, out: 0
    monkeypatch.setattr(streams, "driver", lambda: stand_in)
    monkeypatch.setattr("trt_stripped_backend.driver.driver", lambda: stand_in)
    monkeypatch.setattr(streams, "_idle", {})
    monkeypatch.setattr(torch.cuda, "device", contextlib.nullcontext)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: SimpleNamespace(query=lambda: True))
    monkeypatch.setattr(torch.cuda, "ExternalStream", lambda number, device: (number, device))
    return stand_in


def test_a_stream_is_lent_again_once_it_is_back() -> None:
    first, second, other = borrow(ONE), borrow(ONE), borrow(TWO)
    assert len({first, second, other}) == 3
    assert other == (3, TWO)
    back(ONE, first)
    assert borrow(TWO) == (4, TWO), "another device's"
    assert borrow(ONE) is first
    assert borrow(ONE) == (5, ONE)


def test_what_cuda_refuses_is_told(driver: SimpleNamespace) -> None:
    driver.status = 2
    with pytest.raises(RuntimeError, match="CUDA error 2"):
        borrow(ONE)
