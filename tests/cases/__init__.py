"""Tables of operator calls, one family a module; every test of the converters runs over all of them.

A case is a Python function of tensors. The CPU tests run its converters on a network of PyTorch tensors and build the
real plan; the GPU tests run it through ``torch.compile``.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

#: The reason of operators that only ``immutable`` engines may hold.
NOT_REFITTABLE = "not refittable"


@dataclass(frozen=True)
class T:
    """What an input of a case is made of.

    Attributes:
        shape: sizes.
        dtype: element type.
        kind: ``randn``; ``rand`` (0…1); ``pos`` (0.5…1.5); ``int:LOW:HIGH`` (LOW ≤ x < HIGH); ``tenths:LOW:HIGH`` (of
            these); ``bool``; ``unique`` (a shuffled permutation, so that sort and topk have no ties); ``zeros``;
            ``ones``; ``nan`` (randn with some NaN and infinities).
    """

    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32
    kind: str = "randn"

    def make(self, device: torch.device | str, generator: torch.Generator) -> torch.Tensor:
        """A tensor on ``device``; ``generator`` is a CPU generator, so that every device gets the same values."""
        return self._values(generator).to(self.dtype).to(device)

    def _values(self, generator: torch.Generator) -> torch.Tensor:
        shape, count = self.shape, torch.Size(self.shape).numel()
        if self.kind == "randn":
            return torch.randn(shape, generator=generator)
        if self.kind == "rand":
            return torch.rand(shape, generator=generator)
        if self.kind == "pos":
            return torch.rand(shape, generator=generator) + 0.5
        if self.kind == "bool":
            return torch.rand(shape, generator=generator) < 0.5
        if self.kind == "unique":
            order = torch.randperm(count, generator=generator).reshape(shape)
            # Steps of 1/8 are exact in float16 and bfloat16 up to 256 elements; integers need whole steps.
            return order - count // 2 if not self.dtype.is_floating_point else (order - count // 2) / 8
        if self.kind in ("zeros", "ones"):
            return torch.full(shape, float(self.kind == "ones"))
        if self.kind == "nan":
            values = torch.randn(shape, generator=generator)
            draw = torch.rand(shape, generator=generator)
            for bound, special in ((0.3, float("-inf")), (0.2, float("inf")), (0.1, float("nan"))):
                values = torch.where(draw < bound, special, values)
            return values
        name, _, bounds = self.kind.partition(":")
        if name not in ("int", "tenths") or ":" not in bounds:
            raise ValueError(f"unknown kind of input: {self.kind!r}")
        low, high = (int(b) for b in bounds.split(":"))
        values = torch.randint(low, high, shape, generator=generator)
        return values / 10 if name == "tenths" else values


@dataclass(frozen=True)
class Case:
    """One call of one or more operators.

    Attributes:
        name: unique in its family.
        fn: a function of the inputs; returns a tensor, or a tuple or list of them.
        inputs: what to call it with.
        weights: positions of the inputs that act as parameters: slots of the engine.
        tol: relative and absolute tolerance, where the dtype's own is too tight.
        rejected: part of the reason why the operator stays in PyTorch; then nothing is built. One that is
            ``NOT_REFITTABLE`` is run all the same, as in ``immutable`` mode.
        whole: traced without the decomposition table, for operators that it takes apart and an exported graph keeps.
    """

    name: str
    fn: Callable[..., Any]
    inputs: tuple[T, ...]
    weights: tuple[int, ...] = ()
    tol: float | None = None
    rejected: str | None = None
    whole: bool = False

    @property
    def converted(self) -> bool:
        """Whether there is a converter to compare with PyTorch."""
        return self.rejected in (None, NOT_REFITTABLE)

    def make(self, device: torch.device | str = "cpu", seed: int = 0) -> list[torch.Tensor]:
        """The inputs; the same values at every call and on every device."""
        generator = torch.Generator().manual_seed(seed)
        return [spec.make(device, generator) for spec in self.inputs]

    def with_dtype(self, dtype: torch.dtype) -> Case:
        """The case with every floating-point input in another type."""
        inputs = tuple(replace(t, dtype=dtype) if t.dtype.is_floating_point else t for t in self.inputs)
        return replace(self, name=f"{self.name}_{str(dtype).removeprefix('torch.')}", inputs=inputs)


def of(values: list[float], fn: Callable[..., Any]) -> Callable[[torch.Tensor], Any]:
    """``fn`` of these values, in the dtype of an input without NaN that has their shape."""
    return lambda x: fn(torch.where(x == x, torch.tensor(values, dtype=x.dtype, device=x.device), x))


@functools.cache
def all_cases() -> tuple[tuple[str, Case], ...]:
    """Every ``(family, case)``, in order of family and table; ``test_ops`` checks that names are unique in a family."""
    families = sorted(info.name for info in pkgutil.iter_modules(__path__))
    return tuple((name, case) for name in families for case in importlib.import_module(f"{__name__}.{name}").CASES)
