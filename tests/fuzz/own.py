"""Calls for which PyTorch has no single name, or leaves part of the result open."""

from __future__ import annotations

from typing import Any

import torch


def cast(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Integers from what no integer stands for are anything: from NaN, from what is too large."""
    whole = x.is_floating_point() and not dtype.is_floating_point
    return (x.nan_to_num().clamp(-9, 9) if whole else x).to(dtype)


def topk(x: torch.Tensor, k: int, dim: int, largest: bool) -> torch.Tensor:
    """Values alone: of equal elements, any index is right."""
    return torch.topk(x, k, dim, largest).values


def sort(x: torch.Tensor, dim: int, descending: bool) -> list[torch.Tensor]:
    return list(torch.sort(x, dim=dim, descending=descending, stable=True))


def extreme(x: torch.Tensor, dim: int, keepdim: bool, largest: bool) -> torch.Tensor:
    """The values of ``max`` and ``min`` over a dimension."""
    values: torch.Tensor = (torch.max if largest else torch.min)(x, dim, keepdim).values
    return values


def largest(x: torch.Tensor, dim: int) -> torch.Tensor:
    return x == x.amax(dim, keepdim=True)


def centered(x: torch.Tensor, dim: list[int]) -> torch.Tensor:
    return x - x.mean(dim, keepdim=True)


def shares(x: torch.Tensor, dim: list[int]) -> torch.Tensor:
    return x / (x.abs().sum(dim, keepdim=True) + 0.5)


def beside(x: torch.Tensor, dim: int, at: int) -> torch.Tensor:
    """Each element with one of its line."""
    return x * x.narrow(dim, at, 1)


def rank(x: torch.Tensor, dim: int) -> torch.Tensor:
    """How many elements of its line each is above."""
    lines = x.movedim(dim, -1)
    return (lines[..., :, None] > lines[..., None, :]).sum(-1)


def index(x: torch.Tensor, *places: torch.Tensor | slice | None) -> torch.Tensor:
    return x[places]


def put(x: torch.Tensor, places: torch.Tensor, value: torch.Tensor | float, dim: int) -> torch.Tensor:
    """A copy of ``x`` with a value at some places of a dimension."""
    made = x.clone()
    made[(slice(None),) * dim + (places,)] = value  # type: ignore[index]
    return made


def write(x: torch.Tensor, value: torch.Tensor | float, dim: int, start: int, end: int, step: int) -> torch.Tensor:
    """A copy of ``x`` with a value in a slice."""
    made = x.clone()
    made[(slice(None),) * dim + (slice(start, end, step),)] = value  # type: ignore[index]
    return made


def batch_norm(x: torch.Tensor, mean: torch.Tensor, var: torch.Tensor, *rest: Any) -> torch.Tensor:
    """With running statistics; a variance is not negative."""
    return torch.nn.functional.batch_norm(x, mean, var.abs() + 0.5, *rest)


def root(x: torch.Tensor) -> torch.Tensor:
    return x.abs().sqrt()


def logarithm(x: torch.Tensor) -> torch.Tensor:
    return (x.abs() + 0.25).log()


def ratio(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return x / (y.abs() + 0.5)
