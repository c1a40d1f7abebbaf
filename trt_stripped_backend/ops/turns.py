"""Which tensor of a network each one is a view of, and which transpositions stand before it."""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Sequence
from typing import Any

ITensor = Any


class Turns:
    """How tensors were turned on their way from an input, a constant or a product of matrices.

    RTX 1.6.1 computes reductions of equal shape together, and takes a tensor for the one that it was turned from:
    ``y.amax(0), y.amax(1)`` of a computed square matrix are both over one dimension, and ``y.t().amax(1), y.amax(1)``
    too. So reductions of differently turned tensors are given differently written shapes.

    It also takes one view of a tensor for another where both are repeated along dimensions of others and a reduction
    follows: ``(x.view(2, 7, 1) - x.view(2, 1, 7)).abs().sum(-1)``. So the second is repeated by a layer.
    """

    def __init__(self) -> None:
        self._of: dict[str, int] = {}  # by tensor name; 0, which is not kept: not turned
        self._numbers: dict[Hashable, int] = {}
        self._reduced: dict[Hashable, list[tuple[int, bool]]] = {}
        self._root: dict[str, str] = {}  # by tensor name: whose elements alone its own are made of; "" for literals
        self._repeated: dict[str, Hashable] = {}  # by that: along which dimensions, at first

    def _number(self, turn: Hashable) -> int:
        return self._numbers.setdefault(turn, len(self._numbers) + 1)

    def follow(self, inputs: Sequence[ITensor], made: ITensor) -> None:
        """A layer made this of its inputs, literals aside."""
        computed = [x for x in inputs if self._root.get(x.name, x.name)]
        # What is repeated only scales the others.
        roots = {self._root.get(x.name, x.name) for x in computed if sizes(x) == sizes(made)}
        if len(roots) == 1 or not computed:
            self._root[made.name] = roots.pop() if roots else ""
        turns = {self._of.get(x.name, 0) for x in inputs} - {0}
        if turns:
            self._of[made.name] = turns.pop() if len(turns) == 1 else self._number(frozenset(turns))

    def view(self, x: ITensor, made: ITensor) -> None:
        """``made`` is a view of ``x``."""
        self._root[made.name] = self._root.get(x.name, x.name)

    def constant(self, made: ITensor) -> ITensor:
        """RTX takes this for a literal, and what is multiplied by it for what it was."""
        self._root[made.name] = ""
        return made

    def elsewhere(self, x: ITensor, singles: Sequence[bool]) -> bool:
        """Whether this, or a view of the same tensor, was repeated along other dimensions before.

        Args:
            singles: of each dimension, whether it is of one element.
        """
        where = tuple(itertools.dropwhile(bool, singles))
        root = self._root.get(x.name, x.name)
        return root != "" and self._repeated.setdefault(root, where) != where

    def turn(self, x: ITensor, dims: Sequence[int], made: ITensor) -> None:
        """``made`` is ``x`` with its dimensions in this order."""
        self._of[made.name] = self._number((self._of.get(x.name, 0), tuple(dims)))

    def forget(self, made: ITensor) -> ITensor:
        """This is a product: how its factors were turned is of no interest any more."""
        self._of.pop(made.name, None)
        return made

    def before(self, x: ITensor, shape: Sequence[Any], beyond: bool) -> int:
        """How many differently turned tensors of this shape were reduced over the last dimension before.

        Args:
            beyond: the result reaches a larger tensor, which must not be taken for this one either.
        """
        seen = self._reduced.setdefault(tuple(shape), [(0, False)] if beyond else [])
        turn = self._of.get(x.name, 0), beyond
        if turn not in seen:
            seen.append(turn)
        return seen.index(turn)


def sizes(x: ITensor) -> list[int]:
    """Of its dimensions of more than one element, in any order."""
    return sorted(size for size in x.shape if size != 1)
