"""Weights of other kinds than matrices of numbers: masks and indices, and data that comes as a module's tensor."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import trt_stripped_backend as ts
from tests.gpu.common import Block, compiled, error, perturbed
from trt_stripped_backend.watch import Disguised

MODES = ["bound", "general"]
VALUED = ["identical", "immutable"]


class Masked(nn.Module):
    """Weights that are no floating-point numbers, as they are and behind arithmetic."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(6, device="cuda"))
        self.register_buffer("mask", torch.tensor([True, False] * 3, device="cuda"))
        self.register_buffer("ids", torch.tensor([5, 3, 1, 0, 2, 4], device="cuda"))
        self.register_buffer("count", torch.tensor(3, dtype=torch.int32, device="cuda"))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        y = torch.where(self.mask, x * self.scale, x[:, self.ids])
        return y, torch.stack([self.ids, self.ids + self.count]), self.mask.logical_not() & self.scale.bool()


@pytest.mark.parametrize("mode", [*MODES, *VALUED])
@torch.no_grad()
def test_whole_numbers_and_masks_are_followed(mode: str) -> None:
    model, x = Masked(), torch.randn(2, 6, device="cuda")
    fast = compiled(model, mode)
    for _ in range(3):
        for have, want in zip(fast(x), model(x), strict=True):
            torch.testing.assert_close(have, want)
        model.mask.logical_not_()
        model.ids.copy_(model.ids.roll(1))
        model.count.add_(7)
        model.scale.mul_(1.5)
    assert ts.stats()["fallbacks"] == 0


class Mixed(nn.Module):
    """Matrices that are part of the graph, between weights."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.block = nn.Embedding(16, 64), Block()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        angles = torch.arange(64.0, device=x.device)[:, None] * torch.arange(64.0, device=x.device)
        places = torch.arange(32, device=x.device).view(4, 8) % 16
        return self.block(x @ angles.cos() * 0.1 + self.embed(places))


@pytest.mark.parametrize("mode", [*MODES, *VALUED])
@torch.no_grad()
def test_matrices_of_the_graph_stay_beside_weights(mode: str) -> None:
    model, x = perturbed(Mixed()), torch.randn(4, 8, 64, device="cuda")
    fast = compiled(model, mode)
    for _ in range(2):
        assert error(fast(x), model(x)) < 1e-5
        model.embed.weight.mul_(-1.5)
        model.block.up.weight.mul_(1.5)
    assert ts.stats()["fallbacks"] == 0


# ------------------------------------------------------------------------------------------------ data in disguise


class Conditioned(nn.Module):
    """A block under a condition that is set before each call."""

    def __init__(self) -> None:
        super().__init__()
        self.block = Block()
        self.register_buffer("condition", torch.zeros(64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.block(x + self.condition)


@torch.no_grad()
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("written", [True, False])
def test_data_in_disguise_is_never_stale_and_becomes_an_input(mode: str, written: bool) -> None:
    model = perturbed(Conditioned())
    fast, refits = compiled(model, mode), []
    for _ in range(4 * Disguised.LIMIT):
        x, condition = torch.randn(4, 8, 64, device="cuda"), torch.randn(64, device="cuda")
        if written:
            model.condition.copy_(condition)
        else:
            model.condition = condition
        assert error(fast(x), model(x)) < 1e-5
        refits.append(ts.stats()["refits"])
    if mode == "general":
        assert refits[0] < refits[Disguised.LIMIT - 1], "each write was a refit"
        assert refits[2 * Disguised.LIMIT] == refits[-1], "an input needs none"
    model.block.up.weight.mul_(1.5)
    assert error(fast(x), model(x)) < 1e-5
    assert ts.stats()["fallbacks"] == 0
