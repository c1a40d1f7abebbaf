"""Which nodes run in engines, why the others do not, and that the cut graph computes what the whole one did."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from tests.graphs import Staged, engines, leaving, perturb, stage, trace, without
from trt_stripped_backend.ops.library import lookup
from trt_stripped_backend.options import Options
from trt_stripped_backend.partition import partition

aten = torch.ops.aten


def cut(fn: Callable[..., Any], *args: torch.Tensor, **options: Any) -> Staged:
    return trace(fn, 0, *args, **options)


x = torch.randn(4, 6)

# ------------------------------------------------------------------------------------------------ reasons

REASONS: list[tuple[str, Callable[..., Any], str, str, str]] = [
    ("op", lambda x: torch.linalg.inv(x[:, :4]), "aten.linalg_inv_ex", "op", "no converter"),
    ("dtype", lambda x: x.double() * 2, "aten.mul", "dtype", "float64"),
    ("integer", lambda x: x.to(torch.uint8) + 1, "aten.add", "dtype", "uint8"),
    ("complex", lambda x: (x.to(torch.complex64) * 2).abs(), "aten.mul", "dtype", "complex64"),
    ("refit", lambda x: x.cumsum(0), "aten.cumsum", "refit", "not refittable"),
    ("random", lambda x: x + torch.rand_like(x), "aten.rand_like", "random", "random"),
    ("data", lambda x: x.nonzero(), "aten.nonzero", "data", "depends on data"),
    ("limit", lambda x: x.view(1, 1, 1, 1, 1, 1, 1, 4, 6) + 1, "aten.add", "limit", "rank 9"),
]


@pytest.mark.parametrize(
    ("fn", "target", "kind", "reason"), [pytest.param(f, t, k, r, id=name) for name, f, t, k, r in REASONS]
)
def test_reasons(fn: Callable[..., Any], target: str, kind: str, reason: str) -> None:
    staged = cut(fn, x)
    found = [r for r in staged.cut.rejections if r.target.startswith(target)]
    assert any(r.kind == kind and reason in r.reason for r in found), staged.cut.rejections
    assert all(r.node in {n.name for n in staged.graph.nodes} for r in found)
    if kind != "random":
        torch.testing.assert_close(staged.in_torch([x]), fn(x))


def test_torch_executed_ops_and_allow_ops() -> None:
    def fn(x: torch.Tensor) -> torch.Tensor:
        return x.relu().cumsum(0).exp()

    assert engines(cut(fn, x)) == [["relu"], ["exp"]]
    assert engines(cut(fn, x, allow_ops="aten.cumsum")) == [["relu", "cumsum", "exp"]]
    for name in ("aten.relu", "aten.relu.default"):
        staged = cut(fn, x, torch_executed_ops=[name], allow_ops={"aten.cumsum.default"})
        assert engines(staged) == [["cumsum", "exp"]]
        assert [(r.kind, r.reason) for r in staged.cut.rejections] == [("option", "named in torch_executed_ops")]
    assert engines(cut(fn, x, torch_executed_ops=["aten.relu.out"]))[0] == ["relu"]


def test_immutable_engines_hold_what_cannot_be_refitted() -> None:
    staged = cut(lambda x: x.relu().cumsum(0).exp(), x)
    found = partition(staged.split, Options.of({"min_block_size": 1}), lookup, refit=False)
    assert len(found.partitions) == 1
    assert found.rejections == ()


def test_small_blocks_stay_in_pytorch() -> None:
    def fn(x: torch.Tensor) -> torch.Tensor:
        return x.relu().exp().cumsum(0).sin().cos().neg()

    assert engines(cut(fn, x, min_block_size=3)) == [["sin", "cos", "neg"]]
    staged = cut(fn, x, min_block_size=4)
    assert engines(staged) == []
    assert {r.kind for r in staged.cut.rejections} == {"size", "refit"}
    assert "smaller than min_block_size=4" in str(staged.cut.rejections[0])
    torch.testing.assert_close(staged.in_torch([x]), fn(x))


def test_literals_do_not_make_a_block() -> None:
    def fn(x: torch.Tensor) -> torch.Tensor:
        return (x.cumsum(0) * torch.arange(6).float().view(1, 6)).cumsum(1)

    assert engines(cut(fn, x, min_block_size=2)) == []
    assert cut(fn, x, min_block_size=2).cut.rejections[-1].kind == "refit"
    staged = stage(fn, x)
    assert engines(staged) == [["arange", "_to_copy", "view", "mul"]]
    assert [r.target for r in staged.cut.rejections] == ["aten.cumsum.default"] * 2


def test_the_users_line_is_kept() -> None:
    staged = stage(lambda x: x.relu().cumsum(0), x)
    (rejection,) = staged.cut.rejections
    assert rejection.where.startswith(__file__)
    assert rejection.where in str(rejection)


# ------------------------------------------------------------------------------------------------ groups


class Middle(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Sequential(nn.Linear(6, 6), nn.GELU()) for _ in range(3)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = x + layer(x.cumsum(1))
        return x


def test_engines_around_pytorch() -> None:
    model = perturb(Middle())
    staged = stage(model, x)
    assert engines(staged) == [["linear", "gelu", "add"]] * 3
    assert [r.target for r in staged.cut.rejections] == ["aten.cumsum.default"] * 3
    order = [n.name for n in staged.cut.module.graph.nodes if n.op == "call_module" or "cumsum" in n.name]
    assert order == ["cumsum", "engine_0", "cumsum_1", "engine_1", "cumsum_2", "engine_2"]
    weights = [name for piece in staged.cut.partitions for name in piece.weights]
    assert sorted(weights) == sorted(staged.split.weights)
    with torch.no_grad():
        torch.testing.assert_close(staged.compiled(x), model(x))


def test_unrelated_branches_share_an_engine() -> None:
    staged = cut(lambda a, b: (a.relu().exp(), b.sin().cos()), x, x)
    assert len(staged.cut.partitions) == 1


def test_early_work_joins_its_user() -> None:
    def fn(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return a.relu().cumsum(0).sin() * b.exp()

    assert engines(cut(fn, x, x)) == [["relu"], ["sin", "exp", "mul"]]


SPLIT_RESULTS: list[tuple[str, Callable[..., Any]]] = [
    ("chunk", lambda x: (y := x.relu().chunk(2, 1))[0].cumsum(0).sin() * y[1]),
    ("topk", lambda x: (y := x.relu().topk(3))[0].cumsum(0).sin() * y[1]),
    ("topk_late", lambda x: x.sin().gather(1, (y := x.topk(3))[1]) + y[0].cumsum(0).exp()),
    ("max", lambda x: (y := x.sin().max(1))[0].cumsum(0).exp() + y[1].float().cos()),
    ("unused", lambda x: x.topk(3)[1] + 1),
    ("returned", lambda x: (*x.relu().topk(3), x.topk(2)[0].cumsum(0))),
]


@pytest.mark.parametrize("fn", [pytest.param(fn, id=name) for name, fn in SPLIT_RESULTS])
def test_results_of_one_operator_leave_its_engine_one_by_one(fn: Callable[..., Any]) -> None:
    staged = cut(fn, x)
    for piece in staged.cut.partitions:
        assert all(isinstance(node.meta["val"], torch.Tensor) for node in leaving(piece))
    torch.testing.assert_close(_list(staged.in_torch([x])), _list(fn(x)))


def test_rejected_operator_with_several_results() -> None:
    def fn(x: torch.Tensor) -> torch.Tensor:
        values, where = x.relu().topk(3)
        return values.sin() * where

    staged = cut(fn, x, find=without("topk"))
    assert engines(staged) == [["relu"], ["sin", "mul"]]
    torch.testing.assert_close(staged.in_torch([x]), fn(x))


def _list(result: Any) -> list[torch.Tensor]:
    return list(result) if isinstance(result, (tuple, list)) else [result]
