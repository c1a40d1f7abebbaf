"""What the kernel computes that TensorRT-RTX makes of several layers, as far as it gets that wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from .turns import sizes

ITensor = Any
_NOTHING: frozenset[str] = frozenset()


class Fused:
    """Of each tensor: which layers RTX may compute it together with, and what it was before it was rounded.

    ``"product"``: a product in a half type, and what is made of it before the next one, or a reduction.
    ``"whole"``: and has one element for each of the product's.
    ``"view"``: an operator gave it another shape.
    ``"rows"``: it is made of a reduction, over a dynamic dimension, of such a tensor.
    """

    def __init__(self) -> None:
        self._marks: dict[str, frozenset[str]] = {}
        self._before: dict[str, Callable[[], ITensor]] = {}

    def follow(self, inputs: Iterable[ITensor], made: ITensor) -> None:
        """A layer made this of its inputs, literals aside."""
        known = [(x, self._marks[x.name]) for x in inputs if x.name in self._marks]
        marks = _NOTHING.union(*(marks for _, marks in known))
        if not any("whole" in marks and sizes(x) == sizes(made) for x, marks in known):
            marks -= {"whole"}
        if marks:
            self._marks[made.name] = marks

    def has(self, x: ITensor, mark: str) -> bool:
        return mark in self._marks.get(x.name, _NOTHING)

    def mark(self, x: ITensor, *marks: str) -> ITensor:
        self._marks[x.name] = self._marks.get(x.name, _NOTHING).union(marks)
        return x

    def only(self, x: ITensor, *marks: str) -> ITensor:
        """This layer has no others before it in its kernel."""
        self._marks[x.name] = frozenset(marks)
        return x

    def round(self, x: ITensor, made: ITensor) -> None:
        """``made`` is ``x`` in a half type."""
        if self.has(x, "product"):
            self._before[made.name] = lambda: x

    def view(self, x: ITensor, made: ITensor, again: Callable[[ITensor], ITensor]) -> None:
        """``made`` is what ``again`` makes of ``x``: the same elements."""
        if self.has(x, "whole"):
            self.mark(made, "whole")
        if x.name in self._before:
            self._before[made.name] = lambda: again(self.unrounded(x))

    def apart(self, made: ITensor, again: Callable[[], ITensor]) -> None:
        """That rounding is a call of its own: ``again`` computes ``made`` in float32, apart from what rounds it.

        Only of a whole product: what is taken of one (a state space model's steps) is not worth a copy each.
        """
        if self._before.pop(made.name, None) is not None and self.has(made, "whole"):
            self._before[made.name] = again

    def unrounded(self, x: ITensor) -> ITensor | None:
        """``x`` in float32, where a converter has just rounded it.

        In one kernel with a product of float16 or bfloat16 RTX 1.6.1 gets values wrong that go from float32 to that
        type and back before they are summed: ``(q @ k.mT * 0.1).softmax(-1)`` of 4 × 197 × 197 scores. 81 of 970 such
        graphs were wrong, and without the two casts none of 600.
        """
        if x.name not in self._before:
            return None
        made = self._before[x.name]()
        self._before[x.name] = lambda: made
        return made
