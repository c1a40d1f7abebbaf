"""What moves elements, and computes none."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .builder import DTYPES, FLOATS, INTS, Builder
from .registry import EXACT, of

_MOVES = (
    "Tensor.reshape", "Tensor.permute", "Tensor.transpose", "Tensor.expand", "Tensor.unsqueeze", "Tensor.squeeze",
    "torch.flatten", "torch.flip", "torch.roll", "Tensor.repeat", "torch.tril", "torch.triu", "torch.diagonal",
    "torch.narrow", "torch.select", "torch.cat", "torch.stack", "torch.split", "torch.chunk", "torch.unbind",
    "Tensor.unfold", "torch.gather", "torch.index_select", "torch.take_along_dim", "torch.scatter", "own.index",
    "own.put", "own.write", "own.topk", "own.sort", "F.embedding", "F.pad",
    "F.max_pool2d", "F.max_pool1d", "F.pixel_shuffle", "torch.zeros_like",
    "torch.full_like", "Tensor.new_ones", "torch.movedim", "torch.meshgrid", "torch.repeat_interleave", "torch.where",
)  # fmt: skip
EXACT.update(_MOVES)


@of("moves")
def reshape(b: Builder) -> None:
    x = b.pick()
    sizes = list(b.of(x).shape)
    at = b.whole(0, max(len(sizes) - 1, 0))
    kind = b.one_of("flat", "merge", "split", "ones", "infer")
    if kind == "flat":
        b.add("Tensor.reshape", x, [-1])
    elif kind == "merge" and len(sizes) > 1 and at + 1 < len(sizes):
        b.add("Tensor.reshape", x, [*sizes[:at], sizes[at] * sizes[at + 1], *sizes[at + 2 :]])
    elif kind == "split" and sizes and sizes[at] % 2 == 0:
        b.add("Tensor.reshape", x, [*sizes[:at], 2, sizes[at] // 2, *sizes[at + 1 :]])
    elif kind == "ones":
        b.add("Tensor.reshape", x, [*sizes[:at], 1, *sizes[at:], 1])
    elif sizes:
        b.add("Tensor.reshape", x, [*sizes[:at], -1, *sizes[at + 1 :]])


@of("moves")
def permute(b: Builder) -> None:
    x = b.pick(low=2)
    order = list(range(b.of(x).ndim))
    for i in range(len(order) - 1, 0, -1):
        j = b.whole(0, i)
        order[i], order[j] = order[j], order[i]
    b.add("Tensor.permute", x, order)


@of("moves")
def expand(b: Builder) -> None:
    x = b.pick(high=4)
    sizes = [b.one_of(3, 1, 2) if s == 1 else -1 for s in b.of(x).shape]
    b.add("Tensor.expand", x, [*([2] if b.maybe() else []), *sizes])


@of("moves")
def one_dimension(b: Builder) -> None:
    x = b.pick(low=1)
    name = b.one_of("Tensor.squeeze", "Tensor.unsqueeze", "torch.unbind", "torch.flatten", "torch.flip", "torch.cat")
    dim = b.dim(x)
    if name == "torch.flatten":
        b.add(name, x, dim % b.of(x).ndim)
    elif name == "torch.flip":
        b.add(name, x, b.dims(x))
    elif name == "torch.cat":
        other = b.input(_but(b.of(x).shape, dim, b.whole(0, 3)), b.one_of(b.of(x).dtype, *DTYPES))
        b.add(b.one_of(name, "torch.cat"), [x, other, x][: b.whole(1, 3)], dim)
    else:
        b.add(name, x, dim)


def _but(shape: Sequence[int], dim: int, size: int) -> list[int]:
    made = list(shape)
    made[dim] = size
    return made


@of("moves")
def stack(b: Builder) -> None:
    x = b.pick(high=4)
    b.add("torch.stack", [x, b.input(b.of(x).shape, b.of(x).dtype)], b.whole(0, b.of(x).ndim))


@of("moves")
def two_dimensions(b: Builder) -> None:
    x = b.pick(low=2)
    name = b.one_of("Tensor.transpose", "torch.movedim", "torch.diagonal", "torch.tril", "torch.triu")
    if name in ("torch.tril", "torch.triu", "torch.diagonal"):
        b.add(name, x, b.whole(-2, 2))
    else:
        b.add(name, x, b.dim(x), b.dim(x))


@of("moves")
def repeat(b: Builder) -> None:
    x = b.pick(high=4)
    b.add("Tensor.repeat", x, [b.one_of(1, 2, 3) for _ in range(b.of(x).ndim + b.whole(0, 1))])


@of("moves")
def roll(b: Builder) -> None:
    x = b.pick(low=1)
    b.add("torch.roll", x, b.whole(-3, 5), b.dim(x))


@of("moves")
def piece(b: Builder) -> None:
    x = b.pick(low=1)
    dim = b.dim(x)
    size = b.of(x).shape[dim]
    name = b.one_of("own.index", "torch.select", "torch.split", "torch.chunk", "Tensor.unfold")
    if name == "own.index":
        start = b.one_of(None, 0, 1, -2, 9)
        places = [slice(None)] * (dim % b.of(x).ndim) + [slice(start, b.one_of(None, -1, 3, 50), b.one_of(None, 2, 3))]
        b.add(name, x, *places)
    elif name == "torch.select":
        b.add(name, x, dim, b.whole(-size, size - 1) if size else 0)
    elif name == "Tensor.unfold":
        b.add(name, x, dim, b.whole(1, max(size, 1)), b.whole(1, 2))
    else:
        b.add(name, x, b.whole(1, max(size, 1)), dim)


@of("moves")
def pad(b: Builder) -> None:
    x = b.pick(low=1, high=5)
    count, mode = b.whole(1, min(2, b.of(x).ndim)), b.one_of("constant", "reflect", "replicate", "circular")
    widths = [b.whole(-1 if mode == "constant" else 0, 2) for _ in range(2 * count)]
    b.add("F.pad", x, widths, mode, *([b.number()] if mode == "constant" else []))


@of("moves")
def indexed(b: Builder) -> None:
    x = b.pick(low=1, numel=1)
    dim = b.dim(x)
    size, rank = b.of(x).shape[dim], b.of(x).ndim
    name = b.one_of("torch.index_select", "torch.gather", "own.index", "own.put", "torch.scatter", "F.embedding")
    if name == "F.embedding":
        table = b.input((b.whole(1, 6), b.whole(1, 4)), b.one_of(*FLOATS), weight=True)
        b.add(name, b.input(b.shape(0, 3), b.one_of(*INTS), below=b.of(table).shape[0]), table)
        return
    if name in ("torch.gather", "torch.scatter"):
        shape = [b.whole(1, s) for s in b.of(x).shape] if b.maybe() else list(b.of(x).shape)
        shape[dim] = b.whole(1, 4) if name == "torch.gather" else 1
        # PyTorch promises no winner where two write to one place.
        extra = [b.number()] if name == "torch.scatter" else []
        b.add(name, x, dim, b.input(shape, torch.int64, below=size), *extra)
        return
    if name == "torch.index_select":
        b.add(name, x, dim, b.input((b.whole(0, 4),), b.one_of(*INTS), below=size))
        return
    # Not 0-d: to PyTorch that is often a number, which it reads from the device.
    places = b.input(b.one_of((3,), (2, 2), (1,)), torch.int64, below=size)
    if name == "own.put":
        b.add(name, x, places, b.number(), dim % rank)
    else:
        b.add(name, x, *([slice(None)] * (dim % rank)), places, *([None] if b.maybe() else []))


@of("moves")
def write(b: Builder) -> None:
    x = b.pick(low=1)
    start = b.whole(0, 2)
    b.add("own.write", x, b.number(), b.dim(x) % b.of(x).ndim, start, start + b.whole(1, 4), b.whole(1, 2))


@of("moves")
def like(b: Builder) -> None:
    x = b.pick()
    name = b.one_of("torch.zeros_like", "torch.full_like", "Tensor.new_ones")
    extra = {"torch.full_like": [b.number()], "Tensor.new_ones": [list(b.shape(0, 3))]}.get(name, [])
    b.add(name, x, *extra)


@of("moves")
def running_sum(b: Builder) -> None:
    """Stays in PyTorch, and so cuts the graph."""
    x = b.pick((*FLOATS, *INTS), low=1)
    b.add("torch.cumsum", x, b.dim(x))
