"""Which sizes an engine is built for: the ranges of its dynamic dimensions.

PyTorch says what a size may be; where it sets no upper limit, something must. An engine for many sizes costs scratch
memory by the sizes that it runs, not by those that it could, so the range is wide: one engine serves a decoder from its
second token on.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from .sizes import Size, expression, interval, size
from .types import Partition, Ranges, Signature

#: Largest size where nobody sets a limit, unless four times the example is larger.
REACH = 4096
#: From here on a limit is that of some CUDA kernel's grid, which PyTorch names on a GPU and not elsewhere.
GRID = 65535
#: TensorRT's limit on the elements of one tensor.
MAX_ELEMENTS = 2**31 - 1


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
    for symbol, value in zip(signature.symbols, values or [s.example for s in signature.symbols], strict=True):
        low, high, value = symbol.low, symbol.high, max(value, 0)
        if high is None or high >= GRID:
            within = limits is not None and limits[0] <= value <= limits[1]
            low, high = (max(low, limits[0]), limits[1]) if within and limits else (low, max(_power(4 * value), REACH))
        low, high = min(low, value), max(high, value)
        # A power of two, so that processes that start with other sizes share the engine.
        chosen[symbol.name] = low, min(_power(value), high), high
    shapes = _shapes(partition, signature)
    while not _fit(shapes, chosen):
        widest = max(chosen, key=lambda name: chosen[name][2] / chosen[name][1])
        low, best, high = chosen[widest]
        if high <= best:
            break
        chosen[widest] = low, best, max(high // 2, best)
    return tuple(chosen[symbol.name] for symbol in signature.symbols)


def neighbours(ranges: Ranges) -> list[Ranges]:
    """The same ranges with other sizes to optimize for, the nearest first: the most likely ones, where many vary."""
    choices = []
    for low, best, high in ranges:
        sizes = [*(1 << k for k in range(41) if low <= 1 << k < high), high]
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


def _fit(shapes: Sequence[Sequence[Size]], chosen: Mapping[str, tuple[int, int, int]]) -> bool:
    bounds = {name: (low, high) for name, (low, _, high) in chosen.items()}
    return all(math.prod(max(interval(s, bounds)[1], 1) for s in shape) <= MAX_ELEMENTS for shape in shapes)


def _shapes(partition: Partition, signature: Signature) -> list[list[Size]]:
    """The dynamic shapes inside a partition."""
    names = symbol_names(partition, signature)
    found = []
    for node in partition.module.graph.nodes:
        value: Any = node.meta.get("val")
        for one in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(one, torch.Tensor) and any(isinstance(s, torch.SymInt) for s in one.shape):
                found.append([size(s, names) for s in one.shape])
    return found


def symbol_names(partition: Partition, signature: Signature) -> dict[Any, str]:
    """PyTorch's symbols → the signature's names."""
    values = {n.name: n.meta["val"] for n in partition.module.graph.find_nodes(op="placeholder")}
    told = [(s.name, values[s.argument], s.dim) for s in signature.symbols]
    return {expression(value if dim is None else value.shape[dim]): name for name, value, dim in told}
