"""How long weight sets live, and that threads never see half a change."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from tests.graphs import Engines, live_weights, memory, stage, trace
from trt_stripped_backend import live
from trt_stripped_backend.live import Bundle
from trt_stripped_backend.watch import Alias, version


def plain(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return x @ w


def derived(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return x @ (w * 2)


X = torch.randn(3, 4)


def held(bundle: Bundle, slot: int = 0) -> torch.Tensor:
    """What an engine would read for a slot of the first partition."""
    spec = bundle.live.slots[0][slot][1].spec
    return memory(bundle.set.pointers[0][slot], spec).clone()


@pytest.mark.parametrize("fn", [derived, lambda w, x: x @ w.diagonal().diag()])
def test_dead_models_are_forgotten(fn: Callable[..., Any]) -> None:
    def sets() -> int:
        return len(found._sets)

    weights = [torch.randn(4, 4) for _ in range(3)]
    found = live_weights(trace(fn, 1, weights[0], X), copies=False)
    for w in weights:
        found.current([w, X])
    assert sets() == 3
    found.sweep()
    assert sets() == 3
    del w
    weights.pop()
    gc.collect()
    found.sweep()
    assert sets() == 2
    weights.clear()
    gc.collect()
    found.current([torch.randn(4, 4), X])
    assert sets() == 1


def test_sets_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "_MAX_SETS", 3)
    weights = [torch.randn(4, 4) for _ in range(6)]
    found = live_weights(trace(plain, 1, weights[0], X), copies=False)
    for w in weights * 2:
        found.current([w, X])
    assert len(found._sets) == 3


def test_an_alias_knows_when_it_is_alone() -> None:
    w = nn.Parameter(torch.randn(4))
    aliases = [Alias(w), Alias(w)]

    def alive() -> list[bool]:
        gc.collect()
        return [alias.alive for alias in aliases]

    assert alive() == [True, True]
    view = w[:2]
    del w
    assert alive() == [True, True]
    del view
    assert alive() == [False, False]
    storage = aliases[0].storage
    aliases.clear()
    assert Alias._held[storage] == 0


def test_parameters_are_not_kept_alive() -> None:
    class Watched(nn.Parameter):
        gone = 0

        def __del__(self) -> None:
            Watched.gone += 1

    w = Watched(torch.randn(4, 4))
    found = live_weights(trace(derived, 1, w.detach(), X), copies=True)
    found.current([w, X])
    del w
    gc.collect()
    assert Watched.gone == 1


def test_version_of_inference_tensors() -> None:
    with torch.inference_mode():
        value = torch.ones(2)
    assert version(value) == 0
    ordinary = torch.ones(2)
    before = version(ordinary)
    ordinary.add_(1)
    assert version(ordinary) == before + 1


# ------------------------------------------------------------------------------------------------ threads


@pytest.mark.parametrize("copies", [False, True])
def test_threads_never_see_half_a_change(copies: bool) -> None:
    """Two threads call while a third writes all weights under a lock."""
    layers = [nn.Linear(4, 4, bias=False) for _ in range(4)]
    model = nn.Sequential(*layers)
    with torch.no_grad():
        for layer in layers:
            layer.weight.fill_(1.0)
    engines = Engines(copies=copies)
    staged = stage(model, X, call=engines)
    lock, stop, wrong = threading.Lock(), threading.Event(), []

    def call() -> None:
        with torch.no_grad():
            for _ in range(60):
                with lock:
                    scale = layers[0].weight[0, 0].item()
                    have = staged.compiled(torch.eye(4))
                if not torch.allclose(have, torch.full((4, 4), 64 * scale**4)):
                    wrong.append((scale, have))
        stop.set()

    def write() -> None:
        value = 1.0
        with torch.no_grad():
            while not stop.is_set():
                value = value % 7 + 1
                with lock:
                    for layer in layers:
                        layer.weight.fill_(value)

    threads = [threading.Thread(target=target) for target in (call, call, write)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_threads_with_models_of_their_own() -> None:
    found = live_weights(trace(derived, 1, torch.randn(4, 4), X), copies=False)
    start, wrong = threading.Barrier(4), []

    def call(seed: int) -> None:
        w = torch.full((4, 4), float(seed))
        start.wait()
        for step in range(100):
            w.fill_(seed + step)
            if not torch.equal(held(found.current([w, X])), w * 2):
                wrong.append((seed, step))

    threads = [threading.Thread(target=call, args=(seed * 1000,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
