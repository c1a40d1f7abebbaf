"""Reductions, as TensorRT gets them right."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from .. import flavour
from ..flavour import trt
from ..sizes import Dim, alike
from .network import ITensor
from .shapes import Shapes


class Reductions(Shapes):
    """Sums, means, products and extremes over dimensions."""

    def reduce(self, kind: Any, x: ITensor, dims: Iterable[int], keepdim: bool = False) -> ITensor:
        """A reduction over dimensions (negative ones count from the end); none is the identity.

        It is always over one dimension, the last: RTX 1.6.1 sums ``x - x.mean(1, keepdim=True)`` of shape [2, 3]
        wrongly over both, ``x - x.mean(0, keepdim=True)`` of shape [2, 6, 64] over the last, and ``x.softmax(-1)`` of
        shape [4, 5, 7, 3] over the one before. Dimensions of one element are not reduced, but dropped: of a group norm
        it makes wrong extremes and products over them.
        """
        axes = {d % len(x.shape) for d in dims} if len(x.shape) else set()
        if not axes:
            return x
        shape = self.shape(x)
        single = {d for d in axes if not isinstance(shape[d], Dim) and shape[d] == 1}
        kept = [d for d in range(len(shape)) if d not in axes]
        result = [1 if d in axes else s for d, s in enumerate(shape) if keepdim or d not in axes]
        axes -= single
        if not axes:
            return self.reshape(x, result)
        first, end = min(axes), max(axes) + 1
        if len(axes) == end - first and flavour.load().reduces_matrices:
            parts = [math.prod(part) for part in (shape[:first], shape[first:end], shape[end:]) if part]
            if not alike(parts, shape):
                return self.reshape(self.reduce(kind, self.reshape(x, parts), [int(first > 0)]), result)
        turned = self.permute(x, [*kept, *sorted(single), *sorted(axes)])
        length = math.prod(shape[d] for d in axes)
        # Several reductions of all of a dynamic tensor are not built as lines; as one row each they are.
        lead = [shape[d] for d in kept] or [1] * isinstance(length, Dim)
        return self.reshape(self._of_rows(kind, self.reshape(turned, [*lead, length]), bool(kept), keepdim), result)

    def _of_rows(self, kind: Any, x: ITensor, several: bool, keepdim: bool) -> ITensor:
        """A reduction over the last dimension; ``several``: there are others."""
        if kind == trt.ReduceOperation.SUM:
            x = self._lengthened(x)
        shape = self.shape(x)
        more = self.turns.before(x, shape) if several else 0
        if more:
            # With more rows, that repeat the last, it is no reduction of that shape.
            longer = [shape[0] + more, *shape[1:]]
            x = self.slice(x, [0] * len(longer), longer, [1] * len(longer), trt.SampleMode.CLAMP)
        made = self.take(self.network.add_reduce(x, kind, 1 << (len(shape) - 1), keepdim))
        self.keep(made, [*self.shape(x)[:-1], *[1] * keepdim])
        return self.narrow(made, 0, 0, shape[0]) if more else made

    def _lengthened(self, x: ITensor) -> ITensor:
        """``x`` with zeros behind rows that are, or may be, of 5 or 6 elements.

        RTX 1.6.1 sums such rows wrongly where a reduction follows: of 695 small graphs like
        ``(x * x.sum(-1, keepdim=True)).mean(-1)`` 160 were wrong, and of 1,398 with zeros up to 8 none.
        """
        *rows, length = self.shape(x)
        low, high = length.interval if isinstance(length, Dim) else (length, length)
        if low > 6 or high < 5:
            return x
        shape = [*rows, length + 8 if isinstance(length, Dim) else 8]
        return self.slice(x, [0] * len(shape), shape, [1] * len(shape), trt.SampleMode.FILL)

    def mean(self, x: ITensor, dims: Iterable[int], keepdim: bool = False) -> ITensor:
        return self.reduce(trt.ReduceOperation.AVG, x, dims, keepdim)
