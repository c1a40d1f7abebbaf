"""What a start keeps of a graph for the next one: found for the same graph alone, and right with other weights."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import fx, nn

import trt_stripped_backend as ts
from tests.emulated import World
from tests.graphs import TwoEngines, perturb
from trt_stripped_backend import backend, lowering, traces
from trt_stripped_backend.cache.files import entry_name
from trt_stripped_backend.compilation import Compilation
from trt_stripped_backend.flavour import load
from trt_stripped_backend.key import digest
from trt_stripped_backend.options import Options
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


# ------------------------------------------------------------------------------------------------ names


def name(
    fn: Callable[..., Any], *args: Any, around: Callable[[], Any] = torch.no_grad, dynamic: bool = False, **options: Any
) -> str | None:
    """The name of a function's one graph; nothing is compiled."""
    found: list[str | None] = []
    chosen = Options.of(OPTIONS | options)
    compilation = Compilation.of(chosen, load(), torch.device("cpu"))

    def look(gm: fx.GraphModule, inputs: Sequence[Any]) -> Callable[..., Any]:
        found.append(traces.name_of(gm, inputs, compilation))
        return gm

    torch._dynamo.reset()
    with around():
        torch.compile(fn, backend=look, dynamic=dynamic)(*args)
    (only,) = found
    return only


class Line(nn.Module):
    def __init__(self, width: int = 8, *, bias: bool = True) -> None:
        super().__init__()
        self.line = nn.Linear(8, width, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.line(x).relu()


def test_other_weights_have_the_same_name() -> None:
    names = {name(perturb(Line(), seed), torch.randn(4, 8)) for seed in range(3)}
    assert len(names) == 1
    assert None not in names


def test_where_things_are_kept_does_not_matter(tmp_path: Path) -> None:
    line, other = Line(), {"cache_dir": str(tmp_path), "verify": True, "cuda_graphs": True, "build": "background"}
    assert name(line, X, **other) == name(line, X)


def autocast() -> Any:
    return torch.autocast("cpu", torch.bfloat16)


def half() -> Any:
    return torch.autocast("cpu", torch.float16)


#: Each is another function, or another call of one.
OTHERS: dict[str, Callable[[], str | None]] = {
    "plain": lambda: name(Line(), X),
    "grad": lambda: name(Line(), X, around=torch.enable_grad),
    "inference": lambda: name(Line(), torch.inference_mode()(X.clone)()),
    "autocast": lambda: name(Line(), X, around=autocast),
    "half": lambda: name(Line(), X, around=half),
    "dtype": lambda: name(Line().double(), X.double()),
    "shape": lambda: name(Line(), X[:2]),
    "stride": lambda: name(Line(), torch.randn(8, 4).t()),
    "width": lambda: name(Line(9), X),
    "bias": lambda: name(Line(bias=False), X),
    "requires": lambda: name(Line(), X.clone().requires_grad_()),
    "parameter": lambda: name(Line(), nn.Parameter(X)),
    "option": lambda: name(Line(), X, torch_executed_ops="aten.relu"),
    "mode": lambda: name(Line(), X, refit_mode="general"),
    "blocks": lambda: name(Line(), X, min_block_size=2),
    "layers": lambda: name(Line(), X, dedupe_layers=True),
    "level": lambda: name(Line(), X, optimization_level=1),
    "minus": lambda: name(lambda x, y: x - y, X, X + 1),
    "turned": lambda: name(lambda x, y: y - x, X, X + 1),
    "twice": lambda: name(lambda x, y: x - x, X, X + 1),
    "scaled": lambda: name(lambda x, y: x.sub(y, alpha=2), X, X + 1),
    "scaled by 2.0": lambda: name(lambda x, y: x.sub(y, alpha=2.0), X, X + 1),
    "shared": lambda: name(lambda x, y: x - y, X[:2], X[2:]),
    "shared elsewhere": lambda: name(lambda x, y: x - y, X[:2], X[1:3]),
    "infinite": lambda: name(lambda x: x.clamp(max=float("inf")), X),
    "to nan": lambda: name(lambda x: x.clamp(max=float("nan")), X),
}  # fmt: skip


def test_others_have_other_names() -> None:
    names = {kind: make() for kind, make in OTHERS.items()}
    assert [kind for kind, found in names.items() if found is None] == []
    same = [{a, b} for a, b in itertools.combinations(names, 2) if names[a] == names[b]]
    assert same == []


def test_another_version_of_the_package_has_another_name(monkeypatch: pytest.MonkeyPatch) -> None:
    before = name(Line(), X)
    monkeypatch.setattr(traces, "_source", lambda: digest("changed"))
    assert name(Line(), X) != before


def test_where_the_code_stands_is_part_of_the_name() -> None:
    """A report tells the line of what stays in PyTorch."""
    code = "def fn(x):\n    return x.cumsum(0)\n"
    names = set()
    for text in (code, "\n" + code):
        scope: dict[str, Any] = {}
        exec(compile(text, "their_model.py", "exec"), scope)
        names.add(name(scope["fn"], X))
    assert len(names) == 2


def patched(x: torch.Tensor, *_: Any) -> torch.Tensor:
    return x


def test_functions_that_are_not_pytorchs_have_none(monkeypatch: pytest.MonkeyPatch) -> None:
    compilation = Compilation.of(Options.of(OPTIONS), load(), torch.device("cpu"))
    for target in (patched, torch.ops.higher_order.cond, torch.ops.quantized.add.default):
        graph = fx.Graph()
        graph.output(graph.call_function(target, (graph.placeholder("x"),)))
        assert traces.name_of(fx.GraphModule({}, graph), [X], compilation) is None
    graph = fx.Graph()
    graph.output(graph.call_function(torch.sigmoid, (graph.placeholder("x"),)))
    module = fx.GraphModule({}, graph)
    assert traces.name_of(module, [X], compilation) is not None
    monkeypatch.setattr(torch, "sigmoid", patched)
    assert traces.name_of(module, [X], compilation) is None, "another function has its name now"


@pytest.mark.parametrize("given", [3, X.to_sparse(), torch.randn(3, dtype=torch.complex64).conj(), None])
def test_arguments_that_are_no_plain_tensors_have_none(given: Any) -> None:
    compilation = Compilation.of(Options.of(OPTIONS), load(), torch.device("cpu"))
    graph = fx.Graph()
    graph.output(graph.placeholder("x"))
    assert traces.name_of(fx.GraphModule({}, graph), [given], compilation) is None


def test_dynamic_sizes_have_none() -> None:
    assert name(Line(), X, dynamic=True) is None


def test_modes_of_values_have_none() -> None:
    assert name(Line(), X, refit_mode="identical") is None


def test_a_literal_has_none() -> None:
    class Held(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.constant = torch.ones(8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.constant

    module = fx.symbolic_trace(Held())
    compilation = Compilation.of(Options.of(OPTIONS), load(), torch.device("cpu"))
    assert traces.name_of(module, [X], compilation) is None


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

