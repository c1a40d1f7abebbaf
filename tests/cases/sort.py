"""Sorting, top-k and places in sorted sequences. Without ties where PyTorch promises no order among them."""

from __future__ import annotations

import torch

from tests.cases import Case, T, of
from tests.cases.shape import BF16, BOOL, F16, F32, I32, I64, NAMES, t


def u(*shape: int, dtype: torch.dtype = F32) -> T:
    return T(shape, dtype, "unique")


def sequence(x: torch.Tensor) -> torch.Tensor:
    """A sorted sequence with repeats, for lack of an input that is sorted."""
    return (torch.arange(x.shape[-1], device=x.device) // 2 + x * 0).to(x.dtype)


#: Values below, among, equal to and above those of a sequence.
AROUND = T((3, 4), kind="int:-1:6")
NAN = T((20,), kind="nan")
#: Infinity is larger than the largest number, and NaN than infinity.
_LARGEST = [torch.inf, torch.finfo(torch.float32).max, torch.nan, -torch.inf, 3.0]

CASES = [
    Case("topk", lambda x: x.topk(3), (u(4, 7),)),
    Case("topk_smallest", lambda x: x.topk(3, largest=False), (u(4, 7),)),
    Case("topk_dim", lambda x: x.topk(2, 1), (u(2, 5, 3),)),
    Case("topk_first_of_rank_6", lambda x: x.topk(2, 0), (u(3, 1, 2, 2, 1, 2),)),
    Case("topk_all", lambda x: x.topk(5, -2), (u(5, 2),)),
    Case("topk_1d", lambda x: x.topk(3), (u(9),)),
    Case("topk_0d", lambda x: x.topk(1), (t(),)),
    Case("sort_size_1", lambda x: (*x.sort(1), *torch.sort(x, dim=1, stable=True)), (u(4, 1, 3),)),
    Case("topk_size_1", lambda x: x.topk(1), (u(4, 1),)),
    Case("topk_unsorted_values", lambda x: x.topk(3, sorted=False)[0].sum(-1), (u(4, 7),)),
    Case("topk_values_of_ties", lambda x: x.topk(3)[0], (T((4, 9), kind="int:0:3"),)),
    Case("topk_values_of_nan", lambda x: x.topk(9)[0], (T((4, 20), kind="nan"),)),
    Case("topk_values_of_nan_smallest", lambda x: x.topk(18, largest=False)[0], (T((4, 20), kind="nan"),)),
    Case("topk_zero", lambda x: x.topk(0), (u(5),), rejected="k = 0"),
    Case("topk_too_many", lambda x: x.topk(4000), (u(4100),), rejected="3840"),
    Case("kthvalue", lambda x: x.kthvalue(2), (u(4, 7),)),
    Case("kthvalue_keepdim", lambda x: x.kthvalue(3, 0, True), (u(4, 7),)),
    Case("kthvalue_0d", lambda x: x.kthvalue(1), (t(),)),
    Case("sort", lambda x: x.sort(), (u(4, 7),)),
    Case("sort_descending", lambda x: x.sort(descending=True), (u(4, 7),)),
    Case("sort_dim", lambda x: x.sort(1), (u(2, 5, 3),)),
    Case("sort_1d", lambda x: x.sort(), (u(9),)),
    Case("sort_0d", lambda x: x.sort(), (t(),)),
    Case("sort_values_of_ties", lambda x: x.sort(descending=True)[0], (T((4, 9), kind="int:0:3"),)),
    Case("sort_infinite", lambda x: (x / 0.0).nan_to_num(0.0).sort()[0], (t(3, 9),)),
    Case("sort_values_of_nan", lambda x: x.sort()[0], (T((4, 20), kind="nan"),)),
    Case("sort_largest", of(_LARGEST, torch.sort), (t(5),)),
    Case("topk_largest", of(_LARGEST, lambda x: (*x.topk(3), *x.kthvalue(4))), (t(5),)),
    Case("sort_too_long", lambda x: x.sort(), (u(4000),), rejected="3840"),
    Case("sort_empty", lambda x: x.sort(), (t(0),), rejected="empty"),
    Case("argsort", lambda x: x.argsort(-1), (u(4, 7),)),
    Case("argsort_inverse", lambda x: x.argsort().argsort(), (u(9),)),
    Case("msort", lambda x: x.msort(), (u(5, 2),)),
    Case("stable", lambda x: x.sort(stable=True), (T((4, 9), kind="int:0:3"),)),
    Case("stable_descending", lambda x: x.sort(stable=True, descending=True), (T((4, 9), kind="int:0:3"),)),
    Case("stable_dim", lambda x: x.sort(stable=True, dim=1), (T((2, 9, 3), kind="int:0:3"),)),
    Case("stable_dim_beside_one", lambda x: x.sort(stable=True, dim=2), (T((1, 1, 7, 6)),)),
    Case("stable_1d", lambda x: x.sort(stable=True), (T((90,), kind="int:0:9"),)),
    Case("stable_0d", lambda x: x.sort(stable=True), (t(),)),
    Case("stable_nan", lambda x: x.sort(stable=True), (T((4, 20), kind="nan"),)),
    Case("stable_nan_descending", lambda x: x.sort(stable=True, descending=True), (T((4, 20), kind="nan"),)),
    Case("stable_argsort", lambda x: x.argsort(stable=True), (T((4, 9), I64, "int:0:3"),)),
    Case("stable_too_long", lambda x: x.sort(stable=True), (t(2, 3000),), rejected="stable sort"),
    Case("not_stable", lambda x: torch.ops.aten.sort.stable(x, stable=False), (u(4, 7),)),
    Case("searchsorted", lambda s, x: torch.searchsorted(sequence(s), x), (t(9), AROUND)),
    Case("searchsorted_right", lambda s, x: torch.searchsorted(sequence(s), x, right=True), (t(9), AROUND)),
    Case("searchsorted_side", lambda s, x: torch.searchsorted(sequence(s), x, side="right"), (t(9), AROUND)),
    Case("searchsorted_rows", lambda s, x: torch.searchsorted(sequence(s), x), (t(2, 3, 9), t(2, 3, 4))),
    Case("searchsorted_0d", lambda s, x: torch.searchsorted(sequence(s), x), (t(9), T((), kind="int:-1:6"))),
    Case("searchsorted_scalar", lambda s: torch.searchsorted(sequence(s), 2), (t(9),)),
    Case("searchsorted_scalar_promotes", lambda s: torch.searchsorted(sequence(s), 1.5), (t(9, dtype=I64),)),
    Case("searchsorted_int32", lambda s, x: torch.searchsorted(sequence(s), x, out_int32=True), (t(9), t(5))),
    Case("searchsorted_int", lambda s, x: torch.searchsorted(sequence(s), x), (t(9, dtype=I64), t(5, dtype=I64))),
    Case("searchsorted_nan", lambda s, x: torch.searchsorted(sequence(s), x), (t(9), NAN)),
    Case("searchsorted_nan_right", lambda s, x: torch.searchsorted(sequence(s), x, right=True), (t(9), NAN)),
    Case("searchsorted_sorter", lambda s, x: torch.searchsorted(s, x, sorter=s.argsort()), (u(9), t(5))),
    Case("bucketize", lambda x, s: torch.bucketize(x, sequence(s)), (t(3, 4), t(9))),
    Case("bucketize_right", lambda x, s: torch.bucketize(x, sequence(s), right=True), (AROUND, t(9))),
    Case("bucketize_scalar", lambda s: torch.bucketize(2, sequence(s), out_int32=True), (t(9),)),
    Case("bucketize_rank_8", lambda x, s: torch.bucketize(x, s), (t(*[1] * 8), t(9)), rejected="rank 8"),
    Case("searchsorted_rank_8", torch.searchsorted, (t(*[1] * 8), t(*[1] * 8)), rejected="rank 8"),
    Case("bucketize_too_many", lambda x, s: torch.bucketize(x, s), (t(3000), t(9000)), rejected="too much memory"),
]

for _dtype in (F16, BF16, I32, I64):
    _name = NAMES[_dtype]
    CASES += [
        Case(f"topk_{_name}", lambda x: x.topk(3), (u(4, 7, dtype=_dtype),)),
        Case(f"sort_{_name}", lambda x: x.sort(0), (u(7, 4, dtype=_dtype),)),
        Case(f"stable_{_name}", lambda x: x.sort(stable=True), (T((4, 9), _dtype, "int:0:3"),)),
    ]
CASES += [
    Case("topk_bool_values", lambda x: x.int().topk(3)[0], (t(4, 9, dtype=BOOL),)),
    Case("sort_bool_values", lambda x: x.sort()[0], (t(4, 9, dtype=BOOL),)),
    Case("stable_bool", lambda x: x.sort(stable=True, descending=True), (t(4, 9, dtype=BOOL),)),
]
CASES += [
    Case("median", lambda x: x.median(1), (u(4, 7),)),
    Case("median_even", lambda x: x.median(0, keepdim=True), (u(4, 7),)),
    Case("median_of_all", lambda x: x.median(), (u(4, 7),)),
    Case("median_0d", lambda x: (x.median(), *x.median(0)), (t(),)),
    Case("median_nan", lambda x: x.median(1)[0], (T((9, 4), kind="nan"),)),
    Case("median_int", lambda x: x.median(1), (u(4, 7, dtype=I64),)),
    Case("median_too_long", lambda x: x.median(0), (t(8000),), rejected="3840"),
    Case("median_of_all_too_long", lambda x: x.median(), (t(8000),), rejected="3840"),
]
