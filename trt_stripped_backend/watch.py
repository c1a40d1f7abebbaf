"""Tells whether memory changed: silent writes, version counters, and who still holds a storage."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch._C._dynamo.guards import TensorGuards
from torch.optim.optimizer import register_optimizer_step_post_hook


class _Writes:
    """Writes that bump no version counter: fused optimizers report here after each step."""

    def __init__(self) -> None:
        self.epoch = 0
        self._touched: dict[int, int] = {}  # data pointer → epoch of its last silent write
        self._hooked = False

    def watch(self) -> None:
        """Starts to listen; optimizers that step before are of no interest, because nothing was copied yet."""
        if not self._hooked:
            self._hooked = True
            register_optimizer_step_post_hook(self._stepped)

    def _stepped(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        silent = [p for g in optimizer.param_groups if g.get("fused") or g.get("capturable") for p in g["params"]]
        if silent:
            self.epoch += 1
            self._touched.update(dict.fromkeys((p.data_ptr() for p in silent), self.epoch))

    def count(self, pointers: Iterable[int]) -> int:
        """A number that grows when one of these pointers is written silently."""
        return sum(self._touched.get(p, 0) for p in pointers)


writes = _Writes()

_version_of = operator.attrgetter("_version")


def version(tensor: torch.Tensor) -> int:
    """The version counter; inference tensors have none, and count as never written."""
    return 0 if tensor.is_inference() else tensor._version


def contents(tensors: Sequence[torch.Tensor]) -> tuple[Any, ...]:
    """What differs when one of these tensors was written, or is another object over the same memory.

    Versions only grow, so for the same objects one sum is exact. A new ``Parameter`` over old memory starts its counter
    anew, which is why the objects count too.
    """
    try:
        versions = sum(map(_version_of, tensors))
    except RuntimeError:  # inference tensors do not track versions
        versions = sum(map(version, tensors))
    silent = writes.count(map(torch.Tensor.data_ptr, tensors)) if writes.epoch else 0
    return versions, silent, tuple(map(id, tensors))


def same_layout(tensors: Sequence[torch.Tensor]) -> Callable[..., bool]:
    """A check, in one call, that other tensors have these ones' shapes, strides, dtypes and devices; holds none."""
    sizes, strides = [list(t.shape) for t in tensors], [list(t.stride()) for t in tensors]
    guards: Any = TensorGuards
    check: Callable[..., bool] = guards(*tensors, dynamic_dims_sizes=sizes, dynamic_dims_strides=strides).check
    return check


def _current(index: int) -> int:
    handle: int = torch.cuda.current_stream(index).cuda_stream
    return handle


#: The current stream of a device by its index, as a number: 0 is the default stream.
current_handle: Callable[[int], int] = getattr(torch._C, "_cuda_getCurrentRawStream", _current)


def capturing(device: torch.device) -> bool:
    """Whether the current stream of a device is being recorded into a CUDA graph."""
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return False
    with torch.cuda.device(device if device.type == "cuda" else None):
        return torch.cuda.is_current_stream_capturing()


def stamp(tensor: torch.Tensor) -> tuple[Any, ...]:
    """:func:`contents` of one tensor, with where and how it lies in memory."""
    pointer = tensor.data_ptr()
    written = version(tensor), writes.count([pointer]) if writes.epoch else 0
    return id(tensor), pointer, *written, tensor.dtype, tuple(tensor.shape), tensor.stride()


class Disguised:
    """Finds data in disguise: what changes at every call, while no weight does.

    PyTorch takes every tensor that a module holds for static, also one that is set or written before each call, and
    every tensor that was a module's once, when it comes as an argument.

    Args:
        suspects: positions of sources that may be data, and for each whether a write says so, or only another tensor.

    Attributes:
        found: positions of those that are; empty until then.
        calls: how many calls in a row changed nothing but suspects. Whoever sees a call without a change sets it to 0.
    """

    LIMIT = 5

    def __init__(self, suspects: Mapping[int, bool]) -> None:
        self.suspects = suspects
        self.found: frozenset[int] = frozenset()
        self.calls = 0
        self._before: list[tuple[Any, ...]] = []
        self._always = frozenset(suspects)

    def look(self, now: Sequence[tuple[Any, ...]]) -> None:
        """Looks at the sources of a call, by their stamps, that differ from those of the call before."""
        if not self.suspects:
            return
        moved = {k for k, (old, new) in enumerate(zip(self._before, now, strict=False)) if old != new}
        told = {k for k in moved if self.suspects.get(k) or (k in self.suspects and self._before[k][:2] != now[k][:2])}
        self._before = list(now)
        if moved != told or not moved:
            self.calls, self._always = 0, frozenset(self.suspects)
            return
        self.calls, self._always = self.calls + 1, self._always & told
        if self.calls >= self.LIMIT:
            self.found = self._always


def gather(positions: Sequence[int]) -> Callable[[Sequence[Any]], tuple[Any, ...]]:
    """``itemgetter`` that always gives a tuple."""
    if len(positions) > 1:
        return operator.itemgetter(*positions)
    return lambda args: tuple(args[p] for p in positions)


class Alias:
    """Holds a tensor's memory without its autograd history, so that its address cannot be given to another tensor.

    Counts the holders of each storage, so that a storage which only we hold is known for dead. A detached tensor does
    not hold the Parameter object, which ``torch.utils.swap_tensors`` would mind.
    """

    __slots__ = ("storage", "tensor")
    _held: ClassVar[Counter[int]] = Counter()

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor.detach()
        self.storage = self.tensor.untyped_storage()._cdata
        Alias._held[self.storage] += 1

    def __del__(self, held: Counter[int] = _held) -> None:  # a default outlives the module, when Python ends
        held[self.storage] -= 1
        if not held[self.storage]:
            del held[self.storage]

    @property
    def alive(self) -> bool:
        """Whether anyone but us still holds the memory."""
        handle = self.tensor.untyped_storage()  # itself one holder while it is looked at
        return bool(torch._C._storage_Use_Count(handle._cdata) > Alias._held[self.storage] + 1)
