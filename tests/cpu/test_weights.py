"""What is computed from parameters alone leaves the graph, stays live, and nothing else leaves it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from tests.graphs import Staged, perturb, placeholders, stage, targets, trace
from trt_stripped_backend.weights import split


def eager(model: Callable[..., Any], *args: torch.Tensor) -> Any:
    with torch.no_grad():
        return model(*args)


def follows(staged: Staged, model: nn.Module, *args: torch.Tensor) -> None:
    """Each parameter and float buffer is changed in turn; the compiled model must follow."""
    for value in [*model.parameters(), *model.buffers()]:
        if not value.is_floating_point():
            continue
        with torch.no_grad():
            value.mul_(1.3).add_(0.05)
            have = staged.compiled(*args)
        torch.testing.assert_close(have, eager(model, *args), rtol=1e-4, atol=1e-5)


class Lora(nn.Module):
    def __init__(self, size: int = 8) -> None:
        super().__init__()
        self.linear = nn.Linear(size, size)
        self.a, self.b = nn.Parameter(torch.randn(2, size)), nn.Parameter(torch.randn(size, 2))
        self.s = nn.Parameter(torch.tensor(0.5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, self.linear.weight + self.s * self.b @ self.a, self.linear.bias)


class Autocast(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.linear(x)  # type: ignore[no-any-return]


class Masked(nn.Module):
    """A mask made of a buffer."""

    keep: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("keep", torch.rand(8) > 0.5)
        self.bias = nn.Parameter(torch.randn(8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.where(self.keep, self.bias, -1e4)


DERIVED: list[tuple[str, Callable[[], nn.Module], list[str]]] = [
    ("weight_norm", lambda: parametrizations.weight_norm(nn.Linear(8, 8)), ["aten.linear.default"]),
    ("spectral_norm", lambda: parametrizations.spectral_norm(nn.Linear(8, 8)), ["aten.linear.default"]),
    ("orthogonal", lambda: parametrizations.orthogonal(nn.Linear(8, 8)), ["aten.linear.default"]),
    ("lora", Lora, ["aten.linear.default"]),
    ("masked", Masked, ["aten.add.Tensor"]),
    ("autocast", Autocast, ["aten._to_copy.default", "aten.linear.default"]),
]


@pytest.mark.parametrize(("make", "main"), [pytest.param(make, main, id=name) for name, make, main in DERIVED])
def test_parameter_arithmetic_is_split_off(make: Callable[[], nn.Module], main: list[str]) -> None:
    model, x = make().eval(), torch.randn(3, 8)
    staged = stage(model, x)
    assert targets(staged.split.module) == main
    torch.testing.assert_close(eager(staged.compiled, x), eager(model, x), rtol=1e-4, atol=1e-5)
    follows(staged, model, x)


class Apart(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = Lora(), Lora(), nn.Parameter(torch.randn(8))

    def forward(self, x: torch.Tensor) -> Any:
        shared = self.three.exp()
        return self.two(self.one(x)) * (shared + 1) + shared * 2 + shared


def test_independent_pieces_stay_apart() -> None:
    model, x = Apart(), torch.randn(3, 8)
    staged = stage(model, x)
    names = [{staged.lowered.names[i] for i in piece.sources} for piece in staged.split.derived]
    assert sorted(map(sorted, names)) == [
        ["one.a", "one.b", "one.linear.weight", "one.s"],
        ["three"],
        ["two.a", "two.b", "two.linear.weight", "two.s"],
    ]
    shared = next(piece for piece in staged.split.derived if len(piece.sources) == 1)
    assert targets(shared.module).count("aten.exp.default") == 1
    assert sorted(n for piece in staged.split.derived for n in piece.names) == sorted(
        placeholders(staged.split.module)[staged.split.arguments :]
    )
    follows(staged, model, x)


def test_pieces_join_where_they_meet() -> None:
    def fn(p: torch.Tensor, q: torch.Tensor, x: torch.Tensor) -> Any:
        one, two = p.exp(), q.exp()
        return x * one, x * two, x * (one + two)

    staged = trace(fn, 2, torch.randn(4), torch.randn(4), torch.randn(4))
    (piece,) = staged.split.derived
    assert targets(piece.module) == ["aten.exp.default", "aten.exp.default", "aten.add.Tensor"]
    assert len(piece.names) == 3


# ------------------------------------------------------------------------------------------------ what stays


STAYS: list[tuple[str, Callable[..., Any]]] = [
    ("transpose", lambda w, x: x @ w.t()),
    ("permute", lambda w, x: x * w.permute(1, 0).unsqueeze(0)),
    ("view", lambda w, x: x.view(-1) * w.view(-1)),
    ("expand", lambda w, x: x * w[:1].expand(4, 4)),
    ("select", lambda w, x: x * w[0]),
    ("chunk", lambda w, x: x @ w.chunk(2)[0].t() + x @ w.chunk(2)[1].t()),
    ("constant", lambda w, x: x * w + torch.arange(4) + torch.full((4, 4), 2.0)),
]


@pytest.mark.parametrize("fn", [pytest.param(fn, id=name) for name, fn in STAYS])
def test_views_and_constants_stay(fn: Callable[..., Any]) -> None:
    args = torch.randn(4, 4), torch.randn(4, 4)
    staged = trace(fn, 1, *args)
    assert staged.split.derived == ()
    assert set(targets(staged.split.module)) == set(targets(staged.graph))
    assert staged.split.weights == {placeholders(staged.split.module)[0]}


def test_expand_is_not_materialised() -> None:
    def fn(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return x * (w * 2).view(4, 1).expand(4, 1000)

    staged = trace(fn, 1, torch.randn(4), torch.randn(4, 1000))
    (value,) = staged.derived([torch.randn(4)]).values()
    assert value.shape == (4,)
    assert "aten.expand.default" in targets(staged.split.module)


def test_parts_of_a_derived_weight_share_it() -> None:
    def fn(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        one, two = (w * 2).chunk(2)
        return x @ one.t() + x @ two.t()

    staged = trace(fn, 1, torch.randn(4, 4), torch.randn(3, 4))
    (piece,) = staged.split.derived
    assert targets(piece.module) == ["aten.mul.Tensor"]
    assert len(piece.names) == 1


@pytest.mark.parametrize("view", [torch.diagonal, lambda w: w.unfold(0, 2, 1), lambda w: w.view(torch.int32)])
def test_derived_weights_hold_memory_of_their_own(view: Callable[[torch.Tensor], torch.Tensor]) -> None:
    def fn(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return x.sum() * view(w)

    w = torch.randn(4, 4)
    staged = trace(fn, 1, w, torch.randn(4, 4))
    for value in staged.derived([w]).values():
        assert value.untyped_storage().data_ptr() != w.untyped_storage().data_ptr()
        torch.testing.assert_close(value, view(w))


def test_random_numbers_are_not_kept() -> None:
    def fn(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return x * (w + torch.rand_like(w)) * torch.bernoulli(w)

    staged = trace(fn, 1, torch.rand(4), torch.randn(4))
    assert staged.split.derived == ()


def test_several_outputs_of_one_operator() -> None:
    def fn(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        values, where = w.topk(2)
        return x[:2] * values + where

    w, x = torch.randn(4), torch.randn(4)
    staged = trace(fn, 1, w, x)
    assert len(staged.split.derived) == 1
    torch.testing.assert_close(staged.in_torch([w, x]), fn(w, x))


def _steps(count: int) -> int:
    """Functions entered while so many weights are split off, whose arithmetic meets at the end."""

    def fn(*args: torch.Tensor) -> torch.Tensor:
        *weights, y = args
        weights = [w.sigmoid() for w in weights]
        for one in weights:
            y = y @ one
        total = weights[0]
        for one in weights[1:]:
            total = total + one
            y = y @ total
        return y

    lowered = trace(fn, count, *[torch.zeros(2, 2) for _ in range(count + 1)]).lowered
    steps = 0

    def profile(frame: Any, event: str, argument: Any) -> None:
        nonlocal steps
        steps += event in ("call", "c_call")

    sys.setprofile(profile)
    try:
        found = split(lowered)
    finally:
        sys.setprofile(None)
    assert [len(piece.names) for piece in found.derived] == [2 * count - 1]
    return steps


def test_cost_is_linear() -> None:
    assert _steps(80) < 4.6 * _steps(20)


@pytest.mark.parametrize(("mode", "expected"), [("bound", {"w", "mask", "ids"}), ("general", {"w"})])
def test_engines_that_copy_take_other_than_floats_as_inputs(mode: str, expected: set[str]) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.randn(3))
            self.register_buffer("mask", torch.tensor([True, False, True]))
            self.register_buffer("ids", torch.tensor([2, 0, 1]))

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return (x * self.w).where(self.mask, self.ids), self.mask.logical_not(), x[self.ids.add(1).sub(1)]

    model, x = Model(), torch.randn(3)
    staged = stage(model, x, refit_mode=mode)
    (piece,) = staged.cut.partitions
    arguments = placeholders(staged.split.module)
    assert {name for i, name in staged.lowered.names.items() if arguments[i] in piece.weights} == expected
    floats = {n.name for n in piece.module.graph.find_nodes(op="placeholder") if n.meta["val"].is_floating_point()}
    assert mode == "bound" or piece.weights <= floats
    follows(staged, model, x)
    model.mask.logical_not_()
    model.ids.copy_(torch.tensor([1, 2, 0]))
    torch.testing.assert_close(staged.compiled(x), eager(model, x))


@pytest.mark.parametrize("mode", ["bound", "general"])
def test_what_no_element_needs_is_no_weight(mode: str) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w, self.v = nn.Parameter(torch.randn(3)), nn.Parameter(torch.randn(3))

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, ...]:
            nothing = x * self.w
            return nothing + 1, torch.cat([nothing, y * self.v])

    model, x, y = Model(), torch.randn(0, 3), torch.randn(2, 3)
    staged = stage(model, x, y, refit_mode=mode)
    arguments = placeholders(staged.split.module)
    weights = {name for i, name in staged.lowered.names.items() if arguments[i] in staged.split.weights}
    assert weights == {"v"}
    follows(staged, model, x, y)


def test_whole_models_follow_their_weights() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
            self.lora, self.tied = Lora(16), nn.Linear(4, 16)
            self.back = nn.Linear(16, 4)
            self.tied.weight = nn.Parameter(torch.randn(16, 4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.norm(self.conv(x)).relu().mean((2, 3))
            return nn.functional.linear(self.lora(self.tied(y)), self.tied.weight.t(), self.back.bias)

    model, x = perturb(Model()), torch.randn(2, 3, 6, 6)
    staged = stage(model, x)
    assert len(staged.split.derived) == 2
    follows(staged, model, x)
