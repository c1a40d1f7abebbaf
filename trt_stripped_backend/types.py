"""The values that travel between the stages. All frozen: a stage returns new ones and changes none."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import fx

Json = Any  # None | bool | int | float | str | list[Json] | dict[str, Json]


def dtype_name(dtype: torch.dtype) -> str:
    """``torch.float16`` -> ``"float16"``."""
    return str(dtype).removeprefix("torch.")


def dense_order(shape: tuple[int, ...], stride: tuple[int, ...]) -> tuple[int, ...] | None:
    """Dimensions from outermost to innermost in memory if the layout is dense and does not overlap, else None.

    Dimensions of size 1 have no stride that matters: they keep their place relative to their left neighbour, so
    every contiguous tensor gives the identity.

    >>> dense_order((2, 3, 4, 5), (60, 1, 15, 3))      # channels_last
    (0, 2, 3, 1)
    """
    if 0 in shape:
        return tuple(range(len(shape)))
    expected = 1
    inner: list[int] = []
    for dim in sorted((d for d in range(len(shape)) if shape[d] != 1), key=lambda d: (stride[d], -d)):
        if stride[dim] != expected:
            return None
        inner.append(dim)
        expected *= shape[dim]
    order = inner[::-1]
    for dim in range(len(shape)):
        if shape[dim] == 1:
            order.insert(order.index(dim - 1) + 1 if dim else 0, dim)
    return tuple(order)


@dataclass(frozen=True)
class TensorSpec:
    """What an engine knows of one of its tensors.

    Attributes:
        shape: sizes as PyTorch sees them.
        dtype: element type.
        order: dimensions from outermost to innermost in memory; the identity is a contiguous tensor, ``(0, 2, 3, 1)``
            is channels_last. The engine's own binding has the *physical* shape and permutes inside, so that tensors
            of any dense layout pass without a copy.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    order: tuple[int, ...]

    @classmethod
    def of(cls, tensor: torch.Tensor) -> TensorSpec:
        """The spec of a (fake) tensor; a layout with gaps or overlaps becomes contiguous: it is copied when bound."""
        shape = tuple(int(s) for s in tensor.shape)
        order = dense_order(shape, tuple(int(s) for s in tensor.stride()))
        return cls(shape, tensor.dtype, tuple(range(len(shape))) if order is None else order)

    @property
    def physical(self) -> tuple[int, ...]:
        """The shape in memory order."""
        return tuple(self.shape[d] for d in self.order)

    @property
    def stride(self) -> tuple[int, ...]:
        """Strides in elements, of a tensor that has exactly this layout."""
        stride, step = [0] * len(self.shape), 1
        for dim in reversed(self.order):
            stride[dim] = step
            step *= max(self.shape[dim], 1)
        return tuple(stride)

    @property
    def numel(self) -> int:
        count = 1
        for size in self.shape:
            count *= size
        return count

    @property
    def nbytes(self) -> int:
        return self.numel * self.dtype.itemsize

    def to_json(self) -> Json:
        return {"shape": list(self.shape), "dtype": dtype_name(self.dtype), "order": list(self.order)}

    @classmethod
    def from_json(cls, data: Json) -> TensorSpec:
        return cls(tuple(data["shape"]), getattr(torch, data["dtype"]), tuple(data["order"]))


@dataclass(frozen=True)
class Slot:
    """One weight that an engine needs: its name in the engine (``w0``, ``w1``, … by first use) and its spec."""

    name: str
    spec: TensorSpec


@dataclass(frozen=True)
class Rejection:
    """Why a node stays in PyTorch.

    Attributes:
        node: FX node name in the lowered graph (``""`` when the whole graph is meant).
        target: the operator, e.g. ``aten.cumsum.default``.
        kind: ``op`` (no converter), ``dtype``, ``refit`` (not refittable), ``limit`` (a case TensorRT lacks), ``data``
            (data-dependent shape), ``random``, ``option`` (the user asked), ``size`` (block too small), ``build``
            (TensorRT failed), ``verify`` (results differ), ``device``, ``grad``.
        reason: one sentence.
        where: the user's source line, if known.
    """

    node: str
    target: str
    kind: str
    reason: str
    where: str = ""

    def __str__(self) -> str:
        at = f" ({self.where})" if self.where else ""
        return f"{self.target}: {self.reason}{at}"


@dataclass(frozen=True)
class Partition:
    """A maximal piece of the lowered graph that becomes one engine.

    Attributes:
        name: its name in the split graph (``engine_0``, …).
        module: the piece itself; runs in PyTorch for ``verify`` and for fallbacks.
        weights: names of its placeholders that are weights; the other placeholders are inputs.
        nodes: number of call_function nodes, ``getitem`` not counted.
    """

    name: str
    module: fx.GraphModule
    weights: frozenset[str]
    nodes: int


@dataclass(frozen=True)
class Key:
    """What decides a plan, as named parts, and the SHA-256 over them (hexadecimal)."""

    digest: str
    parts: dict[str, Json] = field(compare=False, repr=False)

    def __str__(self) -> str:
        return self.digest


@dataclass(frozen=True)
class Signature:
    """A partition in canonical order: what the engine's tensors are called and which placeholder each one is.

    Attributes:
        inputs: ``(placeholder name, spec)`` of engine inputs ``x0``, ``x1``, …
        slots: ``(placeholder name, slot)`` of weights ``w0``, ``w1``, …
        outputs: specs of engine outputs ``y0``, ``y1``, …
    """

    inputs: tuple[tuple[str, TensorSpec], ...]
    slots: tuple[tuple[str, Slot], ...]
    outputs: tuple[TensorSpec, ...]


@dataclass(frozen=True)
class Entry:
    """What the cache stores for one key.

    Attributes:
        key: the key's digest, so that a foreign file is recognised.
        header: JSON: slots, inputs, outputs, refit names, literals, key parts, flavour, version, build seconds.
        plan: TensorRT's serialized engine.
    """

    key: str
    header: dict[str, Json]
    plan: bytes = field(repr=False)


class BlobStore(Protocol):
    """Where TensorRT's own caches are kept beside the plans; to lose one costs time only."""

    def get_blob(self, kind: str, name: str) -> bytes | None:
        """What was stored, verified, or None."""

    def put_blob(self, kind: str, name: str, data: bytes) -> Any:
        """Stores bytes under a kind and a name, in place of what was there."""
