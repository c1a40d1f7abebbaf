"""The cut graph computes what the whole one did, shares memory as it did, and cutting it costs what it should."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import fx, nn
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from tests.graphs import Staged, as_lowered, cut_up, engines, leaving, placeholders, stage, targets, trace, without
from trt_stripped_backend.decompositions import decompositions
from trt_stripped_backend.ops.library import lookup
from trt_stripped_backend.options import Options
from trt_stripped_backend.partition import partition, recut
from trt_stripped_backend.programs.program import nodes, outputs
from trt_stripped_backend.weights import Split, constant_nodes

aten = torch.ops.aten


x = torch.randn(4, 6)

# ------------------------------------------------------------------------------------------------ memory

SHARED: list[tuple[str, Callable[..., Any]]] = [
    ("view", lambda x: ((y := x.relu()), y.view(-1))),
    ("two_views", lambda x: ((y := x.relu()).t(), y[1:])),
    ("chain", lambda x: ((y := x.relu()), y.t().unsqueeze(0)[:, 1:])),
    ("chunks", lambda x: x.relu().chunk(2)),
    ("chunk_and_base", lambda x: ((y := x.relu()), y.chunk(2)[1])),
    ("used_inside", lambda x: ((y := x.relu()), (v := y.t()), v.exp())),
    ("chunk_used_inside", lambda x: ((y := x.relu()), (v := y.chunk(2)[1]), v.exp(), v[0])),
    ("base_in_pytorch", lambda x: ((y := x.cumsum(0)), y.t(), y.exp().sin())),
    ("view_in_pytorch", lambda x: ((y := x.relu()), y.t().cumsum(0), y.t())),
    ("apart", lambda x: ((y := x.relu()), y.t().clone(), y + 1)),
    ("alone", lambda x: (x.relu().view(-1), x.exp())),
    ("gaps", lambda x: (x.relu()[:, ::2], x.exp()[:, -1], x.sin()[:, :4].diagonal())),
    ("expanded", lambda x: (x.relu().sum(1, keepdim=True).expand(-1, 3), x.exp())),
    ("gaps_read", lambda x: (torch.as_strided(x.relu()[:, ::2], (2, 2), (6, 2)) + 0, x.exp())),
    ("gaps_of_an_argument_read", lambda x: (torch.as_strided(x[:, ::2], (2, 2), (6, 2)) + 0, x.exp())),
    ("offset_read", lambda x: (torch.as_strided(x.relu()[1], (2, 2), (6, 1), 1) + 0, x.exp())),
]


@pytest.mark.parametrize("fn", [pytest.param(fn, id=name) for name, fn in SHARED])
def test_results_share_memory_as_in_pytorch(fn: Callable[..., Any]) -> None:
    staged = stage(fn, x)
    with torch.no_grad():
        have, want = list(staged.compiled(x)), list(fn(x))
    torch.testing.assert_close(have, want)
    assert _sharing(have) == _sharing(want)
    assert [h.stride() for h in have] == [w.stride() for w in want]
    _is_cut_again(staged)


def test_a_lone_view_leaves_as_the_engine_writes_it() -> None:
    assert engines(trace(lambda x: x.relu().view(-1), 0, x)) == [["relu", "view"]]


def test_views_alone_make_no_engine() -> None:
    staged = trace(lambda x: x.cumsum(0).t().unsqueeze(0).cumsum(1), 0, x)
    assert engines(staged) == []


def noise(x: torch.Tensor) -> Any:
    """The second is needed first."""
    a = x * 2
    first, second = torch.rand_like(x), torch.rand_like(x)
    return a * second, first


def dropped(x: torch.Tensor) -> Any:
    """What the first is made of would share an engine with what is made of the second."""
    first = F.dropout(x.cumsum(0).sin(), 0.5, True)
    second = F.dropout(x + 1, 0.5, True)
    return first * 2, (x.exp() * second).cumsum(0).sin()


@pytest.mark.parametrize("fn", [noise, dropped])
def test_random_numbers_come_in_order(fn: Callable[..., Any]) -> None:
    staged = stage(fn, x)
    results = []
    for one in (staged.compiled, fn):
        torch.manual_seed(0)
        results.append(list(one(x)))
    torch.testing.assert_close(*results)
    assert len(staged.cut.partitions) >= 1


def test_writes_stay_last() -> None:
    class Cache(nn.Module):
        keys: torch.Tensor
        count: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("keys", torch.zeros(4, 6))
            self.register_buffer("count", torch.zeros(1))

        def forward(self, x: torch.Tensor) -> Any:
            before = self.keys * 2
            self.keys.copy_(self.keys + x.exp())
            self.count.add_(1)
            return before, self.keys.sin(), self.keys, before.cumsum(0) + self.count

    model, twin = Cache(), Cache()
    staged = stage(model, x)
    assert {r.kind for r in staged.cut.rejections if "copy_" in r.target} == {"mutation"}
    found = targets(staged.cut.module.graph)
    assert found[-2:] == ["aten.copy_.default"] * 2
    with torch.no_grad():
        twin(x)
        for _ in range(2):
            torch.testing.assert_close(list(staged.compiled(x)), list(twin(x)))
    torch.testing.assert_close(dict(model.named_buffers()), dict(twin.named_buffers()))


# ------------------------------------------------------------------------------------------------ literals elsewhere


def rotary(x: torch.Tensor, _: torch.Tensor) -> Any:
    angles = (1.0 / 10000.0 ** (torch.arange(0, 6, dtype=torch.float64) / 6)).float()
    return x * aten._to_copy.default(angles, device=x.device)


def picked(x: torch.Tensor, other: torch.Tensor) -> Any:
    """One literal for two engines, an engine that is too small, PyTorch and the caller, with views of it."""
    rows = torch.arange(3) * 2 - 2
    y = aten.index.Tensor(x, [rows]).cumsum(0)
    y = aten.index.Tensor(y, [rows]).relu().exp().cumsum(0)
    y = aten.index.Tensor(y, [rows]).sin().cos()
    return y, other + rows, rows.view(1, 3), rows.chunk(3)[1]


ELSEWHERE: list[tuple[str, Callable[..., Any]]] = [
    ("rotary", rotary),
    ("picked", picked),
    ("returned", lambda x, _: (x * 2, torch.arange(3), torch.zeros(()))),
    ("in_pytorch", lambda x, _: x * aten._to_copy.default(torch.ones(6).cumsum(0), device=x.device)),
    ("index_in_pytorch", lambda x, _: aten.index.Tensor(x, [torch.arange(4).cumsum(0) % 4]) * 2),
]


@pytest.mark.parametrize("fn", [pytest.param(fn, id=name) for name, fn in ELSEWHERE])
@pytest.mark.parametrize("least", [1, 3])
def test_engines_touch_no_memory_of_the_host(fn: Callable[..., Any], least: int) -> None:
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with mode, torch.no_grad():
        args = torch.empty(4, 6, device="cuda"), torch.empty(3)
        traced = make_fx(fn, decomposition_table=decompositions())(*args)
    cut = cut_up(as_lowered(traced, 0), min_block_size=least).cut
    for piece in cut.partitions:
        nodes = [*piece.module.graph.find_nodes(op="placeholder"), *leaving(piece)]
        assert {node.meta["val"].device.type for node in nodes} == {"cuda"}


def test_each_engine_has_its_own_literals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trt_stripped_backend.partition._is_elsewhere", lambda n, _: n.op == "call_function")
    args = torch.randn(4, 6), torch.randn(3)
    for least in (1, 3):
        traced = make_fx(picked, tracing_mode="fake", decomposition_table=decompositions())(*args)
        staged = cut_up(as_lowered(traced, 0), min_block_size=least)
        have, want = list(staged.in_torch(list(args))), list(picked(*args))
        torch.testing.assert_close(have, want)
        assert _sharing(have) == _sharing(want)
        _is_cut_again(staged)
        assert [names.count("arange") for names in engines(staged)] == [1] * (3 if least == 1 else 2)


def _is_cut_again(staged: Staged) -> None:
    """What a stored program tells of its engines is enough to cut its graph into the same ones."""
    cut = staged.cut
    again = recut(staged.split, [(nodes(piece), outputs(piece)) for piece in cut.partitions])
    assert [str(p.module.graph) for p in again.partitions] == [str(p.module.graph) for p in cut.partitions]
    assert str(again.module.graph) == str(cut.module.graph)


# ------------------------------------------------------------------------------------------------ random graphs

OPS: list[Callable[..., torch.Tensor]] = [
    torch.relu,
    torch.exp,
    torch.sin,
    lambda a: a.cumsum(0) * 0.3,
    lambda a: a.double().mul(2).float(),
    lambda a: a.topk(4)[0],
    lambda a: a.argsort(1).float(),
    lambda a: a.chunk(2, 1)[1].repeat(1, 2),
    lambda a: a.t(),
    lambda a: a.view(16).view(4, 4),
    lambda a: a + torch.arange(4),
    torch.ones_like,
]
PAIRS: list[Callable[..., torch.Tensor]] = [torch.add, torch.mul, lambda a, b: torch.cat([a, b])[2:6], torch.minimum]
NAMES = ["relu", "exp", "sin", "mul", "add", "topk", "sort", "cat", "t", "view", "slice", "arange", "minimum", "clone"]


@given(
    st.lists(st.tuples(st.integers(0, 15), st.integers(0, 99), st.integers(0, 99)), max_size=24),
    st.lists(st.integers(0, 99), min_size=1, max_size=5),
    st.sets(st.sampled_from(NAMES), max_size=5),
    st.integers(1, 4),
)
@settings(max_examples=60)
def test_random_graphs(
    steps: list[tuple[int, int, int]], results: list[int], refused: set[str], min_block_size: int
) -> None:
    def fn(*values: torch.Tensor) -> Any:
        pool = [v.clone() for v in values]
        for op, first, second in steps:
            a, b = pool[first % len(pool)].contiguous(), pool[second % len(pool)]
            pool.append(OPS[op](a) if op < len(OPS) else PAIRS[op - len(OPS)](a, b))
        return [pool[i % len(pool)] for i in results]

    generator = torch.Generator().manual_seed(0)
    args = [torch.rand(4, 4, generator=generator) - 0.5 for _ in range(3)]
    staged = trace(fn, 1, *args, find=without(*refused), min_block_size=min_block_size)
    have, want = list(staged.in_torch(list(args))), list(staged.lowered.module(*args))
    torch.testing.assert_close(have, want)
    assert _sharing(have) == _sharing(want)
    _check(staged, min_block_size)
    _is_cut_again(staged)


def _check(staged: Staged, min_block_size: int) -> None:
    """Every node of the main graph is in one engine, rejected, or a literal or view that PyTorch makes."""
    staged.cut.module.graph.lint()
    main = staged.split.module.graph
    inside: set[str] = set()
    for piece in staged.cut.partitions:
        piece.module.graph.lint()
        names = {n.name for n in piece.module.graph.nodes if n.op == "call_function"}
        assert inside.isdisjoint(names)
        inside |= names
        assert piece.weights == {n for n in placeholders(piece.module) if n in staged.split.weights}
        assert all(isinstance(node.meta["val"], torch.Tensor) for node in leaving(piece))
        assert set(leaving(piece)).isdisjoint(piece.module.graph.find_nodes(op="placeholder"))
    outside = {r.node: r for r in staged.cut.rejections}
    assert inside.isdisjoint(outside)
    constant = constant_nodes(main)
    for node in main.nodes:
        if node.op == "call_function" and node.name not in inside and "getitem" not in node.name:
            kept = node in constant or getattr(node.target, "is_view", False)
            assert kept or node.name in outside, node.format_node()
    for rejection in staged.cut.rejections:
        assert rejection.kind in ("op", "dtype", "refit", "size", "limit")
        assert rejection.kind != "size" or min_block_size > 1


# ------------------------------------------------------------------------------------------------ cost


def _long(layers: int) -> Split:
    graph = fx.Graph()
    mode = torch._subclasses.FakeTensorMode()
    with mode:
        value = torch.empty(4, 4)
    node = graph.placeholder("x")
    node.meta["val"] = value
    for _ in range(layers):
        skip = node
        for target in [aten.relu.default, aten.exp.default, aten.sin.default] * 26:
            node = graph.call_function(target, (node,))
            node.meta["val"] = value
        node = graph.call_function(aten.add.Tensor, (node, skip))
        node.meta["val"] = value
        node = graph.call_function(aten.cumsum.default, (node, 0))
        node.meta["val"] = value
    graph.output((node,))
    return Split(fx.GraphModule({}, graph), 1, (), frozenset(), ())


def _calls(layers: int) -> int:
    """Python functions entered while a graph of so many engines is cut."""
    split, options, count = _long(layers), Options.of({}), 0

    def profile(frame: Any, event: str, argument: Any) -> None:
        nonlocal count
        count += event == "call"

    sys.setprofile(profile)
    try:
        cut = partition(split, options, lookup)
    finally:
        sys.setprofile(None)
    assert len(cut.partitions) == layers
    return count


def test_cost_is_linear() -> None:
    small, large = _calls(10), _calls(50)  # 4,000 nodes, 50 engines
    assert large < 5.5 * small
    assert large < 4000 * 400


def _sharing(values: list[torch.Tensor]) -> list[list[bool]]:
    """Which of these lie in the same memory."""
    where = [v.untyped_storage().data_ptr() for v in values]
    return [[a == b for a in where] for b in where]
