"""Runs an engine: bindings, streams, outputs, one context for each thread."""

from __future__ import annotations

import contextlib
import logging
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from .errors import RefitFailed
from .flavour import messages, trt
from .live import ALIGNMENT, Bundle, fits, laid_out
from .precision import applied
from .refit import Engine, EnginePool
from .types import BlobStore, Signature, TensorSpec

log = logging.getLogger("trt_stripped_backend")

_MAX_CALLS = 4096  # sizes whose shapes are kept ready



#: For each dynamic size, the position of the argument that tells it, and the dimension; None for an int.
Places = list[tuple[int, int | None]]


def places(signature: Signature, inputs: Sequence[str]) -> Places:
    """Where a call's arguments, named ``inputs``, tell the dynamic sizes."""
    return [(inputs.index(one.argument), one.dim) for one in signature.symbols]


def sizes(places: Places, inputs: Sequence[Any]) -> tuple[int, ...]:
    """The values of the dynamic sizes in a call."""
    return tuple(inputs[i] if dim is None else inputs[i].shape[dim] for i, dim in places)


class _Call(NamedTuple):
    """What depends on a call's sizes alone.

    Attributes:
        inputs: ``(name, position among the arguments, spec)``.
        outputs: ``(name, shape, stride, dtype)``.
        shapes: what a context must be told: ``(input name, shape in memory order)`` of dynamic inputs.
        expected: ``(output name, shape in memory order)`` of dynamic outputs.
    """

    inputs: list[tuple[str, int, TensorSpec]]
    outputs: list[tuple[str, tuple[int, ...], tuple[int, ...], torch.dtype]]
    shapes: list[tuple[str, tuple[int, ...]]]
    expected: list[tuple[str, tuple[int, ...]]]


class Runner:
    """The callable of one partition: ``runner(weights, *inputs)`` → a tuple of outputs.

    Args:
        index: which partition of its graph.
        signature: the engine's tensors; inputs arrive in the order of ``inputs``.
        inputs: placeholder names of the partition in the order in which the split graph passes them.
        pool: the loaded engines.
        blobs: the cache, for RTX's runtime cache; None without one.
        on_refit: told the bytes of each refit.
    """

    def __init__(
        self, index: int, signature: Signature, inputs: Sequence[str], pool: EnginePool, blobs: BlobStore | None,
        on_refit: Callable[[int], None],
    ) -> None:  # fmt: skip
        self.index, self.signature, self.pool, self.blobs, self.on_refit = index, signature, pool, blobs, on_refit
        self._given = {name: i for i, name in enumerate(inputs)}
        self._slots = [slot.name for _, slot in signature.slots]
        self._places = places(signature, inputs)
        self._calls: OrderedDict[tuple[int, ...], _Call] = OrderedDict()
        self._fixed = None if self._places else self._call({})
        self._contexts = threading.local()
        self.device = pool.device

    def _call(self, known: Mapping[str, int]) -> _Call:
        inputs = [(f"x{k}", self._given[name], spec) for k, (name, spec) in enumerate(self.signature.inputs)]
        outputs = [(f"y{k}", spec, spec.at(known)) for k, spec in enumerate(self.signature.outputs)]
        shapes = [(name, spec.at(known).physical) for name, _, spec in inputs if spec.dynamic]
        shapes += [(one.name, (known[one.name],)) for one in self.signature.symbols if one.dim is None]
        return _Call(
            [(name, i, spec.at(known)) for name, i, spec in inputs],
            [(name, now.shape, now.stride, now.dtype) for name, _, now in outputs],
            shapes,
            [(name, now.physical) for name, spec, now in outputs if spec.dynamic],
        )

    def _call_of(self, inputs: Sequence[Any]) -> _Call:
        if self._fixed is not None:
            return self._fixed
        values = sizes(self._places, inputs)
        call = self._calls.get(values)
        if call is None:
            known = {one.name: value for one, value in zip(self.signature.symbols, values, strict=True)}
            call = self._calls[values] = self._call(known)
            while len(self._calls) > _MAX_CALLS:
                self._calls.popitem(last=False)
        return call

    def __call__(self, weights: Bundle, *inputs: Any) -> tuple[torch.Tensor, ...]:
        """Enqueues the engine; ordered with the caller's current stream, not waited for.

        Raises:
            RefitFailed: the engine could not be given its weights.
            RuntimeError: TensorRT refused to run it.
        """
        device = self.device
        if torch.cuda.current_device() != device.index:
            with torch.cuda.device(device):
                return self._run(weights, inputs)
        return self._run(weights, inputs)

    def _run(self, weights: Bundle, inputs: Sequence[Any]) -> tuple[torch.Tensor, ...]:
        call = self._call_of(inputs)
        caller = torch.cuda.current_stream()
        stream = caller if caller.cuda_stream else _side_stream(caller.device)
        bound = [(name, _readable(inputs[i], spec)) for name, i, spec in call.inputs]
        outputs = tuple(
            torch.empty_strided(shape, stride, dtype=dtype, device=self.device)
            for _, shape, stride, dtype in call.outputs
        )
        if stream is not caller:
            stream.wait_stream(caller)
        engine = self.pool.engine(weights, self.index)
        with engine.lock:
            if engine.needs_weights:
                self._ensure(engine, weights, stream)
            context = self._context(engine)
            set_address = context.trt.set_tensor_address
            for name, tensor in bound:
                set_address(name, tensor.data_ptr() or _placeholder(self.device))
            for (name, *_), tensor in zip(call.outputs, outputs, strict=True):
                set_address(name, tensor.data_ptr() or _placeholder(self.device))
            moved = context.enter(stream)
            if context.call is not call:
                for one in self.signature.symbols:
                    if one.dim is None:
                        set_address(one.name, _placeholder(self.device))
                context.reshape(call)
            if not engine.needs_weights and (moved or context.token is not weights.set.token):
                self._bind(context, weights, stream)
            if not context.trt.execute_async_v3(stream.cuda_stream):
                context.token = None
                raise RuntimeError(f"TensorRT could not run engine {self.index}: {messages.text()}")
            if engine.needs_weights:
                engine.ran(stream)
        if stream is not caller:
            caller.wait_stream(stream)
        if context.fresh:
            self._save_kernels(context)
        return outputs

    def _bind(self, context: _Context, weights: Bundle, stream: torch.cuda.Stream) -> None:
        """Gives a bound engine the addresses of its weights."""
        current = weights.set
        for name, pointer in zip(self._slots, current.pointers[self.index], strict=True):
            context.trt.set_tensor_address(name, pointer or _placeholder(self.device))
        for tensor in current.kept[self.index]:
            if tensor is not None:
                tensor.record_stream(stream)  # another thread may replace it while this stream still reads it
        context.token = current.token

    def _ensure(self, engine: Engine, weights: Bundle, stream: torch.cuda.Stream) -> None:
        """Refits the engine unless it holds these weights as they are now."""
        current = weights.set
        if engine.token is current.token or (engine.ready and engine.identical):
            pass
        elif engine.stamp == current.stamps[self.index] and engine.ready:
            engine.token = current.token
        else:
            self.on_refit(engine.refit(weights.slots(self.index), stream))
            engine.token, engine.stamp = current.token, current.stamps[self.index]
        if not engine.ready:
            raise RefitFailed("the engine is Empty: it was not given all its weights")
        if engine.event is not None:
            stream.wait_event(engine.event)

    # ---------------------------------------------------------------- contexts

    def _context(self, engine: Engine) -> _Context:
        contexts = getattr(self._contexts, "of", None)
        if contexts is None:
            contexts = self._contexts.of = weakref.WeakKeyDictionary[Engine, _Context]()
        context = contexts.get(engine)
        if context is None:
            context = contexts[engine] = _Context(engine, self._saved_kernels())
        return context

    def _kernels_name(self) -> str:
        properties = torch.cuda.get_device_properties(self.device)
        return f"{self.pool.entry.key}-{properties.name}-{properties.major}.{properties.minor}"

    def _saved_kernels(self) -> bytes | None:
        return self.blobs.get_blob("runtime", self._kernels_name()) if self.blobs is not None else None

    def _save_kernels(self, context: _Context) -> None:
        context.fresh = False
        data = context.kernels()
        if data and self.blobs is not None:
            self.blobs.put_blob("runtime", self._kernels_name(), data)


class _Context:
    """An execution context and what is bound to it. Belongs to one thread."""

    def __init__(self, engine: Engine, kernels: bytes | None) -> None:
        messages.clear()
        # These must outlive the context. Not our Engine, whose end is what ends its contexts.
        self._owners = engine.engine, engine.runtime
        self.token: object | None = None
        self.call: _Call | None = None
        self.fresh = False
        self._stream: torch.cuda.Stream | None = None
        self._cache: Any = None
        cuda_engine = engine.engine
        with applied(engine.tf32):
            self.trt = self._make(cuda_engine, kernels)
        if self.trt is None:
            raise RuntimeError(f"TensorRT made no execution context: {messages.text()}")
        size = getattr(cuda_engine, "device_memory_size_v2", None)
        # What the largest of dynamic shapes would take is not asked for: each call's own shapes decide.
        most = cuda_engine.device_memory_size if size is None else size
        self._scratch_size: int | None = None if engine.dynamic else int(most)

    def _make(self, cuda_engine: Any, kernels: bytes | None) -> Any:
        strategy = trt.ExecutionContextAllocationStrategy.USER_MANAGED
        if not hasattr(trt, "IRuntimeCache"):
            return cuda_engine.create_execution_context(strategy)
        config = cuda_engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(strategy)
        self._cache = config.create_runtime_cache()
        self.fresh = not (kernels and self._cache.deserialize(kernels))
        config.set_runtime_cache(self._cache)
        return cuda_engine.create_execution_context(config)

    def enter(self, stream: torch.cuda.Stream) -> bool:
        """Prepares for a run on ``stream``: scratch memory, and order after the context's last run elsewhere.

        Returns:
            Whether the stream is another than at the last run.
        """
        if self._stream is not None and self._stream == stream:
            return False
        if self._stream is not None and not torch.cuda.is_current_stream_capturing():
            stream.wait_stream(self._stream)
        self._stream = stream
        self._lend(stream)
        return True

    def _lend(self, stream: torch.cuda.Stream) -> None:
        if self._scratch_size is None:
            return
        self._scratch = _scratch(stream, self._scratch_size)
        if hasattr(self.trt, "set_device_memory"):
            self.trt.set_device_memory(self._scratch.data_ptr(), self._scratch.numel())
        else:
            self.trt.device_memory = self._scratch.data_ptr()

    def reshape(self, call: _Call) -> None:
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
            self._scratch_size = self.trt.update_device_memory_size_for_shapes()
            assert self._stream is not None
            self._lend(self._stream)
        self.call = call

    def kernels(self) -> bytes | None:
        """The kernels that RTX compiled for this context, to be saved."""
        return bytes(memoryview(self._cache.serialize())) if self._cache is not None else None


_local = threading.local()
_scratches: dict[tuple[int | None, int], torch.Tensor] = {}
_placeholders: dict[torch.device, torch.Tensor] = {}
_memory_lock = threading.Lock()


def _side_stream(device: torch.device) -> torch.cuda.Stream:
    """This thread's own stream on a device: TensorRT synchronizes the whole device when run on the default stream."""
    streams = getattr(_local, "streams", None)
    if streams is None:
        streams = _local.streams = {}
    if device not in streams:
        streams[device] = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    stream: torch.cuda.Stream = streams[device]
    return stream


def _scratch(stream: torch.cuda.Stream, size: int) -> torch.Tensor:
    """Scratch memory that all engines of a stream share: they run one after the other."""
    where = (stream.device.index, stream.cuda_stream)
    with _memory_lock:
        have = _scratches.get(where)
        if have is None or have.numel() < size:
            with torch.cuda.stream(stream):
                have = _scratches[where] = torch.empty(max(size, 1), dtype=torch.uint8, device=stream.device)
        return have


def _placeholder(device: torch.device) -> int:
    """An address for empty tensors, which have none of their own and which TensorRT wants."""
    with _memory_lock:
        if device not in _placeholders:
            _placeholders[device] = torch.empty(ALIGNMENT, dtype=torch.uint8, device=device)
        return _placeholders[device].data_ptr()


def _readable(tensor: torch.Tensor, spec: Any) -> torch.Tensor:
    """The tensor, or a copy where the engine cannot read its memory as it is."""
    if tensor.stride() == spec.stride and not tensor.data_ptr() % ALIGNMENT:
        return tensor
    return tensor if fits(tensor, spec) else laid_out(tensor, spec)


def release() -> None:
    """Frees scratch memory; the next run allocates it anew."""
    with _memory_lock, contextlib.suppress(RuntimeError):
        _scratches.clear()
