"""What TensorRT-RTX would build for minutes as one engine.

Reductions of two to four elements, each of what others make: rounds of one kind, and a narrow transformer. And chains
of operators that read what they take several times, before and behind reductions.
"""

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


def products(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Eight of each other, where a layer of four has one token."""
    for _ in range(8):
        x = x + x @ weight
    return x


def times(step: Callable[[torch.Tensor], torch.Tensor], count: int = 20) -> Callable[[torch.Tensor], torch.Tensor]:
    def fn(x: torch.Tensor) -> torch.Tensor:
        for _ in range(count):
            x = step(x)
        return x

    return fn


THREE = times(lambda x: torch.where(x > 0, x * 0.5, x + 1))
ENDS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "sum": lambda x: THREE(x).sum(-1),
    "of columns": lambda x: THREE(x).mean(0),
    "softmax": lambda x: THREE(x).softmax(-1),
    "norm": lambda x: F.layer_norm(THREE(x), (64,)),
    "behind a sum": lambda x: THREE(x - x.sum(-1, keepdim=True)),
    "behind a softmax": lambda x: THREE(x.softmax(-1)),
    "behind a norm": lambda x: THREE(F.rms_norm(x, (64,))),
    "both": lambda x: THREE(THREE(x).softmax(-1)),
    "of a part": lambda x: torch.cat([THREE(x)[:, 3:30], x], 1).t().amax(0),
    "pooling": lambda x: F.adaptive_avg_pool2d(THREE(x).view(1, 6, 8, 8), 1),
    "sort": lambda x: THREE(x).sort(-1)[0],
    "half product": lambda x: THREE(x.half() @ x.half().t()),
    "clamps": lambda x: times(lambda x: (x * 1.5).clamp(-1, 1), 8)(x).mean(),
    "newton": lambda x: times(lambda x: x - (x * x * x - 2) / (3 * x * x), 12)(x.abs() + 1).sum(-1),
    "remainders": lambda x: torch.remainder(torch.remainder(x, 0.7).softmax(-1), 0.3),
    "activations": lambda x: times(F.gelu, 10)(times(lambda x: (x * 1.5).clamp(-1, 1), 4)(x)).mean(-1),
    "floors": lambda x: torch.floor_divide(torch.floor_divide(x * 100, 3), 2).sum(-1),
}
