"""Activations of exact float32 products: as close to float64 as elsewhere."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.nn import functional as F

import trt_stripped_backend as ts

Activation = Callable[[torch.Tensor], torch.Tensor]


@pytest.mark.parametrize("shape", [(4096, 64), (33, 6), (1, 128, 64)], ids=str)
@pytest.mark.parametrize(
    "act", [torch.tanh, lambda x: F.gelu(x, approximate="tanh"), torch.erf, torch.sigmoid, F.silu],
    ids=["tanh", "new_gelu", "erf", "sigmoid", "silu"],
)  # fmt: skip
@torch.no_grad()
def test_behind_a_product(act: Activation, shape: tuple[int, ...]) -> None:
    width = shape[-1]
    x = torch.linspace(-9, 9, torch.Size(shape).numel(), device="cuda").reshape(shape)
    layer = torch.nn.Linear(width, width).cuda()
    layer.weight.copy_(torch.eye(width))
    layer.bias.zero_()
    compiled = torch.compile(
        lambda x: act(layer(x)), backend="trt_stripped", options={"min_block_size": 1, "require_full": True}
    )
    have, want = compiled(x), act(x.double())
    assert ts.stats()["engines"] == 1
    assert float(((have - want).abs() / want.abs().clamp(min=1)).max()) < 1e-6
