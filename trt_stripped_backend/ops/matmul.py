"""Matrix products, summed in float32."""

from __future__ import annotations

import math

import torch

from ..sizes import Dim
from .net import FLOAT, ITensor, Net, Scalar
from .registry import op

aten = torch.ops.aten


@op(aten.linear.default, dtypes=FLOAT)
def linear(net: Net, input: ITensor, weight: ITensor, bias: ITensor | None = None) -> ITensor:
    """linear(Tensor input, Tensor weight, Tensor? bias=None) -> Tensor"""
    transpose = len(weight.shape) == 2
    if bias is None:
        return net.cast(_product(net, input, weight, transpose_b=transpose), net.out.dtype)
    return _plus(net, bias, input, weight, transpose_b=transpose)


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
    return _plus(net, self, mat1, mat2, beta, alpha)


addmm.unless(Net.not_empty)


@op(aten.baddbmm.default, dtypes=FLOAT)
def baddbmm(net: Net, self: ITensor, batch1: ITensor, batch2: ITensor, beta: Scalar = 1, alpha: Scalar = 1) -> ITensor:
    """baddbmm(Tensor self, Tensor batch1, Tensor batch2, *, Scalar beta=1, Scalar alpha=1) -> Tensor"""
    return _plus(net, self, batch1, batch2, beta, alpha)


@op(aten.addbmm.default, dtypes=FLOAT)
def addbmm(net: Net, self: ITensor, batch1: ITensor, batch2: ITensor, beta: Scalar = 1, alpha: Scalar = 1) -> ITensor:
    """addbmm(Tensor self, Tensor batch1, Tensor batch2, *, Scalar beta=1, Scalar alpha=1) -> Tensor"""
    # The sum over the batch is one longer inner product: (B, N, K) @ (B, K, M) summed is (N, B·K) @ (B·K, M).
    batch, rows, inner = net.shape(batch1)
    left = net.reshape(net.permute(batch1, [1, 0, 2]), [rows, batch * inner])
    right = net.reshape(batch2, [batch * inner, net.shape(batch2)[2]])
    return _plus(net, self, left, right, beta, alpha)


baddbmm.unless(Net.not_empty)
addbmm.unless(Net.not_empty)


@op(aten.addmv.default, dtypes=FLOAT)
def addmv(net: Net, self: ITensor, mat: ITensor, vec: ITensor, beta: Scalar = 1, alpha: Scalar = 1) -> ITensor:
    """addmv(Tensor self, Tensor mat, Tensor vec, *, Scalar beta=1, Scalar alpha=1) -> Tensor"""
    return _plus(net, self, mat, vec, beta, alpha)


addmv.unless(Net.not_empty)


def _product(net: Net, a: ITensor, b: ITensor, *, transpose_b: bool = False, rounded: bool = True) -> ITensor:
    """``torch.matmul``: a vector on the left is a row, one on the right a column, and goes again.

    Many matrices times one are one large matrix times that one: where RTX 1.6.1 does this itself, of tensors of four
    dimensions, it makes NaN of a linear layer behind the attention of 8 windows of 8 × 8 (MaxViT), in every type. Of
    three it is right, and faster than this (GPT-2: 0.80 against 0.95 ms on an H200).
    """
    row, column = len(a.shape) == 1, len(b.shape) == 1
    a, b = evaluated(net, a, b)
    a, b = net.unsqueeze(a, 0) if row else a, net.unsqueeze(b, 1) if column else b
    *lead, inner = net.shape(a)
    flat = len(lead) > 2 and len(b.shape) == 2
    y = net.product(
        net.reshape(a, [math.prod(lead), inner]) if flat else a, b, transpose_b=transpose_b, rounded=rounded
    )  # fmt: skip
    *batch, rows, columns = [*lead, net.shape(y)[-1]] if flat else net.shape(y)
    return net.reshape(y, batch + [rows] * (not row) + [columns] * (not column))


def evaluated(net: Net, a: ITensor, b: ITensor) -> tuple[ITensor, ITensor]:
    """The matrices of a product, computed before it if it has an odd number of terms.

    RTX 1.6.1 reads them a term further, and what it computes of the zeros there, as in ``x.log() @ w``, times the zeros
    of the other is NaN.
    """
    terms = net.shape(a)[-1]
    odd = isinstance(terms, Dim) or terms % 2
    return (net.once(a), net.once(b)) if odd and not net.finite() else (a, b)


def _plus(
    net: Net, base: ITensor, a: ITensor, b: ITensor, beta: Scalar = 1, alpha: Scalar = 1, *, transpose_b: bool = False
) -> ITensor:
    """``beta * base + alpha * (a @ b)``; a beta of 0 ignores ``base``, NaN and all.

    PyTorch rounds once. So does this, unless a product that is not scaled is a layer's: see :meth:`Net.product`.
    """
    plain = alpha == beta == 1
    y = _product(net, a, b, transpose_b=transpose_b, rounded=plain)
    if plain and net.dtype(y) == net.out.dtype:
        return net.add(y, base)
    y, base = net.wide(y), net.wide(base)
    y = y if alpha == 1 else net.mul(y, float(alpha))
    if beta != 0:
        y = net.add(y, base if beta == 1 else net.mul(base, float(beta)))
    return net.cast(y, net.out.dtype)
