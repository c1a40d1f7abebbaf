"""Shapes: views, slices, concatenation, gathering; and sizes that only a call tells, computed inside the engine."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import torch

from ..flavour import trt
from ..sizes import UNBOUNDED, Dim, Size, alike, dim
from .network import FLOAT, ITensor, Network

#: One size of a shape: an int, or a :class:`~..sizes.Dim`.
AnySize = Any


class Shapes(Network):
    """Layers that move elements and do not change them."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._shapes: dict[str, list[AnySize]] = {}  # of tensors with dynamic sizes, by tensor name
        self._told: dict[str, tuple[ITensor, int]] = {}  # symbol → the tensor and the dimension that tell it
        self._sizes: dict[Size, ITensor] = {}
        self._reshaped: set[str] = set()  # tensors that a layer gave another shape, by tensor name
        self._once: dict[str, ITensor] = {}  # what `once` made, by tensor name
        self._stored: set[str] = set()  # that, and views of what lies in memory, by tensor name

    # ---------------------------------------------------------------- sizes

    def shape(self, x: ITensor) -> list[Any]:
        """The sizes of a tensor: numbers, and expressions for what only a call tells."""
        known = self._shapes.get(x.name)
        if known is None:
            known = list(x.shape)
            if -1 in known:
                known = [self._unknown(x, d) if size == -1 else size for d, size in enumerate(known)]
                self._shapes[x.name] = known
        return list(known)

    def tell(self, symbol: str, tensor: ITensor, dim: int) -> None:
        """Says that a dimension of a tensor has the value of a symbol."""
        self._told[symbol] = tensor, dim

    def keep(self, x: ITensor, shape: Sequence[AnySize]) -> ITensor:
        """Notes the sizes of a tensor where TensorRT would not say which of them are equal."""
        if any(isinstance(s, Dim) for s in shape):
            self._shapes[x.name] = list(shape)
        return x

    def _unknown(self, x: ITensor, axis: int) -> AnySize:
        symbol = f"{x.name}[{axis}]"
        self.ranges[symbol] = 0, UNBOUNDED
        self.tell(symbol, x, axis)
        return dim(symbol, self.ranges)

    def size(self, value: Size) -> ITensor:
        """A size as an int64 tensor of shape [1]."""
        if value not in self._sizes:
            self._sizes[value] = self._computed(value)
        return self._sizes[value]

    def _computed(self, value: Size) -> ITensor:
        if isinstance(value, int):
            return self.constant([value], torch.int64)
        if isinstance(value, str):
            tensor, axis = self._told[value]
            whole = self.take(self.network.add_shape(tensor))
            return self.take(self.network.add_slice(whole, (axis,), (1,), (1,)))
        kind = trt.ElementWiseOperation
        operations = {"add": kind.SUM, "mul": kind.PROD, "floordiv": kind.FLOOR_DIV, "max": kind.MAX, "min": kind.MIN}

        def combined(name: str, a: ITensor, b: ITensor) -> ITensor:
            if name == "mod":
                return combined("add", a, combined("mul", combined("mul", combined("floordiv", a, b), b), minus_one))
            return self.take(self.network.add_elementwise(a, b, operations[name]))

        minus_one = self.constant([-1], torch.int64)
        return functools.reduce(functools.partial(combined, value[0]), map(self.size, value[1:]))

    def shape_tensor(self, sizes: Sequence[AnySize]) -> ITensor:
        """Sizes as one int64 tensor."""
        parts: list[ITensor] = []
        run: list[int] = []
        for one in sizes:
            if isinstance(one, Dim):
                parts += [self.constant(run, torch.int64)] if run else []
                parts.append(self.size(one.size))
                run = []
            else:
                run.append(int(one))
        parts += [self.constant(run, torch.int64)] if run or not parts else []
        return self.cat(parts, 0)

    # ---------------------------------------------------------------- views

    def reshape(self, x: ITensor, shape: Sequence[AnySize]) -> ITensor:
        """``x`` with another shape of as many elements; one entry may be -1."""
        shape, have = list(shape), self.shape(x)
        free = [i for i, s in enumerate(shape) if not isinstance(s, Dim) and s == -1]
        if free:
            rest = math.prod(s for i, s in enumerate(shape) if i != free[0])
            shape[free[0]] = math.prod(have) // rest if isinstance(rest, Dim) or rest else 0
        if alike(shape, have):
            return x
        layer = self.network.add_shuffle(x)
        layer.zero_is_placeholder = False
        dynamic = sum(isinstance(s, Dim) for s in shape)
        if dynamic <= 1 and not (dynamic and 0 in [s for s in shape if not isinstance(s, Dim)]):
            layer.reshape_dims = tuple(-1 if isinstance(s, Dim) else int(s) for s in shape)
        else:
            layer.set_input(1, self.shape_tensor(shape))
        made = self.take(layer)
        self.turns.view(x, made)
        self.fused.view(x, made, lambda y: self.reshape(y, shape))
        self._reshaped.add(made.name)
        if self._is_stored(x):
            self._stored.add(made.name)
        if x.name in self._raw:
            self._raw[made.name] = self._raw[x.name]
        return self.keep(made, shape)

    def view(self, x: ITensor, shape: Sequence[AnySize]) -> ITensor:
        """:meth:`reshape` for an operator: what is made of a reduction over a dynamic size in one shape gets another.

        Of ``x.flatten(0, 1).softmax(-1).view_as(x)`` of shape [7, 8, s] RTX 1.6.1 writes the first of 8 alone: 13 of
        168 such graphs were wrong. With the rows in memory 0 of 255 were.
        """
        kept, wanted = ([s for s in sizes if isinstance(s, Dim) or s != 1] for sizes in (self.shape(x), shape))
        if alike(kept, wanted):
            return self.reshape(x, shape)
        return self.fused.mark(self.reshape(self.copied(x) if self.fused.has(x, "rows") else x, shape), "view")

    def permute(self, x: ITensor, dims: Sequence[int]) -> ITensor:
        dims = [d % len(x.shape) for d in dims]
        if dims == list(range(len(dims))):
            return x
        sizes = self.shape(x)
        large = [d for d in dims if isinstance(sizes[d], Dim) or sizes[d] != 1]
        if large == sorted(large):  # nothing moves, and RTX fails to build some graphs with such a transposition
            return self.reshape(x, [sizes[d] for d in dims])
        if len(large) < len(dims) and large[-1] != max(large):
            # RTX 1.6.1 sorts x.transpose(-1, -2) of shape [1, 7, 6] wrongly, and rightly without the 1.
            rest = sorted(large)
            turned = self.permute(self.reshape(x, [sizes[d] for d in rest]), [rest.index(d) for d in large])
            return self.reshape(turned, [sizes[d] for d in dims])
        layer = self.network.add_shuffle(x)
        layer.first_transpose = trt.Permutation(dims)
        made = self.take(layer)
        self.turns.turn(x, dims, made)
        self.fused.view(x, made, lambda y: self.permute(y, dims))
        if self._is_stored(x):
            self._stored.add(made.name)
        return self.keep(made, [sizes[d] for d in dims])

    def transpose(self, x: ITensor, dim0: int, dim1: int) -> ITensor:
        dims = list(range(len(x.shape)))
        dims[dim0], dims[dim1] = dims[dim1], dims[dim0]
        return self.permute(x, dims)

    def swap(self, x: ITensor) -> ITensor:
        """The last two dimensions, one for the other."""
        return self.permute(x, [*range(len(x.shape) - 2), -1, -2])

    def unsqueeze(self, x: ITensor, dim: int) -> ITensor:
        shape = self.shape(x)
        shape.insert(dim % (len(shape) + 1), 1)
        return self.reshape(x, shape)

    def squeeze(self, x: ITensor, dim: int) -> ITensor:
        shape = self.shape(x)
        del shape[dim % len(shape)]
        return self.reshape(x, shape)

    def expand(self, x: ITensor, shape: Sequence[AnySize]) -> ITensor:
        """Broadcasts to ``shape``; -1 keeps a size."""
        lead = len(shape) - len(x.shape)
        x = self.reshape(x, [1] * lead + self.shape(x))
        have = self.shape(x)
        sizes = [h if not isinstance(s, Dim) and s == -1 else s for h, s in zip(have, shape, strict=True)]
        if alike(sizes, have):
            return x
        single = [not isinstance(h, Dim) and h == 1 for h in have]
        strides = [0 if one and not alike([s], [1]) else 1 for one, s in zip(single, sizes, strict=True)]
        return self.slice(x, [0] * len(sizes), sizes, strides)

    def broadcast(self, *values: ITensor) -> list[ITensor]:
        """Equal ranks, by leading dimensions of size 1: the rest of broadcasting is TensorRT's own."""
        rank = max(len(v.shape) for v in values)
        return [
            v if len(v.shape) == rank else self.reshape(v, [1] * (rank - len(v.shape)) + self.shape(v)) for v in values
        ]

    def operands(self, *values: ITensor) -> list[ITensor]:
        """:meth:`broadcast` for a layer that works element by element: see :class:`Turns` for what a layer repeats."""
        operands = self.broadcast(*values)
        shapes = [self.shape(v) for v in operands]
        joint = self.joint(*shapes)
        for index, shape in enumerate(shapes):
            singles = [not isinstance(size, Dim) and size == 1 for size in shape]
            fixed = alike(shape, joint) or all(singles) or operands[index].name in self._raw
            if not fixed and self.turns.elsewhere(operands[index], singles):
                operands[index] = self.expand(operands[index], joint)
        return operands

    def joint(self, *shapes: Sequence[AnySize]) -> list[AnySize]:
        """The shape that shapes of equal rank broadcast to: of each dimension, what is not the number 1."""
        return [next((s for s in sizes if isinstance(s, Dim) or s != 1), 1) for sizes in zip(*shapes, strict=True)]

    def slice(
        self,
        x: ITensor,
        start: Sequence[AnySize],
        shape: Sequence[AnySize],
        stride: Sequence[int],
        mode: Any = None,
        fill: Any = None,
    ) -> ITensor:
        """The elements ``start + i * stride`` for i below ``shape``. ``mode`` and ``fill`` say what lies outside."""
        fixed = [tuple(0 if isinstance(s, Dim) else s for s in part) for part in (start, shape)]
        layer = self.network.add_slice(x, *fixed, tuple(stride))
        for index, part in enumerate((start, shape), 1):
            if layer is not None and any(isinstance(s, Dim) for s in part):
                layer.set_input(index, self.shape_tensor(part))
        if layer is not None and mode is not None:
            layer.mode = mode
            if fill is not None:
                layer.set_input(4, fill)
        return self.keep(self.take(layer), shape)

    def narrow(self, x: ITensor, dim: int, start: AnySize, length: AnySize, step: int = 1) -> ITensor:
        """``x[..., start : start + length * step : step, ...]`` along ``dim``.

        One element that is repeated beside others is gathered: in a reduction RTX 1.6.1 reads each of them in its
        place. ``(x[..., :1] * x.exp()).sum(-1)`` was wrong in every type.
        """
        dim %= len(x.shape)
        shape = self.shape(x)
        if alike([start, length], [0, shape[dim]]) and step == 1:
            return x
        if not isinstance(length, Dim) and length == 1 and not isinstance(start, Dim) and self.beside():
            return self.gather(x, self.constant([start], torch.int32), dim)
        starts: list[AnySize] = [0] * len(shape)
        steps = [1] * len(shape)
        starts[dim], steps[dim], shape[dim] = start, step, length
        return self.slice(x, starts, shape, steps)

    def cat(self, values: Sequence[ITensor], dim: int) -> ITensor:
        if len(values) == 1:
            return values[0]
        layer = self.network.add_concatenation(list(values))
        dim %= len(values[0].shape)
        if layer is not None:
            layer.axis = dim
        shape = self.shape(values[0])
        shape[dim] = sum((self.shape(v)[dim] for v in values[1:]), shape[dim])
        return self.keep(self.take(layer), shape)

    def gather(self, x: ITensor, indices: ITensor, dim: int) -> ITensor:
        """``x.index_select`` along ``dim`` with indices of any rank (≥ 0, already wrapped)."""
        dim %= len(x.shape)
        shape = self.shape(x)
        shape[dim : dim + 1] = self.shape(indices)
        return self.keep(self.take(self.network.add_gather(x, indices, dim)), shape)

    def once(self, x: ITensor) -> ITensor:
        """``x``, computed once, for what compares it with a choice of its own elements.

        A kernel computes its operands anew where that is cheap, and rounds them in its own way. Seen on RTX 1.6.1:
        ``y = x * w + x * x`` is nowhere ``y.amax(-2)`` in one column of six, ``y > y`` holds of resized images. What a
        scatter wrote is read as it is, so one element is written over by itself.
        """
        if self._is_stored(x):
            return x
        if x.name not in self._once:
            self._once[x.name] = self.copied(x)
        return self._once[x.name]

    def copied(self, x: ITensor) -> ITensor:
        """``x`` in memory of its own, if it is of numbers, and cannot be empty."""
        count = math.prod(self.shape(x))
        least = count.interval[0] if isinstance(count, Dim) else count
        if least < 1 or self.dtype(x) not in FLOAT:
            return x
        whole = x if len(x.shape) else self.reshape(x, [1])
        ones = [1] * len(whole.shape)
        first = self.slice(whole, [0] * len(ones), ones, ones)
        place = self.constant(torch.zeros(ones, dtype=torch.int32))
        made = self.fused.only(self.take(self.network.add_scatter(whole, place, first, trt.ScatterMode.ELEMENT)))
        self._stored.add(made.name)
        return self.reshape(self.keep(made, self.shape(whole)), self.shape(x))

    def _is_stored(self, x: ITensor) -> bool:
        return bool(x.is_network_input) or x.name in self._raw or x.name in self._stored
