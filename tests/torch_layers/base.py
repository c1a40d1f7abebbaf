"""What all layers share: tensors, settable attributes, type rules, reading ``trt.Weights``."""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Callable, Iterable
from typing import Any

import torch

from trt_stripped_backend.flavour import trt
from trt_stripped_backend.ops.network import BOOL, FLOAT, INT, from_trt, to_trt

NUMERIC = FLOAT | INT
ANY = NUMERIC | BOOL
#: ``Dims.MAX_DIMS``.
MAX_RANK = 8


_numbers = itertools.count()


class Refused(Exception):
    """TensorRT would not create or build this layer."""


class Tensor:
    """Stands for ``ITensor``. The value is computed when the shape, the dtype or the value is first asked for, so that
    a layer's attributes may be set after :meth:`Layer.get_output`, as with TensorRT.

    A network of dynamic shapes has a value for each set of inputs; what depends on none of them has one.
    """

    def __init__(self, source: Callable[[], tuple[torch.Tensor, ...]], name: str = "") -> None:
        self._source, self._values = source, None
        self.name, self.is_network_input = name or f"tensor{next(_numbers)}", bool(name)

    @property
    def values(self) -> tuple[torch.Tensor, ...]:
        if self._values is None:
            self._values = self._source()
        return self._values

    @property
    def value(self) -> torch.Tensor:
        return self.values[0]

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes; -1 for one that differs between the sets of inputs."""
        every = map(set, zip(*(value.shape for value in self.values), strict=True))
        return tuple(sizes.pop() if len(sizes) == 1 else -1 for sizes in every)

    @property
    def dtype(self) -> Any:
        return to_trt(self.value.dtype)


class Input(Tensor):
    """An engine input, whose memory may be said to be in another order than its sizes.

    Args:
        name: its own.
        shape: sizes as declared; -1 for those that the values tell.
        given: the values, each in the order of its memory.
    """

    def __init__(self, name: str, shape: tuple[int, ...], given: tuple[torch.Tensor, ...]) -> None:
        super().__init__(lambda: tuple(map(self._read, given)), name)
        self.allowed_formats, self._declared = 1 << int(trt.TensorFormat.LINEAR), shape

    def _read(self, value: torch.Tensor) -> torch.Tensor:
        formats = trt.TensorFormat
        if self.allowed_formats == 1 << int(formats.LINEAR):
            fits = all(size in (-1, have) for size, have in zip(self._declared, value.shape, strict=True))
            require(fits, f"input {self.name} has shape {tuple(value.shape)}, not {self._declared}")
            return value
        want = formats.HWC if value.dtype == torch.float32 else formats.HWC8
        require(self.allowed_formats == 1 << int(want), f"input {self.name}: {value.dtype} has no such format")
        require(len(self._declared) == 4 and -1 not in self._declared, f"input {self.name} is no image of fixed sizes")
        k, c, r, s = self._declared
        require(want != formats.HWC8 or c % 8 == 0, f"input {self.name}: vectors of 8 do not fill {c} channels")
        return value.contiguous().reshape(k, r, s, c).permute(0, 3, 1, 2)


class Layer:
    """A layer. Subclasses declare the settable attributes of the real class as class attributes with its defaults."""

    name = ""
    metadata = ""

    def __init__(self, *inputs: Tensor | None, **attributes: Any) -> None:
        object.__setattr__(self, "_inputs", list(inputs))
        object.__setattr__(self, "_outputs", None)
        for key, value in attributes.items():
            setattr(self, key, value)

    def __setattr__(self, key: str, value: Any) -> None:
        if not hasattr(type(self), key):
            raise AttributeError(f"TensorRT's {type(self).__name__} layer has no attribute {key!r}")
        if self._outputs is not None and key not in ("name", "metadata"):
            raise Refused(f"{key} of layer {self.name} was set after its output was used")
        object.__setattr__(self, key, value)

    def set_input(self, index: int, tensor: Tensor) -> None:
        if self._outputs is not None:
            raise Refused(f"input {index} of layer {self.name} was set after its output was used")
        self._inputs.extend([None] * (index + 1 - len(self._inputs)))
        self._inputs[index] = tensor

    @property
    def num_inputs(self) -> int:
        return len(self._inputs)

    def get_input(self, index: int) -> Tensor | None:
        return self._inputs[index]

    def get_output(self, index: int) -> Tensor:
        return Tensor(lambda: tuple(outputs[index] for outputs in self._values()))

    def _values(self) -> list[tuple[torch.Tensor, ...]]:
        """The outputs for each set of inputs."""
        if self._outputs is None:
            given = [None if t is None else t.values for t in self._inputs]
            count = max((len(values) for values in given if values is not None), default=1)
            every = []
            for index in range(count):
                made = self.compute(*(None if v is None else v[index if len(v) > 1 else 0] for v in given))
                every.append(made if isinstance(made, tuple) else (made,))
                for out in every[-1]:
                    require(out.ndim <= MAX_RANK, f"rank {out.ndim} is above {MAX_RANK}")
            object.__setattr__(self, "_outputs", every)
        return self._outputs

    def compute(self, *inputs: Any) -> torch.Tensor | tuple[torch.Tensor, ...]:
        raise NotImplementedError


def require(condition: bool, message: str) -> None:
    if not condition:
        raise Refused(message)


def expect(tensor: torch.Tensor, dtypes: Iterable[torch.dtype], what: str) -> None:
    require(tensor.dtype in dtypes, f"{what} may not be {tensor.dtype}")


def same(tensors: Iterable[torch.Tensor], what: str) -> None:
    """Strongly typed networks neither convert nor add dimensions."""
    tensors = list(tensors)
    require(len({t.dtype for t in tensors}) == 1, f"{what} need one type, got {[str(t.dtype) for t in tensors]}")
    require(len({t.ndim for t in tensors}) == 1, f"{what} need one rank, got {[tuple(t.shape) for t in tensors]}")


def broadcastable(tensors: Iterable[torch.Tensor], what: str) -> None:
    for sizes in zip(*(t.shape for t in tensors), strict=True):
        require(len(set(sizes) - {1}) <= 1, f"{what} do not broadcast: {[tuple(t.shape) for t in tensors]}")


def dims_of(mask: int, rank: int) -> list[int]:
    require(mask >> rank == 0, f"axes {mask:b} name a dimension beyond rank {rank}")
    return [d for d in range(rank) if mask >> d & 1]


def ints(value: Any) -> list[int]:
    """A shape: ``Dims``, a tuple, or the value of a shape tensor."""
    return [int(v) for v in (value.tolist() if isinstance(value, torch.Tensor) else value)]


def permutation(value: Any, rank: int) -> list[int]:
    """``trt.Permutation`` always lists eight entries."""
    order = [int(v) for v in value][:rank]
    require(sorted(order) == list(range(rank)), f"{order} is no permutation of rank {rank}")
    return order


def read_weights(weights: Any) -> torch.Tensor | None:
    """A copy of what ``trt.Weights`` points to, one-dimensional; None for no weights.

    Its ``numpy()`` knows neither bfloat16 nor null pointers, so the C++ struct {type, pointer, count} behind the
    Python object is read: a pybind11 instance holds the struct's address after the object header.
    """
    if weights is None or not weights.size:
        return None
    struct = ctypes.c_void_p.from_address(id(weights) + object.__basicsize__).value
    assert struct is not None
    pointer = ctypes.c_void_p.from_address(struct + 8).value
    if pointer is None:
        raise Refused("a placeholder has no value to compute with")
    raw = ctypes.string_at(pointer, weights.nbytes)
    return torch.frombuffer(bytearray(raw), dtype=from_trt(weights.dtype)).clone()
