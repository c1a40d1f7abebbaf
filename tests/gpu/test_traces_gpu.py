"""The second start of a model: no AOTAutograd, no lowering, and the weights of the model at hand."""

from __future__ import annotations

from collections.abc import Callable
from unittest import mock

import pytest
import torch
from torch import nn

import trt_stripped_backend as ts
from tests.gpu.common import Block, ConvNet, LoRA, compiled, error, perturbed
from trt_stripped_backend import lowering


class Cumulative(nn.Module):
    """Two engines around an operator of PyTorch's, and a buffer that is written."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = Block(), Block()
        self.register_buffer("past", torch.zeros(64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.second(self.first(x).cumsum(1))
        self.past.mul_(0.5).add_(y.mean((0, 1)))
        return y + self.past


@pytest.mark.parametrize("mode", ["bound", "general"])
@pytest.mark.parametrize(
    ("make", "shape"),
    [(Block, (4, 8, 64)), (ConvNet, (2, 3, 16, 16)), (LoRA, (4, 64)), (Cumulative, (4, 8, 64))],
)
@torch.no_grad()
def test_the_second_start(mode: str, make: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, device="cuda")
    compiled(perturbed(make()), mode)(x)
    builds = ts.stats()["builds"]
    assert builds > 0
    torch.compiler.reset()
    model, twin, stale = (perturbed(make(), seed) for seed in (1, 1, 0))
    with mock.patch.object(lowering, "trace", side_effect=AssertionError("traced again")):
        fast = compiled(model, mode)
        for _ in range(3):  # each change shows: the first weights, and those of the call before, are far off
            have, want = fast(x), twin(x)
            assert error(have, want) < 1e-5
            assert error(stale(x), want) > 1e-2
            for one in (model, twin):
                for tensor in one.parameters():
                    tensor.mul_(1.1)
    for have, want in zip(model.buffers(), twin.buffers(), strict=True):
        torch.testing.assert_close(have, want, rtol=1e-4, atol=1e-4)
    counts = ts.stats()
    assert (counts["traces"], counts["builds"], counts["fallbacks"]) == (1, builds, 0)
    assert counts["hits"] == builds
