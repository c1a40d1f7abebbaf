"""What the GPU tests share: small models whose every weight shows, and the comparison."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class Block(nn.Module):
    """A pre-norm residual MLP."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(torch.nn.functional.gelu(self.up(self.norm(x))))


class ConvNet(nn.Module):
    """Convolutions with BatchNorm to fold: weights derived from parameters and buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.conv2, self.bn2 = nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.head = nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        x = torch.relu(self.bn2(self.conv2(x)) + x)
        return self.head(x.mean((2, 3)))


class LoRA(nn.Module):
    """A linear layer with an adapter: ``W + s·B@A`` is arithmetic on parameters alone."""

    def __init__(self, width: int = 64, rank: int = 4) -> None:
        super().__init__()
        self.base = nn.Linear(width, width)
        self.a, self.b = nn.Parameter(torch.empty(rank, width)), nn.Parameter(torch.empty(width, rank))
        self.s = nn.Parameter(torch.empty(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.base.weight + self.s * (self.b @ self.a)
        return torch.relu(torch.nn.functional.linear(x, weight, self.base.bias)) + x


def perturbed(model: nn.Module, seed: int = 0) -> nn.Module:
    """Random values for every parameter and buffer, so that a dropped, stale or foreign one shows."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if tensor.is_floating_point():
                noise = torch.randn(tensor.shape, generator=generator)
                scale = 0.5 if tensor.ndim < 2 else tensor.shape[1:].numel() ** -0.5
                tensor.copy_(noise.abs() + 0.5 if "var" in name else noise * scale)
    return model.eval().cuda()


def compiled(model: Any, mode: str, **options: Any) -> Any:
    options = {"refit_mode": mode, "min_block_size": 1, **options}
    return torch.compile(model, backend="trt_stripped", options=options)


def error(have: torch.Tensor, want: torch.Tensor) -> float:
    """Relative L2 error."""
    return float((have.double() - want.double()).norm() / want.double().norm().clamp_min(1e-30))
