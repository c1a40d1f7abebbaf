"""Tensors made from nothing: small ones as literals, large ones by layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from tests.cases import Case, T

HALF, BF16, INT64, INT32 = torch.float16, torch.bfloat16, torch.int64, torch.int32
X, INTS = T((4, 6)), T((4, 6), INT64, "int:-3:4")


def aranged(name: str, *bounds: float, count: int, dtype: torch.dtype | None = None, tol: float | None = None) -> Case:
    """A range added to an input of its own type and length."""

    def fn(x: torch.Tensor) -> torch.Tensor:
        return x + torch.arange(*bounds, dtype=dtype, device=x.device)

    made = torch.arange(*bounds, dtype=dtype).dtype
    kind = "randn" if made.is_floating_point else "int:-3:4"
    return Case(f"arange_{name}", fn, (T((count,), made, kind),), tol=tol)


def added(name: str, make: Callable[[torch.Tensor], torch.Tensor], x: T = X) -> Case:
    return Case(name, lambda x: (x + make(x), make(x)), (x,))


def emptied(name: str, make: Callable[[torch.Tensor], Any]) -> Case:
    """Nothing is known of an empty tensor but its shape and type."""
    return Case(name, lambda x: x + (make(x).isnan() | True), (X,))


CASES = [
    aranged("int", 7, count=7),
    aranged("start_step", 3, 20, 4, count=5),
    aranged("downwards", 10, -5, -3, count=5),
    aranged("int32", 2, 9, 3, count=3, dtype=INT32),
    aranged("float", 0.5, 2.0, 0.25, count=6),
    aranged("half", 0, 6, count=6, dtype=HALF),
    aranged("bfloat16", 1, 4, 0.5, count=6, dtype=BF16),
    aranged("large_int", 5000, count=5000),
    aranged("large_int_step", 100, -14900, -3, count=5000),
    aranged("large_int32", 3, 12003, 2, count=6000, dtype=INT32),
    aranged("large_float", 0.0, 5000.0, count=5000),
    aranged("large_float_step", 0.5, 600.5, 0.1, count=6000, tol=1e-6),
    added("full", lambda x: torch.full((4, 6), 2.5, device=x.device)),
    added("full_0d", lambda x: torch.full((), -1.5, device=x.device)),
    added("full_half", lambda x: torch.full((6,), 0.1, dtype=HALF, device=x.device), T((4, 6), HALF)),
    added("full_int", lambda x: torch.full((6,), 3, device=x.device), INTS),
    added("full_bool", lambda x: torch.full((4, 1), True, device=x.device)),
    added("full_infinity", lambda x: torch.full((4, 6), float("-inf"), device=x.device)),
    added("full_large", lambda x: torch.full((200, 300), 0.25, device=x.device), T((300,))),
    added("full_large_bool", lambda x: torch.full((200, 300), True, device=x.device), T((300,))),
    added("full_like", lambda x: torch.full_like(x, 7)),
    added("full_like_transposed", lambda x: torch.full_like(x.mT, 7).mT),
    added("full_like_dtype", lambda x: torch.full_like(x, 7, dtype=INT64)),
    added("zeros", lambda x: torch.zeros(4, 6, device=x.device)),
    added("ones", lambda x: torch.ones(6, dtype=INT32, device=x.device)),
    added("zeros_like", torch.zeros_like, T((4, 6), BF16)),
    added("ones_like_bool", lambda x: torch.ones_like(x, dtype=torch.bool)),
    added("new_full", lambda x: x.new_full((6,), 1.25), T((4, 6), HALF)),
    added("new_zeros", lambda x: x.new_zeros(4, 1), INTS),
    added("new_ones", lambda x: x.new_ones(())),
    added("scalar_tensor", lambda x: torch.scalar_tensor(2.5, device=x.device)),
    added("scalar_tensor_int", lambda x: torch.scalar_tensor(3, dtype=INT64, device=x.device), INTS),
    added("eye", lambda x: torch.eye(4, 6, device=x.device)),
    added("linspace", lambda x: torch.linspace(-1, 1, 6, device=x.device)),
    added("tril_indices", lambda x: torch.tril_indices(3, 3, device=x.device), T((2, 6), INT64, "int:0:3")),
    added("triu_indices", lambda x: torch.triu_indices(3, 4, -1, device=x.device), T((2, 11), INT64, "int:0:3")),
    # Too many for a literal: PyTorch makes them.
    Case("tril_indices_large", lambda x: x + torch.tril_indices(90, 90, device=x.device)[0, :6], (INTS,)),
    emptied("empty", lambda x: torch.empty(4, 6, device=x.device)),
    emptied("empty_strided", lambda x: torch.empty_strided((4, 6), (6, 1), device=x.device)),
    emptied("empty_permuted", lambda x: torch.empty_permuted((4, 6), (1, 0), device=x.device)),
    emptied("new_empty_strided", lambda x: x.new_empty_strided((4, 6), (6, 1))),
]
