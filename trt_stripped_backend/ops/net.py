"""What converters are written in: inputs and slots, casts, promotion, broadcasting, arithmetic.

Promotion lives here and broadcasting in :mod:`.shapes`, and nowhere else. A converter takes ``ITensor`` values and
Python scalars, and returns ``ITensor`` values; strongly typed networks mean that every cast is explicit.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from ..errors import Unsupported
from ..flavour import messages, trt
from ..kernel_layout import kernel_format
from ..sizes import Dim, dim, dynamic, may_be
from ..types import Slot, TensorSpec
from .network import BOOL, DTYPES, FLOAT, INT, ITensor, Scalar, Value, to_trt
from .reach import FEW_TERMS
from .reductions import SHORT_ROWS, Reductions
from .shapes import AnySize

__all__ = ["BOOL", "DTYPES", "EXACT_TERMS", "FLOAT", "INT", "AnySize", "Dim", "ITensor", "Net", "Scalar", "Value"]

#: Longest sum that is left to a tensor core where its rounding matters.
EXACT_TERMS = 256
#: Products that are worth writing out where TensorRT's kernel for them is not accurate.
FEW_PRODUCTS = 1 << 17


class Net(Reductions):
    """The only wrapper of ``INetworkDefinition`` that converters see."""

    # ---------------------------------------------------------------- inputs, slots, outputs

    def input(self, name: str, spec: TensorSpec) -> ITensor:
        """An engine input in memory order, permuted to the order that PyTorch sees."""
        shape = tuple(s if isinstance(s, int) else -1 for s in spec.physical)
        tensor = self.network.add_input(name, to_trt(spec.dtype), shape)
        if tensor is None:
            raise Unsupported(f"TensorRT refused input {name} {spec}: {messages.text()}")
        for axis, size in enumerate(spec.physical):
            if isinstance(size, str):
                self.tell(size, tensor, axis)
        self.keep(tensor, [dim(s, self.ranges) for s in spec.physical])
        return self._logical(tensor, spec)

    def size_input(self, symbol: str) -> None:
        """An engine input that tells a size by its shape; nobody reads its elements."""
        tensor = self.network.add_input(symbol, trt.DataType.BOOL, (-1,))
        if tensor is None:
            raise Unsupported(f"TensorRT refused an input for the size {symbol}: {messages.text()}")
        self.tell(symbol, tensor, 0)

    def slot(self, slot: Slot) -> ITensor:
        """The weight of a slot: an input when bound, else a named constant."""
        if self.bound:
            return self._kernel(slot) if slot.kernel and self.flavour.is_rtx else self.input(slot.name, slot.spec)
        spec, value = slot.spec, self.values.get(slot.name)
        if value is not None:
            weights = self._weights(value, spec.dtype)
        elif self.flavour.null_placeholders:
            weights = trt.Weights(to_trt(spec.dtype), 0, spec.numel)
        else:
            # NumPy's zeros are mapped, not written (PyTorch's are written), so this takes address space and no memory;
            # never the same pointer twice, because set_weights_name tells weights apart by it.
            zeros = torch.from_numpy(np.zeros(spec.nbytes, np.uint8)).view(spec.dtype)
            weights = self._weights(zeros, spec.dtype)
        layer = self.network.add_constant(spec.physical, weights)
        if layer is None:
            raise Unsupported(f"TensorRT refused weight {slot.name} {spec}: {messages.text()}")
        self._name_weights(layer, slot.name)
        if self.mark and not self.network.mark_weights_refittable(slot.name):
            raise Unsupported(f"TensorRT cannot refit weight {slot.name} {spec}: {messages.text()}")
        made = self._take(layer, slot.name)
        self._stored.add(made.name)
        return self._logical(made, spec)

    def _kernel(self, slot: Slot) -> ITensor:
        """The kernel of a convolution as an engine input in the layout of TensorRT's own kernels."""
        tensor = self.network.add_input(slot.name, to_trt(slot.spec.dtype), slot.spec.shape)
        if tensor is None:
            raise Unsupported(f"TensorRT refused kernel {slot.name} {slot.spec}: {messages.text()}")
        tensor.allowed_formats = 1 << int(getattr(trt.TensorFormat, kernel_format(slot.spec.dtype)))
        return self.keep(tensor, list(slot.spec.shape))

    def output(self, value: ITensor, name: str, spec: TensorSpec) -> None:
        """Marks an engine output, written in the memory order of ``spec``."""
        tensor = self.cast(value, spec.dtype)
        have = self.shape(tensor)
        if not may_be(have, [dim(s, self.ranges) for s in spec.shape]):
            raise Unsupported(f"output {name} has shape {have} in TensorRT, {list(spec.shape)} in PyTorch")
        tensor = self.permute(tensor, spec.order)
        # An input, a constant or a tensor that is an output already cannot be marked: give it a layer of its own.
        tensor = self.take(self.network.add_identity(tensor))
        tensor.name = name
        self.network.mark_output(tensor)

    def _logical(self, tensor: ITensor, spec: TensorSpec) -> ITensor:
        return self.permute(tensor, [spec.order.index(d) for d in range(len(spec.order))])

    # ---------------------------------------------------------------- dtypes

    def result_type(self, *values: Value) -> torch.dtype:
        """PyTorch's promotion of tensors (by rank), 0-d tensors and scalars (``torch.result_type``)."""

        def stand_in(value: Value) -> Any:
            if not self.is_tensor(value):
                return 1 if isinstance(value, Dim) else value
            return torch.empty((0,) if len(value.shape) else (), dtype=self.dtype(value), device="meta")

        stand_ins = [stand_in(v) for v in values]
        result = stand_ins[0]
        for other in stand_ins[1:]:
            both = torch.result_type(result, other)
            dimension = any(isinstance(s, torch.Tensor) and s.ndim for s in (result, other))
            result = torch.empty((0,) if dimension else (), dtype=both, device="meta")
        return result.dtype if isinstance(result, torch.Tensor) else self.dtype(result)

    def cast(self, value: Value, dtype: torch.dtype) -> ITensor:
        """A tensor of this dtype; a scalar becomes a literal. As in PyTorch, one that is too large wraps or is
        infinite, and float to bool is ``!= 0``."""
        if isinstance(value, Dim):
            return self.cast(self.reshape(self.size(value.size), []), dtype)
        if not self.is_tensor(value):
            widest = torch.float64 if isinstance(value, float) else None
            return self.constant(torch.tensor(value, dtype=widest).to(dtype))
        if self.dtype(value) == dtype:
            return value
        if dtype == torch.bool:
            zero = self.constant(torch.zeros([1] * len(value.shape), dtype=self.dtype(value)))
            return self.logical_not(
                self.take(self.network.add_elementwise(value, zero, trt.ElementWiseOperation.EQUAL))
            )
        return self._like(value, self.take(self.network.add_cast(value, to_trt(dtype))))

    def _like(self, x: ITensor, made: ITensor) -> ITensor:
        """Notes that a tensor has another's shape."""
        return self.keep(made, self.shape(x))

    def wide(self, value: ITensor) -> ITensor:
        """float16 and bfloat16 as float32: PyTorch's kernels compute in it and round once, and so must a converter
        that needs more than one layer of arithmetic. Cast back at the end."""
        return self.cast(value, torch.float32) if self.dtype(value) in (torch.float16, torch.bfloat16) else value

    # ---------------------------------------------------------------- arithmetic

    def binary(self, kind: Any, a: Value, b: Value, dtype: torch.dtype | None = None) -> ITensor:
        """An elementwise layer on operands cast to ``dtype`` (default: their promoted type) and broadcast."""
        dtype = dtype or self.result_type(a, b)
        left, right = self.operands(self.cast(a, dtype), self.cast(b, dtype))
        made = self.take(self.network.add_elementwise(left, right, kind))
        return self.keep(made, self.joint(self.shape(left), self.shape(right)))

    def add(self, a: Value, b: Value) -> ITensor:
        return self.binary(trt.ElementWiseOperation.SUM, a, b)

    def sub(self, a: Value, b: Value) -> ITensor:
        return self.binary(trt.ElementWiseOperation.SUB, a, b)

    def mul(self, a: Value, b: Value) -> ITensor:
        return self.binary(trt.ElementWiseOperation.PROD, a, b)

    def div(self, a: Value, b: Value) -> ITensor:
        return self.binary(trt.ElementWiseOperation.DIV, a, b)

    def pow(self, a: Value, b: Value) -> ITensor:
        return self.binary(trt.ElementWiseOperation.POW, a, b)

    def maximum(self, a: Value, b: Value) -> ITensor:
        return self.binary(trt.ElementWiseOperation.MAX, a, b)

    def minimum(self, a: Value, b: Value) -> ITensor:
        return self.binary(trt.ElementWiseOperation.MIN, a, b)

    def equal(self, a: Value, b: Value) -> ITensor:
        return self.binary(trt.ElementWiseOperation.EQUAL, a, b)

    def greater(self, a: Value, b: Value) -> ITensor:
        return self.binary(trt.ElementWiseOperation.GREATER, a, b)

    def less(self, a: Value, b: Value) -> ITensor:
        return self.binary(trt.ElementWiseOperation.LESS, a, b)

    def logical_and(self, a: Value, b: Value) -> ITensor:
        return self._combined(trt.ElementWiseOperation.AND, False, a, b)

    def logical_or(self, a: Value, b: Value) -> ITensor:
        return self._combined(trt.ElementWiseOperation.OR, True, a, b)

    def _combined(self, kind: Any, decides: bool, a: Value, b: Value) -> ITensor:
        left, right = self.cast(a, torch.bool), self.cast(b, torch.bool)
        if any(set(self.literal_bytes(v)) == {decides} for v in (left, right)):  # RTX 1.6 does not build such a layer
            return self.full(self.joint(*map(self.shape, self.broadcast(left, right))), decides, torch.bool)
        return self.binary(kind, left, right)

    def logical_not(self, a: Value) -> ITensor:
        return self.unary(trt.UnaryOperation.NOT, self.cast(a, torch.bool))

    def unary(self, kind: Any, x: ITensor) -> ITensor:
        """A unary layer; TensorRT has none for 0-d tensors, which pass as one element."""
        if not len(x.shape):
            return self.reshape(self.unary(kind, self.reshape(x, [1])), [])
        return self._like(x, self.take(self.network.add_unary(x, kind)))

    def activation(self, kind: Any, x: ITensor, alpha: float | None = None, beta: float | None = None) -> ITensor:
        if not len(x.shape):
            return self.reshape(self.activation(kind, self.reshape(x, [1]), alpha, beta), [])
        layer = self.network.add_activation(x, kind)
        if layer is not None and alpha is not None:
            layer.alpha = alpha
        if layer is not None and beta is not None:
            layer.beta = beta
        return self._like(x, self.take(layer))

    def sqrt(self, x: ITensor) -> ITensor:
        return self.unary(trt.UnaryOperation.SQRT, x)

    def reciprocal(self, x: ITensor) -> ITensor:
        return self.unary(trt.UnaryOperation.RECIP, x)

    def select(self, condition: ITensor, a: Value, b: Value, dtype: torch.dtype | None = None) -> ITensor:
        """``where(condition, a, b)`` with promotion and broadcasting."""
        dtype = dtype or self.result_type(a, b)
        c, left, right = self.operands(self.cast(condition, torch.bool), self.cast(a, dtype), self.cast(b, dtype))
        if dtype == torch.bool:  # RTX does not build a select between constant bools
            return self.logical_or(self.logical_and(c, left), self.logical_and(self.logical_not(c), right))
        if c.name in self._reshaped and self.is_tensor(a) and self.is_tensor(b):
            # RTX (1.6, 1.7) drops a select between equal values, and crashes if that leaves a reshape without a use.
            c = self.logical_and(c, c)
        made = self.take(self.network.add_select(c, left, right))
        return self.keep(made, self.joint(*map(self.shape, (c, left, right))))

    def matmul(self, a: ITensor, b: ITensor, *, transpose_a: bool = False, transpose_b: bool = False) -> ITensor:
        """Batched matrix product of tensors of rank ≥ 2; batch dimensions broadcast. As TensorRT sums it."""
        a, b = self.broadcast(a, b)
        terms = self.shape(a)[-2 if transpose_a else -1]
        if not isinstance(terms, Dim) and terms == 1:  # RTX fails to build some graphs with sums of one term
            column, row = self.swap(a) if transpose_a else a, self.swap(b) if transpose_b else b
            return self.mul(column, row)
        if not isinstance(terms, Dim) and terms <= FEW_TERMS and self.read_again():
            b = self.copied(b)  # (a @ x * x).sum(-1): in such a kernel RTX 1.6.1 reads one row of x for all
        kind = trt.MatrixOperation
        layer = self.network.add_matrix_multiply(
            a, kind.TRANSPOSE if transpose_a else kind.NONE, b, kind.TRANSPOSE if transpose_b else kind.NONE
        )
        left, right = self.shape(a), self.shape(b)
        shape = [*self.joint(left[:-2], right[:-2]), left[-1 if transpose_a else -2], right[-2 if transpose_b else -1]]
        return self.keep(self.turns.forget(self.take(layer)), shape)

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
            a, b = self.wide(a), self.wide(b)
        y = self.matmul(a, b, transpose_b=transpose_b)
        return self.cast(y, dtype) if rounded else y

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
        return self._like(x, self.take(layer))

    def wrap_index(self, indices: ITensor, size: AnySize) -> ITensor:
        """Negative indices counted from the end, as PyTorch's indexing does and TensorRT's gather does not."""
        dtype = self.dtype(indices)
        return self.select(self.less(indices, 0), self.add(indices, size), indices, dtype)

    # ---------------------------------------------------------------- of one element, with care

    def isnan(self, x: ITensor) -> ITensor:
        """Where a float tensor is NaN, as bool. TensorRT 10.0 has no such layer: there, what differs from itself."""
        if hasattr(trt.UnaryOperation, "ISNAN"):
            return self.unary(trt.UnaryOperation.ISNAN, x)
        return self.logical_not(self.equal(x, x))

    def full(self, shape: Sequence[AnySize], value: Scalar | Dim, dtype: torch.dtype) -> ITensor:
        """A tensor of one value: a literal of one element, broadcast by a layer, so that the plan stays small."""
        return self.expand(self.cast(value, dtype), shape)

    def opmath(self, dtype: torch.dtype, *values: Value) -> torch.dtype:
        """The type to compute one operation in whose result is ``dtype``: float32 where a Python scalar is not exact
        in float16 or bfloat16, because PyTorch's GPU kernels do not round scalars to the tensor's type."""
        if dtype not in (torch.float16, torch.bfloat16):
            return dtype
        inexact = any(
            isinstance(v, Dim) or (not self.is_tensor(v) and float(torch.tensor(float(v), dtype=dtype)) != v)
            for v in values
        )
        return torch.float32 if inexact else dtype

    @staticmethod
    def not_empty(**arguments: Any) -> Iterator[str]:
        """A check for ``unless``: no tensor of the call may lack elements."""
        if any(isinstance(a, torch.Tensor) and a.numel() == 0 for a in arguments.values()):
            yield "an empty tensor"

    @staticmethod
    def fixed_sizes(**arguments: Any) -> Iterator[str]:
        """A check for ``unless``: the converter reads all sizes as numbers when the engine is built."""
        given = [one for a in arguments.values() for one in (a if isinstance(a, (list, tuple)) else [a])]
        sizes = [s for one in given for s in (one.shape if isinstance(one, torch.Tensor) else [one])]
        if any(dynamic(s) for s in sizes):
            yield "a dynamic size: this operator is converted for fixed ones"

    @staticmethod
    def fixed_along(x: torch.Tensor, *dims: int, numbers: Sequence[Any] = ()) -> Generator[str, None, bool]:
        """Reasons against a call whose converter reads the sizes of these dimensions, and these numbers; returns
        whether there are none."""
        fixed = not any(map(dynamic, (*numbers, *(x.shape[d] for d in dims if x.ndim))))
        if not fixed:
            yield "a dynamic size along the dimension that it works on"
        return fixed
