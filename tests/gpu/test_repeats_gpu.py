"""Repeated layers on one engine: each runs with its own weights, changed ones too, also as CUDA graphs."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import trt_stripped_backend as ts
from tests.gpu.common import Block, compiled, error, perturbed


class Stack(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(32, 64), nn.Linear(64, 7)
        self.layers = nn.ModuleList(Block() for _ in range(12))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.tanh(self.enter(x))
        for layer in self.layers:
            x = layer(x)
        return self.leave(x)


@torch.no_grad()
@pytest.mark.parametrize("mode", ["bound", "general"])
@pytest.mark.parametrize("graphs", [False, True])
def test_one_engine_for_twelve_layers(mode: str, graphs: bool) -> None:
    model, x = perturbed(Stack()), torch.randn(4, 8, 32, device="cuda")
    fast = compiled(model, mode, dedupe_layers=True, cuda_graphs=graphs, require_full=True)
    for _ in range(4):
        assert error(fast(x), model(x)) < 1e-5
    counts = ts.stats()
    assert counts["builds"] <= 3 < 12 <= counts["engines"], ts.reports()[-1]
    refits = counts["refits"]
    model.layers[7].up.weight.mul_(-1)
    for _ in range(4):
        assert error(fast(x), model(x)) < 1e-5
    assert ts.stats()["refits"] == refits + (mode == "general")
    other = perturbed(Stack(), seed=3)
    model.load_state_dict(other.state_dict())
    assert error(fast(x), other(x)) < 1e-5
    assert ts.stats()["fallbacks"] == 0
    assert ts.stats()["builds"] == counts["builds"]
