"""Builds in the background on a GPU: right before, during and after the switch, which makes nobody wait."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch

import trt_stripped_backend as ts
from tests.gpu.common import Block, compiled, error, perturbed
from trt_stripped_backend import compilation, context, run

MODES = ["bound", "general"]


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Builds wait for it."""
    made, real = threading.Event(), compilation.build

    def build(*args: Any, **kwargs: Any) -> Any:
        assert made.wait(60)
        return real(*args, **kwargs)

    monkeypatch.setattr(compilation, "build", build)
    return made


@pytest.fixture
def contexts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the threads that made execution contexts."""
    names: list[str] = []
    real = context.Context.__init__

    def init(self: context.Context, *args: Any, **kwargs: Any) -> None:
        names.append(threading.current_thread().name)
        real(self, *args, **kwargs)

    monkeypatch.setattr(context.Context, "__init__", init)
    return names


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """One element for each time that somebody calls an engine."""
    made: list[object] = []
    real = run.Runner.__call__

    def call(self: run.Runner, *args: Any) -> Any:
        made.append(self)
        return real(self, *args)

    monkeypatch.setattr(run.Runner, "__call__", call)
    return made


@pytest.mark.parametrize("mode", MODES)
@torch.no_grad()
def test_the_switch(mode: str, gate: threading.Event, contexts: list[str], runs: list[object]) -> None:
    model, other, x = perturbed(Block()), perturbed(Block(), seed=1), torch.randn(4, 8, 64, device="cuda")
    fast = compiled(model, mode, build="background")
    assert error(fast(x), model(x)) < 1e-5
    model.load_state_dict(other.state_dict())
    assert error(fast(x), model(x)) < 1e-5
    assert not ts.wait(fast, timeout=0)
    assert ts.stats()["engines"] == 0
    gate.set()
    assert ts.wait(fast, timeout=120)
    made = len(contexts)
    assert not runs
    assert error(fast(x), model(x)) < 1e-5
    assert len(runs) == 1
    assert len(contexts) == made, "the caller took over what the worker had made"
    assert "MainThread" not in contexts
    assert (ts.stats()["builds"], ts.stats()["fallbacks"]) == (1, 0)
    assert ts.stats()["refits"] == (mode == "general")


@pytest.mark.parametrize("mode", MODES)
@torch.no_grad()
def test_weights_that_change_before_the_switch(mode: str, gate: threading.Event, runs: list[object]) -> None:
    model, x = perturbed(Block()), torch.randn(4, 8, 64, device="cuda")
    fast = compiled(model, mode, build="background")
    fast(x)
    gate.set()
    assert ts.wait(fast, timeout=120)
    stale = model(x)
    for change in (
        lambda: [p.mul_(1.1) for p in model.parameters()],
        lambda: model.load_state_dict(perturbed(Block(), seed=2).state_dict(), assign=True),
    ):
        change()
        assert error(stale, model(x)) > 1e-2
        assert error(fast(x), model(x)) < 1e-5
        stale = model(x)
    assert (len(runs), ts.stats()["builds"]) == (2, 1)


@pytest.mark.parametrize("mode", MODES)
@torch.no_grad()
def test_calls_go_on_while_engines_are_built(mode: str) -> None:
    """From several threads, without a gate: every answer is right, whoever gave it."""
    model, x = perturbed(Block()), torch.randn(4, 8, 64, device="cuda")
    want = model(x)
    fast = compiled(model, mode, build="background")
    fast(x)
    wrong: list[float] = []

    def calls() -> None:
        with torch.no_grad():
            for _ in range(200):
                found = error(fast(x), want)
                if found > 1e-5:
                    wrong.append(found)

    threads = [threading.Thread(target=calls) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ts.wait(fast, timeout=120)
    assert error(fast(x), want) < 1e-5
    assert not wrong
    assert ts.stats()["builds"] == 1


@torch.no_grad()
def test_wider_ranges_are_built_meanwhile(gate: threading.Event, runs: list[object]) -> None:
    gate.set()
    model = perturbed(Block())
    fast = compiled(model, "bound", build="background", dynamic_range=(2, 8))
    small, large = torch.randn(6, 64, device="cuda"), torch.randn(20, 64, device="cuda")
    torch._dynamo.mark_dynamic(small, 0)
    fast(small)
    assert ts.wait(fast, timeout=120)
    gate.clear()
    assert error(fast(large), model(large)) < 1e-5
    assert not runs
    assert error(fast(small), model(small)) < 1e-5
    assert len(runs) == 1, "the engine that there is"
    gate.set()
    assert ts.wait(fast, timeout=120)
    for x in (small, large):
        assert error(fast(x), model(x)) < 1e-5
    assert len(runs) == 3
    assert (ts.stats()["builds"], ts.stats()["fallbacks"]) == (2, 0)


@torch.no_grad()
def test_a_hit_switches_at_once(runs: list[object]) -> None:
    model, x = perturbed(Block()), torch.randn(4, 8, 64, device="cuda")
    compiled(model, "bound")(x)
    torch.compiler.reset()
    ts.clear_stats()
    runs.clear()
    fast = compiled(model, "bound", build="background")
    assert error(fast(x), model(x)) < 1e-5
    assert len(runs) == 1
    assert ts.wait(timeout=0)
    assert (ts.stats()["builds"], ts.stats()["hits"]) == (0, 1)
