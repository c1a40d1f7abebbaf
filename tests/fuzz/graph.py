"""A graph as data: its ``repr`` is the code that makes it again."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils import _pytree as pytree

Outputs = tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class Ref:
    """A value of the graph: ``x0``, ``x1``, … are inputs, ``v0``, ``v1``, … results of steps."""

    name: str


@dataclass(frozen=True)
class Input:
    """A tensor that the graph is given.

    Attributes:
        shape: sizes.
        dtype: element type.
        layout: ``contiguous``; ``channels_last``; ``transposed`` (last two dimensions); ``strided`` (each second
            element of a larger tensor); ``expanded`` (its first dimension takes no memory); ``offset`` (from an odd
            address).
        below: integers from 0, below this; 0 for a type's own values.
        weight: a parameter, or a buffer if it is not floating-point.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32
    layout: str = "contiguous"
    below: int = 0
    weight: bool = False

    def make(self, generator: torch.Generator) -> torch.Tensor:
        """A tensor on the CPU."""
        values = self._values(generator)
        if self.layout == "channels_last":
            return values.to(memory_format=torch.channels_last)
        if self.layout == "transposed":
            return values.transpose(-1, -2).contiguous().transpose(-1, -2)
        if self.layout == "strided":
            return torch.stack([values, values.logical_not().to(self.dtype)], -1)[..., 0]
        if self.layout == "expanded":
            return values[:1].expand(self.shape)
        if self.layout == "offset":
            return torch.cat([values.reshape(-1)[:1], values.reshape(-1)])[1:].view(self.shape)
        return values

    def _values(self, generator: torch.Generator) -> torch.Tensor:
        if self.below or not self.dtype.is_floating_point:
            low, high = (0, self.below) if self.below else (0, 2) if self.dtype == torch.bool else (-4, 6)
            return torch.randint(low, high, self.shape, generator=generator).to(self.dtype)
        values = torch.randn(self.shape, generator=generator)
        # Half of the tensors have zeros and equal elements.
        coarse = bool(torch.randint(0, 2, (), generator=generator))
        return ((values * 2).round() / 2 if coarse else values).to(self.dtype)


@dataclass(frozen=True)
class Step:
    """A call, ``torch.add``, ``F.gelu``, ``Tensor.view`` or a function of :mod:`.own`; lists of results count on."""

    fn: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)

    def call(self, values: Mapping[str, torch.Tensor], wide: torch.dtype | None = None) -> list[torch.Tensor]:
        """The results, with ``wide`` in place of floating-point types that the call names."""

        def known(leaf: Any) -> Any:
            if isinstance(leaf, Ref):
                return values[leaf.name]
            return wide if wide and isinstance(leaf, torch.dtype) and leaf.is_floating_point else leaf

        args, kwargs = pytree.tree_map(known, (self.args, self.kwargs))
        return flat(function(self.fn)(*args, **kwargs))


    def refs(self) -> list[Ref]:
        """What the step reads."""
        return [leaf for leaf in pytree.tree_leaves((self.args, self.kwargs)) if isinstance(leaf, Ref)]

    def renamed(self, names: Mapping[str, str]) -> Step:
        """The step with other names of what it reads."""
        args, kwargs = pytree.tree_map_only(
            Ref, lambda ref: Ref(names.get(ref.name, ref.name)), (self.args, self.kwargs)
        )
        return Step(self.fn, args, kwargs)


@dataclass(frozen=True)
class Graph:
    """A function of tensors.

    Attributes:
        inputs: ``x0``, ``x1``, …, weights first.
        steps: in order.
        outputs: names of values.
    """

    inputs: tuple[Input, ...]
    steps: tuple[Step, ...]
    outputs: tuple[str, ...]

    def make(self, seed: int = 0) -> list[torch.Tensor]:
        """The inputs, on the CPU."""
        generator = torch.Generator().manual_seed(seed)
        return [one.make(generator) for one in self.inputs]

    @property
    def weights(self) -> int:
        return sum(one.weight for one in self.inputs)

    def __call__(self, *inputs: torch.Tensor) -> Outputs:
        return self.run(inputs)

    def run(
        self,
        inputs: Sequence[torch.Tensor],
        call: Callable[[Step, dict[str, torch.Tensor]], list[torch.Tensor]] = Step.call,
    ) -> Outputs:
        """The outputs; ``call`` runs each step."""
        values = {f"x{i}": value for i, value in enumerate(inputs)}
        count = 0
        for step in self.steps:
            for made in call(step, values):
                values[f"v{count}"] = made
                count += 1
        return tuple(values[name] for name in self.outputs)


@functools.cache
def function(name: str) -> Callable[..., Any]:
    """What a step calls."""
    from . import own

    where, _, rest = name.partition(".")
    base = {"torch": torch, "F": torch.nn.functional, "Tensor": torch.Tensor, "own": own}[where]
    found: Callable[..., Any] = operator.attrgetter(rest)(base)
    return found


def flat(result: Any) -> list[torch.Tensor]:
    return [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, torch.Tensor)]
