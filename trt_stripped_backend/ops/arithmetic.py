"""Types and arithmetic: casts, promotion, and layers that work element by element.

Promotion lives here and broadcasting in :mod:`.shapes`, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ..flavour import trt
from ..sizes import Dim
from .network import HALF, ITensor, Scalar, Value, to_trt
from .reductions import Reductions
from .shapes import AnySize


class Arithmetic(Reductions):
    """Operands are cast and broadcast; strongly typed networks mean that every cast is explicit."""

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
        unrounded = self.fused.unrounded(value) if dtype == torch.float32 else None
        if unrounded is not None:
            return unrounded
        made = self._like(value, self.take(self.network.add_cast(value, to_trt(dtype))))
        if self.dtype(value) == torch.float32 and dtype in HALF:
            self.fused.round(value, made)
        return made

    def _like(self, x: ITensor, made: ITensor) -> ITensor:
        """Notes that a tensor has another's shape."""
        return self.keep(made, self.shape(x))

    def wide(self, value: ITensor) -> ITensor:
        """float16 and bfloat16 as float32: PyTorch's kernels compute in it and round once, and so must a converter
        that needs more than one layer of arithmetic. Cast back at the end."""
        return self.cast(value, torch.float32) if self.dtype(value) in HALF else value

    def factor(self, value: ITensor) -> ITensor:
        """float16 and bfloat16 as float32, for a product: by the casts to and from it RTX knows its fast kernels."""
        if self.dtype(value) not in HALF:
            return value
        return self._like(value, self.take(self.network.add_cast(value, to_trt(torch.float32))))

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

    def wrap_index(self, indices: ITensor, size: AnySize) -> ITensor:
        """Negative indices counted from the end, as PyTorch's indexing does and TensorRT's gather does not."""
        dtype = self.dtype(indices)
        return self.select(self.less(indices, 0), self.add(indices, size), indices, dtype)

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
        if dtype not in HALF:
            return dtype
        inexact = any(
            isinstance(v, Dim) or (not self.is_tensor(v) and float(torch.tensor(float(v), dtype=dtype)) != v)
            for v in values
        )
        return torch.float32 if inexact else dtype
