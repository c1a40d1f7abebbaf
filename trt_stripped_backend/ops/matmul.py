"""Matrix products: summed in float32, and what is added to one is added before the one rounding."""

from __future__ import annotations

import torch

from .net import FLOAT, ITensor, Net, Scalar
from .registry import op

aten = torch.ops.aten


@op(aten.linear.default, dtypes=FLOAT)
def linear(net: Net, input: ITensor, weight: ITensor, bias: ITensor | None = None) -> ITensor:
    """linear(Tensor input, Tensor weight, Tensor? bias=None) -> Tensor"""
    y = _product(net, input, weight, transpose_b=len(weight.shape) == 2)
    return net.cast(y if bias is None else net.add(net.wide(y), net.wide(bias)), net.out.dtype)


linear.unless(Net.not_empty)


@op(aten.matmul.default, dtypes=FLOAT)
def matmul(net: Net, self: ITensor, other: ITensor) -> ITensor:
    """matmul(Tensor self, Tensor other) -> Tensor"""
    return net.cast(_product(net, self, other), net.out.dtype)


matmul.unless(Net.not_empty)


@op(aten.mm.default, aten.bmm.default, dtypes=FLOAT)
def mm(net: Net, self: ITensor, mat2: ITensor) -> ITensor:
    """mm(Tensor self, Tensor mat2) -> Tensor"""
    return net.cast(_product(net, self, mat2), net.out.dtype)


mm.unless(Net.not_empty)


@op(aten.mv.default, dtypes=FLOAT)
def mv(net: Net, self: ITensor, vec: ITensor) -> ITensor:
    """mv(Tensor self, Tensor vec) -> Tensor"""
    return net.cast(_product(net, self, vec), net.out.dtype)


mv.unless(Net.not_empty)


@op(aten.dot.default, dtypes=FLOAT)
def dot(net: Net, self: ITensor, tensor: ITensor) -> ITensor:
    """dot(Tensor self, Tensor tensor) -> Tensor"""
    return net.cast(_product(net, self, tensor), net.out.dtype)


dot.unless(Net.not_empty)


@op(aten.addmm.default, dtypes=FLOAT)
def addmm(net: Net, self: ITensor, mat1: ITensor, mat2: ITensor, beta: Scalar = 1, alpha: Scalar = 1) -> ITensor:
    """addmm(Tensor self, Tensor mat1, Tensor mat2, *, Scalar beta=1, Scalar alpha=1) -> Tensor"""
    return _blend(net, self, _product(net, mat1, mat2), beta, alpha)


addmm.unless(Net.not_empty)


@op(aten.baddbmm.default, dtypes=FLOAT)
def baddbmm(net: Net, self: ITensor, batch1: ITensor, batch2: ITensor, beta: Scalar = 1, alpha: Scalar = 1) -> ITensor:
    """baddbmm(Tensor self, Tensor batch1, Tensor batch2, *, Scalar beta=1, Scalar alpha=1) -> Tensor"""
    return _blend(net, self, _product(net, batch1, batch2), beta, alpha)


@op(aten.addbmm.default, dtypes=FLOAT)
def addbmm(net: Net, self: ITensor, batch1: ITensor, batch2: ITensor, beta: Scalar = 1, alpha: Scalar = 1) -> ITensor:
    """addbmm(Tensor self, Tensor batch1, Tensor batch2, *, Scalar beta=1, Scalar alpha=1) -> Tensor"""
    # The sum over the batch is one longer inner product: (B, N, K) @ (B, K, M) summed is (N, B·K) @ (B·K, M).
    batch, rows, inner = net.shape(batch1)
    left = net.reshape(net.permute(batch1, [1, 0, 2]), [rows, batch * inner])
    right = net.reshape(batch2, [batch * inner, net.shape(batch2)[2]])
    return _blend(net, self, _product(net, left, right), beta, alpha)


baddbmm.unless(Net.not_empty)
addbmm.unless(Net.not_empty)


@op(aten.addmv.default, dtypes=FLOAT)
def addmv(net: Net, self: ITensor, mat: ITensor, vec: ITensor, beta: Scalar = 1, alpha: Scalar = 1) -> ITensor:
    """addmv(Tensor self, Tensor mat, Tensor vec, *, Scalar beta=1, Scalar alpha=1) -> Tensor"""
    return _blend(net, self, _product(net, mat, vec), beta, alpha)


addmv.unless(Net.not_empty)


def _product(net: Net, a: ITensor, b: ITensor, *, transpose_b: bool = False) -> ITensor:
    """``torch.matmul`` before rounding: a vector on the left is a row, one on the right a column, and goes again."""
    row, column = len(a.shape) == 1, len(b.shape) == 1
    y = net.product(net.unsqueeze(a, 0) if row else a, net.unsqueeze(b, 1) if column else b, transpose_b=transpose_b)
    *batch, rows, columns = net.shape(y)
    return net.reshape(y, batch + [rows] * (not row) + [columns] * (not column))


def _blend(net: Net, base: ITensor, product: ITensor, beta: Scalar, alpha: Scalar) -> ITensor:
    """``beta * base + alpha * product``; a beta of 0 ignores ``base``, NaN and all."""
    scaled, base = net.wide(product), net.wide(base)
    scaled = scaled if alpha == 1 else net.mul(scaled, float(alpha))
    if beta != 0:
        scaled = net.add(scaled, base if beta == 1 else net.mul(base, float(beta)))
    return net.cast(scaled, net.out.dtype)
