"""Arithmetic and logic of two operands: promotion, scalars, broadcasting, rounding modes, signs, NaN."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from tests.cases import Case, T

HALF, BF16, INT64, INT32, BOOL = torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.bool
X, Y = T((4, 6)), T((4, 6), kind="pos")
INTS, NONZERO = T((4, 6), INT64, "int:-20:20"), T((4, 6), INT64, "int:1:7")
INTS32, BOOLS = T((4, 6), INT32, "int:-20:20"), T((4, 6), BOOL, "bool")
SPECIAL = T((8, 9), kind="nan")
#: Whole numbers as floats: quotients that are whole must not be rounded the wrong way.
WHOLE, DIVISOR = T((8, 9), torch.float32, "int:-40:40"), T((8, 9), torch.float32, "int:1:9")
aten = torch.ops.aten


def both(name: str, fn: Callable[..., Any], *inputs: T, tol: float | None = None) -> list[Case]:
    """The case in float32, float16 and bfloat16."""
    case = Case(name, fn, inputs or (X, Y), tol=tol)
    return [case, case.with_dtype(HALF), case.with_dtype(BF16)]


def signed(fn: Callable[..., Any]) -> Callable[..., Any]:
    """``fn`` with both signs of its second operand."""
    return lambda a, b: (fn(a, b), fn(a, -b))


def arithmetic(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return (
        a + b, a - b, a * b, a / b,
        torch.add(a, b, alpha=0.3), torch.sub(a, b, alpha=2), torch.rsub(a, b, alpha=0.5),
    )  # fmt: skip


def with_scalars(a: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return a + 0.1, torch.add(a, 0.1, alpha=3), a - 3, 1 - a, a * 0.1, a / 3, 2.5 / a


def logical(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return torch.logical_and(a, b), torch.logical_or(a, b), torch.logical_xor(a, b)


_ARITHMETIC = [
    *both("arithmetic", arithmetic),
    *both("scalars", with_scalars, Y),
    Case("add_int", torch.add, (INTS, NONZERO)),
    Case("add_int_alpha", lambda a, b: torch.add(a, b, alpha=-3), (INTS, NONZERO)),
    Case("add_int32_scalar", lambda a: a + 5, (INTS32,)),
    Case("add_int32_scalar_beyond", lambda a: (a + 2**40, a * (2**32 + 3), a - 2**33 - 5), (INTS32,)),
    Case("sub_least_int32", lambda a: a - 2**31, (INTS32,), rejected="a sum with"),
    Case("add_least_int64", lambda a: torch.add(a, 2**62, alpha=-2), (INTS,), rejected="a sum with"),
    Case("add_int_float_scalar", lambda a: a + 0.5, (INTS,)),
    Case("add_bool", torch.add, (BOOLS, T((6,), BOOL, "bool"))),
    Case("add_bool_int", torch.add, (BOOLS, INTS)),
    Case("add_bool_scalar", lambda a: a + 1, (BOOLS,)),
    Case("sub_int32_int64", torch.sub, (INTS32, INTS)),
    Case("sub_float_int", torch.sub, (X, INTS)),
    Case("mul_bool", torch.mul, (BOOLS, T((6,), BOOL, "bool"))),
    Case("mul_bool_float", torch.mul, (BOOLS, X)),
    Case("mul_half_float", torch.mul, (T((4, 6), HALF), X)),
    Case("mul_half_float_0d", torch.mul, (T((4, 6), HALF), T(()))),
    Case("mul_half_bfloat16", torch.mul, (T((4, 6), HALF), T((6,), BF16))),
    Case("mul_large_int", torch.mul, (T((5,), INT64, "int:1000000:2000000"), T((5,), INT64, "int:1000000:2000000"))),
    Case("div_int", torch.div, (INTS, NONZERO)),
    Case("div_int_scalar", lambda a: a / 4, (INTS32,)),
    Case("broadcast", torch.add, (T((3, 1, 5)), T((4, 1)))),
    Case("broadcast_rank8", torch.mul, (T((1, 2, 1, 2, 1, 2, 1, 3)), T((2, 1, 2, 1)))),
    Case("0d", torch.add, (T(()), T(()))),
    Case("0d_with_tensor", torch.mul, (T(()), X)),
    Case("0d_int_with_float", torch.mul, (X, T((), INT64, "int:2:5"))),
    Case("chain", lambda a, b: (a + b) * (a - b) / (b + 2), (X, Y)),
    Case("addcmul", lambda a, b: torch.addcmul(a, a, b, value=0.5), (X, Y)),
    Case("addcdiv", lambda a, b: torch.addcdiv(a, a, b, value=0.5), (X, Y)),
    Case("lerp", lambda a, b: torch.lerp(a, b, 0.3), (X, Y)),
    Case("lerp_itself", lambda x, w: torch.lerp(x, x, w), (X, T((6,), kind="rand"))),
    Case("lerp_tensor", torch.lerp, (X, Y, T((6,), kind="rand"))),
    Case("weight", torch.add, (X, T((6,))), (1,)),
    Case("weights", lambda x, s, b: x * s + b, (X, T((6,)), T((4, 1))), (1, 2)),
]
_DIVISIONS = [
    *both("div_floor", lambda a, b: torch.div(a, b, rounding_mode="floor"), WHOLE, DIVISOR),
    *both("div_trunc", lambda a, b: torch.div(a, b, rounding_mode="trunc"), WHOLE, DIVISOR),
    *both("remainder", signed(torch.remainder), WHOLE, DIVISOR),
    *both("fmod", signed(torch.fmod), WHOLE, DIVISOR),
    Case("div_no_mode", lambda a, b: torch.div(a, b, rounding_mode=None), (INTS, NONZERO)),
    Case("div_floor_int", signed(torch.floor_divide), (INTS, NONZERO)),
    Case("div_trunc_int", signed(lambda a, b: torch.div(a, b, rounding_mode="trunc")), (INTS, NONZERO)),
    Case("div_floor_int32", torch.floor_divide, (INTS32, T((6,), INT32, "int:1:7"))),
    Case("div_floor_int_scalar", lambda a: (a // 3, a // -3), (INTS,)),
    Case("div_trunc_scalar", lambda a: torch.div(a, -0.7, rounding_mode="trunc"), (X,)),
    Case("div_floor_int_float", lambda a: torch.div(a, 1.5, rounding_mode="floor"), (INTS,)),
    Case("div_floor_large", lambda a: a * 10**15 // 7, (INTS,)),
    Case("remainder_int", signed(torch.remainder), (INTS, NONZERO)),
    Case("remainder_int_scalar", lambda a: (a % 5, a % -5), (INTS,)),
    Case("remainder_scalar_tensor", lambda a: torch.remainder(17, a), (NONZERO,)),
    Case("remainder_float_scalar", lambda a: (a * 30 % 0.1, a % 2.0, a * 50 % -6.2831853), (T((40,)),)),
    Case("remainder_random", signed(lambda a, b: torch.remainder(a * 100, b)), (T((8, 9)), T((8, 9), kind="pos"))),
    Case("floor_random", lambda a, b: torch.div(a * 100, b, rounding_mode="floor"), (T((8, 9)), T((8, 9), kind="pos"))),
    # Quotients that float32 rounds up to the next whole number.
    Case("remainder_of_multiples", lambda a: (a % 0.1, a.fmod(0.3)), (WHOLE,)),
    Case("floor_of_multiples", lambda a: (torch.div(a, 0.1, rounding_mode="floor"), a // 0.3), (WHOLE,)),
    Case("remainder_by_zero", lambda a: (a % 0.0, a.fmod(0.0), torch.div(a, 0.0, rounding_mode="floor")), (WHOLE,)),
    Case("remainder_special", lambda a: (a % 1.5, a.fmod(1.5)), (SPECIAL,)),
    Case("remainder_by_special", signed(torch.remainder), (T((8, 9)), SPECIAL)),
    # Far below the divisor, where the remainder rounds to it.
    Case("floor_of_small", lambda a: ((a * 1e-9).floor_divide(1.0), a * 1e-9 // -7.0, a * 1e-9 % 3.0), (X,)),
    Case("floor_of_small_half", lambda a: (a * 1e-4 // 300, a * 1e-4 % 300), (T((4, 6), HALF),)),
    Case("floor_special", lambda a: (a // 3.0, a // -math.inf, torch.div(a, 0.0, rounding_mode="floor")), (SPECIAL,)),
    Case("floor_by_special", signed(torch.floor_divide), (T((8, 9)), SPECIAL)),
    *(
        Case(f"{f.__name__}_of_large", lambda a, b, f=f: (f(a * 1e9, 7.0), f(a * 1e6, b), f(a * 1e11, -b)), (X, Y))
        for f in (torch.remainder, torch.fmod)
    ),
    Case("fmod_int", signed(torch.fmod), (INTS, NONZERO)),
    Case("fmod_scalar", lambda a: (torch.fmod(a, 0.25), torch.fmod(a, -0.25)), (X,)),
]
_POWERS = [
    *both("pow_square", lambda a: a**2, X),
    *both("pow_cube", lambda a: a**3, X),
    *both("pow_root", lambda a: (a**0.5, a**-0.5), Y),
    *both("pow_fraction", lambda a: a**1.7, Y),
    *both("pow_tensor", torch.pow, Y, X),
    *both("pow_of_scalar", lambda a: 2.5**a, X),
    Case("pow_of_signs", lambda a: [torch.pow(b, a.round()) for b in (0.0, -0.0, math.inf, -math.inf, -1.5)], (X,)),
    Case(
        "pow_of_literals",
        lambda a: a * torch.pow(torch.full((6,), 0.5, device=a.device), torch.arange(1, 7, device=a.device)),
        (X,),
    ),
    Case("pow_of_nan", lambda a: (torch.pow(-1.5, a), torch.pow(math.nan, a)), (X,)),
    Case("pow_negative_whole", lambda a: (a**-1, a**-2, a**-5), (Y,)),
    Case("pow_zero_one", lambda a: (a**0, a**1), (X,)),
    Case("pow_high", lambda a: (a**11, a**16, a**31.0), (Y,), tol=1e-4),
    Case("pow_negative_base", lambda a, n: torch.pow(a, n), (X, T((4, 6), torch.float32, "int:-4:5")), tol=1e-4),
    Case("pow_negative_base_fraction", lambda a: torch.pow(a, 1.5), (X,)),
    Case("pow_negative_base_scalar", lambda a: torch.pow(a, 17.0), (X,), tol=1e-4),
    Case("pow_of_negative_scalar", lambda n: torch.pow(-1.5, n), (T((4, 6), torch.float32, "int:-4:5"),)),
    Case("pow_zero_base", lambda a: torch.pow(torch.zeros_like(a), a), (X,)),
    Case("pow_infinite", lambda a: (a**math.inf, a**-math.inf, a**math.nan), (X,)),
    Case("pow_signed_zero", lambda a: ((a * 0.0) ** -17, torch.pow(a * 0.0, (a * 2).round())), (X,)),
    Case("pow_special_tensor", torch.pow, (T((8, 9), kind="nan"), T((8, 9), kind="int:-4:5"))),
    Case("pow_special", lambda a: (a**2, a**0.5, a.abs() ** 1.5), (SPECIAL,)),
    Case("pow_int", lambda a: (a**2, a**3, a**0, a**10), (INTS,)),
    Case("pow_int32", lambda a: a**2, (INTS32,)),
    Case("pow_int_root", lambda a: a**0.5, (NONZERO,)),
    Case("pow_int_tensor_of_float", lambda a: 2.0**a, (INTS,)),
    Case("pow_float_by_int", torch.pow, (X, NONZERO), tol=1e-4),
    Case("pow_int_tensor", torch.pow, (INTS, NONZERO), rejected="an integer power"),
    Case("pow_int_of_scalar", lambda a: 2**a, (NONZERO,), rejected="an integer power"),
]
_EXTREMES = [
    *both("maximum", torch.maximum),
    *both("minimum", torch.minimum),
    Case("maximum_int", torch.maximum, (INTS, NONZERO)),
    Case("minimum_int32", torch.minimum, (INTS32, T((6,), INT32, "int:-5:5"))),
    Case("maximum_bool", torch.maximum, (BOOLS, T((6,), BOOL, "bool"))),
    Case("minimum_bool", torch.minimum, (BOOLS, T((6,), BOOL, "bool"))),
    Case("maximum_nan", torch.maximum, (SPECIAL, T((9,), kind="nan"))),
    Case("minimum_nan", torch.minimum, (SPECIAL, T((9,), kind="nan"))),
    Case("maximum_promotes", torch.maximum, (INTS, X)),
    Case("maximum_0d", torch.maximum, (X, T(()))),
    Case("atan2", lambda a, b: (torch.atan2(a, b), torch.atan2(b, a)), (X, X)),
    Case("atan2_half", torch.atan2, (T((4, 6), HALF), T((4, 6), HALF))),
    Case("atan2_axes", torch.atan2, (T((9, 9), torch.float32, "int:-1:2"), T((9, 9), torch.float32, "int:-1:2"))),
    Case("atan2_signed_zeros", lambda a, b: torch.atan2(a * 0.0, b.round() * 0.5), (T((9, 9)), T((9, 9)))),
    Case("atan2_special", torch.atan2, (SPECIAL, T((8, 9), kind="nan"))),
    Case("atan2_int", torch.atan2, (INTS, NONZERO)),
    *both("hypot", torch.hypot),
    Case("hypot_broadcasts", torch.hypot, (T((4, 1)), T((6,)))),
    Case("hypot_limits", lambda a: (torch.hypot(a, a.flip(0)), torch.hypot(a, a * 0)), (SPECIAL,)),
    Case("hypot_large", lambda a: torch.hypot(a * 1e30, a * 1e30) / 1e30, (X,)),
    Case("ldexp", torch.ldexp, (X, NONZERO)),
    Case("ldexp_int", torch.ldexp, (INTS, NONZERO)),
    Case("logaddexp", torch.logaddexp, (X, Y)),
    Case("xlogy", torch.xlogy, (X, Y)),
]
_LOGIC = [
    Case("logical_bool", logical, (BOOLS, T((6,), BOOL, "bool"))),
    Case("logical_float", logical, (T((4, 6), torch.float32, "int:-1:2"), T((4, 6), torch.float32, "int:-1:2"))),
    Case("logical_mixed", logical, (T((4, 6), INT64, "int:-1:2"), BOOLS)),
    Case("logical_nan", logical, (SPECIAL, T((8, 9), BOOL, "bool"))),
    Case("logical_0d", logical, (BOOLS, T((), BOOL, "bool"))),
    # A literal decides some of them.
    Case("logical_true", lambda a: logical(a, torch.ones((), dtype=BOOL, device=a.device)), (BOOLS,)),
    Case("logical_false", lambda a: logical(torch.zeros(1, 1, 1, dtype=BOOL, device=a.device), a), (BOOLS,)),
    Case("bitwise_literal", lambda a: (a | True, a & False, (a | True).float() + 1, False & a.t()), (BOOLS,)),
    Case("bitwise_bool", lambda a, b: (a & b, a | b, a ^ b), (BOOLS, T((6,), BOOL, "bool"))),
    *(
        Case(f"{fn.__name__}_int", fn, (INTS, NONZERO), rejected="bits of integers")
        for fn in (torch.bitwise_and, torch.bitwise_or, torch.bitwise_xor)
    ),
    Case("bitwise_scalar", lambda a: (a & True, a | False, a ^ True), (BOOLS,)),
    Case("bitwise_scalar_tensor", lambda a: (aten.bitwise_and(True, a), aten.bitwise_or(False, a)), (BOOLS,)),
    Case("mask_of_comparisons", lambda a, b: ((a > 0) & (b > 1)) | ~(a < b), (X, Y)),
]
CASES = _ARITHMETIC + _DIVISIONS + _POWERS + _EXTREMES + _LOGIC
