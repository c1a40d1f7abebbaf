"""Reductions: dimensions, keepdim, 0-d, integers and bool, ties, NaN, running sums."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.linalg import vector_norm

from tests.cases import Case, T

HALF, BF16, INT64, INT32, BOOL = torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.bool
X, Y = T((2, 3, 5)), T((2, 3, 5), kind="pos")
INTS, INTS32, BOOLS = T((4, 6), INT64, "int:-9:9"), T((4, 6), INT32, "int:-9:9"), T((4, 6), BOOL, "bool")
#: Few values, so that every extreme is there more than once.
TIES, UNIQUE = T((6, 20), torch.float32, "int:0:4"), T((6, 20), kind="unique")


def both(name: str, fn: Callable[..., Any], x: T = X, tol: float | None = None) -> list[Case]:
    """The case in float32, float16 and bfloat16."""
    case = Case(name, fn, (x,), tol=tol)
    return [case, case.with_dtype(HALF), case.with_dtype(BF16)]


def forms(fn: Callable[..., Any]) -> Callable[[torch.Tensor], tuple[torch.Tensor, ...]]:
    """One dimension, a negative one kept, two."""
    return lambda x: (fn(x, dim=1), fn(x, dim=-1, keepdim=True), fn(x, dim=(0, 2)))


def full(fn: Callable[..., Any]) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda x: fn(x)


_SUMS = [
    *both("sum", forms(torch.sum)),
    *both("mean", forms(torch.mean)),
    *both("amax", forms(torch.amax)),
    *both("amin", forms(torch.amin)),
    *both("var", forms(torch.var)),
    *both("std", forms(torch.std)),
    *both("sum_all", full(torch.sum)),
    *both("mean_all", full(torch.mean)),
    *both("prod", lambda x: (x.prod(1), x.prod(-1, keepdim=True)), Y),
    *both("prod_all", full(torch.prod), T((6,), kind="pos")),
    *both("logsumexp", lambda x: torch.logsumexp(x * 20, 1)),
    *both("sum_long", lambda x: x.sum(-1), T((2, 5000), kind="rand"), tol=1e-2),
    Case("sum_no_dims", lambda x: (x.sum([]), x.amax([]), x.mean([])), (X,)),
    Case("sum_0d", lambda x: (x.sum(), x.sum(0), x.mean(-1), x.prod(), x.amax()), (T(()),)),
    Case("sum_int", lambda x: (x.sum(), x.sum(0), x.prod(1)), (INTS,)),
    Case("sum_int32", lambda x: (x.sum(1), x.sum(1, dtype=INT32)), (INTS32,)),
    Case("sum_bool", lambda x: (x.sum(), x.sum(1), x.prod(0)), (BOOLS,)),
    Case("sum_dtype", lambda x: x.sum(1, dtype=torch.float32), (T((4, 6), HALF),)),
    Case("mean_of_int", lambda x: x.mean(0, dtype=torch.float32), (INTS,)),
    Case("sum_large_int", lambda x: (x * 2**40).sum(), (INTS,)),
    Case("sum_rank8", lambda x: x.sum((1, 3, -1)), (T((1, 2, 1, 2, 1, 2, 1, 3)),)),
    Case("nansum", lambda x: torch.nansum(torch.where(x > 1, torch.nan, x), 1), (X,)),
    Case("empty", lambda x: x[:, :0].sum(1), (X,), rejected="no elements"),
]
_VARIANCES = [
    Case("var_population", lambda x: (x.var(1, correction=0), x.var(unbiased=False)), (X,)),
    Case("var_correction", lambda x: x.var((0, 1), correction=2.5), (X,)),
    Case("var_of_one", lambda x: x.var(1, correction=0), (T((4, 1)),)),
    Case("var_all", lambda x: (x.var(), x.std()), (X,)),
    Case("var_offset", lambda x: (x + 1000).var(-1), (X,), tol=1e-2),
    Case("var_mean", lambda x: (*torch.var_mean(x, 1), *torch.var_mean(x, -1, keepdim=True)), (X,)),
    Case("var_mean_half", lambda x: torch.var_mean(x, (0, 2), correction=0), (T((2, 3, 5), HALF),)),
    Case("std_mean", lambda x: torch.std_mean(x, 1), (X,)),
    Case("norm", lambda x: (x.norm(), x.norm(dim=1), x.norm(p=1, dim=-1, keepdim=True)), (X,)),
    *both("vector_norm", lambda x: (vector_norm(x), vector_norm(x, dim=(0, 2), keepdim=True))),
    *(
        Case(f"vector_norm_{p}", lambda x, p=p: vector_norm(x, p, 1), (X,))
        for p in (0, 1, 3, 2.5, float("inf"), -float("inf"))
    ),
    Case(
        "vector_norm_nan", lambda x: (vector_norm(x, torch.inf, 1), vector_norm(x, -torch.inf, 1)),
        (T((8, 9), kind="nan"),),
    ),
    Case("vector_norm_dtype", lambda x: vector_norm(x, dtype=torch.float32), (T((4, 6), HALF),)),
]
_EXTREMES = [
    Case("max_all", lambda x: (x.max(), x.min()), (X,)),
    Case("max_all_half", lambda x: (x.max(), x.min()), (T((4, 6), HALF),)),
    Case("max_all_int", lambda x: (x.max(), x.min()), (INTS,)),
    Case("max_all_bool", lambda x: (x.max(), x.min(), x.amax(1), x.amin(0)), (BOOLS,)),
    Case("max_dim", lambda x: (*x.max(1), *x.min(-1, keepdim=True)), (UNIQUE,)),
    Case("max_dim_half", lambda x: (*x.max(0), *x.min(1)), (T((4, 6), HALF, "unique"),)),
    Case("max_dim_ties", lambda x: (*x.max(1), *x.min(0)), (TIES,)),
    Case("max_dim_int", lambda x: (*x.max(1), *x.min(0, keepdim=True)), (INTS32,)),
    Case("max_dim_bool", lambda x: (*x.max(1), *x.min(0)), (BOOLS,)),
    Case("max_dim_0d", lambda x: (*x.max(0), *x.min(-1)), (T(()),)),
    Case("aminmax", lambda x: (*torch.aminmax(x, dim=1), *torch.aminmax(x)), (X,)),
    Case("amax_nan", lambda x: (x.amax(1), x.amin(1), x.max(), x.min()), (T((8, 9), kind="nan"),)),
    Case("max_dim_nan", lambda x: (*x.max(1), *x.min(0)), (T((8, 9), kind="nan"),)),
    Case("argmax", lambda x: (x.argmax(1), x.argmin(0, keepdim=True), x.argmax(), x.argmin(keepdim=True)), (UNIQUE,)),
    Case("argmax_ties", lambda x: (x.argmax(-1), x.argmin(-1), x.argmax()), (TIES,)),
    Case("argmax_half", lambda x: x.argmax(-1), (T((4, 6), HALF, "unique"),)),
    Case("argmax_bfloat16", lambda x: x.argmin(0), (T((4, 6), BF16, "unique"),)),
    Case("argmax_int", lambda x: (x.argmax(1), x.argmin()), (INTS,)),
    Case("argmax_0d", lambda x: (x.argmax(), x.argmin(0)), (T(()),)),
    Case("argmax_long", lambda x: x.argmax(-1), (T((2, 9000), kind="unique"),)),
]
_TRUTHS = [
    Case("any", lambda x: (x.any(), x.any(1), x.any(0, keepdim=True), x.any((0, 1))), (BOOLS,)),
    Case("all", lambda x: (x.all(), x.all(1), x.all(0, keepdim=True), x.all((0, 1))), (BOOLS,)),
    Case("any_float", lambda x: (x.any(), x.any(1), x.all(1)), (T((9, 3), torch.float32, "int:-1:2"),)),
    Case("any_int", lambda x: (x.any(1), x.all(0)), (T((9, 3), INT64, "int:-1:2"),)),
    Case("any_nan", lambda x: (x.any(1), x.all(1)), (T((8, 2), kind="nan"),)),
    Case("any_0d", lambda x: (x.any(), x.all(), x.any(0)), (T((), BOOL, "bool"),)),
    Case("any_no_dims", lambda x: (torch.any(x, []), torch.ops.aten.any.dims(x, None)), (BOOLS,)),
    Case("count_nonzero", lambda x: (x.count_nonzero(), x.count_nonzero(1)), (T((9, 3), torch.float32, "int:-1:2"),)),
]
_RUNNING = [
    Case("cumsum", lambda x: x.cumsum(1), (X,), rejected="not refittable"),
    Case("cumprod", lambda x: x.cumprod(1), (X,), rejected="not refittable"),
    Case("cumsum_int", lambda x: (x.cumsum(0), x.cumsum(-1, dtype=INT32)), (INTS,), rejected="not refittable"),
    Case("cumsum_bool", lambda x: x.cumsum(1), (BOOLS,), rejected="not refittable"),
]
#: One tensor in several orientations of one shape, which RTX 1.6 took for one another.
_SQUARES = [
    *both("square", lambda x: ((x + 1).amax(0), (x + 1).amax(1), (x + 1).t().amin(1), (x + 1).var(0)), T((5, 5))),
    Case("square_int", lambda x: ((x + 1).argmax(0), (x + 1).argmax(1), (x + 1).t().amax(1)), (T((5, 5), INT32),)),
    Case("square_any", lambda x: ((~x).any(0), (~x).any(1), (~x).t().all(1)), (T((5, 5), BOOL, "bool"),)),
    Case(
        "cube",
        lambda x: tuple(y.amax(d) for y in (x + 1, (x + 1).permute(2, 0, 1), (x + 1).mT) for d in range(3)),
        (T((4, 4, 4)),),
    ),
    Case("square_of_two", lambda x: ((x + 1).amax((0, 2)), (x + 1).mT.amax((0, 2), keepdim=True)), (T((3, 4, 4)),)),
]
CASES = _SUMS + _VARIANCES + _EXTREMES + _TRUTHS + _RUNNING + _SQUARES


def _apart(p: float) -> Callable[..., torch.Tensor]:
    return lambda x, y: torch.ops.aten._cdist_forward(x, y, p, None)


_LEFT, _RIGHT = T((2, 5, 3)), T((2, 4, 3))
CASES += [Case(f"cdist_{p}", _apart(p), (_LEFT, _RIGHT), tol=1e-4) for p in (0.0, 1.0, 2.0, 3.0, float("inf"))]
CASES += [
    Case("cdist", torch.cdist, (_LEFT, _RIGHT), tol=1e-4),
    Case("cdist_broadcasts", torch.cdist, (T((5, 3)), _RIGHT), tol=1e-4),
    Case("cdist_rank_8", _apart(1.0), (T((1,) * 6 + (2, 3)), T((1,) * 6 + (2, 3))), rejected="rank 8"),
    Case("cdist_too_many", _apart(1.0), (T((3000, 8)), T((3000, 8))), rejected="too much memory"),
    Case("pdist", torch.pdist, (T((5, 3)),), tol=1e-4),
    Case("pdist_of_1", lambda x: torch.pdist(x, 1.0), (T((5, 3)),), tol=1e-4),
    Case("pdist_too_many", torch.pdist, (T((200, 3)),), rejected="too many for a literal"),
    Case("pdist_of_one_row", torch.pdist, (T((1, 3)),), rejected="fewer than two"),
]
