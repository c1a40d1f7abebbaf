"""Shapes: views, slices, concatenation, gathering. All sizes are known when the network is built."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ..flavour import trt
from .network import ITensor, Network


class Shapes(Network):
    """Layers that move elements and do not change them."""

    def reshape(self, x: ITensor, shape: Sequence[int]) -> ITensor:
        """``x`` with another shape of as many elements; one entry may be -1."""
        shape = [int(s) for s in shape]
        if -1 in shape:
            rest = math.prod(s for s in shape if s != -1)
            shape[shape.index(-1)] = math.prod(x.shape) // rest if rest else 0
        if tuple(shape) == tuple(x.shape):
            return x
        layer = self.network.add_shuffle(x)
        layer.zero_is_placeholder = False
        layer.reshape_dims = tuple(shape)
        return self.take(layer)

    def permute(self, x: ITensor, dims: Sequence[int]) -> ITensor:
        dims = [d % len(x.shape) for d in dims]
        if dims == list(range(len(dims))):
            return x
        layer = self.network.add_shuffle(x)
        layer.first_transpose = trt.Permutation(dims)
        return self.take(layer)

    def transpose(self, x: ITensor, dim0: int, dim1: int) -> ITensor:
        dims = list(range(len(x.shape)))
        dims[dim0], dims[dim1] = dims[dim1], dims[dim0]
        return self.permute(x, dims)

    def unsqueeze(self, x: ITensor, dim: int) -> ITensor:
        shape = list(x.shape)
        shape.insert(dim % (len(shape) + 1), 1)
        return self.reshape(x, shape)

    def squeeze(self, x: ITensor, dim: int) -> ITensor:
        shape = list(x.shape)
        del shape[dim % len(shape)]
        return self.reshape(x, shape)

    def expand(self, x: ITensor, shape: Sequence[int]) -> ITensor:
        """Broadcasts to ``shape``; -1 keeps a size."""
        lead = len(shape) - len(x.shape)
        x = self.reshape(x, [1] * lead + list(x.shape))
        sizes = [x.shape[i] if s == -1 else int(s) for i, s in enumerate(shape)]
        if sizes == list(x.shape):
            return x
        strides = [0 if x.shape[i] == 1 and s != 1 else 1 for i, s in enumerate(sizes)]
        return self.slice(x, [0] * len(sizes), sizes, strides)

    def slice(
        self,
        x: ITensor,
        start: Sequence[int],
        shape: Sequence[int],
        stride: Sequence[int],
        mode: Any = None,
        fill: Any = None,
    ) -> ITensor:
        """The elements ``start + i * stride`` for i below ``shape``. ``mode`` and ``fill`` say what lies outside."""
        layer = self.network.add_slice(x, tuple(start), tuple(shape), tuple(stride))
        if layer is not None and mode is not None:
            layer.mode = mode
            if fill is not None:
                layer.set_input(4, fill)
        return self.take(layer)

    def narrow(self, x: ITensor, dim: int, start: int, length: int, step: int = 1) -> ITensor:
        """``x[..., start : start + length * step : step, ...]`` along ``dim``."""
        dim %= len(x.shape)
        shape = list(x.shape)
        if start == 0 and step == 1 and length == shape[dim]:
            return x
        starts, steps = [0] * len(shape), [1] * len(shape)
        starts[dim], steps[dim], shape[dim] = start, step, length
        return self.slice(x, starts, shape, steps)

    def cat(self, values: Sequence[ITensor], dim: int) -> ITensor:
        if len(values) == 1:
            return values[0]
        layer = self.network.add_concatenation(list(values))
        if layer is not None:
            layer.axis = dim % len(values[0].shape)
        return self.take(layer)

    def gather(self, x: ITensor, indices: ITensor, dim: int) -> ITensor:
        """``x.index_select`` along ``dim`` with indices of any rank (≥ 0, already wrapped)."""
        return self.take(self.network.add_gather(x, indices, dim % len(x.shape)))
