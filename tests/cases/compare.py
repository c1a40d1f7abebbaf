"""Comparisons and choices: promotion, scalars, NaN, bool, broadcasting."""

from __future__ import annotations

import functools

import torch

from tests.cases import Case, T

HALF, BF16, INT64, INT32, BOOL = torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.bool
F32, F16 = T((4, 6)), T((4, 6), HALF)
INTS, INTS32, BOOLS = T((4, 6), INT64, "int:-3:4"), T((4, 6), INT32, "int:-3:4"), T((4, 6), BOOL, "bool")
SPECIAL = T((8, 9), kind="nan")


def compared(a: torch.Tensor, b: torch.Tensor | float) -> tuple[torch.Tensor, ...]:
    """All six comparisons, as six outputs."""
    return a == b, a != b, a > b, a >= b, a < b, a <= b


_PAIRS = {
    "float": (F32, F32),
    "half": (F16, F16),
    "bfloat16": (T((4, 6), BF16), T((6,), BF16)),
    "int": (INTS, T((6,), INT64, "int:-3:4")),
    "int32": (INTS32, INTS32),
    "bool": (BOOLS, T((6,), BOOL, "bool")),
    "nan": (SPECIAL, SPECIAL),
    "int_float": (INTS, T((4, 6), torch.float32, "int:-3:4")),
    "int32_int64": (INTS32, INTS),
    "bool_int": (BOOLS, INTS),
    "half_float": (F16, F32),
    "0d": (T(()), T(())),
    "with_0d": (INTS, T((), INT64, "int:-3:4")),
    "broadcast": (T((3, 1, 5)), T((4, 1))),
}
_SCALARS: dict[str, tuple[T, float]] = {
    "float": (F32, 0.25),
    "int": (INTS, 1),
    "int_by_float": (INTS, 0.5),
    "half": (F16, 0.1),
    "half_large": (F16, 1e6),
    "bool": (BOOLS, True),
    "nan": (SPECIAL, 0.0),
    "infinity": (SPECIAL, float("inf")),
}

CASES = [
    *(Case(f"compare_{name}", compared, pair) for name, pair in _PAIRS.items()),
    *(Case(f"compare_scalar_{name}", functools.partial(compared, b=s), (x,)) for name, (x, s) in _SCALARS.items()),
    # PyTorch rounds the scalar to the tensor's type.
    Case("compare_scalar_half_inexact", functools.partial(compared, b=0.3), (T((40,), HALF, "tenths:0:9"),)),
    Case("compare_scalar_bfloat16_inexact", functools.partial(compared, b=0.3), (T((40,), BF16, "tenths:0:9"),)),
    Case("compare_scalar_int32_beyond", lambda x: compared(x, 2**40 + 1), (INTS32,)),
    Case("where", torch.where, (BOOLS, F32, F32)),
    Case("where_broadcast", torch.where, (T((3, 1, 4), BOOL, "bool"), T((5, 1)), T(()))),
    Case("where_half", torch.where, (BOOLS, F16, T((6,), HALF))),
    Case("where_bfloat16", torch.where, (BOOLS, T((4, 6), BF16), T((6,), BF16))),
    Case("where_promotes", torch.where, (BOOLS, INTS, F32)),
    # Both branches are equal, and the condition is given another shape.
    Case("where_equal", lambda c, x: torch.where(c[:, None], x * 1.0, x), (T((4,), BOOL, "bool"), F32)),
    Case("where_commuted", lambda c, a, b: torch.where(c, a + b, b + a), (T((6,), BOOL, "bool"), F32, F32)),
    Case("where_commuted_0d", lambda c, a, b: torch.where(c, a + b, b + a), (T((), BOOL, "bool"), F32, F32)),
    Case("where_int", torch.where, (BOOLS, INTS, INTS32)),
    Case("where_bool", torch.where, (BOOLS, BOOLS, T((6,), BOOL, "bool"))),
    Case("where_scalars", lambda c: torch.where(c, 2.5, -1.0), (BOOLS,)),
    Case("where_scalar", lambda c, x: torch.where(c, x, 0.1), (BOOLS, F16)),
    Case("where_scalar_first", lambda c, x: torch.where(c, 3, x), (BOOLS, INTS)),
    Case("where_0d", torch.where, (T((), BOOL, "bool"), T(()), T(()))),
    Case("where_compared", lambda x, y: torch.where(x > y, x, y - x), (F32, F32)),
    Case("where_nan", lambda x: torch.where(torch.isnan(x), 0.0, x), (SPECIAL,)),
    Case("masked_fill", lambda x, m: x.masked_fill(m, -1e9), (T((2, 3, 5)), T((3, 5), BOOL, "bool"))),
    Case("masked_fill_half", lambda x, m: x.masked_fill(m, float("-inf")), (F16, BOOLS)),
    Case("masked_fill_int", lambda x, m: x.masked_fill(m, 7), (INTS, BOOLS)),
    Case("masked_fill_bool", lambda x, m: x.masked_fill(m, True), (BOOLS, T((6,), BOOL, "bool"))),
    Case("masked_fill_tensor", lambda x, m, v: x.masked_fill(m, v), (F32, BOOLS, T(()))),
    Case("masked_fill_tensor_cast", lambda x, m, v: x.masked_fill(m, v), (F16, BOOLS, T(()))),
    Case("masked_fill_broadcast_mask", lambda x, m: x.masked_fill(m, 0.5), (T((4, 6)), T((4, 1), BOOL, "bool"))),
    Case("masked_fill_0d", lambda x, m: x.masked_fill(m, 0.5), (T(()), T((), BOOL, "bool"))),
    Case("isclose", lambda x: torch.isclose(x, x + 1e-9), (F32,)),
    Case("tril", torch.tril, (T((2, 5, 6)),)),
    Case("triu_offset", lambda x: torch.triu(x, 2), (T((5, 6), HALF),)),
]
