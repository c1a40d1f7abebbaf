"""Special functions that TensorRT has no layer for: series and rational approximations, accurate to float32."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from ..flavour import trt
from .net import ITensor, Net
from .registry import op
from .unary import wide_input

aten = torch.ops.aten

#: Chebyshev fit of ``log(erfc(x) · exp(x²) / t)`` with ``t = 2 / (2 + x)``, relative error 1.2e-7 (Numerical Recipes).
_ERFC = (
    0.17087277, -0.82215223, 1.48851587, -1.13520398, 0.27886807, -0.18628806, 0.09678418, 0.37409196, 1.00002368,
    -1.26551223,
)  # fmt: skip
#: Approximating the erfinv function (Giles): for ``w = -log(1 - x²)`` below 5, and for larger ones.
_ERFINV = (
    2.81022636e-08, 3.43273939e-07, -3.5233877e-06, -4.39150654e-06, 0.00021858087, -0.00125372503, -0.00417768164,
    0.246640727, 1.50140941,
)  # fmt: skip
_ERFINV_TAIL = (
    -0.000200214257, 0.000100950558, 0.00134934322, -0.00367342844, 0.00573950773, -0.0076224613, 0.00943887047,
    1.00167406, 2.83297682,
)  # fmt: skip
#: Lanczos' series for the gamma function with g = 5.
_LANCZOS = (
    76.18009172947146, -86.50532032941677, 24.01409824083091, -1.231739572450155, 0.001208650973866179,
    -5.395239384953e-6,
)  # fmt: skip
#: How far digamma goes up before its asymptotic series.
_STEPS = 6


def _polynomial(net: Net, x: ITensor, coefficients: Sequence[float]) -> ITensor:
    """Horner's scheme; the highest power comes first."""
    total = net.full(net.shape(x), coefficients[0], net.dtype(x))
    for coefficient in coefficients[1:]:
        total = net.add(net.mul(total, x), coefficient)
    return total


def _log(net: Net, x: ITensor) -> ITensor:
    return net.unary(trt.UnaryOperation.LOG, x)


def _erfc(net: Net, x: ITensor, *, scaled: bool) -> ITensor:
    """``erfc(x)``, or ``exp(x²) · erfc(x)`` if ``scaled``."""
    size, square = net.unary(trt.UnaryOperation.ABS, x), net.mul(x, x)
    t = net.div(2, net.add(size, 2))
    fit = _polynomial(net, t, _ERFC)
    exponent = fit if scaled else net.sub(fit, square)
    positive = net.mul(t, net.unary(trt.UnaryOperation.EXP, exponent))
    mirrored = net.sub(net.mul(2, net.unary(trt.UnaryOperation.EXP, square)) if scaled else 2, positive)
    return net.select(net.less(x, 0), mirrored, positive)


@op(aten.erfc.default)
def erfc(net: Net, self: ITensor) -> ITensor:
    """erfc(Tensor self) -> Tensor"""
    return net.cast(_erfc(net, wide_input(net, self), scaled=False), net.out.dtype)


@op(aten.special_erfcx.default)
def special_erfcx(net: Net, self: ITensor) -> ITensor:
    """special_erfcx(Tensor self) -> Tensor"""
    return net.cast(_erfc(net, wide_input(net, self), scaled=True), net.out.dtype)


@op(aten.erfinv.default)
def erfinv(net: Net, self: ITensor) -> ITensor:
    """erfinv(Tensor self) -> Tensor"""
    x = wide_input(net, self)
    w = net.mul(-1, _log(net, net.mul(net.sub(1, x), net.add(x, 1))))
    near = _polynomial(net, net.sub(w, 2.5), _ERFINV)
    tail = _polynomial(net, net.sub(net.sqrt(net.maximum(w, 5)), 3), _ERFINV_TAIL)
    y = net.mul(x, net.select(net.less(w, 5), near, tail))
    size = net.unary(trt.UnaryOperation.ABS, x)
    y = net.select(net.equal(size, 1), net.mul(x, math.inf), y)
    return net.cast(net.select(net.greater(size, 1), math.nan, y), net.out.dtype)


@op(aten.lgamma.default)
def lgamma(net: Net, self: ITensor) -> ITensor:
    """lgamma(Tensor self) -> Tensor"""
    x = wide_input(net, self)
    mirror = net.less(x, 0.5)
    z = net.select(mirror, net.sub(1, x), x)
    series = net.full(net.shape(x), 1.000000000190015, net.dtype(x))
    for index, coefficient in enumerate(_LANCZOS, 1):
        series = net.add(series, net.div(coefficient, net.add(z, index)))
    base = net.add(z, 5.5)
    log = net.sub(net.mul(net.add(z, 0.5), _log(net, base)), base)
    y = net.add(log, _log(net, net.div(net.mul(series, math.sqrt(2 * math.pi)), z)))
    # Γ(x) · Γ(1 - x) = π / sin(πx), whose argument is kept small.
    sine = net.unary(trt.UnaryOperation.SIN, net.mul(net.unary(trt.UnaryOperation.ABS, _fraction(net, x)), math.pi))
    y = net.select(mirror, net.sub(_log(net, net.div(math.pi, sine)), y), y)
    return net.cast(net.select(net.unary(trt.UnaryOperation.ISINF, x), math.inf, y), net.out.dtype)


@op(aten.digamma.default)
def digamma(net: Net, self: ITensor) -> ITensor:
    """digamma(Tensor self) -> Tensor"""
    x = wide_input(net, self)
    mirror = net.less(x, 0)
    z = net.select(mirror, net.sub(1, x), x)
    top = net.add(z, _STEPS)
    square = net.reciprocal(net.mul(top, top))
    tail = net.mul(square, _polynomial(net, square, (1 / 252, -1 / 120, 1 / 12)))
    y = net.sub(net.sub(_log(net, top), net.div(0.5, top)), tail)
    for step in range(_STEPS):
        y = net.sub(y, net.reciprocal(net.add(z, step) if step else z))  # -0.0 + 0 would lose the sign of a pole
    fraction = _fraction(net, x)
    tangent = net.unary(trt.UnaryOperation.TAN, net.mul(fraction, math.pi))
    mirrored = net.select(net.equal(fraction, 0), math.nan, net.sub(y, net.div(math.pi, tangent)))
    return net.cast(net.select(mirror, mirrored, y), net.out.dtype)


def _fraction(net: Net, x: ITensor) -> ITensor:
    """What is left of the nearest integer: of the next one below, 1 would be left of the smallest negative numbers."""
    return net.sub(x, net.unary(trt.UnaryOperation.ROUND, x))
