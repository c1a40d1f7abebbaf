"""Execution contexts, and the streams and scratch memory that they run with."""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from .flavour import messages, trt
from .placement import ALIGNMENT
from .precision import applied
from .refit import Engine, EnginePool
from .streams import back, borrow
from .types import BlobStore, TensorSpec


class Call(NamedTuple):
    """What depends on a call's sizes alone.

    Attributes:
        sizes: the dynamic ones.
        inputs: ``(position among the arguments, spec, its stride)``, in the order of the engine's ``x0``, ``x1``, …
        outputs: ``(shape, stride, dtype)`` of ``y0``, ``y1``, …
        shapes: what a context must be told: ``(input name, shape in memory order)`` of dynamic inputs.
        expected: ``(output name, shape in memory order)`` of dynamic outputs.
    """

    sizes: tuple[int, ...]
    inputs: list[tuple[int, TensorSpec, tuple[int, ...]]]
    outputs: list[tuple[tuple[int, ...], tuple[int, ...], torch.dtype]]
    shapes: list[tuple[str, tuple[int, ...]]]
    expected: list[tuple[str, tuple[int, ...]]]


class Context:
    """An execution context and what is bound to it. Belongs to one thread.

    Args:
        engine: ready, or to be refitted before the first run.
        kernels: what :meth:`kernels` gave for this engine before.
        specialize: whether kernels for dynamic shapes are made at once and not in the background; None: TensorRT's
            default. A recorded run keeps the kernels that it was recorded with.

    Attributes:
        trt: the ``trt.IExecutionContext``.
        token: stands for the weights that are bound.
        held: stands for where they lie: see :class:`.weightset.WeightSet`.
        weights: their addresses.
        call: whose shapes are set; None before the first run.
        pointers: addresses bound to the inputs and outputs, in order.
        handle: the stream of the last run, None before the first.
        fresh: kernels were compiled that are not saved yet.
    """

    def __init__(self, engine: Engine, kernels: bytes | None, *, specialize: bool = False) -> None:
        messages.clear()
        # These must outlive the context. Not our Engine, whose end is what ends its contexts.
        self._owners = engine.engine, engine.runtime
        self.token: object | None = None
        self.held: object | None = None
        self.weights: Sequence[int] = ()
        self.call: Call | None = None
        self.pointers: list[int] = []
        self.handle: int | None = None
        self.fresh = False
        self._stream: torch.cuda.Stream | None = None
        self._config: Any = None
        self._cache: Any = None
        cuda_engine = engine.engine
        with applied(engine.tf32):
            self.trt = self._make(cuda_engine, kernels, specialize and engine.dynamic)
        if self.trt is None:
            raise RuntimeError(f"TensorRT made no execution context: {messages.text()}")
        self.execute: Callable[[int], bool] = self.trt.execute_async_v3
        size = getattr(cuda_engine, "device_memory_size_v2", None)
        # What the largest of dynamic shapes would take is not asked for: each call's own shapes decide.
        most = cuda_engine.device_memory_size if size is None else size
        self.scratch_size: int | None = None if engine.dynamic else int(most)

    def __del__(self) -> None:
        for name in ("execute", "trt"):  # before what TensorRT's context was made with
            vars(self).pop(name, None)

    def _make(self, cuda_engine: Any, kernels: bytes | None, specialize: bool) -> Any:
        strategy = trt.ExecutionContextAllocationStrategy.USER_MANAGED
        if not hasattr(trt, "IRuntimeCache"):
            return cuda_engine.create_execution_context(strategy)
        config = self._config = cuda_engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(strategy)
        self._cache = config.create_runtime_cache()
        self.fresh = not (kernels and self._cache.deserialize(kernels))
        config.set_runtime_cache(self._cache)
        if specialize and hasattr(trt, "DynamicShapesKernelSpecializationStrategy"):
            eager = trt.DynamicShapesKernelSpecializationStrategy.EAGER
            config.dynamic_shapes_kernel_specialization_strategy = eager
        return cuda_engine.create_execution_context(config)

    def enter(self, stream: torch.cuda.Stream) -> None:
        """Prepares for runs on another stream than before: order after the last run, and scratch memory."""
        self.handle = None  # until all is done: there may be no memory left
        if self._stream is not None and self._stream != stream:
            stream.wait_stream(self._stream)
        self.lend(_scratch(stream, self.scratch_size) if self.scratch_size is not None else None)
        self._stream, self.handle = stream, stream.cuda_stream

    def lend(self, scratch: torch.Tensor | None) -> None:
        """Gives the next runs scratch memory; None: what :meth:`reshape` finds that the shapes take."""
        self._scratch = scratch
        with _memory_lock:
            _borrowers.add(self)
        if scratch is None:
            return
        if hasattr(self.trt, "set_device_memory"):
            self.trt.set_device_memory(scratch.data_ptr(), scratch.numel())
        else:
            self.trt.device_memory = scratch.data_ptr()

    def take_scratch(self) -> None:
        """Keeps the scratch memory for itself; the next run of every other context that has it gets other memory."""
        with _memory_lock:
            for where in [where for where, memory in _scratches.items() if memory is self._scratch]:
                del _scratches[where]
            for other in list(_borrowers):
                if other is not self and other._scratch is self._scratch:
                    other.handle = None

    def leave(self) -> None:
        """Takes the scratch memory back, so that the next run gets its own stream's, and forgets whose weights these
        are."""
        self._scratch = self.handle = self.token = self.held = None

    def reshape(self, call: Call) -> None:
        """Tells TensorRT the shapes of a call.

        Raises:
            RuntimeError: they are outside what the engine was built for, or lead to other outputs than PyTorch's.
        """
        self.call = None
        for name, shape in call.shapes:
            if not self.trt.set_input_shape(name, shape):
                raise RuntimeError(f"TensorRT refused shape {list(shape)} of {name}: {messages.text()}")
        for name, shape in call.expected:
            have = tuple(self.trt.get_tensor_shape(name))
            if have != shape:
                raise RuntimeError(f"output {name} would have shape {list(have)} in TensorRT, {list(shape)} in PyTorch")
        if call.shapes:  # less than what the largest shapes need
            self.scratch_size = self.trt.update_device_memory_size_for_shapes()
            assert self._stream is not None
            self.lend(_scratch(self._stream, self.scratch_size))
        self.call = call

    def bind(self, names: Sequence[str], new: Sequence[int], old: Sequence[int]) -> None:
        """Tells TensorRT the addresses that are not what they were.

        Raises:
            RuntimeError: TensorRT refused one.
        """
        set_address = self.trt.set_tensor_address
        if len(old) != len(new):
            old = [0] * len(new)  # no address: all are set
        for name, pointer, before in zip(names, new, old, strict=True):
            if pointer != before and not set_address(name, pointer):
                raise RuntimeError(f"TensorRT refused the address of {name}: {messages.text()}")

    def kernels(self) -> bytes | None:
        """The kernels that RTX compiled for this context, to be saved."""
        return bytes(memoryview(self._cache.serialize())) if self._cache is not None else None


class Kernels:
    """What RTX compiled for one plan and one GPU: shared by the plan's contexts, and kept beside the plan.

    Args:
        pool: the plan's engines.
        blobs: where it is kept; None: for this process alone.
    """

    def __init__(self, pool: EnginePool, blobs: BlobStore | None) -> None:
        self._pool, self._blobs = pool, blobs

    def context(self, engine: Engine, *, specialize: bool = False) -> Context:
        """A new context, which compiles only what none did before; see :class:`Context` for ``specialize``.

        Called with the engine's lock held."""
        if self._pool.kernels is None and self._blobs is not None:
            self._pool.kernels = self._blobs.get_blob("runtime", self._name())
        engine.retired.clear()
        context = Context(engine, self._pool.kernels, specialize=specialize)
        if self._pool.kernels is None:
            self._pool.kernels = context.kernels()
        return context

    def save(self, context: Context) -> None:
        """Keeps what a context has compiled by the end of its first run."""
        context.fresh = False
        data = context.kernels()
        if data:
            self._pool.kernels = data
            if self._blobs is not None:
                self._blobs.put_blob("runtime", self._name(), data)

    def _name(self) -> str:
        properties = torch.cuda.get_device_properties(self._pool.device)
        return f"{self._pool.entry.key}-{properties.name}-{properties.major}.{properties.minor}"


# ------------------------------------------------------------------------------------------------ streams


class Side:
    """A thread's own stream on a device: TensorRT synchronizes the whole device when run on the default stream.

    Attributes:
        stream: ordered with the default stream by :meth:`enter` and :meth:`leave`.
    """

    def __init__(self, device: torch.device) -> None:
        self.stream = borrow(device)
        weakref.finalize(self, back, device, self.stream)
        self.handle: int = self.stream.cuda_stream
        self._main = torch.cuda.default_stream(device)
        # Kept: to make events costs more than to record them.
        self._before, self._after = torch.cuda.Event(), torch.cuda.Event()  # type: ignore[no-untyped-call]

    def enter(self) -> None:
        """What is enqueued here from now on runs after all that the default stream holds."""
        self._before.record(self._main)
        self.stream.wait_event(self._before)

    def leave(self) -> None:
        """What is enqueued on the default stream from now on runs after all of this stream."""
        self._after.record(self.stream)
        self._main.wait_event(self._after)


class _Local(threading.local):
    def __init__(self) -> None:
        self.sides: dict[torch.device, Side] = {}


_local = _Local()


def side_stream(device: torch.device) -> Side:
    """This thread's own stream on a device."""
    side = _local.sides.get(device)
    if side is None:
        side = _local.sides[device] = Side(device)
    return side


# ------------------------------------------------------------------------------------------------ memory

_scratches: dict[tuple[int | None, int], torch.Tensor] = {}
_borrowers: weakref.WeakSet[Context] = weakref.WeakSet()
_placeholders: dict[torch.device, torch.Tensor] = {}
_memory_lock = threading.Lock()


def _empty(shape: Sequence[int], stride: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    return torch.empty_strided(shape, stride, dtype=dtype, device="cuda")


#: Memory from PyTorch's allocator on the current device; Inductor's own way, in half the time of ``empty_strided``.
empty_cuda: Callable[[Sequence[int], Sequence[int], torch.dtype], torch.Tensor]
empty_cuda = getattr(torch._C._dynamo.guards, "_empty_strided_cuda", _empty)


def _scratch(stream: torch.cuda.Stream, size: int) -> torch.Tensor:
    """Scratch memory that all engines of a stream share: they run one after the other."""
    where = (stream.device.index, stream.cuda_stream)
    with _memory_lock:
        have = _scratches.get(where)
        if have is None or have.numel() < size:
            with torch.cuda.stream(stream):
                have = _scratches[where] = torch.empty(max(size, 1), dtype=torch.uint8, device=stream.device)
        return have


def forget(stream: torch.cuda.Stream) -> None:
    """Frees the scratch memory of a stream that is idle, unless a context still holds it."""
    with _memory_lock:
        _scratches.pop((stream.device.index, stream.cuda_stream), None)


def placeholder(device: torch.device) -> int:
    """An address for empty tensors, which have none of their own and which TensorRT wants."""
    with _memory_lock:
        if device not in _placeholders:
            _placeholders[device] = torch.empty(ALIGNMENT, dtype=torch.uint8, device=device)
        return _placeholders[device].data_ptr()


def release() -> None:
    """Frees scratch memory; the next run allocates it anew."""
    with _memory_lock, contextlib.suppress(RuntimeError):
        _scratches.clear()
