"""Reading by index tensors: advanced indexing, gather, index_select."""

from __future__ import annotations

import torch

from tests.cases import Case, T
from tests.cases.shape import BF16, BOOL, F16, I32, I64, NAMES, t

aten = torch.ops.aten


def i(*shape: int, low: int = -3, high: int = 3, dtype: torch.dtype = I64) -> T:
    """Indices; into dimensions of three or more places, unless told otherwise."""
    return T(shape, dtype, f"int:{low}:{high}")


CASES = [
    Case("first", lambda x, j: x[j], (t(5, 3), i(4))),
    Case("first_matrix", lambda x, j: x[j], (t(5, 3), i(2, 4))),
    Case("middle", lambda x, j: x[:, j], (t(2, 5, 3), i(4))),
    Case("last_matrix", lambda x, j: x[..., j], (t(2, 5), i(2, 3))),
    Case("0d_index", lambda x, j: aten.index(x, [j]), (t(5, 3), i())),
    Case("of_1d", lambda x, j: x[j], (t(5), i(2, 2))),
    Case("two", lambda x, j, k: x[j, k], (t(4, 5, 3), i(6), i(6))),
    Case("two_middle", lambda x, j, k: x[:, j, k], (t(2, 4, 5, 3), i(6), i(6))),
    Case("two_broadcast", lambda x, j, k: x[:, j, k], (t(2, 4, 5), i(3, 1), i(2))),
    Case("two_apart", lambda x, j, k: x[j, :, k], (t(4, 2, 5), i(6), i(6))),
    Case("two_apart_later", lambda x, j, k: x[:, j, :, k], (t(2, 4, 3, 5), i(3, 1), i(2))),
    Case("three", lambda x, j, k, m: x[j, k, m], (t(4, 5, 3), i(2, 1), i(3), i(1))),
    Case("with_slice", lambda x, j: x[1:, j, None], (t(3, 5, 2), i(4))),
    Case("with_int", lambda x, j: x[1, :, j], (t(3, 5, 4), i(4))),
    Case("int32", lambda x, j: x[j], (t(5, 3), i(4, dtype=I32))),
    Case("int32_and_int64", lambda x, j, k: x[j, k], (t(4, 5), i(6, dtype=I32), i(6))),
    Case("size_1", lambda x, j: x[j], (t(1, 3), i(4, low=-1, high=1))),
    Case("from_arange", lambda x: x[torch.arange(3, device=x.device), torch.arange(3, device=x.device)], (t(3, 3),)),
    Case("unsafe", lambda x, j: aten._unsafe_index.Tensor(x, [None, j]), (t(2, 5), i(4, low=0))),
    Case("empty_index", lambda x, j: x[j], (t(5, 3), T((0,), I64, "zeros")), rejected="empty"),
    Case("index_select", lambda x, j: x.index_select(1, j), (t(2, 5), i(4, low=0))),
    Case("index_select_negative_dim", lambda x, j: x.index_select(-1, j), (t(2, 5), i(4, low=0, dtype=I32))),
    Case("index_select_0d_index", lambda x, j: x.index_select(0, j), (t(5, 2), i(low=0))),
    Case("index_select_of_0d", lambda x, j: x.index_select(0, j), (t(), T((1,), I64, "zeros"))),
    Case("index_select_unsorted", lambda x, j: x.index_select(0, j) * 2, (t(3, 2, 2), i(7, low=0))),
    Case("take", lambda x, j: x.take(j), (t(3, 4), i(2, 3, low=-12, high=12))),
    Case("take_0d_index", lambda x, j: x.take(j), (t(3, 4), i(low=-12, high=12))),
    Case("take_of_0d", lambda x, j: x.take(j), (t(), T((2,), I64, "zeros"))),
    Case("take_along_dim", lambda x, j: x.take_along_dim(j, 1), (t(3, 4), i(3, 2, low=0))),
    Case("gather", lambda x, j: x.gather(1, j), (t(3, 4), i(3, 2, low=0))),
    Case("gather_first", lambda x, j: x.gather(0, j), (t(3, 4), i(5, 4, low=0))),
    Case("gather_smaller", lambda x, j: x.gather(-2, j), (t(3, 4, 5), i(2, 6, 3, low=0))),
    Case("gather_1d", lambda x, j: x.gather(0, j), (t(3), i(5, low=0))),
    Case("gather_0d", lambda x, j: x.gather(0, j), (t(), T((), I64, "zeros"))),
    Case("gather_0d_by_1d", lambda x, j: x.gather(0, j), (t(), T((3,), I64, "zeros"))),
    Case("gather_1d_by_0d", lambda x, j: x.gather(0, j), (t(4), i(low=0))),
    Case("gather_rank_5", lambda x, j: x.gather(2, j), (t(2, 1, 3, 2, 2), i(2, 1, 4, 2, 2, low=0))),
    Case("gather_empty", lambda x, j: x.gather(0, j), (t(3), T((0,), I64, "zeros")), rejected="empty"),
    Case("last_tokens", lambda x, j: x[torch.arange(2, device=x.device), j], (t(2, 5, 3), i(2))),
]

for _dtype in (F16, BF16, I32, I64, BOOL):
    _x, _name = t(3, 4, 5, dtype=_dtype), NAMES[_dtype]
    CASES += [
        Case(f"two_{_name}", lambda x, j, k: x[j, :, k], (_x, i(6), i(6))),
        Case(f"index_select_{_name}", lambda x, j: x.index_select(1, j), (_x, i(4, low=0))),
        Case(f"gather_{_name}", lambda x, j: x.gather(2, j), (_x, i(3, 2, 7, low=0))),
    ]
