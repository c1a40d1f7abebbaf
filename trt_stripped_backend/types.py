"""The values that travel between the stages. All frozen: a stage returns new ones and changes none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import sympy
import torch
from torch import fx

from .sizes import Size, evaluate, from_json, sampled, size

Json = Any  # None | bool | int | float | str | list[Json] | dict[str, Json]


def dtype_name(dtype: torch.dtype) -> str:
    """``torch.float16`` -> ``"float16"``."""
    return str(dtype).removeprefix("torch.")


def flat_bytes(tensor: torch.Tensor) -> torch.Tensor:
    """The elements' bytes in logical order, uint8 ``[nbytes]``; shares the memory of a contiguous tensor."""
    # Not by reshape: that leaves a single element with a stride that forbids to view it as bytes.
    return tensor.detach().contiguous().as_strided((tensor.numel(),), (1,)).view(torch.uint8)


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


def layout(tensor: torch.Tensor) -> tuple[int, ...] | None:
    """The :func:`dense_order` of a (fake) tensor, whose sizes may be symbolic."""
    rank = tensor.ndim
    orders = {dense_order(n[:rank], n[rank:]) for n in sampled([*tensor.shape, *tensor.stride()])}
    return orders.pop() if len(orders) == 1 else None


@dataclass(frozen=True)
class TensorSpec:
    """What an engine knows of one of its tensors.

    Attributes:
        shape: sizes as PyTorch sees them; a dynamic one is an expression, see ``sizes.py``.
        dtype: element type.
        order: dimensions from outermost to innermost in memory; the identity is a contiguous tensor, ``(0, 2, 3, 1)``
            is channels_last. The engine's own binding has the *physical* shape and permutes inside, so that tensors
            of any dense layout pass without a copy.
    """

    shape: tuple[Size, ...]
    dtype: torch.dtype
    order: tuple[int, ...]

    @classmethod
    def of(cls, tensor: torch.Tensor, names: Mapping[sympy.Symbol, str] | None = None) -> TensorSpec:
        """The spec of a (fake) tensor; a layout with gaps or overlaps becomes contiguous: it is copied when bound.

        Args:
            tensor: its sizes may be symbolic.
            names: the canonical name of each symbol.

        Raises:
            Unsupported: a size has no canonical form.
        """
        order = layout(tensor)
        shape = tuple(s if isinstance(s, int) else size(s, names or {}) for s in tensor.shape)
        return cls(shape, tensor.dtype, tuple(range(tensor.ndim)) if order is None else order)

    def at(self, known: Mapping[str, int]) -> TensorSpec:
        """The spec with numbers for its symbols."""
        return replace(self, shape=tuple(evaluate(s, known) for s in self.shape))

    @property
    def dynamic(self) -> bool:
        return not all(isinstance(s, int) for s in self.shape)

    @property
    def physical(self) -> tuple[Size, ...]:
        """The shape in memory order."""
        return tuple(self.shape[d] for d in self.order)

    @property
    def stride(self) -> tuple[int, ...]:
        """Strides in elements, of a tensor that has exactly this layout and no dynamic size."""
        stride, step = [0] * len(self.shape), 1
        for dim in reversed(self.order):
            stride[dim] = step
            step *= max(self.shape[dim], 1)
        return tuple(stride)

    @property
    def numel(self) -> int:
        count = 1
        for one in self.shape:
            count *= one
        return count

    @property
    def nbytes(self) -> int:
        return self.numel * self.dtype.itemsize

    def to_json(self) -> Json:
        return {"shape": list(self.shape), "dtype": dtype_name(self.dtype), "order": list(self.order)}

    @classmethod
    def from_json(cls, data: Json) -> TensorSpec:
        return cls(tuple(map(from_json, data["shape"])), getattr(torch, data["dtype"]), tuple(data["order"]))


@dataclass(frozen=True)
class Slot:
    """One weight that an engine needs.

    Attributes:
        name: its name in the engine (``w0``, ``w1``, … by first use).
        spec: what the engine knows of it.
        kernel: it is the kernel of convolutions and lies in the layout of TensorRT's own, see ``kernel_layout.py``.
        relaid: PyTorch's operators were traced with it contiguous, which ``spec`` is not.
    """

    name: str
    spec: TensorSpec
    kernel: bool = False
    relaid: bool = False


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
        where: the user's source line, ``model.py:12``; if none is known, the module, ``encoder.3``; else empty.
        code: what stands there.
    """

    node: str
    target: str
    kind: str
    reason: str
    where: str = ""
    code: str = ""

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
        kernels: those of its weights that are computed in the layout of ``kernel_layout.py``.
    """

    name: str
    module: fx.GraphModule
    weights: frozenset[str]
    nodes: int
    kernels: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Key:
    """What decides a plan, as named parts, and the SHA-256 over them (hexadecimal)."""

    digest: str
    parts: dict[str, Json] = field(compare=False, repr=False)

    def __str__(self) -> str:
        return self.digest


@dataclass(frozen=True)
class Symbol:
    """A dynamic size that an engine's shapes depend on.

    Attributes:
        name: ``d0``, ``d1``, … by first use.
        low: smallest value that PyTorch allows.
        high: largest value that PyTorch allows; None if it sets no limit.
        example: the value in the call that was traced.
        argument: the placeholder that tells the value: a tensor, or an int.
        dim: which of the tensor's dimensions; None for an int, which the engine gets as a tensor of that many elements.
    """

    name: str
    low: int
    high: int | None
    example: int
    argument: str
    dim: int | None


#: For each symbol: smallest value, the one to optimize for, and largest.
Ranges = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True)
class Signature:
    """A partition in canonical order: what the engine's tensors are called and which placeholder each one is.

    Attributes:
        inputs: ``(placeholder name, spec)`` of engine inputs ``x0``, ``x1``, …
        slots: ``(placeholder name, slot)`` of weights ``w0``, ``w1``, …
        outputs: specs of engine outputs ``y0``, ``y1``, …
        symbols: the dynamic sizes.
    """

    inputs: tuple[tuple[str, TensorSpec], ...]
    slots: tuple[tuple[str, Slot], ...]
    outputs: tuple[TensorSpec, ...]
    symbols: tuple[Symbol, ...] = ()


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
