"""Arithmetic and logic of two operands, each a tensor or a Python scalar."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch

from ..flavour import trt
from ..sizes import dynamic
from .net import BOOL, FLOAT, INT, ITensor, Net, Scalar, Value
from .registry import op
from .unary import is_negative, truncated

aten = torch.ops.aten


def arithmetic(net: Net, kind: Any, a: Value, b: Value) -> ITensor:
    """One elementwise layer with the node's own result type."""
    dtype = net.opmath(net.out.dtype, a, b)
    return net.cast(net.binary(kind, a, b, dtype), net.out.dtype)


def _scaled(net: Net, kind: Any, a: Value, b: Value, alpha: Scalar) -> ITensor:
    """``a ± alpha · b``, rounded once."""
    if not net.is_tensor(b):
        return arithmetic(net, kind, a, b * alpha)
    if alpha == 1:
        return arithmetic(net, kind, a, b)
    dtype = torch.float32 if net.out.dtype in FLOAT else net.out.dtype
    product = net.binary(trt.ElementWiseOperation.PROD, b, alpha, dtype)
    return net.cast(net.binary(kind, a, product, dtype), net.out.dtype)


@op(aten.add.Tensor, aten.add.Scalar)
def add(net: Net, self: Value, other: Value, alpha: Scalar = 1) -> ITensor:
    """add.Tensor(Tensor self, Tensor other, *, Scalar alpha=1) -> Tensor
    add.Scalar(Tensor self, Scalar other, Scalar alpha=1) -> Tensor"""
    if net.out.dtype in BOOL:
        return net.logical_or(self, other)
    return _scaled(net, trt.ElementWiseOperation.SUM, self, other, alpha)


@add.unless
def _(self: Any, other: Any, alpha: Scalar = 1) -> Iterator[str]:
    if alpha != 1 and torch.result_type(self, other) == torch.bool:
        yield "addition of bool with alpha"


@op(aten.sub.Tensor, aten.sub.Scalar)
def sub(net: Net, self: Value, other: Value, alpha: Scalar = 1) -> ITensor:
    """sub.Tensor(Tensor self, Tensor other, *, Scalar alpha=1) -> Tensor
    sub.Scalar(Tensor self, Scalar other, Scalar alpha=1) -> Tensor"""
    return _scaled(net, trt.ElementWiseOperation.SUB, self, other, alpha)


def _no_sum_with_least(self: Any, other: Any, alpha: Scalar = 1) -> Iterator[str]:
    dtype = torch.result_type(self, other)
    if dtype in INT and isinstance(other, int) and isinstance(alpha, int):
        least = torch.iinfo(dtype).min
        if (other * alpha - least) % (2 * least) == 0:  # where PyTorch wraps, RTX 1.6.1 leaves the sign set
            yield f"a sum with {least}, whose overflow does not wrap in TensorRT"


add.unless(_no_sum_with_least)
sub.unless(_no_sum_with_least)


@op(aten.mul.Tensor, aten.mul.Scalar)
def mul(net: Net, self: Value, other: Value) -> ITensor:
    """mul.Tensor(Tensor self, Tensor other) -> Tensor
    mul.Scalar(Tensor self, Scalar other) -> Tensor"""
    if net.out.dtype in BOOL:
        return net.logical_and(self, other)
    return arithmetic(net, trt.ElementWiseOperation.PROD, self, other)


@op(aten.div.Tensor, aten.div.Scalar)
def div(net: Net, self: Value, other: Value) -> ITensor:
    """div.Tensor(Tensor self, Tensor other) -> Tensor
    div.Scalar(Tensor self, Scalar other) -> Tensor"""
    return arithmetic(net, trt.ElementWiseOperation.DIV, self, other)


@op(aten.div.Tensor_mode, aten.div.Scalar_mode)
def div_mode(net: Net, self: Value, other: Value, rounding_mode: str | None) -> ITensor:
    """div.Tensor_mode(Tensor self, Tensor other, *, str? rounding_mode) -> Tensor
    div.Scalar_mode(Tensor self, Scalar other, *, str? rounding_mode) -> Tensor"""
    if rounding_mode == "floor":
        return net.cast(_divmod(net, self, other)[0], net.out.dtype)
    if rounding_mode is None or net.out.dtype in INT:  # integer layers truncate
        return arithmetic(net, trt.ElementWiseOperation.DIV, self, other)
    dtype = torch.float32
    return net.cast(truncated(net, net.binary(trt.ElementWiseOperation.DIV, self, other, dtype)), net.out.dtype)


@op(aten.remainder.Tensor, aten.remainder.Scalar, aten.remainder.Scalar_Tensor)
def remainder(net: Net, self: Value, other: Value) -> ITensor:
    """remainder.Tensor(Tensor self, Tensor other) -> Tensor
    remainder.Scalar(Tensor self, Scalar other) -> Tensor
    remainder.Scalar_Tensor(Scalar self, Tensor other) -> Tensor"""
    return net.cast(_divmod(net, self, other)[1], net.out.dtype)


@op(aten.fmod.Tensor, aten.fmod.Scalar)
def fmod(net: Net, self: Value, other: Value) -> ITensor:
    """fmod.Tensor(Tensor self, Tensor other) -> Tensor
    fmod.Scalar(Tensor self, Scalar other) -> Tensor"""
    if net.out.dtype in INT:
        a, b = net.cast(self, net.out.dtype), net.cast(other, net.out.dtype)
        return net.sub(a, net.mul(net.div(a, b), b))
    a, b = net.cast(self, torch.float32), net.cast(other, torch.float32)
    return net.cast(_float_fmod(net, a, b), net.out.dtype)


def _divmod(net: Net, a: Value, b: Value) -> tuple[ITensor, ITensor]:
    """``floor(a / b)`` and ``a - floor(a / b) · b`` in the node's integer type, or in float32.

    A quotient of floats can round up to the next integer (1 / 0.1 is 10, ⌊1 / 0.1⌋ is 9), so the remainder comes first
    and decides, as in PyTorch's kernels.
    """
    if net.out.dtype in INT:
        a, b = net.cast(a, net.out.dtype), net.cast(b, net.out.dtype)
        quotient = net.div(a, b)
        rest = net.sub(a, net.mul(quotient, b))
    else:
        a, b = net.cast(a, torch.float32), net.cast(b, torch.float32)
        rest = _float_fmod(net, a, b)
        quotient = net.unary(trt.UnaryOperation.ROUND, net.div(net.sub(a, rest), b))
        quotient = net.select(net.equal(b, 0), net.div(a, b), quotient)
    opposite = net.binary(trt.ElementWiseOperation.XOR, net.less(rest, 0), net.less(b, 0))
    above = net.logical_and(opposite, net.logical_not(net.equal(rest, 0)))
    return net.select(above, net.sub(quotient, 1), quotient), net.select(above, net.add(rest, b), rest)


def _float_fmod(net: Net, a: ITensor, b: ITensor) -> ITensor:
    """``fmod`` in float32, exact for quotients below 2⁴⁷.

    The nearest multiple is taken away three times: of ``b · 2³²``, of ``b · 2¹⁶`` and of ``b``. Each quotient has 16
    bits, and the divisor is cut into three pieces of 8, so that neither products nor differences need rounding.
    """
    size, divisor = net.unary(trt.UnaryOperation.ABS, a), net.unary(trt.UnaryOperation.ABS, b)
    rest = net.select(net.unary(trt.UnaryOperation.ISINF, a), math.nan, size)
    for factor in (2.0**32, 2.0**16, 1.0):
        whole = tail = net.mul(divisor, factor)
        count, left = net.unary(trt.UnaryOperation.ROUND, net.div(rest, whole)), rest
        for _ in range(3):
            piece = net.cast(net.cast(tail, torch.bfloat16), torch.float32)
            tail, left = net.sub(tail, piece), net.sub(left, net.mul(count, piece))
        rest = net.select(net.unary(trt.UnaryOperation.ISINF, whole), rest, left)
    rest = net.select(net.less(rest, 0), net.add(rest, divisor), rest)
    return net.select(net.less(a, 0), net.unary(trt.UnaryOperation.NEG, rest), rest)


@op(aten.pow.Tensor_Tensor, aten.pow.Tensor_Scalar, aten.pow.Scalar)
def pow_(net: Net, self: Value, exponent: Value) -> ITensor:
    """pow.Tensor_Tensor(Tensor self, Tensor exponent) -> Tensor
    pow.Tensor_Scalar(Tensor self, Scalar exponent) -> Tensor
    pow.Scalar(Scalar self, Tensor exponent) -> Tensor"""
    dtype = net.out.dtype if net.out.dtype in INT else torch.float32
    if not net.is_tensor(self):
        return net.cast(_power_of_constant(net, float(self), net.cast(exponent, dtype)), net.out.dtype)
    base = net.cast(self, dtype)
    if net.is_tensor(exponent):
        return net.cast(_power(net, base, net.cast(exponent, dtype)), net.out.dtype)
    if dtype in INT or (abs(exponent) <= 16 and exponent == int(exponent)):
        return net.cast(_integer_power(net, base, int(exponent)), net.out.dtype)
    if abs(exponent) == 0.5:
        root = net.sqrt(base)
        return net.cast(root if exponent > 0 else net.reciprocal(root), net.out.dtype)
    return net.cast(_constant_power(net, base, float(exponent)), net.out.dtype)


@pow_.unless
def _(self: Any, exponent: Any) -> Iterator[str]:
    if dynamic(exponent):
        yield "a power that only a call tells"
    elif torch.result_type(self, exponent) not in FLOAT and not (isinstance(exponent, int) and 0 <= exponent <= 64):
        yield "an integer power other than to a constant between 0 and 64"


def _integer_power(net: Net, base: ITensor, exponent: int) -> ITensor:
    """By repeated squaring, which keeps signs and, for integers, every bit."""
    if exponent == 0:
        return net.full(tuple(net.shape(base)), 1, net.dtype(base))
    result, square, left = None, base, abs(exponent)
    while left:
        if left & 1:
            result = square if result is None else net.mul(result, square)
        left >>= 1
        if left:
            square = net.mul(square, square)
    return result if exponent > 0 else net.reciprocal(result)


def _constant_power(net: Net, base: ITensor, exponent: float) -> ITensor:
    """:func:`_power` to a known exponent: odd or whole is decided here, because RTX builds no constant bools."""
    power = net.pow(net.unary(trt.UnaryOperation.ABS, base), exponent)
    if math.isinf(exponent) or exponent.is_integer():
        negative = net.less(base, 0) if exponent > 0 else is_negative(net, base)  # -0.0 to -1 is -inf
        odd = math.isfinite(exponent) and exponent % 2 == 1
        return net.select(negative, net.unary(trt.UnaryOperation.NEG, power), power) if odd else power
    signed = net.select(net.unary(trt.UnaryOperation.ISINF, base), power, math.nan)
    return net.select(net.less(base, 0), signed, power)


def _power(net: Net, base: ITensor, exponent: ITensor) -> ITensor:
    """``base ** exponent`` in float32. TensorRT-RTX's layer gives NaN for every negative base (pytorch/TensorRT#3699),
    so it gets the magnitude, and the sign is put back."""
    power = net.pow(net.unary(trt.UnaryOperation.ABS, base), exponent)
    whole, signed = _signed(net, power, exponent)
    power = net.select(is_negative(net, base), signed, power)  # -0.0 to -1 is -inf
    # A negative base has no power that is not whole, unless it is infinite: then the sign alone is lost.
    known = net.logical_or(whole, net.unary(trt.UnaryOperation.ISINF, base))
    return net.select(net.logical_or(known, net.logical_not(net.less(base, 0))), power, math.nan)


def _power_of_constant(net: Net, base: float, exponent: ITensor) -> ITensor:
    """:func:`_power` of a known base: its sign is looked at here, because RTX builds no constant bools."""
    power = net.pow(abs(base), exponent)
    if math.isnan(base) or math.copysign(1, base) > 0:
        return power
    whole, signed = _signed(net, power, exponent)
    return signed if base in (0, -math.inf) else net.select(whole, signed, math.nan)


def _signed(net: Net, power: ITensor, exponent: ITensor) -> tuple[ITensor, ITensor]:
    """(whether the exponent is whole, the power of a negative base from that of its magnitude)."""
    whole = net.equal(net.unary(trt.UnaryOperation.FLOOR, exponent), exponent)
    half = net.mul(exponent, 0.5)
    even = net.equal(net.unary(trt.UnaryOperation.FLOOR, half), half)
    odd = net.logical_and(whole, net.logical_not(even))
    return whole, net.select(odd, net.unary(trt.UnaryOperation.NEG, power), power)


@op(aten.atan2.default)
def atan2(net: Net, self: Value, other: Value) -> ITensor:
    """atan2(Tensor self, Tensor other) -> Tensor"""
    y, x = net.cast(self, torch.float32), net.cast(other, torch.float32)
    down, left = is_negative(net, y), is_negative(net, x)
    y, x = net.unary(trt.UnaryOperation.ABS, y), net.unary(trt.UnaryOperation.ABS, x)
    # The angle in the first quadrant, then mirrored; 0 / 0 counts as 0 and inf / inf as 1.
    ratio = net.select(net.equal(y, x), net.select(net.equal(y, 0), 0.0, 1.0, torch.float32), net.div(y, x))
    angle = net.unary(trt.UnaryOperation.ATAN, ratio)
    angle = net.select(left, net.sub(math.pi, angle), angle)
    return net.cast(net.select(down, net.unary(trt.UnaryOperation.NEG, angle), angle), net.out.dtype)


def larger(net: Net, a: Value, b: Value, dtype: torch.dtype) -> ITensor:
    """``torch.maximum``: NaN if either is, which TensorRT's own layer does not promise."""
    a, b = net.cast(a, dtype), net.cast(b, dtype)
    if dtype not in FLOAT:
        return net.logical_or(a, b) if dtype in BOOL else net.maximum(a, b)
    return net.select(net.logical_or(net.isnan(a), net.greater(a, b)), a, b)


def smaller(net: Net, a: Value, b: Value, dtype: torch.dtype) -> ITensor:
    """``torch.minimum``: NaN if either is."""
    a, b = net.cast(a, dtype), net.cast(b, dtype)
    if dtype not in FLOAT:
        return net.logical_and(a, b) if dtype in BOOL else net.minimum(a, b)
    return net.select(net.logical_or(net.isnan(a), net.less(a, b)), a, b)


@op(aten.hypot.default)
def hypot(net: Net, self: Value, other: Value) -> ITensor:
    """hypot(Tensor self, Tensor other) -> Tensor"""
    dtype = torch.float32
    a, b = (net.unary(trt.UnaryOperation.ABS, net.cast(side, dtype)) for side in net.broadcast(self, other))
    most, least = larger(net, a, b, dtype), smaller(net, a, b, dtype)
    # Squares could overflow, their ratio cannot; an infinite side wins over NaN.
    ratio = net.select(net.equal(most, 0), 0.0, net.div(least, most))
    y = net.mul(most, net.sqrt(net.add(net.mul(ratio, ratio), 1)))
    infinite = net.logical_or(net.equal(a, math.inf), net.equal(b, math.inf))
    return net.cast(net.select(infinite, math.inf, y), net.out.dtype)


@op(aten.ldexp.Tensor)
def ldexp(net: Net, self: Value, other: Value) -> ITensor:
    """ldexp.Tensor(Tensor self, Tensor other) -> Tensor"""
    scale = net.pow(2.0, net.cast(other, torch.float32))
    return net.cast(net.mul(net.cast(self, torch.float32), scale), net.out.dtype)


@op(aten.maximum.default)
def maximum(net: Net, self: Value, other: Value) -> ITensor:
    """maximum(Tensor self, Tensor other) -> Tensor"""
    return larger(net, self, other, net.out.dtype)


@op(aten.minimum.default)
def minimum(net: Net, self: Value, other: Value) -> ITensor:
    """minimum(Tensor self, Tensor other) -> Tensor"""
    return smaller(net, self, other, net.out.dtype)


@op(aten.logical_and.default)
def logical_and(net: Net, self: Value, other: Value) -> ITensor:
    """logical_and(Tensor self, Tensor other) -> Tensor"""
    return net.logical_and(self, other)


@op(aten.logical_or.default)
def logical_or(net: Net, self: Value, other: Value) -> ITensor:
    """logical_or(Tensor self, Tensor other) -> Tensor"""
    return net.logical_or(self, other)


@op(aten.logical_xor.default)
def logical_xor(net: Net, self: Value, other: Value) -> ITensor:
    """logical_xor(Tensor self, Tensor other) -> Tensor"""
    return net.binary(trt.ElementWiseOperation.XOR, self, other, torch.bool)


@op(aten.bitwise_and.Tensor, aten.bitwise_and.Scalar, aten.bitwise_and.Scalar_Tensor)
def bitwise_and(net: Net, self: Value, other: Value) -> ITensor:
    """bitwise_and.Tensor(Tensor self, Tensor other) -> Tensor
    bitwise_and.Scalar(Tensor self, Scalar other) -> Tensor
    bitwise_and.Scalar_Tensor(Scalar self, Tensor other) -> Tensor"""
    return net.logical_and(self, other)


@op(aten.bitwise_or.Tensor, aten.bitwise_or.Scalar, aten.bitwise_or.Scalar_Tensor)
def bitwise_or(net: Net, self: Value, other: Value) -> ITensor:
    """bitwise_or.Tensor(Tensor self, Tensor other) -> Tensor
    bitwise_or.Scalar(Tensor self, Scalar other) -> Tensor
    bitwise_or.Scalar_Tensor(Scalar self, Tensor other) -> Tensor"""
    return net.logical_or(self, other)


@op(aten.bitwise_xor.Tensor, aten.bitwise_xor.Scalar, aten.bitwise_xor.Scalar_Tensor)
def bitwise_xor(net: Net, self: Value, other: Value) -> ITensor:
    """bitwise_xor.Tensor(Tensor self, Tensor other) -> Tensor
    bitwise_xor.Scalar(Tensor self, Scalar other) -> Tensor
    bitwise_xor.Scalar_Tensor(Scalar self, Tensor other) -> Tensor"""
    return net.binary(trt.ElementWiseOperation.XOR, self, other, torch.bool)


def _only_bool(self: Any, other: Any) -> Iterator[str]:
    if torch.result_type(self, other) != torch.bool:
        yield "bits of integers: TensorRT has them for bool only"


for _ops in (bitwise_and, bitwise_or, bitwise_xor):
    _ops.unless(_only_bool)
