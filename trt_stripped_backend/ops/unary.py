"""Functions of one element: what TensorRT has a layer for, and what is made of a few of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch

from ..flavour import trt
from .net import BOOL, FLOAT, INT, ITensor, Net
from .registry import op

aten = torch.ops.aten
#: The largest power of ten that float32 holds.
MAX_DECIMALS = 38
Kind = Callable[[], Any]  # looked up at the build: reading ``trt`` imports TensorRT

#: Float functions; integers are converted to the result's type first, as in PyTorch.
_FUNCTIONS: dict[torch._ops.OpOverload, Kind] = {
    aten.exp.default: lambda: trt.UnaryOperation.EXP,
    aten.log.default: lambda: trt.UnaryOperation.LOG,
    aten.sqrt.default: lambda: trt.UnaryOperation.SQRT,
    aten.reciprocal.default: lambda: trt.UnaryOperation.RECIP,
    aten.sin.default: lambda: trt.UnaryOperation.SIN,
    aten.cos.default: lambda: trt.UnaryOperation.COS,
    aten.tan.default: lambda: trt.UnaryOperation.TAN,
    aten.sinh.default: lambda: trt.UnaryOperation.SINH,
    aten.cosh.default: lambda: trt.UnaryOperation.COSH,
    aten.asin.default: lambda: trt.UnaryOperation.ASIN,
    aten.acos.default: lambda: trt.UnaryOperation.ACOS,
    aten.atan.default: lambda: trt.UnaryOperation.ATAN,
    aten.asinh.default: lambda: trt.UnaryOperation.ASINH,
    aten.acosh.default: lambda: trt.UnaryOperation.ACOSH,
    aten.atanh.default: lambda: trt.UnaryOperation.ATANH,
    aten.erf.default: lambda: trt.UnaryOperation.ERF,
}
#: Exact in every type, so no wider one is needed.
_ROUNDINGS: dict[torch._ops.OpOverload, Kind] = {
    aten.ceil.default: lambda: trt.UnaryOperation.CEIL,
    aten.floor.default: lambda: trt.UnaryOperation.FLOOR,
    aten.round.default: lambda: trt.UnaryOperation.ROUND,  # half to even, as PyTorch's
}


def schema(target: torch._ops.OpOverload) -> str:
    """The schema line of an overload, for the docstrings of converters made in a loop."""
    return str(target._schema).removeprefix("aten::")


def not_fused(net: Net, x: ITensor, *, tanh: bool = False) -> ITensor:
    """An activation, none of it below -1, that what multiplies it does not take into its kernel.

    Of a float32 product, a vector added to it, a ReLU or GELU and a multiplication RTX 1.6.1 makes one kernel, which is
    wrong: ``F.linear(x, w, b).relu() * 2``. It makes out a GELU that is written with erf or tanh, too. Nor does the
    product take a ``tanh`` into its kernel, which is off by 8e-6 there, and by 2e-7 elsewhere; TF32 errs by more.
    """
    if net.dtype(x) != torch.float32 or not len(x.shape) or not (net.multiplied() or (tanh and net.exact_float32)):
        return x
    return net.select(net.less(x, -2), -2.0, x, torch.float32)


def _register_function(target: torch._ops.OpOverload, kind: Kind) -> None:
    def convert(net: Net, self: ITensor) -> ITensor:
        made = net.cast(net.unary(kind(), wide_input(net, self)), net.out.dtype)
        return not_fused(net, made) if target == aten.erf.default else made

    convert.__doc__ = schema(target)
    op(target)(convert)


def _register_rounding(target: torch._ops.OpOverload, kind: Kind) -> None:
    def convert(net: Net, self: ITensor) -> ITensor:
        return net.unary(kind(), self) if net.dtype(self) in FLOAT else self

    convert.__doc__ = schema(target)
    op(target)(convert)


for _target, _kind in _FUNCTIONS.items():
    _register_function(_target, _kind)
for _target, _kind in _ROUNDINGS.items():
    _register_rounding(_target, _kind)


def wide_input(net: Net, x: ITensor) -> ITensor:
    """The input of a float function in the type to compute in: integers as the result's type, float16 as float32."""
    return net.wide(net.cast(x, net.out.dtype))


@op(aten.rsqrt.default)
def rsqrt(net: Net, self: ITensor) -> ITensor:
    """rsqrt(Tensor self) -> Tensor"""
    return net.cast(net.reciprocal(net.sqrt(wide_input(net, self))), net.out.dtype)


@op(aten.exp2.default)
def exp2(net: Net, self: ITensor) -> ITensor:
    """exp2(Tensor self) -> Tensor"""
    return net.cast(net.pow(2.0, wide_input(net, self)), net.out.dtype)


@op(aten.expm1.default)
def expm1(net: Net, self: ITensor) -> ITensor:
    """expm1(Tensor self) -> Tensor"""
    return net.cast(accurate_expm1(net, wide_input(net, self)), net.out.dtype)


def accurate_expm1(net: Net, x: ITensor) -> ITensor:
    """``exp(x) - 1`` in float32 with a small relative error near 0 too."""
    u = net.unary(trt.UnaryOperation.EXP, x)
    less_one = net.sub(u, 1)
    # exp(x) - 1 cancels near 0; (u - 1) · x / log(u) with u = exp(x) does not (Kahan), and u = 1 means that x is tiny.
    small = net.div(net.mul(less_one, x), net.unary(trt.UnaryOperation.LOG, u))
    small = net.select(net.equal(u, 1), x, small)
    near = net.less(net.unary(trt.UnaryOperation.ABS, x), 0.5)
    return net.select(near, small, less_one)


@op(aten.log1p.default)
def log1p(net: Net, self: ITensor) -> ITensor:
    """log1p(Tensor self) -> Tensor"""
    return net.cast(accurate_log1p(net, wide_input(net, self)), net.out.dtype)


def accurate_log1p(net: Net, x: ITensor) -> ITensor:
    """``log(1 + x)`` with a small relative error near 0 too: log(u) · x / (u - 1) with u = 1 + x (Kahan)."""
    u = net.add(x, 1)
    log, less_one = net.unary(trt.UnaryOperation.LOG, u), net.sub(u, 1)
    scaled = net.select(net.equal(less_one, 0), x, net.div(net.mul(log, x), less_one))
    return net.select(net.equal(less_one, x), log, scaled)  # exact, or x is infinite


@op(aten.log2.default)
def log2(net: Net, self: ITensor) -> ITensor:
    """log2(Tensor self) -> Tensor"""
    return _log_of_base(net, self, 2)


@op(aten.log10.default)
def log10(net: Net, self: ITensor) -> ITensor:
    """log10(Tensor self) -> Tensor"""
    return _log_of_base(net, self, 10)


def _log_of_base(net: Net, x: ITensor, base: int) -> ITensor:
    """Exact for whole powers of the base, of which the quotient of logarithms may fall short."""
    x = wide_input(net, x)
    y = net.div(net.unary(trt.UnaryOperation.LOG, x), math.log(base))
    whole = net.unary(trt.UnaryOperation.ROUND, y)
    return net.cast(net.select(net.equal(net.pow(float(base), whole), x), whole, y), net.out.dtype)


@op(aten.round.decimals, dtypes=FLOAT)
def round_decimals(net: Net, self: ITensor, decimals: int) -> ITensor:
    """round.decimals(Tensor self, *, int decimals) -> Tensor"""
    x, ten = net.wide(self), 10.0 ** abs(decimals)
    if decimals < 0:
        rounded = net.mul(net.unary(trt.UnaryOperation.ROUND, net.div(x, ten)), ten)
    else:
        rounded = net.div(net.unary(trt.UnaryOperation.ROUND, net.mul(x, ten)), ten)
    return net.cast(rounded, net.out.dtype)


@round_decimals.unless
def _(self: torch.Tensor, decimals: int) -> Iterator[str]:
    if abs(decimals) > MAX_DECIMALS:
        yield f"rounding to {decimals} decimals: float32 holds powers of ten up to {MAX_DECIMALS}"


@op(aten.trunc.default)
def trunc(net: Net, self: ITensor) -> ITensor:
    """trunc(Tensor self) -> Tensor"""
    return truncated(net, self) if net.dtype(self) in FLOAT else self


def truncated(net: Net, x: ITensor) -> ITensor:
    """A float tensor rounded towards 0."""
    ceil, floor = net.unary(trt.UnaryOperation.CEIL, x), net.unary(trt.UnaryOperation.FLOOR, x)
    return net.select(net.less(x, 0), ceil, floor)


@op(aten.abs.default)
def abs_(net: Net, self: ITensor) -> ITensor:
    """abs(Tensor self) -> Tensor"""
    return net.unary(trt.UnaryOperation.ABS, self)


@op(aten.neg.default)
def neg(net: Net, self: ITensor) -> ITensor:
    """neg(Tensor self) -> Tensor"""
    return net.unary(trt.UnaryOperation.NEG, self)


@op(aten.sign.default)
def sign(net: Net, self: ITensor) -> ITensor:
    """sign(Tensor self) -> Tensor"""
    if net.dtype(self) in BOOL:
        return self
    sign = net.unary(trt.UnaryOperation.SIGN, self)
    return net.select(net.isnan(self), 0, sign, net.dtype(self)) if net.dtype(self) in FLOAT else sign


@op(aten.signbit.default)
def signbit(net: Net, self: ITensor) -> ITensor:
    """signbit(Tensor self) -> Tensor"""
    if net.dtype(self) in FLOAT:
        return is_negative(net, net.wide(self))
    return net.less(net.cast(self, torch.int64), 0)


def is_negative(net: Net, x: ITensor) -> ITensor:
    """Where a float has its sign bit set, NaN apart: -0.0 too, whose reciprocal is -inf."""
    return net.logical_or(net.less(x, 0), net.less(net.reciprocal(x), 0))


@op(aten.isnan.default)
def isnan(net: Net, self: ITensor) -> ITensor:
    """isnan(Tensor self) -> Tensor"""
    return net.isnan(self) if net.dtype(self) in FLOAT else net.full(tuple(net.shape(self)), False, torch.bool)


@op(aten.isinf.default)
def isinf(net: Net, self: ITensor) -> ITensor:
    """isinf(Tensor self) -> Tensor"""
    if net.dtype(self) in FLOAT:
        return net.unary(trt.UnaryOperation.ISINF, self)
    return net.full(tuple(net.shape(self)), False, torch.bool)


@op(aten.logical_not.default)
def logical_not(net: Net, self: ITensor) -> ITensor:
    """logical_not(Tensor self) -> Tensor"""
    return net.logical_not(self)


@op(aten.bitwise_not.default, dtypes=INT | BOOL)
def bitwise_not(net: Net, self: ITensor) -> ITensor:
    """bitwise_not(Tensor self) -> Tensor"""
    if net.dtype(self) in BOOL:
        return net.logical_not(self)
    return net.sub(-1, self)  # two's complement: ~x = -x - 1
