"""Products of matrices and softmaxes, as TensorRT gets them right."""

from __future__ import annotations

import math

import torch

from ..flavour import trt
from ..sizes import Dim, alike
from .arithmetic import Arithmetic
from .network import HALF, ITensor
from .reach import FEW_TERMS
from .reductions import SHORT_ROWS

#: Longest sum that is left to a tensor core where its rounding matters.
EXACT_TERMS = 256
#: Products that are worth writing out where TensorRT's kernel for them is not accurate.
FEW_PRODUCTS = 1 << 17


class Products(Arithmetic):
    """Sums of products, and the softmaxes between them."""

    def matmul(self, a: ITensor, b: ITensor, *, transpose_a: bool = False, transpose_b: bool = False) -> ITensor:
        """Batched matrix product of tensors of rank ≥ 2; batch dimensions broadcast. As TensorRT sums it."""
        a, b = self.broadcast(a, b)
        terms = self.shape(a)[-2 if transpose_a else -1]
        if not isinstance(terms, Dim) and terms == 1:  # RTX fails to build some graphs with sums of one term
            column, row = self.swap(a) if transpose_a else a, self.swap(b) if transpose_b else b
            return self.mul(column, row)
        if not isinstance(terms, Dim) and terms <= FEW_TERMS and self.read_again():
            b = self.copied(b)  # (a @ x * x).sum(-1): in such a kernel RTX 1.6.1 reads one row of x for all
        left, right = self.shape(a), self.shape(b)
        batch = self.joint(left[:-2], right[:-2])
        if batch and alike(batch, [1] * len(batch)) and all(any(isinstance(s, Dim) for s in t) for t in (left, right)):
            # In more than two dimensions RTX 1.6.1 takes wrong rows of (x @ x.mT).softmax(-1) @ x: 41 of 120.
            a, b = self.reshape(a, left[-2:]), self.reshape(b, right[-2:])
            y = self.matmul(a, b, transpose_a=transpose_a, transpose_b=transpose_b)
            return self.reshape(y, [*batch, *self.shape(y)])
        kind = trt.MatrixOperation
        layer = self.network.add_matrix_multiply(
            a, kind.TRANSPOSE if transpose_a else kind.NONE, b, kind.TRANSPOSE if transpose_b else kind.NONE
        )
        shape = [*batch, left[-1 if transpose_a else -2], right[-2 if transpose_b else -1]]
        made = self.fused.only(self.turns.forget(self.take(layer)), *["product", "whole"] * (self.dtype(a) in HALF))
        return self.keep(made, shape)

    def product(self, a: ITensor, b: ITensor, *, transpose_b: bool = False, rounded: bool = True) -> ITensor:
        """:meth:`matmul` summed in float32, as PyTorch sums it.

        A float16 product comes back as float32 if it is written out, or not to be ``rounded``. A layer's is rounded at
        once: with the cast right behind it RTX takes its fast kernels (ViT-B/16 of 8 images on an H200: 1.40 ms, and
        3.09 with a bias added in between).

        TensorRT sums float16 products in float16 (seen on RTX 1.6.1: relative error 1e-3 at 768 terms, 2e-3 at 3072,
        five to ten times PyTorch's), unless the operands are float32. More float32 arithmetic after the product has the
        same effect on a layer alone, and none in most models. Casts do not help the kernels for small products, nor
        those for a single row, so few products are written out; in float32 those of vectors, which RTX fails to build
        in some graphs.

        Float32 without TF32 is emulated by RTX on tensor cores, whose sums lose bits with each step: 5.6e-6 at 768
        terms. Shorter sums added up are closer.
        """
        dtype = self.dtype(a)
        ends = self.shape(a)[-2], self.shape(b)[-2 if transpose_b else -1]
        vector = any(not isinstance(size, Dim) and size == 1 for size in ends)
        if (vector or dtype != torch.float32) and self.few_products(a, b, transpose_b=transpose_b):
            return self.written_out(a, b, transpose_b=transpose_b)
        if dtype == torch.float32:
            return (self._in_pieces if self.exact_float32 else self.matmul)(a, b, transpose_b=transpose_b)
        if dtype == torch.float16 and not self.half_sums:
            a, b = self.factor(a), self.factor(b)
        y = self.matmul(a, b, transpose_b=transpose_b)
        return self.fused.mark(self.cast(y, dtype) if rounded else y, "product", "whole")

    def written_out(self, a: ITensor, b: ITensor, *, transpose_b: bool = False) -> ITensor:
        """:meth:`matmul` in float32, from elementwise products and their sums.

        Layers repeat rows and columns for each other, and not the product. Else RTX 1.6.1 makes wrong scores of a query
        in a step of generation, itself a sum that was rotated by its position, and takes the rows of
        ``einsum("bij,bkj->bik", x, x)`` for its columns.
        """
        a, b = self.broadcast(self.wide(a), self.wide(b if transpose_b else self.swap(b)))
        left, right = self.shape(a), self.shape(b)
        vectors = [dim for dim, shape in ((-2, left), (-1, right)) if shape[-2] == 1]
        if not vectors:  # with a dimension more, RTX fails to build some graphs of vectors
            a, b = self.unsqueeze(a, -2), self.unsqueeze(b, -3)
        joint = self.joint(self.shape(a), self.shape(b))
        y = self.reduce(trt.ReduceOperation.SUM, self.mul(self.expand(a, joint), self.expand(b, joint)), [-1])
        return self.unsqueeze(y, vectors[0]) if vectors else y

    def few_products(self, a: ITensor, b: ITensor, *, transpose_b: bool = False) -> bool:
        """Whether a product of half types is so small that it is written out, see :meth:`product`."""
        rank = max(len(a.shape), len(b.shape))
        left, right = ([1] * (rank - len(t.shape)) + self.shape(t) for t in (a, b))
        sizes = [*self.joint(left[:-2], right[:-2]), *left[-2:], right[-2 if transpose_b else -1]]
        if self.half_sums or any(isinstance(size, Dim) for size in sizes) or rank > 7:  # one less than TensorRT's most
            return False
        return bool(math.prod(sizes) <= FEW_PRODUCTS)

    def _in_pieces(self, a: ITensor, b: ITensor, *, transpose_b: bool) -> ITensor:
        terms, along = self.shape(a)[-1], -1 if transpose_b else -2
        if isinstance(terms, Dim):
            return self.matmul(a, b, transpose_b=transpose_b)
        total = None
        for start in range(0, max(terms, 1), EXACT_TERMS):
            length = min(EXACT_TERMS, terms - start)
            piece = self.matmul(
                self.narrow(a, -1, start, length), self.narrow(b, along, start, length), transpose_b=transpose_b
            )
            total = piece if total is None else self.add(total, piece)
        return total

    def softmax(self, x: ITensor, dim: int) -> ITensor:
        """Exponentials over their sum along a dimension.

        It is the last one for the layer. Along another, and followed by a reduction over the last, 149 of 1,119 small
        graphs were wrong (RTX 1.6.1), ``x.softmax(0).prod(-1)`` of shape [2, 6, 7] among them; so, none of 1,117 was.
        """
        size, rank = self.shape(x)[dim], len(x.shape)
        if dim % rank != rank - 1:
            order = [*(d for d in range(rank) if d != dim % rank), dim % rank]
            return self.permute(self.softmax(self.permute(x, order), -1), [order.index(d) for d in range(rank)])
        if not isinstance(size, Dim) and size == 1:  # RTX 1.6.1 fuses such a layer with products around it into NaN
            ones = self.unary(trt.UnaryOperation.EXP, self.sub(x, x))  # but NaN of what is not finite
            return self.turns.constant(ones)
        if not isinstance(size, Dim) and size in SHORT_ROWS:
            return self.narrow(self.softmax(self.lengthened(x, float("-inf")), -1), -1, 0, size)
        return self.with_more(int(rank > 1 and self.beyond()), x, self._softmax)

    def _softmax(self, x: ITensor) -> ITensor:
        layer = self.network.add_softmax(x)
        if layer is not None:
            layer.axes = 1 << (len(x.shape) - 1)
        return self._of_last(x, self._like(x, self.take(layer)))
