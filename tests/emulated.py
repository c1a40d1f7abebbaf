"""CUDA and TensorRT on a CPU: the package's own run-time code over engines that PyTorch computes at bound addresses.

An emulated plan is the partition itself as JSON. A context reads and writes the memory whose addresses it was given, a
refitter copies weights, a CUDA graph repeats what was enqueued while it was recorded. Streams run at once.
"""

from __future__ import annotations

import contextlib
import json
import types
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from unittest import mock

import torch

from tests.graphs import memory
from trt_stripped_backend import backend, compilation, context, flavour, graphs, live, portable, refit, run
from trt_stripped_backend.key import digest
from trt_stripped_backend.profile import symbol_names
from trt_stripped_backend.sizes import evaluate, size
from trt_stripped_backend.types import Entry, Key, Partition, Signature, TensorSpec

CPU = torch.device("cpu")
SIDE, MAIN = 7, 0


class World:
    """What the emulation counts, and what a test may set.

    Attributes:
        calls: of ``set_tensor_address``, ``execute``, ``replay``, ``record``, ``refit``, ``deserialize``,
            ``context``, ``build``.
        current: the number of the current stream.
        recording: enqueued work goes here instead of being done.
        unrecordable: TensorRT refuses to be recorded.
    """

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.current = SIDE
        self.recording: list[Callable[[], None]] | None = None
        self.unrecordable = False
        self.recorded_by_caller = False


world = World()


class Stream:
    device = CPU

    def __init__(self, device: Any = CPU, handle: int = 11) -> None:
        self.cuda_stream = handle

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stream) and other.cuda_stream == self.cuda_stream

    def __hash__(self) -> int:
        return self.cuda_stream

    def wait_stream(self, other: Stream) -> None:
        assert world.recording is None, "a wait on another stream would be recorded"

    def wait_event(self, event: Event) -> None:
        assert event.recorded
        assert world.recording is None, "a wait on an event from outside cannot be recorded"

    def synchronize(self) -> None:
        """Nothing is ever under way."""


@contextlib.contextmanager
def current(stream: Stream) -> Iterator[None]:
    """``torch.cuda.stream``; of all threads at once."""
    before, world.current = world.current, stream.cuda_stream
    try:
        yield
    finally:
        world.current = before


class Event:
    def __init__(self) -> None:
        self.recorded = False

    def record(self, stream: Any = None) -> None:
        assert world.recording is None
        self.recorded = True


class Graph:
    """:class:`.cudagraph.CudaGraph`."""

    def __init__(self) -> None:
        self.work: list[Callable[[], None]] = []

    def begin(self, stream: int) -> None:
        assert stream != MAIN, "the default stream cannot be recorded"
        world.recording = self.work

    def end(self, stream: int) -> None:
        world.recording = None
        world.calls["record"] += 1
        if world.unrecordable:
            raise RuntimeError("operation not permitted when stream is capturing")

    def launch(self, stream: int) -> None:
        world.calls["replay"] += 1
        for one in self.work:
            one()


class CudaEngine:
    """``trt.ICudaEngine``, and its own runtime configuration and cache."""

    device_memory_size_v2 = 64

    def __init__(self, plan: bytes) -> None:
        data = json.loads(plan)
        self.signature = portable.load_signature(data["signature"])
        self.module, self.sizes = portable.load_graph(data["module"]), data["sizes"]
        self.held: dict[str, torch.Tensor] = {}  # what a refit copied
        self.data: bytes | None = None

    def create_runtime_config(self) -> CudaEngine:
        return self

    def create_runtime_cache(self) -> CudaEngine:
        return self

    def set_runtime_cache(self, cache: Any) -> None: ...

    def set_execution_context_allocation_strategy(self, strategy: Any) -> None: ...

    def deserialize(self, data: bytes) -> bool:
        return data == b"kernels"

    def serialize(self) -> bytes:
        return b"kernels"

    def create_execution_context(self, config: Any) -> ExecutionContext:
        world.calls["context"] += 1
        return ExecutionContext(self)


class ExecutionContext:
    """``trt.IExecutionContext``."""

    def __init__(self, engine: CudaEngine) -> None:
        self.engine = engine
        self.addresses: dict[str, int] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}

    def set_tensor_address(self, name: str, pointer: int) -> bool:
        world.calls["set_tensor_address"] += 1
        assert pointer, name
        self.addresses[name] = pointer
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shapes[name] = shape
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.engine.signature.outputs[int(name[1:])].at(self._sizes()).physical

    def update_device_memory_size_for_shapes(self) -> int:
        return self.engine.device_memory_size_v2

    def _sizes(self) -> dict[str, int]:
        """The dynamic sizes that the shapes tell."""
        signature, found = self.engine.signature, {}
        for k, (_, spec) in enumerate(signature.inputs):
            found.update(zip(spec.physical, self.shapes.get(f"x{k}", ()), strict=False))
        found.update((one.name, self.shapes[one.name][0]) for one in signature.symbols if one.dim is None)
        return {size: value for size, value in found.items() if isinstance(size, str)}

    def set_device_memory(self, pointer: int, size: int) -> None: ...

    def execute_async_v3(self, handle: int) -> bool:
        assert handle, "TensorRT was run on the default stream"
        work = self._work(dict(self.addresses))
        if world.recording is not None:
            world.recording.append(work)
        elif not world.recorded_by_caller:
            world.calls["execute"] += 1
            work()
        return True

    def _work(self, addresses: dict[str, int]) -> Callable[[], None]:
        signature, sizes = self.engine.signature, self._sizes()

        def read(name: str, spec: TensorSpec) -> torch.Tensor:
            return memory(addresses[name], spec.at(sizes))

        def work() -> None:
            given: dict[str, Any] = {name: evaluate(one, sizes) for name, one in self.engine.sizes.items()}
            given |= {n: read(f"x{k}", spec) for k, (n, spec) in enumerate(signature.inputs)}
            for name, slot in signature.slots:
                held = self.engine.held
                value = held[slot.name] if held else read(slot.name, slot.spec)
                given[name] = value.contiguous() if slot.relaid else value
            names = [n.name for n in self.engine.module.graph.find_nodes(op="placeholder")]
            with torch.no_grad():
                made = self.engine.module(*(given[name] for name in names))
            for k, (spec, value) in enumerate(zip(signature.outputs, made, strict=True)):
                read(f"y{k}", spec).copy_(value)

        return work


class Refitter:
    """``trt.Refitter``."""

    def __init__(self, engine: CudaEngine, logger: Any) -> None:
        self.engine = engine
        self.given: dict[str, int] = {}

    def get_all_weights(self) -> list[str]:
        return [slot.name for _, slot in self.engine.signature.slots]

    def set_named_weights(self, name: str, pointer: int, location: Any) -> bool:
        self.given[name] = pointer
        return True

    def refit_cuda_engine_async(self, handle: int) -> bool:
        world.calls["refit"] += 1
        slots = {slot.name: slot.spec for _, slot in self.engine.signature.slots}
        self.engine.held = {name: memory(pointer, slots[name]).clone() for name, pointer in self.given.items()}
        return True


class Runtime:
    """``trt.Runtime``."""

    def __init__(self, logger: Any) -> None: ...

    def deserialize_cuda_engine(self, plan: bytes) -> CudaEngine:
        world.calls["deserialize"] += 1
        return CudaEngine(plan)


def build(piece: Partition, signature: Signature, key: Key, *, mode: str, ranges: Any = (), **_: Any) -> Entry:
    """In place of :func:`~.build.build`."""
    world.calls["build"] += 1
    names, given = symbol_names(piece, signature), piece.module.graph.find_nodes(op="placeholder")
    plan = {
        "signature": portable.dump_signature(signature), "module": portable.dump_graph(piece.module),
        "sizes": {n.name: size(n.meta["val"], names) for n in given if isinstance(n.meta["val"], torch.SymInt)},
    }  # fmt: skip
    header = {
        "mode": mode, "tf32": False, "ranges": [list(one) for one in ranges], "literals": {}, "build_seconds": 0.0,
        "slots": [[slot.name, slot.spec.to_json()] for _, slot in signature.slots], "flavour": ["emulated", "0"],
        "parts": key.parts, "digests": {name: digest(part) for name, part in key.parts.items()},
    }  # fmt: skip
    return Entry(key.digest, header, json.dumps(plan).encode())


def _empty(shape: Any, stride: Any, dtype: torch.dtype) -> torch.Tensor:
    return torch.empty_strided(shape, stride, dtype=dtype)


@contextlib.contextmanager
def emulated() -> Iterator[World]:
    """While open, the backend takes tensors on the CPU for tensors on a GPU, and runs emulated engines."""
    world.__init__()  # type: ignore[misc]
    trt = types.SimpleNamespace(
        Runtime=Runtime, Refitter=Refitter, Weights=lambda dtype, pointer, count: pointer,
        TensorLocation=types.SimpleNamespace(HOST=0, DEVICE=1),
    )  # fmt: skip

    loader = ThreadPoolExecutor(2)

    def start(options: Any, inputs: Any) -> compilation.Compilation:
        return compilation.Compilation.of(options, flavour.load(), CPU)

    def handle(index: int) -> int:
        return world.current

    properties = types.SimpleNamespace(name="CPU", major=0, minor=0, total_memory=1 << 40)
    replaced: list[tuple[Any, str, Any]] = [
        (backend, "_start", start), (backend, "runs_on", lambda device: True), (compilation, "build", build),
        (refit, "trt", trt), (run, "current_handle", handle), (live, "current_handle", handle),
        (run, "empty_cuda", _empty), (run, "_loader", loader),
        (graphs, "empty_cuda", _empty), (context, "_local", context._Local()), (graphs, "_local", graphs._Local()),
        (torch.cuda, "current_device", lambda: None), (torch.cuda, "device", contextlib.nullcontext),
        (torch.cuda, "stream", current), (torch.cuda, "Stream", Stream), (torch.cuda, "Event", Event),
        (context, "borrow", Stream), (context, "back", lambda device, stream: None),
        (torch.cuda, "current_stream", lambda *_: Stream(handle=world.current)),
        (torch.cuda, "default_stream", lambda *_: Stream(handle=MAIN)), (graphs, "CudaGraph", Graph),
        (torch.Tensor, "record_stream", lambda *_: None),
        (torch.cuda, "is_current_stream_capturing", lambda: world.recorded_by_caller),
        (torch.cuda, "is_initialized", lambda: True),
        (torch.cuda, "get_device_properties", lambda *_: properties),
    ]  # fmt: skip
    with contextlib.ExitStack() as stack, loader:
        for owner, name, value in replaced:
            stack.enter_context(mock.patch.object(owner, name, value))
        refit.clear_pools()
        context.release()
        yield world
        refit.clear_pools()
        context.release()
