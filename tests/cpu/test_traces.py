"""What a start keeps of a graph for the next one: found for the same graph alone, and right with other weights."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import trt_stripped_backend as ts
from tests.emulated import World
from tests.graphs import TwoEngines, perturb
from trt_stripped_backend import artifact, backend, lowering, traces
from trt_stripped_backend.cache.files import entry_name
from trt_stripped_backend.compilation import Compilation
from trt_stripped_backend.watch import Disguised

pytestmark = pytest.mark.usefixtures("world")
OPTIONS = {"min_block_size": 1}
IMAGE, X = torch.randn(2, 3, 8, 8), torch.randn(4, 8)


def started(fn: Callable[..., Any], *args: Any, **options: Any) -> tuple[Any, int]:
    """The first result of a fresh start, and how many graphs it had to trace."""
    torch._dynamo.reset()
    with mock.patch.object(lowering, "trace", side_effect=lowering.trace) as traced:
        fast = torch.compile(fn, backend=backend.trt_stripped, options=OPTIONS | options, dynamic=False)
        return fast(*args), traced.call_count


# ------------------------------------------------------------------------------------------------ starts


@torch.no_grad()
@pytest.mark.parametrize("mode", ["bound", "general"])
def test_a_start_that_finds_it_traces_nothing(world: World, mode: str) -> None:
    models = [perturb(TwoEngines().eval(), seed) for seed in range(3)]
    for index, model in enumerate(models):
        have, count = started(model, IMAGE, refit_mode=mode)
        assert count == (index == 0)
        torch.testing.assert_close(have, model(IMAGE))
    assert world.calls["build"] == 2
    first, *others = [report.to_dict() for report in ts.reports()]
    for other in others:
        for name in ("nodes", "nodes_in_engines", "rejections", "derived_weights", "mode", "why", "graphs"):
            assert other[name] == first[name]
        assert [p["status"] for p in other["partitions"]] == ["hit", "hit"]
        assert [p["ops"] for p in other["partitions"]] == [p["ops"] for p in first["partitions"]]
    assert ts.stats()["hits"] == 4


@torch.no_grad()
def test_weights_stay_live_and_derived_ones_follow() -> None:
    started(perturb(TwoEngines().eval()), IMAGE)
    torch._dynamo.reset()
    model = perturb(TwoEngines().eval(), 1)
    fast = torch.compile(model, backend=backend.trt_stripped, options=OPTIONS)
    fast(IMAGE)
    for change in (model.norm.running_var.mul_, model.a.mul_, model.head.weight.mul_):
        change(1.5)
        torch.testing.assert_close(fast(IMAGE), model(IMAGE))
    model.head.bias = nn.Parameter(torch.randn(5))
    torch.testing.assert_close(fast(IMAGE), model(IMAGE))


def test_gradients_come_from_pytorch() -> None:
    model = perturb(TwoEngines().eval())
    with torch.no_grad():
        started(model, IMAGE)
        torch._dynamo.reset()
        fast = torch.compile(model, backend=backend.trt_stripped, options=OPTIONS)
        fast(IMAGE)
    fast(IMAGE).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


@torch.no_grad()
def test_a_model_that_writes_to_its_buffers() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.line = nn.Linear(8, 8)
            self.register_buffer("past", torch.zeros(4, 8))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.past.mul_(0.5).add_(self.line(x))
            return self.past * 2 + x

    for index in range(2):
        model, twin = (perturb(Counting()) for _ in range(2))
        for have, count in [started(model, X)]:
            assert count == (index == 0)
            torch.testing.assert_close(have, twin(X))
        fast = torch.compile(model, backend=backend.trt_stripped, options=OPTIONS)
        for _ in range(3):
            torch.testing.assert_close(fast(X), twin(X))
        torch.testing.assert_close(model.past, twin.past)


@torch.no_grad()
def test_data_in_disguise_is_found_all_the_same(world: World, caplog: pytest.LogCaptureFixture) -> None:
    class Conditioned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 8)
            self.register_buffer("condition", torch.zeros(8))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(self.layer(x) + self.condition) * 2

    started(perturb(Conditioned()), X, refit_mode="general")
    torch._dynamo.reset()
    model = perturb(Conditioned(), 1)
    fast = torch.compile(model, backend=backend.trt_stripped, options=OPTIONS | {"refit_mode": "general"})
    for _ in range(3 * Disguised.LIMIT):
        model.condition.copy_(torch.randn(8))
        torch.testing.assert_close(fast(X), model(X))
    said = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert said == ["condition changes at every call while no weight does: it is an input of its engines from now on"]
    refits = world.calls["refit"]
    model.condition.copy_(torch.randn(8))
    torch.testing.assert_close(fast(X), model(X))
    assert world.calls["refit"] == refits


@torch.no_grad()
def test_an_engine_that_is_gone_is_built_again(world: World) -> None:
    model = perturb(TwoEngines().eval())
    started(model, IMAGE)
    cache = ts.open_cache()
    (cache.dirs[0] / entry_name(cache.entries()[0].key)).unlink()
    have, count = started(model, IMAGE)
    assert (count, world.calls["build"]) == (1, 3)
    torch.testing.assert_close(have, model(IMAGE))
    assert started(model, IMAGE)[1] == 0


@torch.no_grad()
def test_a_pack_carries_it(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = perturb(TwoEngines().eval())
    started(model, IMAGE)
    assert len(ts.open_cache().pack(tmp_path / "fleet.pack")) == 2
    monkeypatch.setenv("TRT_STRIPPED_CACHE_DIR", str(tmp_path / "elsewhere"))
    assert len(ts.open_cache().unpack(tmp_path / "fleet.pack")) == 2
    have, count = started(model, IMAGE)
    assert (count, world.calls["build"]) == (0, 2)
    torch.testing.assert_close(have, model(IMAGE))


@torch.no_grad()
def test_a_graph_that_cannot_be_written_down_runs_all_the_same(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model = perturb(TwoEngines().eval())
    with monkeypatch.context() as broken:
        broken.setattr(artifact, "sealed", mock.Mock(side_effect=KeyError("odd")))
        torch.testing.assert_close(started(model, IMAGE)[0], model(IMAGE))
    assert "no trace is kept of this graph: KeyError: 'odd'" in caplog.text
    assert started(model, IMAGE)[1] == 1
    monkeypatch.setattr(artifact, "opened", mock.Mock(side_effect=KeyError("odd")))
    assert started(model, IMAGE)[1] == 1
    assert "a kept trace cannot be read: KeyError: 'odd'" in caplog.text


@torch.no_grad()
@pytest.mark.parametrize("data", [b"", b"{}", b"\x80\x04]", "other", "cut"])
def test_what_is_kept_is_not_trusted(data: Any, world: World) -> None:
    model = perturb(TwoEngines().eval())
    with mock.patch("trt_stripped_backend.cache.EngineCache.put_blob", autospec=True) as put:
        started(model, IMAGE)
    ((cache, kind, name, whole),) = [c.args for c in put.call_args_list if c.args[1] == traces.KIND]
    cache.put_blob(kind, name, {"other": whole[:-1] + b"?", "cut": whole[:-40]}.get(data, data))
    have, count = started(model, IMAGE)
    assert count == 1
    torch.testing.assert_close(have, model(IMAGE))


@torch.no_grad()
def test_engines_that_round_otherwise_are_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    model = perturb(TwoEngines().eval())
    started(model, IMAGE)
    monkeypatch.setattr(Compilation, "engine_tf32", lambda self: True)
    assert started(model, IMAGE)[1] == 1


@torch.no_grad()
def test_a_graph_without_engines_settles_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fn(x: torch.Tensor) -> torch.Tensor:
        return x.cumsum(0)

    started(fn, X)
    monkeypatch.setattr(Compilation, "engine_tf32", mock.Mock(side_effect=AssertionError))
    have, count = started(fn, X)
    assert count == 0
    torch.testing.assert_close(have, fn(X))


@torch.no_grad()
def test_without_a_cache_nothing_is_kept() -> None:
    model = perturb(TwoEngines().eval())
    assert [started(model, IMAGE, cache=False)[1] for _ in range(2)] == [1, 1]


# ------------------------------------------------------------------------------------------------ what is not kept


class Literal(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.relu() * LITERAL


LITERAL = torch.randn(8)


def view(x: torch.Tensor) -> Any:
    return x.relu(), x.view(-1)


def written(x: torch.Tensor) -> torch.Tensor:
    x.add_(1)
    return x.relu() * 2


def counted(x: torch.Tensor) -> torch.Tensor:
    return torch.relu(x) + (x > 0).nonzero().sum()


@torch.compiler.nested_compile_region
def region(x: torch.Tensor) -> torch.Tensor:
    return x.relu() * 2


def regions(x: torch.Tensor) -> torch.Tensor:
    return region(x) + region(x + 1)


@torch.no_grad()
@pytest.mark.parametrize("fn", [view, regions])
def test_what_is_traced_at_each_start(fn: Callable[..., Any]) -> None:
    for _ in range(2):
        have, count = started(fn, X.clone())
        assert count == 1
        torch.testing.assert_close(have, fn(X.clone()))


# ------------------------------------------------------------------------------------------------ any graph

STEPS: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "add": lambda a, b: a + b, "sub": lambda a, b: a - b, "relu": lambda a, b: a.relu(), "t": lambda a, b: a.t() + b,
    "softmax": lambda a, b: a.softmax(-1), "cumsum": lambda a, b: b.cumsum(0), "exp": lambda a, b: (a * 0.1).exp(),
    "matmul": lambda a, b: a @ b, "slice": lambda a, b: torch.cat([a[:2], b[2:]]), "sort": lambda a, b: a.sort(0)[0],
}  # fmt: skip


@torch.no_grad()
@settings(max_examples=12)
@given(st.lists(st.tuples(st.sampled_from(sorted(STEPS)), *2 * [st.integers(0, 9)]), min_size=1, max_size=7))
def test_any_graph_gives_the_same_at_the_next_start(steps: list[tuple[str, int, int]]) -> None:
    def fn(x: torch.Tensor, y: torch.Tensor) -> Any:
        values = [x, y]
        for kind, a, b in steps:
            values.append(STEPS[kind](values[a % len(values)], values[b % len(values)]))
        return values[-1]

    x, y = torch.rand(4, 4), torch.rand(4, 4)
    first, _ = started(fn, x, y)
    again, count = started(fn, x, y)
    assert count == 0
    torch.testing.assert_close(again, first, rtol=0, atol=0)
    torch.testing.assert_close(again, fn(x, y))

