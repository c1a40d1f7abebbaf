"""Writing by index tensors and masks. Indices of what is not reduced are distinct: among equal ones any may win."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from tests.cases import Case, T
from tests.cases.index import i
from tests.cases.shape import BF16, BOOL, F16, I32, I64, NAMES, t

aten = torch.ops.aten


def order(*shape: int, dtype: torch.dtype = I64) -> T:
    """Numbers to make distinct indices of, with :func:`distinct`."""
    return T(shape, dtype, "unique")


def distinct(numbers: torch.Tensor, dim: int = -1) -> torch.Tensor:
    """0 … n - 1 in some order along ``dim``, by counting the smaller ones."""
    x = numbers.movedim(dim, -1)
    return (x.unsqueeze(-1) > x.unsqueeze(-2)).sum(-1).movedim(-1, dim)


def written(x: torch.Tensor, value: Any, *place: Any) -> torch.Tensor:
    x = x.clone()
    x[place] = value
    return x


def reduced(
    name: str, reduce: str, x: T, index: T, src: T, dim: int = 0, rejected: str | None = None, **kwargs: Any
) -> Case:
    def fn(x: torch.Tensor, j: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return x.scatter_reduce(dim, j, y, reduce, **kwargs)

    return Case(name, fn, (x, index, src), rejected=rejected)


def _put(places: Callable[..., Any], x: torch.Tensor, y: torch.Tensor, *given: torch.Tensor) -> Any:
    return aten.index_put(x, places(*given), y)


def put_case(name: str, places: Callable[..., Any], x: T, y: T, *given: T, rejected: str | None = None) -> Case:
    return Case(name, functools.partial(_put, places), (x, y, *given), rejected=rejected)


CASES = [
    Case("src", lambda x, j, y: x.scatter(1, distinct(j), y), (t(3, 4), order(3, 4), t(3, 4))),
    Case("src_smaller", lambda x, j, y: x.scatter(0, distinct(j, 0), y), (t(5, 4), order(3, 2), t(4, 4))),
    Case("src_middle", lambda x, j, y: x.scatter(-2, distinct(j, -2), y), (t(2, 5, 3), order(2, 4, 3), t(2, 4, 3))),
    Case("src_1d", lambda x, j, y: x.scatter(0, distinct(j), y), (t(6), order(4), t(4))),
    Case("src_0d", lambda x, j, y: x.scatter(0, j, y), (t(), T((), I64, "zeros"), t())),
    Case("src_1d_by_0d", lambda x, j, y: x.scatter(0, j, y), (t(3), i(low=0), t())),
    Case("value", lambda x, j: x.scatter(1, j, 2.5), (t(3, 4), i(3, 2, low=0))),
    Case("value_int", lambda x, j: x.scatter(1, j, 7), (t(3, 4, dtype=I64), i(3, 2, low=0))),
    Case("value_one_hot", lambda x, j: torch.zeros_like(x).scatter(-1, j.unsqueeze(-1), 1.0), (t(3, 4), i(3, low=0))),
    Case("longer_than_self", lambda x, j: x.scatter(0, j, 1.0), (t(3), i(9, low=0)), rejected="more indices"),
    Case("empty_index", lambda x, j: x.scatter(0, j, 1.0), (t(3), T((0,), I64, "zeros")), rejected="empty"),
    Case("add", lambda x, j, y: x.scatter_add(0, j, y), (t(3, 4), i(5, 4, low=0), t(5, 4))),
    Case("add_int", lambda x, j, y: x.scatter_add(1, j, y), (t(3, 4, dtype=I32), i(3, 5, low=0), t(3, 6, dtype=I32))),
    Case("add_0d", lambda x, j, y: x.scatter_add(0, j, y), (t(), T((2,), I64, "zeros"), t(2))),
    Case("add_half", lambda x, j, y: x.scatter_add(0, j, y), (t(3, dtype=F16), i(9, low=0), t(9, dtype=F16))),
    Case("add_many", lambda x, j, y: x.scatter_add(0, j, y), (t(3), i(50, low=0), t(50)), rejected="does not reduce"),
    Case("src_add", lambda x, j, y: x.scatter(0, j, y, reduce="add"), (t(3, 4), i(5, 4, low=0), t(5, 4))),
    Case("value_multiply", lambda x, j: x.scatter(0, j, 2.0, reduce="multiply"), (t(3, 4), i(5, 4, low=0))),
    reduced("reduce_sum", "sum", t(3, 4), i(5, 4, low=0), t(5, 4)),
    reduced("reduce_prod", "prod", t(3, 4), i(3, 6, low=0), t(3, 6), dim=1),
    reduced("reduce_amax", "amax", t(3, 4), i(5, 4, low=0), t(5, 4)),
    reduced("reduce_amin_int", "amin", t(3, 4, dtype=I64), i(5, 4, low=0), t(5, 4, dtype=I64)),
    reduced("reduce_amax_nan", "amax", T((8, 8), kind="nan"), i(8, 8, low=0), T((8, 8), kind="nan")),
    reduced("reduce_sum_fresh", "sum", t(5, 4), i(3, 4, low=0), t(3, 4), include_self=False),
    reduced("reduce_prod_fresh", "prod", t(5, 4), i(3, 4, low=0), t(3, 4), include_self=False),
    reduced("reduce_amax_fresh", "amax", t(5, 4), i(3, 4, low=0), t(3, 4), include_self=False),
    reduced("reduce_amin_fresh", "amin", t(5, 4, dtype=I32), i(3, 4, low=0), t(3, 4, dtype=I32), include_self=False),
    reduced("reduce_mean", "mean", t(3, 4), i(5, 4, low=0), t(5, 4), rejected="by mean"),
    put_case("put", lambda j: (distinct(j),), t(5, 3), t(4, 3), order(4)),
    put_case("put_negative", lambda j: (distinct(j) - 4,), t(5, 3), t(4, 3), order(4)),
    put_case("put_broadcast", lambda j: (distinct(j),), t(5, 3), t(3), order(4)),
    put_case("put_scalar", lambda j: (j,), t(5, 3), t(), i(2, 2)),
    put_case("put_0d_index", lambda j: (j,), t(5, 3), t(3), i()),
    put_case("put_middle", lambda j: (None, distinct(j)), t(2, 5, 3), t(2, 4, 3), order(4)),
    put_case("put_middle_matrix", lambda j: (None, distinct(j, 0)), t(2, 6, 3), t(2, 4, 1, 3), order(4, 1)),
    put_case("put_middle_many", lambda j: (None, j), t(2, 3, 4), t(), i(2, 4)),
    put_case("put_two", lambda j, k: (distinct(j), k), t(5, 4, 3), t(4, 3), order(4), i(4)),
    put_case("put_two_middle", lambda j, k: (None, distinct(j), k), t(2, 5, 4, 3), t(4, 3), order(4), i(4)),
    put_case("put_two_apart", lambda j, k: (distinct(j), None, k), t(5, 2, 4), t(4, 2), order(4), i(4)),
    put_case("put_two_broadcast", lambda j, k: (distinct(j, 0), distinct(k)), t(5, 4), t(3, 4), order(3, 1), order(4)),
    put_case("put_by_int32", lambda j: (j,), t(5, 3), t(), i(2, dtype=I32)),
    put_case("put_mask", lambda m: (m,), t(4, 5), t(), t(4, 5, dtype=BOOL)),
    put_case("put_mask_rows", lambda m: (m,), t(4, 5), t(5), t(4, dtype=BOOL)),
    put_case("put_mask_one_row", lambda m: (m,), t(4, 5), t(1, 5), t(4, dtype=BOOL)),
    put_case("put_mask_middle", lambda m: (None, m), t(2, 4, 5, 3), t(2, 1, 3), t(4, 5, dtype=BOOL)),
    put_case("put_mask_last", lambda m: (None, m), t(2, 4), t(2, 1), t(4, dtype=BOOL)),
    put_case("put_mask_and_index", lambda m, j: (m, j), t(4, 5), t(), t(4, dtype=BOOL), i(), rejected="mask"),
    Case("put_unsafe", lambda x, j, y: aten._unsafe_index_put(x, [distinct(j)], y), (t(5, 3), order(4), t(4, 3))),
    Case("put_add", lambda x, j, y: x.index_put((j,), y, True), (t(5, 3), i(6), t(6, 3))),
    Case("put_add_two", lambda x, j, k, y: x.index_put((j, k), y, True), (t(4, 5, 3), i(6), i(6), t(3))),
    Case("put_add_middle", lambda x, j, y: aten.index_put(x, (None, j), y, True), (t(2, 4, 3), i(2, 2), t(2, 2, 2, 3))),
    Case("put_add_mask", lambda x, m, y: x.index_put((m,), y, True), (t(4, 5), t(4, dtype=BOOL), t(5))),
    Case("put_add_many", lambda x, j, y: x.index_put((j,), y, True), (t(5), i(40), t(40)), rejected="does not reduce"),
    Case("write_scalar_by_mask", lambda x, m: written(x, 0.0, m), (t(4, 5), t(4, 5, dtype=BOOL))),
    Case("write_where_negative", lambda x: written(x, -1.0, x < 0), (t(4, 5),)),
    Case("write_rows", lambda x, j, y: written(x, y, distinct(j)), (t(5, 3), order(2), t(2, 3))),
    Case("write_pairs", lambda x, j: written(x, 1.0, torch.arange(3, device=x.device), j), (t(3, 4), i(3))),
    Case("index_copy", lambda x, j, y: x.index_copy(1, distinct(j), y), (t(2, 5), order(3), t(2, 3))),
    Case("index_copy_cache", lambda x, j, y: x.index_copy(2, j, y), (t(1, 2, 8, 4), i(1, low=0), t(1, 2, 1, 4))),
    Case("index_fill", lambda x, j: x.index_fill(1, j, 2.0), (t(2, 5), i(3, low=0))),
    Case("index_add", lambda x, j, y: x.index_add(1, j, y, alpha=2), (t(2, 5), i(4, low=0), t(2, 4))),
    Case("flat_put", lambda x, j, y: aten.put(x, distinct(j), y), (t(3, 4), order(5), t(5))),
    Case("flat_put_add", lambda x, j, y: aten.put(x, j, y, True), (t(3, 4), i(2, 4, low=-12, high=12), t(2, 4))),
    Case("masked_fill", lambda x, m: x.masked_fill(m, -1.0), (t(4, 5), t(5, dtype=BOOL))),
]

for _dtype in (F16, BF16, I32, I64, BOOL):
    _x, _name = t(5, 4, dtype=_dtype), NAMES[_dtype]
    CASES += [
        Case(f"src_{_name}", lambda x, j, y: x.scatter(1, distinct(j), y), (_x, order(5, 4), t(5, 4, dtype=_dtype))),
        Case(f"value_{_name}", lambda x, j: x.scatter(0, j, 1), (_x, i(2, 4, low=0))),
        put_case(f"put_{_name}", lambda j: (None, distinct(j)), _x, t(5, 3, dtype=_dtype), order(3)),
        put_case(f"put_mask_{_name}", lambda m: (m,), _x, t(4, dtype=_dtype), t(5, dtype=BOOL)),
    ]
    if _dtype is not BOOL:
        CASES.append(reduced(f"reduce_sum_{_name}", "sum", _x, i(6, 4, low=0), t(6, 4, dtype=_dtype)))


def unpooled(pool: Callable[..., Any], unpool: Callable[..., Any], **kwargs: Any) -> Callable[..., Any]:
    """Maxima where they were, the rest zero."""
    return lambda x: unpool(*pool(x, 2, return_indices=True), 2, **kwargs)


F = torch.nn.functional
CASES += [
    Case("unpool_1d", unpooled(F.max_pool1d, F.max_unpool1d), (t(2, 3, 8),)),
    Case("unpool_2d", unpooled(F.max_pool2d, F.max_unpool2d), (t(2, 3, 8, 6),)),
    Case("unpool_2d_size", unpooled(F.max_pool2d, F.max_unpool2d, output_size=(2, 3, 9, 7)), (t(2, 3, 9, 7),)),
    Case("unpool_2d_unbatched", unpooled(F.max_pool2d, F.max_unpool2d), (t(3, 8, 6),)),
    Case("unpool_3d", unpooled(F.max_pool3d, F.max_unpool3d), (t(1, 2, 4, 6, 4),)),
    Case("masked_scatter", torch.masked_scatter, (t(4, 6), t(4, 6, dtype=BOOL), t(30)), rejected="not refittable"),
    Case("masked_scatter_rows", torch.masked_scatter, (t(3, 4), t(3, 1, dtype=BOOL), t(12)), rejected="not refittable"),
    Case("masked_scatter_int", torch.masked_scatter, (t(4, dtype=I64), t(2, 4, dtype=BOOL), t(9, dtype=I64)),
         rejected="not refittable"),
]
