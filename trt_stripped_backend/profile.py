"""Which sizes an engine is built for: the ranges of its dynamic dimensions.

PyTorch says what a size may be; where it sets no upper limit, something must. An engine for many sizes costs scratch
memory by the sizes that it runs, not by those that it could, so the range is wide: one engine serves a decoder from its
second token on.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import sympy
import torch
from torch.utils._sympy.functions import FloorDiv, Mod, PythonMod

from .sizes import Size, evaluate, expression, size, symbols
from .types import Partition, Ranges, Signature

#: Largest size where nobody sets a limit, unless four times the example is larger.
REACH = 4096
#: From here on a limit is that of some CUDA kernel's grid, which PyTorch names on a GPU and not elsewhere.
GRID = 65535
#: TensorRT's limit on the elements of one tensor.
MAX_ELEMENTS = 2**31 - 1
#: How far a size that PyTorch allows is looked for.
_STEPS = 256


def ranges(
    partition: Partition,
    signature: Signature,
    limits: tuple[int, int] | None,
    values: Sequence[int] | None = None,
) -> Ranges:
    """A range for each symbol of a signature.

    Args:
        partition: its tensors bound what fits into TensorRT.
        signature: the partition's.
        limits: option ``dynamic_range``, for sizes without an upper limit of PyTorch's.
        values: sizes that must fit, if not those that were traced. A negative number is none: it fits no engine.
    """
    chosen: dict[str, tuple[int, int, int]] = {}
    examples = values or [s.example for s in signature.symbols]
    given = {s.name: max(value, 0) for s, value in zip(signature.symbols, examples, strict=True)}
    for symbol in signature.symbols:
        low, high, value = symbol.low, symbol.high, given[symbol.name]
        if high is None or high >= GRID:
            within = limits is not None and limits[0] <= value <= limits[1]
            low, high = (max(low, limits[0]), limits[1]) if within and limits else (low, max(_power(4 * value), REACH))
        low, high = min(low, value), max(high, value)
        # A power of two, so that processes that start with other sizes share the engine.
        chosen[symbol.name] = low, min(_power(value), high), high
    allowed = _allowed(partition, signature)

    def nearest(name: str, first: int, last: int) -> int:
        """The first size that PyTorch allows on the way to ``last``, beside the others' given ones."""
        way = range(first, last + 1) if first <= last else range(first, last - 1, -1)
        return next((size for size in way[:_STEPS] if allowed({**given, name: size})), given[name])

    for name, (low, best, high) in chosen.items():
        value = given[name]
        high = nearest(name, high, value)
        chosen[name] = nearest(name, low, value), nearest(name, min(best, high), high), high
    if not allowed({name: best for name, (_, best, _) in chosen.items()}):
        chosen = {name: (low, given[name], high) for name, (low, _, high) in chosen.items()}
    shapes = _shapes(partition, signature)
    while not _fit(shapes, chosen):
        widest = max(chosen, key=lambda name: chosen[name][2] / max(chosen[name][1], 1))
        low, best, high = chosen[widest]
        if high <= best:
            break
        chosen[widest] = low, best, nearest(widest, max(high // 2, best), best)
    return tuple(chosen[symbol.name] for symbol in signature.symbols)


def neighbours(ranges: Ranges) -> list[Ranges]:
    """The same ranges with other sizes to optimize for, the nearest first: the most likely ones, where many vary."""
    choices = []
    for low, best, high in ranges:
        sizes = sorted({*(1 << k for k in range(41) if low <= 1 << k < high), best, high})
        near = sizes.index(best)
        far = _FAR.get(len(ranges), 1)
        choices.append([(abs(k - near), (low, s, high)) for k, s in enumerate(sizes) if abs(k - near) <= far])
    found = sorted(itertools.product(*choices), key=lambda steps: sum(step for step, _ in steps))
    return [tuple(one for _, one in steps) for steps in found[1 : _MOST + 1]]


#: How many neighbours there are at most, and by how many powers of two each of so many sizes may differ.
_MOST, _FAR = 16, {1: 41, 2: 4}


#: For each dynamic size, the position of the argument that tells it, and the dimension; None for an int.
Places = list[tuple[int, int | None]]


def places(signature: Signature, inputs: Sequence[str]) -> Places:
    """Where a call's arguments, named ``inputs``, tell the dynamic sizes."""
    return [(inputs.index(one.argument), one.dim) for one in signature.symbols]


def sizes(places: Places, inputs: Sequence[Any]) -> tuple[int, ...]:
    """The values of the dynamic sizes in a call."""
    return tuple(inputs[i] if dim is None else inputs[i].shape[dim] for i, dim in places)


def contains(ranges: Ranges, values: Sequence[int]) -> bool:
    return all(low <= value <= high for (low, _, high), value in zip(ranges, values, strict=True))


def as_intervals(signature: Signature, ranges: Ranges) -> dict[str, tuple[int, int]]:
    """Bounds by symbol."""
    return {s.name: (low, high) for s, (low, _, high) in zip(signature.symbols, ranges, strict=True)}


def _power(value: int) -> int:
    return 1 << max(value - 1, 0).bit_length()


def _allowed(partition: Partition, signature: Signature) -> Callable[[Mapping[str, int]], bool]:
    """Whether sizes are multiples, and equal, where PyTorch's guards ask for it: TensorRT tries those that a range
    names."""
    names = symbol_names(partition, signature)
    environments = (s.node.shape_env for shape in _dynamic(partition) for s in shape if isinstance(s, torch.SymInt))
    environment = next(environments, None)
    guards = [] if environment is None else [
        guard.expr for guard in environment.guards
        if (isinstance(guard.expr, sympy.Eq) or guard.expr.has(FloorDiv, Mod, PythonMod))
        and guard.expr.free_symbols <= names.keys()
    ]  # fmt: skip

    def allowed(sizes: Mapping[str, int]) -> bool:
        numbers = {symbol: sympy.Integer(sizes[name]) for symbol, name in names.items()}
        try:
            return all(guard.xreplace(numbers) != sympy.false for guard in guards)
        except ZeroDivisionError:  # a guard asks for n // (n // 7)
            return False

    return allowed


def _fit(shapes: Iterable[Sequence[Size]], chosen: Mapping[str, tuple[int, int, int]]) -> bool:
    return all(_most(shape, chosen) <= MAX_ELEMENTS for shape in shapes)


def _most(shape: Sequence[Size], chosen: Mapping[str, tuple[int, int, int]]) -> int:
    """The elements of a shape at the ends of the ranges: its bounds know n // (n // 7) too badly."""
    most = 0
    names = [name for name in chosen if any(_holds(size, name) for size in shape)]
    for ends in itertools.product(*((chosen[name][0], chosen[name][2]) for name in names)):
        known = dict(zip(names, ends, strict=True))
        with contextlib.suppress(ZeroDivisionError):
            most = max(most, math.prod(max(evaluate(size, known), 1) for size in shape))
    return most


def _holds(size: Size, name: str) -> bool:
    return size == name or (isinstance(size, tuple) and any(_holds(one, name) for one in size[1:]))


def _dynamic(partition: Partition) -> Iterator[Sequence[Any]]:
    """The shapes of a partition that hold a dynamic size."""
    for node in partition.module.graph.nodes:
        value: Any = node.meta.get("val")
        for one in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(one, torch.Tensor) and any(isinstance(s, torch.SymInt) for s in one.shape):
                yield one.shape


def _shapes(partition: Partition, signature: Signature) -> dict[tuple[Size, ...], None]:
    """The dynamic shapes inside a partition, each once; of what nothing reads, they may have other symbols."""
    names = symbol_names(partition, signature)
    known = (shape for shape in _dynamic(partition) if names.keys() >= set(symbols(shape)))
    return {tuple(size(s, names) for s in shape): None for shape in known}


def symbol_names(partition: Partition, signature: Signature) -> dict[Any, str]:
    """PyTorch's symbols → the signature's names."""
    values = {n.name: n.meta["val"] for n in partition.module.graph.find_nodes(op="placeholder")}
    told = [(s.name, values[s.argument], s.dim) for s in signature.symbols]
    return {expression(value if dim is None else value.shape[dim]): name for name, value, dim in told}
