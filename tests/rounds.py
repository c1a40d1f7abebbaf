"""Reductions of two to four elements, each of what others make: rounds of one kind, and a narrow transformer."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional as F

Step = Callable[[torch.Tensor, int], torch.Tensor]

STEPS: dict[str, tuple[Step, int]] = {  # and how many reductions of each other a step is
    "sum": (lambda x, dim: x / x.sum(dim, keepdim=True), 1),  # Sinkhorn's
    "mean": (lambda x, dim: x - x.mean(dim, keepdim=True), 1),
    "amax": (lambda x, dim: x / x.amax(dim, keepdim=True), 1),
    "amin": (lambda x, dim: x - x.amin(dim, keepdim=True) + 1, 1),
    "prod": (lambda x, dim: x / (x.prod(dim, keepdim=True) + 1), 1),
    "norm": (lambda x, dim: x / x.norm(dim=dim, keepdim=True), 1),
    "var": (lambda x, dim: x / (x.var(dim, keepdim=True) + 1), 2),
    "softmax": (lambda x, dim: x.softmax(dim), 2),
    "log_softmax": (lambda x, dim: x - x.log_softmax(dim), 2),
}


def rounds(step: Step, count: int = 3) -> Callable[[torch.Tensor], torch.Tensor]:
    def fn(x: torch.Tensor) -> torch.Tensor:
        for _ in range(count):
            x = step(step(x, -1), -2)
        return x

    return fn


def layer(
    x: torch.Tensor, qkv: torch.Tensor, out: torch.Tensor, up: torch.Tensor, down: torch.Tensor
) -> torch.Tensor:
    """Of a transformer with one head."""
    q, k, v = F.linear(x, qkv).chunk(3, -1)
    x = F.rms_norm(x + F.linear(F.scaled_dot_product_attention(q, k, v), out), x.shape[-1:])
    return x + F.linear(F.relu(F.linear(x, up)), down)


def layer_of(tokens: int, width: int, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    weights = [torch.rand(k * width, width, dtype=dtype) / width for k in (3, 1, 1, 1)]
    return torch.rand(2, tokens, width, dtype=dtype), *weights
