"""What TensorRT does not build is found by halves, and the rest of its engine stays in engines."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import trt_stripped_backend as ts
from tests import emulated as emulation
from tests.emulated import World
from tests.graphs import perturb
from trt_stripped_backend import backend, bisection, compilation
from trt_stripped_backend.errors import BuildFailed
from trt_stripped_backend.ops.registry import is_getitem
from trt_stripped_backend.types import Entry, Partition

X = torch.randn(4, 8)


class Chain(nn.Module):
    """Twelve operators in a row, of five kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for index, layer in enumerate(self.layers):
            x = torch.relu(layer(x)) + 1
            if index == 2:
                x = torch.tanh(x)
        return torch.sigmoid(x)


def operators(part: Partition) -> list[str]:
    nodes = [n for n in part.module.graph.nodes if n.op == "call_function" and not is_getitem(n)]
    return [str(n.target).split(".")[1] for n in nodes]


@pytest.fixture
def builds(world: World, monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[list[str]], bool]], list[list[str]]]:
    """Sets what TensorRT does not build; gives the operators of each build that was tried."""
    tried: list[list[str]] = []

    def refuse(refused: Callable[[list[str]], bool]) -> list[list[str]]:
        def build(part: Partition, *args: Any, **kwargs: Any) -> Entry:
            tried.append(operators(part))
            if refused(operators(part)):
                raise BuildFailed(f"{part.name}: TensorRT built no engine: no such kernel")
            return emulation.build(part, *args, **kwargs)

        monkeypatch.setattr(compilation, "build", build)
        return tried

    return refuse


def compiled(model: nn.Module, **options: Any) -> Callable[..., torch.Tensor]:
    torch.compiler.reset()
    return torch.compile(model, backend=backend.trt_stripped, options={"min_block_size": 1, **options})


def quietly(model: nn.Module, **options: Any) -> torch.Tensor:
    """The result; that something stays in PyTorch is said once in a process, perhaps by another test."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return compiled(model, **options)(X)


def build_rejections() -> list[str]:
    return [r.reason for r in ts.reports()[-1].rejections if r.kind == "build"]


@torch.no_grad()
def test_one_operator_leaves_the_others_in_engines(builds: Any) -> None:
    builds(lambda ops: "tanh" in ops)
    model = perturb(Chain())
    torch.testing.assert_close(quietly(model), model(X))
    report = ts.reports()[-1]
    assert len(build_rejections()) == 1 and (report.nodes_in_engines, report.nodes) == (13, 14)


@pytest.mark.parametrize("cache", [True, False])
@torch.no_grad()
def test_two_that_are_not_built_together_are_both_in_engines(builds: Any, cache: bool) -> None:
    tried = builds(lambda ops: {"tanh", "sigmoid"} <= set(ops))
    model = perturb(Chain())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        have = compiled(model, cache=cache)(X)
    torch.testing.assert_close(have, model(X))
    report = ts.reports()[-1]
    assert not report.rejections and report.nodes_in_engines == report.nodes == 14
    (note,) = report.notes
    assert re.fullmatch(r"another engine begins at .+: TensorRT did not build the two as one", note)
    assert sum(map(len, tried[:1])) == 14 and len(set(map(tuple, tried))) == len(tried), "built once each"
    assert ts.stats()["fallbacks"] == 0


def test_graphs_with_dynamic_sizes_are_cut_too(builds: Any) -> None:
    builds(lambda ops: {"tanh", "sigmoid"} <= set(ops))
    report = ts.prebuild(
        perturb(Chain()), (X,), dynamic_shapes=({0: torch.export.Dim("n", min=1, max=9)},),
        options={"min_block_size": 1},
    )  # fmt: skip
    assert not report.rejections and [p.status for p in report.partitions] == ["built"] * 3


@torch.no_grad()
def test_a_start_that_finds_the_trace_tries_none_of_it_again(builds: Any) -> None:
    tried = builds(lambda ops: {"tanh", "sigmoid"} <= set(ops))
    model = perturb(Chain())
    compiled(model)(X)
    tried.clear()
    torch.testing.assert_close(compiled(model)(X), model(X))
    assert not tried and ts.stats()["traces"] == 1


@torch.no_grad()
def test_it_gives_up_where_no_half_is_built(builds: Any) -> None:
    tried = builds(lambda ops: True)
    model = perturb(Chain())
    torch.testing.assert_close(quietly(model), model(X))
    assert len(build_rejections()) == 1 and len(tried) <= 2 ** (bisection.FRUITLESS + 1) - 1


@pytest.mark.parametrize(("smallest", "rejected"), [(8, 14), (7, 7), (4, 7), (3, 3)])
@torch.no_grad()
def test_no_half_is_smaller_than_an_engine_may_be(builds: Any, smallest: int, rejected: int) -> None:
    builds(lambda ops: "tanh" in ops)
    model = perturb(Chain())
    torch.testing.assert_close(quietly(model, min_block_size=smallest), model(X))
    report = ts.reports()[-1]
    assert len(build_rejections()) == 1 and report.nodes - report.nodes_in_engines == rejected


@torch.no_grad()
def test_require_full_names_what_is_left(builds: Any) -> None:
    builds(lambda ops: "tanh" in ops)
    with pytest.raises(Exception, match=r"require_full[\s\S]*no such kernel"):
        compiled(perturb(Chain()), require_full=True)(X)


@torch.no_grad()
def test_parts_of_an_output_stay_with_it(builds: Any) -> None:
    """A node with several outputs is not cut from what takes them apart."""
    builds(lambda ops: {"topk", "tanh"} <= set(ops) or {"topk", "relu"} <= set(ops))

    class Model(nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
            values, indices = torch.relu(x).topk(3)
            return torch.tanh(values), indices + 1

    model = Model()
    for have, want in zip(compiled(model)(X), model(X), strict=True):
        torch.testing.assert_close(have, want)
    assert not build_rejections() and len(ts.reports()[-1].partitions) == 3
