"""Data in disguise: what a module holds and changes before every call becomes an input; weights never do."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
import torch
from torch import nn

from tests.emulated import World
from tests.graphs import perturb
from trt_stripped_backend import backend
from trt_stripped_backend.watch import Disguised

pytestmark = pytest.mark.usefixtures("world")
CALLS = 3 * Disguised.LIMIT
X = torch.randn(4, 8)


class Conditioned(nn.Module):
    """A layer under a condition that is set before each call, scaled by arithmetic on a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)
        self.register_buffer("condition", torch.zeros(8))
        self.register_buffer("scale", torch.ones(8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.layer(x) + self.condition) * (self.scale * 2)


def compiled(model: nn.Module, mode: str) -> Callable[..., torch.Tensor]:
    return torch.compile(model, backend=backend.trt_stripped, options={"refit_mode": mode, "min_block_size": 1})


def write(model: Conditioned, value: torch.Tensor) -> None:
    model.condition.copy_(value)


def replace(model: Conditioned, value: torch.Tensor) -> None:
    model.condition = value


def scale(model: Conditioned, value: torch.Tensor) -> None:
    model.scale.copy_(value)


@torch.no_grad()
@pytest.mark.parametrize("change", [write, replace, scale])
def test_it_becomes_an_input(
    world: World, caplog: pytest.LogCaptureFixture, change: Callable[[Conditioned, torch.Tensor], None]
) -> None:
    model = perturb(Conditioned())
    fast = compiled(model, "general")
    for _ in range(CALLS):
        change(model, torch.randn(8))
        torch.testing.assert_close(fast(X), model(X))
    said = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    name = "scale" if change is scale else "condition"
    assert said == [f"{name} changes at every call while no weight does: it is an input of its engines from now on"]
    assert world.calls["build"] == 2
    refits = world.calls["refit"]
    assert refits <= Disguised.LIMIT + 3
    for _ in range(CALLS):
        change(model, torch.randn(8))
        torch.testing.assert_close(fast(X), model(X))
    assert world.calls["refit"] == refits, "an input needs no refit"
    model.layer.weight.mul_(2)
    torch.testing.assert_close(fast(X), model(X))
    assert world.calls["refit"] == refits + 1, "weights are live as before"


@torch.no_grad()
@pytest.mark.parametrize("mode", ["bound", "general"])
def test_weights_that_change_at_every_call_stay_weights(world: World, mode: str) -> None:
    model = perturb(Conditioned())
    fast = compiled(model, mode)
    for _ in range(CALLS):  # a training loop: buffers and parameters move together
        model.condition.add_(0.1)
        model.layer.weight.mul_(1.01)
        torch.testing.assert_close(fast(X), model(X))
    for _ in range(CALLS):
        model.layer.weight.mul_(1.01)
        torch.testing.assert_close(fast(X), model(X))
    assert world.calls["build"] == 1


@torch.no_grad()
def test_a_call_without_a_change_ends_the_count(world: World) -> None:
    model = perturb(Conditioned())
    fast = compiled(model, "general")
    for call in range(CALLS):
        if call % (Disguised.LIMIT - 1):
            model.condition.add_(0.1)
        torch.testing.assert_close(fast(X), model(X))
    assert world.calls["build"] == 1


@torch.no_grad()
def test_two_models_that_take_turns_keep_their_weights(world: World) -> None:
    models = [perturb(Conditioned(), seed) for seed in range(2)]
    fast = [compiled(model, "general") for model in models]
    for _ in range(CALLS):
        for model, run in zip(models, fast, strict=True):
            torch.testing.assert_close(run(X), model(X))
    assert world.calls["build"] == 1


@torch.no_grad()
def test_a_parameter_that_is_an_argument(world: World) -> None:
    def layer(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return torch.relu(nn.functional.linear(x, weight, bias)) + x

    fast = torch.compile(layer, backend=backend.trt_stripped, options={"refit_mode": "general", "min_block_size": 1})
    weight, bias = (nn.Parameter(torch.randn(s), requires_grad=False) for s in ((8, 8), (8,)))
    for _ in range(CALLS):  # written in place: a weight
        weight.mul_(1.01)
        torch.testing.assert_close(fast(X, weight, bias), layer(X, weight, bias))
    assert world.calls["build"] == 1
    for _ in range(CALLS):  # another one each time: data
        weight = nn.Parameter(torch.randn(8, 8), requires_grad=False)
        torch.testing.assert_close(fast(X, weight, bias), layer(X, weight, bias))
    assert world.calls["build"] == 2
