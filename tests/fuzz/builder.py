"""A graph while hypothesis draws it, with the values of a first run: PyTorch itself says what it can compute."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from hypothesis import strategies as st

from .graph import Graph, Input, Ref, Step

T = TypeVar("T")

FLOATS = (torch.float32, torch.float16, torch.bfloat16)
INTS = (torch.int64, torch.int32)
DTYPES = (*FLOATS, *INTS, torch.bool)
#: A size's chance to be drawn: usual ones, 1 and now and then 0.
SIZES = (2, 3, 1, 4, 1, 5, 6, 8, 7, 0)
#: Of some last dimensions: compilers have kernels of their own for such rows.
COLUMNS = (32, 64, 48, 128)
MOST_ELEMENTS = 3000
LAYOUTS = ("contiguous", "transposed", "strided", "offset", "expanded", "channels_last")


class Builder:
    """Inputs and at most so many steps so far; the operators of :mod:`.registry` draw from it and add to it."""

    def __init__(self, draw: Callable[[st.SearchStrategy[Any]], Any], most: int) -> None:
        self.draw, self.most, self.most_elements = draw, most, MOST_ELEMENTS
        self.inputs: list[Input] = []
        self.steps: list[Step] = []
        self.values: dict[str, torch.Tensor] = {}
        self.generator = torch.Generator().manual_seed(0)
        self.made = 0

    # ---------------------------------------------------------------- drawing

    def one_of(self, *choices: T) -> T:
        chosen: T = self.draw(st.sampled_from(choices))
        return chosen

    def whole(self, low: int, high: int) -> int:
        number: int = self.draw(st.integers(low, high))
        return number

    def number(self) -> float | int:
        """A scalar operand."""
        return self.one_of(2, 0.5, -1, 3.0, -0.75, 0, 1)

    def maybe(self) -> bool:
        return self.one_of(False, True)

    def shape(self, low: int = 0, high: int = 5) -> tuple[int, ...]:
        sizes = self.draw(st.lists(st.sampled_from(SIZES), min_size=low, max_size=high))
        if self.one_of(False, False, True):  # squares, in which one dimension may be taken for another
            sizes = [s if s == 1 else max(sizes) for s in sizes]
        elif sizes and self.one_of(False, False, False, True):
            sizes[-1] = self.one_of(*COLUMNS)
        while torch.Size(sizes).numel() > MOST_ELEMENTS // 2:
            sizes[sizes.index(max(sizes))] = 2
        return tuple(sizes)

    def dim(self, x: Ref) -> int:
        """A dimension, from either end; 0 of a 0-d tensor."""
        rank = max(self.values[x.name].ndim, 1)
        return self.whole(-rank, rank - 1)

    def dims(self, x: Ref) -> list[int]:
        """Some dimensions, none twice."""
        rank = self.values[x.name].ndim
        return [d - rank if self.maybe() else d for d in range(rank) if self.maybe()]

    # ---------------------------------------------------------------- values

    def input(self, shape: Sequence[int], dtype: torch.dtype, below: int = 0, weight: bool | None = None) -> Ref:
        """A new input."""
        layouts = [k for k in LAYOUTS if _has_layout(k, shape)]
        layout = self.one_of(*layouts)
        weight = self.one_of(False, False, True) if weight is None else weight
        made = Input(tuple(shape), dtype, layout, below, weight and layout == "contiguous")
        self.inputs.append(made)
        name = f"x{len(self.inputs) - 1}"
        self.values[name] = made.make(self.generator)
        return Ref(name)

    def pick(
        self, dtypes: Sequence[torch.dtype] = DTYPES, low: int = 0, high: int = 8, numel: int = 0,
        shape: Callable[[], tuple[int, ...]] | None = None,
    ) -> Ref:  # fmt: skip
        """A value of one of these types and ranks with at least ``numel`` elements; a new input if it is drawn so."""
        found = [
            n for n, t in self.values.items() if t.dtype in dtypes and low <= t.ndim <= high and t.numel() >= numel
        ][::-1]
        at = self.whole(0, len(found))
        if at < len(found):
            return Ref(found[at])
        sizes = self.shape(low, min(high, 5)) if shape is None else shape()
        if numel:
            sizes = tuple(max(s, 1) for s in sizes)
        return self.input(sizes, self.one_of(*dtypes))

    def beside(self, x: Ref, dtypes: Sequence[torch.dtype]) -> Ref:
        """A value, new if need be, whose shape broadcasts with that of ``x``."""
        mine = self.values[x.name].shape
        found = [n for n, t in self.values.items() if t.dtype in dtypes and _broadcast(t.shape, mine)][::-1]
        at = self.whole(0, len(found))
        if at < len(found):
            return Ref(found[at])
        kept = mine[self.whole(0, len(mine)) :]
        return self.input([1 if self.one_of(False, False, True) else s for s in kept], self.one_of(*dtypes))

    def of(self, x: Ref) -> torch.Tensor:
        return self.values[x.name]

    # ---------------------------------------------------------------- steps

    def add(self, fn: str, *args: Any, **kwargs: Any) -> None:
        """Appends a call, unless PyTorch refuses it, it makes too much, or there are steps enough."""
        if len(self.steps) >= self.most:
            return
        step = Step(fn, args, kwargs)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                made = step.call(self.values)
        except (RuntimeError, IndexError, TypeError, ValueError, NotImplementedError, ZeroDivisionError):
            return
        if not made or any(t.numel() > self.most_elements or t.ndim > 8 or t.dtype not in DTYPES for t in made):
            return
        self.steps.append(step)
        for value in made:
            self.values[f"v{self.made}"] = value
            self.made += 1

    def graph(self) -> Graph:
        """What was drawn: weights first, inputs without use left out, outputs what nothing reads and some others."""
        used = [leaf.name for step in self.steps for leaf in step.refs()]
        loose = [f"v{i}" for i in range(self.made) if f"v{i}" not in used]
        extra = [f"v{i}" for i in range(self.made) if f"v{i}" in used and self.whole(0, 7) == 7]
        order = sorted((i for i in range(len(self.inputs)) if f"x{i}" in used), key=lambda i: not self.inputs[i].weight)
        names = {f"x{old}": f"x{new}" for new, old in enumerate(order)}
        steps = tuple(step.renamed(names) for step in self.steps)
        return Graph(tuple(self.inputs[i] for i in order), steps, tuple([*loose, *extra]))


def _has_layout(layout: str, shape: Sequence[int]) -> bool:
    if layout == "channels_last":
        return len(shape) == 4
    if layout == "transposed":
        return len(shape) >= 2
    return layout == "contiguous" or (bool(shape) and 0 not in shape)


def _broadcast(one: Sequence[int], other: Sequence[int]) -> bool:
    return all(a == b or 1 in (a, b) for a, b in zip(reversed(one), reversed(other)))  # noqa: B905 - ranks differ
