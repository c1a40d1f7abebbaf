"""Reductions, as TensorRT gets them right."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from ..flavour import trt
from ..sizes import Dim
from .network import ITensor
from .shapes import AnySize, Shapes


class Reductions(Shapes):
    """Sums, means, products and extremes over dimensions."""

    def reduce(self, kind: Any, x: ITensor, dims: Iterable[int], keepdim: bool = False) -> ITensor:
        """A reduction over dimensions (negative ones count from the end); none is the identity.

        Dimensions side by side become one first: RTX 1.6.1 sums ``x - x.mean(1, keepdim=True)`` of shape [2, 3] wrongly
        over both, and rightly over one of six. Those of one element are not reduced, but dropped: of a group norm it
        makes wrong extremes and products over them.
        """
        axes = {d % len(x.shape) for d in dims} if len(x.shape) else set()
        if not axes:
            return x
        shape = self.shape(x)
        single = {d for d in axes if not isinstance(shape[d], Dim) and shape[d] == 1}
        if single:
            kept = self.reduce(kind, x, axes - single, keepdim=True)
            return kept if keepdim else self.reshape(kept, [s for d, s in enumerate(self.shape(kept)) if d not in axes])
        first, count = min(axes), len(axes)
        if count > 1 and max(axes) == first + count - 1:
            before, joined, after = shape[:first], math.prod(shape[first : first + count]), shape[first + count :]
            made = self.reduce(kind, self.reshape(x, [*before, joined, *after]), [first])
            return self.reshape(made, [*before, *[1] * count, *after]) if keepdim else made
        if count == 1 and first != len(shape) - 1 and _is_to_be_turned(shape):
            order = [*(d for d in range(len(shape)) if d != first), first]
            made = self.reduce(kind, self.permute(x, order), [-1], keepdim)
            return self.permute(made, [order.index(d) for d in range(len(shape))]) if keepdim else made
        rows = next((d for d in range(len(shape)) if d not in axes), None)
        more = self.turns.before(x, shape, axes)
        if more and rows is not None:
            # With more rows, that repeat the last, it is no reduction of that shape.
            longer = [s + more if d == rows else s for d, s in enumerate(shape)]
            x = self.slice(x, [0] * len(shape), longer, [1] * len(shape), trt.SampleMode.CLAMP)
            made = self.narrow(self._reduced(kind, x, axes, True), rows, 0, shape[rows])
            return made if keepdim else self.reshape(made, [s for d, s in enumerate(shape) if d not in axes])
        return self._reduced(kind, x, axes, keepdim)

    def _reduced(self, kind: Any, x: ITensor, axes: set[int], keepdim: bool) -> ITensor:
        shape = self.shape(x)
        made = self.take(self.network.add_reduce(x, kind, sum(1 << a for a in axes), keepdim))
        return self.keep(made, [1 if d in axes else s for d, s in enumerate(shape) if keepdim or d not in axes])

    def mean(self, x: ITensor, dims: Iterable[int], keepdim: bool = False) -> ITensor:
        return self.reduce(trt.ReduceOperation.AVG, x, dims, keepdim)


def _is_to_be_turned(shape: Sequence[AnySize]) -> bool:
    """Whether a shape may be one whose dimensions RTX 1.6.1 reduces wrongly, but for the last.

    ``x.softmax(-1).sum(-2)`` of shape [4, 5, 7, 3] is wrong, also where the softmax is written out, and right with 32,
    64 and 128 columns; a softmax that is written out over the first dimension of [2, 1, 6, 64] is wrong before another
    reduction. Turned, so that the last dimension is the one to reduce, it is right with all.
    """
    columns = shape[-1]
    narrow = isinstance(columns, Dim) or columns < 32 or columns % 4 != 0
    return narrow or any(not isinstance(size, Dim) and size == 1 for size in shape)
