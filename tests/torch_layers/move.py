"""Layers that move elements: shuffle, slice, concatenation, padding, gather, scatter and their like."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from trt_stripped_backend.ops.network import FLOAT, INT, from_trt

from .base import NUMERIC, Layer, Refused, dims_of, expect, ints, permutation, require, same

#: The largest k of TopK.
MAX_K = 3840


class Shuffle(Layer):
    first_transpose: Any = None
    reshape_dims: Any = None
    second_transpose: Any = None
    zero_is_placeholder = True

    def compute(self, x: torch.Tensor, dims: torch.Tensor | None = None) -> torch.Tensor:
        if self.first_transpose is not None:
            x = x.permute(permutation(self.first_transpose, x.ndim))
        wanted = self.reshape_dims if dims is None else dims
        if wanted is not None:
            shape = ints(wanted)
            if self.zero_is_placeholder:
                shape = [x.shape[d] if s == 0 else s for d, s in enumerate(shape)]
            require(shape.count(-1) <= 1 and min(shape, default=0) >= -1, f"reshape to {shape}")
            if -1 not in shape:
                require(torch.Size(shape).numel() == x.numel(), f"reshape of {tuple(x.shape)} to {shape}")
            x = x.reshape(shape)
        if self.second_transpose is not None:
            x = x.permute(permutation(self.second_transpose, x.ndim))
        return x


class Slice(Layer):
    start: Any = None
    shape: Any = None
    stride: Any = None
    mode: Any = None
    axes: Any = None

    def compute(
        self,
        x: torch.Tensor,
        start: Any = None,
        size: Any = None,
        stride: Any = None,
        fill: torch.Tensor | None = None,
        axes: Any = None,
    ) -> torch.Tensor:
        mode = "STRICT_BOUNDS" if self.mode is None else self.mode.name
        starts = ints(self.start if start is None else start)
        sizes = ints(self.shape if size is None else size)
        strides = ints(self.stride if stride is None else stride)
        given = axes if axes is not None else self.axes
        dims = list(range(x.ndim)) if given is None else [d % x.ndim for d in ints(given)]
        require(len(dims) == len(starts) == len(sizes) == len(strides), "start, shape and stride need the input's rank")
        require(fill is None or mode == "FILL", "a fill value needs the mode FILL")
        if fill is not None:
            require(fill.dtype == x.dtype and fill.numel() == 1, f"the fill value must be one {x.dtype}")
        outside = torch.zeros((), dtype=torch.bool)
        for position, dim in enumerate(dims):
            at = starts[position] + torch.arange(sizes[position]) * strides[position]
            length = x.shape[dim]
            off = (at < 0) | (at >= length)
            outside = outside | off.reshape([-1] + [1] * (x.ndim - dim - 1))
            x = x.index_select(dim, self._bring_in(at, off, length, mode))
        if mode == "FILL":
            x = torch.where(outside, torch.zeros((), dtype=x.dtype) if fill is None else fill.reshape(()), x)
        return x

    @staticmethod
    def _bring_in(at: torch.Tensor, off: torch.Tensor, length: int, mode: str) -> torch.Tensor:
        if not off.any():
            return at
        require(mode != "STRICT_BOUNDS", f"a slice reaches {at[off].tolist()} in a dimension of size {length}")
        require(length > 0, f"a slice of an empty dimension in mode {mode}")
        if mode == "WRAP":
            return at.remainder(length)
        if mode == "REFLECT":
            period = max(2 * (length - 1), 1)
            folded = at.remainder(period)
            return torch.minimum(folded, period - folded) if length > 1 else torch.zeros_like(at)
        return at.clamp(0, length - 1)  # CLAMP, and FILL before its value is put in


class Concatenation(Layer):
    axis: Any = None

    def compute(self, *inputs: torch.Tensor) -> torch.Tensor:
        same(inputs, "the inputs of a concatenation")
        rank = inputs[0].ndim
        require(rank > 0, "a concatenation of 0-d tensors")
        axis = max(rank - 3, 0) if self.axis is None else self.axis
        require(0 <= axis < rank, f"axis {axis} of a concatenation of rank {rank}")
        rest = {tuple(s for d, s in enumerate(t.shape) if d != axis) for t in inputs}
        require(len(rest) == 1, f"a concatenation of {[tuple(t.shape) for t in inputs]} along {axis}")
        return torch.cat(inputs, axis)


class Padding(Layer):
    """Zeros around the two innermost dimensions; a negative size trims."""

    pre_padding_nd: Any = None
    post_padding_nd: Any = None

    def compute(self, x: torch.Tensor) -> torch.Tensor:
        pre, post = ints(self.pre_padding_nd), ints(self.post_padding_nd)
        require(len(pre) == len(post) == 2, "padding is two-dimensional")
        expect(x, FLOAT, "the input of a padding")
        return F.pad(x, (pre[1], post[1], pre[0], post[0]))


class Squeeze(Layer):
    def compute(self, x: torch.Tensor, axes: torch.Tensor) -> torch.Tensor:
        dims = [d % x.ndim for d in ints(axes)]
        require(len(set(dims)) == len(dims) and all(x.shape[d] == 1 for d in dims), f"squeeze of dimensions {dims}")
        return x.reshape([s for d, s in enumerate(x.shape) if d not in dims])


class Unsqueeze(Layer):
    def compute(self, x: torch.Tensor, axes: torch.Tensor) -> torch.Tensor:
        rank = x.ndim + axes.numel()
        dims = sorted(d % rank for d in ints(axes))
        require(len(set(dims)) == len(dims), f"unsqueeze of dimensions {dims}")
        shape = list(x.shape)
        for dim in dims:
            shape.insert(dim, 1)
        return x.reshape(shape)


class Shape(Layer):
    def compute(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tensor(x.shape, dtype=torch.int64)


class Gather(Layer):
    axis: Any = None
    mode: Any = None
    num_elementwise_dims = 0

    def compute(self, data: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        expect(indices, INT, "the indices of a gather")
        mode = "DEFAULT" if self.mode is None else self.mode.name
        if mode == "ND":
            return self._nd(data, indices.long())
        axis = 0 if self.axis is None else self.axis
        require(self.num_elementwise_dims <= axis < data.ndim, f"axis {axis} of a gather from rank {data.ndim}")
        _inside(indices, data.shape[axis])
        if mode == "ELEMENT":
            require(indices.ndim == data.ndim, "a gather of elements needs indices of the data's rank")
            return data.gather(axis, indices.long())
        if self.num_elementwise_dims == 0:
            out = data.index_select(axis, indices.reshape(-1).long())
            return out.reshape(data.shape[:axis] + indices.shape + data.shape[axis + 1 :])
        require(self.num_elementwise_dims == 1 and data.shape[0] == indices.shape[0], "one elementwise dimension")
        rows = [d.index_select(axis - 1, i.reshape(-1).long()) for d, i in zip(data, indices, strict=True)]
        return torch.stack(rows).reshape(data.shape[:axis] + indices.shape[1:] + data.shape[axis + 1 :])

    def _nd(self, data: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        lead, depth = self.num_elementwise_dims, indices.shape[-1]
        require(lead < data.ndim and lead + depth <= data.ndim, f"indices of depth {depth} into rank {data.ndim}")
        require(data.shape[:lead] == indices.shape[:lead], "elementwise dimensions of a gather must be equal")
        for position in range(depth):
            _inside(indices[..., position], data.shape[lead + position])
        ranges = [torch.arange(s) for s in data.shape[:lead]]
        grids = torch.meshgrid(*ranges, indexing="ij") if lead else ()
        extra = indices.ndim - 1 - lead
        batch = tuple(g.reshape(g.shape + (1,) * extra) for g in grids)
        return data[batch + indices.unbind(-1)]


class Scatter(Layer):
    axis: Any = None
    mode: Any = None

    def compute(self, data: torch.Tensor, indices: torch.Tensor, updates: torch.Tensor) -> torch.Tensor:
        expect(indices, INT, "the indices of a scatter")
        require(data.dtype == updates.dtype, f"a scatter of {updates.dtype} into {data.dtype}")
        out, indices = data.clone(), indices.long()
        if self.mode.name == "ELEMENT":
            axis = 0 if self.axis is None else self.axis
            require(0 <= axis < data.ndim, f"axis {axis} of a scatter into rank {data.ndim}")
            require(indices.shape == updates.shape and indices.ndim == data.ndim, "elements are scattered by one shape")
            _inside(indices, data.shape[axis])
            return out.scatter_(axis, indices, updates)
        depth = indices.shape[-1]
        require(depth <= data.ndim, f"indices of depth {depth} into rank {data.ndim}")
        require(updates.shape == indices.shape[:-1] + data.shape[depth:], f"updates {tuple(updates.shape)}")
        for position in range(depth):
            _inside(indices[..., position], data.shape[position])
        out[indices.unbind(-1)] = updates
        return out


class OneHot(Layer):
    axis: Any = None

    def compute(self, indices: torch.Tensor, values: torch.Tensor, depth: torch.Tensor) -> torch.Tensor:
        expect(indices, INT, "the indices of a one-hot")
        require(tuple(values.shape) == (2,) and depth.ndim == 0, "values [off, on] and a 0-d depth")
        axis = self.axis % (indices.ndim + 1)
        place = torch.arange(int(depth)).reshape([-1] + [1] * (indices.ndim - axis))
        return torch.where(indices.unsqueeze(axis) == place, values[1], values[0])


class TopK(Layer):
    op: Any = None
    k = 0
    axes = 0
    indices_type: Any = None

    def compute(self, x: torch.Tensor, k: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        expect(x, NUMERIC, "the input of a TopK")
        dims = dims_of(self.axes, x.ndim)
        count = self.k if k is None else int(k)
        require(len(dims) == 1 and dims[0] >= x.ndim - 4, f"TopK over dimensions {dims} of rank {x.ndim}")
        require(0 < count <= min(MAX_K, x.shape[dims[0]]), f"k = {count} in a dimension of size {x.shape[dims[0]]}")
        order = torch.sort(x, dim=dims[0], descending=self.op.name == "MAX", stable=True)
        dtype = torch.int32 if self.indices_type is None else from_trt(self.indices_type)
        return order.values.narrow(dims[0], 0, count), order.indices.narrow(dims[0], 0, count).to(dtype)


class Cumulative(Layer):
    op: Any = None
    exclusive = False
    reverse = False

    def compute(self, x: torch.Tensor, axis: torch.Tensor) -> torch.Tensor:
        expect(x, NUMERIC, "the input of a cumulative layer")
        require(axis.ndim == 0 and axis.dtype in INT, "the axis is a 0-d integer")
        dim = int(axis)
        if not 0 <= dim < x.ndim:
            raise Refused(f"axis {dim} of rank {x.ndim}")
        turned = x.flip(dim) if self.reverse else x
        wide = turned.float() if x.dtype in FLOAT else turned
        out = wide.cumsum(dim, dtype=wide.dtype)
        if self.exclusive:
            out = out - wide
        return (out.flip(dim) if self.reverse else out).to(x.dtype)


def _inside(indices: torch.Tensor, size: int) -> None:
    """Neither negative nor too large: what TensorRT reads there is not PyTorch's."""
    if indices.numel():
        low, high = int(indices.min()), int(indices.max())
        require(low >= 0 and high < size, f"indices from {low} to {high} in a dimension of size {size}")
