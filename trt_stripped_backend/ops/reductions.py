"""Reductions, as TensorRT gets them right."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

from .. import flavour
from ..flavour import trt
from ..sizes import Dim, alike
from .network import ITensor
from .shapes import AnySize, Shapes

#: Rows of so many elements are summed wrongly, see :meth:`Reductions.lengthened`.
SHORT_ROWS = (5, 6)
#: Of more, extremes of columns are right.
FEW_ROWS = 63


class Reductions(Shapes):
    """Sums, means, products and extremes over dimensions."""

    def reduce(self, kind: Any, x: ITensor, dims: Iterable[int], keepdim: bool = False) -> ITensor:
        """A reduction over dimensions (negative ones count from the end); none is the identity.

        It is always over one dimension, the last: RTX 1.6.1 sums ``x - x.mean(1, keepdim=True)`` of shape [2, 3]
        wrongly over both, ``x - x.mean(0, keepdim=True)`` of shape [2, 6, 64] over the last, and ``x.softmax(-1)`` of
        shape [4, 5, 7, 3] over the one before. Dimensions of one element are not reduced, but dropped: of a group norm
        it makes wrong extremes and products over them. What reaches a larger tensor is reduced with a row more: see
        :mod:`.reach`.
        """
        axes = {d % len(x.shape) for d in dims} if len(x.shape) else set()
        if not axes:
            return x
        shape = self.shape(x)
        extremes = kind in (trt.ReduceOperation.MAX, trt.ReduceOperation.MIN)
        single = {d for d in axes if not isinstance(shape[d], Dim) and shape[d] == 1}
        kept = [d for d in range(len(shape)) if d not in axes]
        result = [1 if d in axes else s for d, s in enumerate(shape) if keepdim or d not in axes]
        axes -= single
        if not axes:
            return self.reshape(x, result)
        if extremes and len(axes) > 1 and any(isinstance(shape[d], Dim) for d in axes):
            # Over several at once, 18 of 212 were wrong, where 0 of 208 were over one after the other.
            for d in sorted(axes, reverse=True):
                x = self.reduce(kind, x, [d], keepdim=True)
            return self.reshape(x, result)
        first, end = min(axes), max(axes) + 1
        if len(axes) == end - first and flavour.load().reduces_matrices:
            parts = [math.prod(part) for part in (shape[:first], shape[first:end], shape[end:]) if part]
            if not alike(parts, shape):
                return self.reshape(self.reduce(kind, self.reshape(x, parts), [int(first > 0)]), result)
        turned = self.permute(x, [*kept, *sorted(single), *sorted(axes)])
        if extremes and self._may_be_few(shape, axes, kept):
            turned = self.copied(turned)
        length = math.prod(shape[d] for d in axes)
        beyond = self.beyond()
        # Several reductions of all of a dynamic tensor are not built as lines; as one row each they are.
        lead = [shape[d] for d in kept] or [1] * (beyond or isinstance(length, Dim))
        rows = self.reshape(turned, [*lead, length])
        return self.reshape(self._of_rows(kind, rows, bool(kept), beyond, keepdim), result)

    @staticmethod
    def _may_be_few(shape: Sequence[AnySize], axes: Collection[int], kept: Iterable[int]) -> bool:
        """Whether columns, over a dynamic size, may be short.

        RTX 1.6.1 writes only the first of 33 columns or more, of up to 32 rows: 76 of 353 extremes like ``x.amax(1,
        keepdim=True)`` of shape [2, s, 64] were wrong, and none of 182 of a transposition that lies in memory.
        """
        columns = any(d > min(axes) for d in kept if isinstance(shape[d], Dim) or shape[d] != 1)
        lengths = [size for size in (shape[d] for d in axes) if isinstance(size, Dim)]
        return columns and any(size.interval[0] <= FEW_ROWS for size in lengths)

    def _of_rows(self, kind: Any, x: ITensor, several: bool, beyond: bool, keepdim: bool) -> ITensor:
        """A reduction over the last dimension; ``several``: there are others."""
        if kind == trt.ReduceOperation.SUM:
            x = self.lengthened(x)
        shape = self.shape(x)
        more = self.turns.before(x, shape, beyond) if several or beyond else 0
        return self.with_more(more, x, lambda rows: self._reduced(kind, rows, keepdim))

    def _reduced(self, kind: Any, x: ITensor, keepdim: bool) -> ITensor:
        made = self._of_last(x, self.take(self.network.add_reduce(x, kind, 1 << (len(x.shape) - 1), keepdim)))
        return self.keep(made, [*self.shape(x)[:-1], *[1] * keepdim])

    def _of_last(self, x: ITensor, made: ITensor) -> ITensor:
        """``made``, of a layer over the last dimension of ``x``: see :meth:`view`."""
        dynamic = isinstance(self.shape(x)[-1], Dim) and self.fused.has(x, "view")
        return self.fused.only(made, *["rows"] * dynamic)

    def with_more(self, more: int, x: ITensor, layer: Callable[[ITensor], ITensor]) -> ITensor:
        """What a layer over the last dimension makes, given more along the first, which repeats the last there.

        So it is none of the shape of others, and is not computed together with them.
        """
        if not more:
            return layer(x)
        shape = self.shape(x)
        longer = [shape[0] + more, *shape[1:]]
        made = layer(self.slice(x, [0] * len(longer), longer, [1] * len(longer), trt.SampleMode.CLAMP))
        return self.narrow(made, 0, 0, shape[0])

    def lengthened(self, x: ITensor, fill: float = 0.0) -> ITensor:
        """``x`` with a value behind rows that are, or may be, of 5 or 6 elements.

        RTX 1.6.1 sums such rows wrongly where a reduction follows: of 695 small graphs like
        ``(x * x.sum(-1, keepdim=True)).mean(-1)`` 160 were wrong, and of 1,398 with zeros up to 8 none; of 151 like
        ``x.softmax(-1).var(-1)`` in float32 24 were, and of 427 with ``-inf`` up to 8 none.
        """
        *rows, length = self.shape(x)
        low, high = length.interval if isinstance(length, Dim) else (length, length)
        if low > max(SHORT_ROWS) or high < min(SHORT_ROWS):
            return x
        shape = [*rows, length + 8 if isinstance(length, Dim) else 8]
        literal = self.constant(fill, self.dtype(x)) if fill else None
        return self.slice(x, [0] * len(shape), shape, [1] * len(shape), trt.SampleMode.FILL, literal)

    def mean(self, x: ITensor, dims: Iterable[int], keepdim: bool = False) -> ITensor:
        return self.reduce(trt.ReduceOperation.AVG, x, dims, keepdim)
