"""``explain`` and ``prebuild`` without a GPU: real plans, and a model that is neither run nor changed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn

import trt_stripped_backend as ts
from tests.graphs import TwoEngines as Net
from tests.graphs import perturb, stage
from trt_stripped_backend.errors import BuildFailed, OptionError, TRTStrippedError
from trt_stripped_backend.key import canonical, digest

OPTIONS = {"min_block_size": 1}


X = torch.randn(2, 3, 6, 6)


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing compiled, counted or warned about before."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    torch._dynamo.reset()
    ts.clear_stats()
    yield
    torch._dynamo.reset()


def test_prebuild_then_explain() -> None:
    model = perturb(Net())
    before = ts.explain(model, X, options=OPTIONS)
    assert [p.status for p in before.partitions] == ["miss", "miss"]
    built = ts.prebuild(model, (X,), options=OPTIONS)
    assert [p.status for p in built.partitions] == ["built", "built"]
    assert ts.stats()["builds"] == 2
    for other in (model, perturb(Net(), seed=1), Net().eval().to("meta"), torch.compile(model)):
        after = ts.explain(other, X, options=OPTIONS)
        assert [p.status for p in after.partitions] == ["hit", "hit"]
        assert [p.key for p in after.partitions] == [p.key for p in built.partitions]
    assert ts.stats()["builds"] == 2
    assert (built.nodes_in_engines, built.nodes, built.derived) == (5, 6, 3)
    assert [r.target for r in built.rejections] == ["aten.cumsum.default"]
    assert all(p.plan_bytes > 0 for p in after.partitions)


def test_prebuild_of_a_model_without_memory() -> None:
    with torch.device("meta"):
        model, x = Net().eval(), torch.empty(2, 3, 6, 6)
    report = ts.prebuild(model, (x,), options=OPTIONS)
    assert report.builds == 2
    assert all(p.is_meta for p in model.parameters())
    assert ts.prebuild(perturb(Net()), (X,), options=OPTIONS).hits == 2


def test_what_is_prebuilt_is_what_a_compilation_looks_for() -> None:
    ts.prebuild(perturb(Net()), (X,), options=OPTIONS)
    found = {digest(record.parts["graph"]) for record in ts.open_cache().entries()}
    assert found == {digest(canonical(piece)[0]) for piece in stage(perturb(Net(), seed=1), X).cut.partitions}


def test_explain_changes_nothing() -> None:
    model = perturb(Net())
    model.register_buffer("calls", torch.zeros(1))
    before = {name: (id(value), value.clone()) for name, value in model.state_dict(keep_vars=True).items()}
    one, two = (ts.explain(model, X, options=OPTIONS) for _ in range(2))
    assert str(one) == str(two)
    assert one.to_dict()["rejections"] == two.to_dict()["rejections"]
    for name, value in model.state_dict(keep_vars=True).items():
        assert id(value) == before[name][0]
        assert torch.equal(value, before[name][1])
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


class Broken(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        torch._dynamo.graph_break()
        return super().forward(x).relu()


@pytest.mark.parametrize("make", [Net, Broken])
@torch.no_grad()
def test_explain_leaves_dynamos_cache_alone(make: type[Net]) -> None:
    """It neither uses up the limit of compilations, nor, where the graph is whole, makes the user's start anew."""
    model, count = perturb(make()), 0

    def counting(gm: torch.fx.GraphModule, _: Any) -> Callable[..., Any]:
        nonlocal count
        count += 1
        return gm.forward

    run = torch.compile(model, backend=counting)
    run(X)
    before = count
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
        for _ in range(10):
            assert ts.explain(model, X, options=OPTIONS).graphs == before
        torch.testing.assert_close(run(X), model(X))
        assert count == (before if make is Net else 2 * before)
        for size in range(7, 11):
            run(torch.randn(2, 3, size, 6))


def test_require_full_lists_everything() -> None:
    class Odd(nn.Module):
        def forward(self, x: torch.Tensor) -> Any:
            return (x.cumsum(0).relu().double() * 2 + torch.linalg.inv(x @ x.t())).sum()

    with pytest.raises(BuildFailed) as raised:
        ts.prebuild(Odd(), (torch.randn(4, 4),), options={**OPTIONS, "require_full": True})
    for part in ("aten.cumsum.default", "not refittable", "float64", "linalg_inv_ex", __file__):
        assert part in str(raised.value)
    report = ts.explain(Odd(), torch.randn(4, 4), options={**OPTIONS, "require_full": True})
    assert len(report.rejections) >= 3


def branch(x: torch.Tensor) -> torch.Tensor:
    y = x.relu() + 1
    return y.exp() if y.sum() > 0 else y


def nonzero(x: torch.Tensor) -> torch.Tensor:
    return (x.relu() + 1)[x > 0].exp()


@pytest.mark.parametrize("fn", [branch, nonzero, lambda x: (x + 1) * x.sum().item()])
def test_what_depends_on_data_is_said(fn: Callable[..., Any]) -> None:
    report = ts.explain(fn, torch.randn(4, 4), options=OPTIONS)
    assert len(report.partitions) == 1
    assert [r.kind for r in report.rejections] == ["data"]


def test_a_model_that_dynamo_leaves_alone_is_said() -> None:
    report = ts.explain(nn.LSTM(4, 4), torch.randn(3, 4), options=OPTIONS)
    assert report.graphs == 0
    assert "Dynamo made no graph" in str(report)


def test_graph_breaks_give_one_report() -> None:
    def fn(x: torch.Tensor) -> torch.Tensor:
        y = x.relu() + 1
        torch._dynamo.graph_break()
        return y.exp().sin()

    report = ts.prebuild(fn, (X,), options=OPTIONS)
    assert (report.graphs, len(report.partitions), report.nodes) == (2, 2, 4)


class Loose(nn.Module):
    """Tensors and modules that PyTorch does not know of."""

    def __init__(self) -> None:
        super().__init__()
        self.tensors, self.layers = [torch.randn(4)], {"one": (nn.Linear(4, 4),)}
        self.plain = torch.randn(4)

    def forward(self, x: torch.Tensor, *, scale: torch.Tensor, more: dict[str, Any]) -> dict[str, torch.Tensor]:
        y = self.layers["one"][0](x) * self.tensors[0] + self.plain
        return {"y": y * scale * more["list"][0] + more["number"]}


def test_tensors_in_odd_places() -> None:
    model = Loose()
    arguments = {"scale": torch.randn(4), "more": {"list": [torch.randn(4)], "number": 3}}
    report = ts.explain(model, torch.randn(2, 4), options=OPTIONS, **arguments)
    assert len(report.partitions) == 1
    assert not report.rejections
    assert ts.prebuild(model, (torch.randn(2, 4),), arguments, options=OPTIONS).builds == 1


def test_errors_of_the_model_are_its_own() -> None:
    def fn(x: torch.Tensor) -> torch.Tensor:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        ts.explain(fn, X)


def test_other_options_make_a_miss_that_is_explained() -> None:
    ts.prebuild(perturb(Net()), (X,), options=OPTIONS)
    report = ts.explain(perturb(Net()), X, options={**OPTIONS, "workspace_size": "1GiB"})
    assert [p.status for p in report.partitions] == ["miss", "miss"]
    assert report.partitions[0].differs == ("options.workspace_size",)
    assert ts.explain(perturb(Net()), X, options={**OPTIONS, "cache_size": 1 << 30, "verify": True}).hits == 2


@pytest.mark.parametrize("mode", ["identical", "immutable"])
def test_modes_that_need_values(mode: str) -> None:
    options = {**OPTIONS, "refit_mode": mode}
    with pytest.raises(OptionError, match="needs the weights' values"):
        ts.prebuild(perturb(Net()), (X,), options=options)
    assert ts.explain(perturb(Net()), X, options=options).nodes_in_engines >= 5


@pytest.mark.parametrize(
    ("model", "x", "message"),
    [
        (lambda x: x @ x, torch.eye(4).to_sparse(), "a torch.sparse_coo tensor cannot be described"),
        (nn.LazyLinear(4), torch.ones(2, 4), "lazy parameters, which have no shape yet: call it once before"),
    ],
)
def test_tensors_that_cannot_be_described(model: Any, x: torch.Tensor, message: str) -> None:
    with pytest.raises(TRTStrippedError, match=message):
        ts.explain(model, x)


class Locked(nn.Linear):
    """Holds what cannot be copied."""

    def __init__(self) -> None:
        super().__init__(4, 4)
        self.lock, self.numbers = threading.Lock(), (i for i in range(3))


def test_a_module_that_holds_what_cannot_be_copied() -> None:
    report = ts.explain(nn.Sequential(Locked(), nn.ReLU()), torch.ones(2, 4), options={"min_block_size": 1})
    assert report.nodes_in_engines == report.nodes == 2
