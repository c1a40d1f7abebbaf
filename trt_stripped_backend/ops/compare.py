"""Comparisons, and choices by a condition."""

from __future__ import annotations

from typing import Any

import torch

from ..flavour import trt
from .net import BOOL, ITensor, Net, Scalar, Value
from .registry import op

aten = torch.ops.aten


def _compare(net: Net, kind: Any, a: Value, b: Value) -> ITensor:
    """A comparison in the operands' promoted type, to which PyTorch rounds a scalar too; bool, which TensorRT does not
    order, as int32."""
    dtype = net.result_type(a, b)
    return net.binary(kind, a, b, torch.int32 if dtype in BOOL else dtype)


def _or_equal(net: Net, kind: Any, a: Value, b: Value) -> ITensor:
    # Not the negation of the opposite, which would hold for NaN.
    return net.logical_or(_compare(net, kind, a, b), _compare(net, trt.ElementWiseOperation.EQUAL, a, b))


@op(aten.eq.Tensor, aten.eq.Scalar)
def eq(net: Net, self: ITensor, other: Value) -> ITensor:
    """eq.Tensor(Tensor self, Tensor other) -> Tensor
    eq.Scalar(Tensor self, Scalar other) -> Tensor"""
    return _compare(net, trt.ElementWiseOperation.EQUAL, self, other)


@op(aten.ne.Tensor, aten.ne.Scalar)
def ne(net: Net, self: ITensor, other: Value) -> ITensor:
    """ne.Tensor(Tensor self, Tensor other) -> Tensor
    ne.Scalar(Tensor self, Scalar other) -> Tensor"""
    return net.logical_not(_compare(net, trt.ElementWiseOperation.EQUAL, self, other))


@op(aten.gt.Tensor, aten.gt.Scalar)
def gt(net: Net, self: ITensor, other: Value) -> ITensor:
    """gt.Tensor(Tensor self, Tensor other) -> Tensor
    gt.Scalar(Tensor self, Scalar other) -> Tensor"""
    return _compare(net, trt.ElementWiseOperation.GREATER, self, other)


@op(aten.lt.Tensor, aten.lt.Scalar)
def lt(net: Net, self: ITensor, other: Value) -> ITensor:
    """lt.Tensor(Tensor self, Tensor other) -> Tensor
    lt.Scalar(Tensor self, Scalar other) -> Tensor"""
    return _compare(net, trt.ElementWiseOperation.LESS, self, other)


@op(aten.ge.Tensor, aten.ge.Scalar)
def ge(net: Net, self: ITensor, other: Value) -> ITensor:
    """ge.Tensor(Tensor self, Tensor other) -> Tensor
    ge.Scalar(Tensor self, Scalar other) -> Tensor"""
    return _or_equal(net, trt.ElementWiseOperation.GREATER, self, other)


@op(aten.le.Tensor, aten.le.Scalar)
def le(net: Net, self: ITensor, other: Value) -> ITensor:
    """le.Tensor(Tensor self, Tensor other) -> Tensor
    le.Scalar(Tensor self, Scalar other) -> Tensor"""
    return _or_equal(net, trt.ElementWiseOperation.LESS, self, other)


@op(aten.where.self)
def where(net: Net, condition: ITensor, self: Value, other: Value) -> ITensor:
    """where.self(Tensor condition, Tensor self, Tensor other) -> Tensor"""
    return net.select(condition, self, other, net.out.dtype)


@op(aten.masked_fill.Scalar, aten.masked_fill.Tensor)
def masked_fill(net: Net, self: ITensor, mask: ITensor, value: ITensor | Scalar) -> ITensor:
    """masked_fill.Scalar(Tensor self, Tensor mask, Scalar value) -> Tensor
    masked_fill.Tensor(Tensor self, Tensor mask, Tensor value) -> Tensor"""
    return net.select(mask, value, self, net.out.dtype)
