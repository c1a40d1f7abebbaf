"""Functions of one element: every one in float32 and the half types, their limits, integers, bool, 0-d."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

from tests.cases import Case, T, of

HALF, BF16, INT64, INT32 = torch.float16, torch.bfloat16, torch.int64, torch.int32
Function = Callable[[torch.Tensor], torch.Tensor]
X = T((3, 4, 5))
POSITIVE, UNIT = T((3, 4, 5), kind="pos"), T((3, 4, 5), kind="rand")
INTS, SMALL = T((4, 6), INT64, "int:-9:9"), T((4, 6), INT32, "int:1:9")
BOOLS, SPECIAL = T((4, 6), torch.bool, "bool"), T((8, 9), kind="nan")

_FUNCTIONS = {
    **dict.fromkeys((torch.exp, torch.expm1, torch.sin, torch.cos, torch.sinh, torch.cosh, torch.atan, torch.asinh), X),
    **dict.fromkeys((torch.erf, torch.abs, torch.neg, torch.sign, torch.sgn, torch.ceil, torch.floor, torch.trunc), X),
    **dict.fromkeys((torch.square, torch.frac, torch.isnan, torch.isinf, torch.isfinite, torch.signbit, torch.exp2), X),
    **dict.fromkeys((torch.log, torch.log2, torch.log10, torch.log1p, torch.sqrt, torch.rsqrt), POSITIVE),
    **dict.fromkeys((torch.reciprocal, torch.tan, torch.asin, torch.acos), UNIT),
}
_PLAIN = [Case(fn.__name__, fn, (x,)) for fn, x in _FUNCTIONS.items()]
_PLAIN += [
    Case("tan", torch.tan, (UNIT,)),
    Case("asin", lambda x: torch.asin(x * 2 - 1), (UNIT,)),
    Case("acos", lambda x: torch.acos(x * 2 - 1), (UNIT,)),
    Case("acosh", lambda x: torch.acosh(x + 1), (POSITIVE,)),
    Case("atanh", lambda x: torch.atanh(x * 1.5 - 0.75), (UNIT,)),
    Case("reciprocal", torch.reciprocal, (POSITIVE,)),
    Case("round", lambda x: torch.round(x * 4 + 0.5), (X,)),
]
_PLAIN = list({case.name: case for case in _PLAIN}.values())

_OF_INTEGERS = (
    torch.exp, torch.expm1, torch.sin, torch.cos, torch.atan, torch.erf, torch.abs, torch.neg, torch.sign, torch.sgn,
    torch.ceil, torch.floor, torch.trunc, torch.round, torch.isnan, torch.isinf, torch.isfinite, torch.logical_not,
    torch.bitwise_not, torch.signbit, torch.square, torch.asinh,
)  # fmt: skip
_OF_POSITIVE_INTEGERS = (
    torch.log, torch.log2, torch.log10, torch.log1p, torch.sqrt, torch.rsqrt, torch.reciprocal, torch.acosh, torch.exp2,
)  # fmt: skip
_OF_BOOL = (torch.logical_not, torch.bitwise_not, torch.sign, torch.exp, torch.sqrt, torch.isnan, torch.signbit)
_OF_SPECIAL = (
    torch.exp, torch.expm1, torch.sqrt, torch.reciprocal, torch.isnan, torch.isinf, torch.isfinite, torch.logical_not,
    torch.abs, torch.neg, torch.sign, torch.ceil, torch.trunc, torch.atan, torch.erf, torch.isposinf, torch.isneginf,
    torch.log1p, torch.log, torch.rsqrt,
)  # fmt: skip


def all_of(name: str, functions: Iterable[Function], x: T, **kwargs: Any) -> Case:
    """One case with the outputs of several functions: a plan each would take the tests minutes."""
    functions = tuple(functions)
    return Case(name, lambda x: tuple(fn(x) for fn in functions), (x,), **kwargs)


def in_half_types() -> list[Case]:
    return [
        all_of(f"{name}_functions", (case.fn for case in _PLAIN if case.inputs == (x,)), x).with_dtype(dtype)
        for dtype in (HALF, BF16)
        for name, x in {"any": X, "positive": POSITIVE, "unit": UNIT}.items()
    ]


CASES = [
    *_PLAIN,
    *in_half_types(),
    all_of("0d", (torch.exp, torch.log1p, torch.trunc, torch.sign, torch.isnan, torch.logical_not, torch.rsqrt), T(())),
    all_of("int", _OF_INTEGERS, INTS),
    all_of("int32", _OF_INTEGERS, T((4, 6), INT32, "int:-9:9")),
    all_of("positive_int", _OF_POSITIVE_INTEGERS, SMALL),
    all_of("bool", _OF_BOOL, BOOLS),
    all_of("special", _OF_SPECIAL, SPECIAL),
    all_of("special_half", _OF_SPECIAL, SPECIAL).with_dtype(HALF),
    Case("log2_of_powers", of([2.0**k for k in range(-60, 60)], lambda x: torch.log2(x).floor()), (T((120,)),)),
    Case("log10_of_powers", of([10.0**k for k in range(-5, 11)], lambda x: torch.log10(x).floor()), (T((16,)),)),
    Case("round_decimals_beyond", lambda x: x.round(decimals=400), (X,), rejected="400 decimals"),
    Case("nan_to_num", torch.nan_to_num, (SPECIAL,)),
    Case("expm1_small", lambda x: torch.expm1(x * 1e-6) * 1e6, (X,)),
    Case("expm1_large", lambda x: torch.expm1(x * 30) / 1e30, (X,)),
    Case("log1p_small", lambda x: torch.log1p(x * 1e-6) * 1e6, (X,)),
    Case("log1p_limits", lambda x: torch.log1p(torch.where(x > 1, torch.inf, torch.where(x < 0, -1.0, 0.0))), (X,)),
    Case("log2_powers", lambda x: torch.log2(torch.exp2(x)), (T((9,), INT64, "int:-20:20"),)),
    Case("round_decimals", lambda x: torch.round(x, decimals=2), (X,)),
    Case("round_negative_decimals", lambda x: torch.round(x * 300, decimals=-2), (X,)),
    Case("round_halves", lambda x: torch.round(x + 0.5), (T((20,), torch.float32, "int:-10:10"),)),
    Case("signbit_zero", lambda x: torch.signbit(x * 0.0), (X,)),
    Case("bitwise_not_large", lambda x: ~(x * 2**40), (T((5,), INT64, "int:-9:9"),)),
    Case("neg_large", lambda x: -(x * 2**40), (T((5,), INT64, "int:-9:9"),)),
    Case("rank8", torch.exp, (T((1, 2, 1, 2, 1, 2, 1, 3)),)),
    Case("permuted", lambda x: torch.sqrt(x.permute(2, 0, 1)), (POSITIVE,)),
]
