"""Runs an engine: bindings, streams, outputs, one context for each thread."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import torch

from .context import Call, Context, Kernels, Side, empty_cuda, forget, placeholder, side_stream
from .errors import NotWarm
from .flavour import messages
from .graphs import Recorded, run_and_record
from .live import Bundle
from .placement import ALIGNMENT, laid_out
from .profile import places, sizes
from .refit import Engine, EnginePool
from .threads import Thread
from .types import BlobStore, Signature
from .watch import current_handle

log = logging.getLogger("trt_stripped_backend")

_MAX_CALLS = 4096  # sizes whose shapes are kept ready
_MAX_RECORDED = 32  # CUDA graphs of an engine and a thread
_REFITTED = (
    "a CUDA graph is recorded, and replaying it after a refit would end the process: record engines of "
    "refit_mode='bound', or use cuda_graphs=True, which records anew after each refit"
)
_COLD = "a CUDA graph is recorded, and {}: call the model once with the same sizes and weights before recording it"

_loader = ThreadPoolExecutor(2, "trt_stripped")


class Seen(NamedTuple):
    """What a call that ran in PyTorch had, for :meth:`Runner.warm`.

    Attributes:
        weights: the call's.
        sizes: its dynamic sizes.
        event: after which the weights are what the caller saw.
    """

    weights: Bundle
    sizes: tuple[int, ...]
    event: torch.cuda.Event


def seen(weights: Bundle, sizes: tuple[int, ...]) -> Seen:
    """What the running call has, in the order of the caller's stream."""
    event = torch.cuda.Event()  # type: ignore[no-untyped-call]
    event.record(torch.cuda.current_stream(weights.live.device))
    # Their memory, and not the parameters, which may have other memory by then.
    sources = tuple([source.detach() for source in weights.sources])
    return Seen(weights._replace(sources=sources), sizes, event)


class Runner:
    """The callable of one partition: ``runner(weights, inputs)`` → a tuple of outputs.

    Args:
        index: which partition of its graph.
        signature: the engine's tensors; inputs arrive in the order of ``inputs``.
        inputs: placeholder names of the partition in the order in which the split graph passes them.
        pool: the loaded engines.
        blobs: the cache, for RTX's runtime cache; None without one.
        on_refit: told the bytes of each refit.
        on_record: told of each CUDA graph, ``""``, or why there will be none; None: no graphs are wanted.
    """

    def __init__(
        self, index: int, signature: Signature, inputs: Sequence[str], pool: EnginePool, blobs: BlobStore | None,
        on_refit: Callable[[int], None], on_record: Callable[[str], None] | None = None,
    ) -> None:  # fmt: skip
        self.index, self.signature, self.pool, self.on_refit = index, signature, pool, on_refit
        self._kernels = Kernels(pool, blobs)
        self.on_record = on_record
        self.device = pool.device
        self._ordinal: int = pool.device.index
        self._given = {name: i for i, name in enumerate(inputs)}
        self._names = [f"x{k}" for k in range(len(signature.inputs))] + [f"y{k}" for k in range(len(signature.outputs))]
        self._slots = [slot.name for _, slot in signature.slots]
        self._places = places(signature, inputs)
        self._calls: OrderedDict[tuple[int, ...], Call] = OrderedDict()
        self._fixed = None if self._places else self._call(())
        self._bound = pool.entry.header["mode"] == "bound"
        self._plain = self._bound or pool.entry.header["mode"] == "immutable"  # nothing to refit
        self._thread = Thread()
        self._lock = threading.Lock()
        self._preloading: Future[tuple[Engine, Context] | None] | None = None
        self._given_away: list[Context] = []

    def preload(self) -> None:
        """Starts to load the engine and to make a context, while PyTorch still makes its guards."""
        self._preloading = _loader.submit(self._loaded)

    def _loaded(self) -> tuple[Engine, Context] | None:
        try:
            with torch.cuda.device(self._ordinal):
                engine = self.pool.preload()
                if engine.needs_weights:  # its contexts come after its refit
                    return None
                with engine.lock:
                    return engine, self._kernels.context(engine)
        except Exception as error:
            log.debug("engine %d: not loaded ahead: %s", self.index, error)  # the first call meets it, and falls back
            return None

    def _call(self, values: tuple[int, ...]) -> Call:
        known = {one.name: value for one, value in zip(self.signature.symbols, values, strict=True)}
        inputs = [(self._given[name], spec.at(known)) for name, spec in self.signature.inputs]
        outputs = [(f"y{k}", spec, spec.at(known)) for k, spec in enumerate(self.signature.outputs)]
        named = [(f"x{k}", spec) for k, (_, spec) in enumerate(self.signature.inputs)]
        shapes: list[Any] = [(name, spec.at(known).physical) for name, spec in named if spec.dynamic]
        shapes += [(one.name, (known[one.name],)) for one in self.signature.symbols if one.dim is None]
        expected: list[Any] = [(name, now.physical) for name, spec, now in outputs if spec.dynamic]
        made: list[Any] = [(now.shape, now.stride, now.dtype) for _, _, now in outputs]
        return Call(values, [(i, spec, spec.stride) for i, spec in inputs], made, shapes, expected)

    def _call_of(self, inputs: Sequence[Any]) -> Call:
        return self._call_at(sizes(self._places, inputs))

    def _call_at(self, values: tuple[int, ...]) -> Call:
        call = self._calls.get(values)
        if call is None:
            call = self._calls[values] = self._call(values)
            while len(self._calls) > _MAX_CALLS:
                self._calls.popitem(last=False)
        return call

    def __call__(self, weights: Bundle, inputs: Sequence[Any]) -> tuple[torch.Tensor, ...]:
        """Enqueues the engine; ordered with the caller's current stream, not waited for.

        Raises:
            RefitFailed: the engine could not be given its weights.
            NotWarm: the caller records a CUDA graph, and this run needs what cannot be recorded.
            RuntimeError: TensorRT refused to run it.
        """
        if torch.cuda.current_device() != self._ordinal:
            with torch.cuda.device(self._ordinal):
                return self._run(weights, inputs)
        return self._run(weights, inputs)

    def _run(self, weights: Bundle, inputs: Sequence[Any]) -> tuple[torch.Tensor, ...]:
        call = self._fixed or self._call_of(inputs)
        handle = current_handle(self._ordinal)
        recording = handle != 0 and torch.cuda.is_current_stream_capturing()  # by the caller
        if self.on_record is not None and not recording:
            outputs = self._replayed(call, weights, inputs, handle)
            if outputs is not None:
                return outputs
        side = None
        if not handle:
            side = side_stream(self.device)
            handle = side.handle
        pointers: list[int] = []
        copies = []  # held until the run is enqueued
        for position, spec, stride in call.inputs:
            tensor = inputs[position]
            pointer = tensor.data_ptr()
            if pointer % ALIGNMENT or tensor.stride() != stride:
                copies.append(laid_out(tensor, spec))
                pointer = copies[-1].data_ptr()
            pointers.append(pointer or placeholder(self.device))
        outputs = tuple([empty_cuda(*one) for one in call.outputs])
        pointers += [output.data_ptr() or placeholder(self.device) for output in outputs]
        if side is not None:
            side.enter()
        if self._plain:
            context = self._thread.context
            if context is None:
                context = self._thread.context = self._context(self.pool.engine(weights, self.index), recording)
            self._enqueue(context, call, weights, pointers, handle, side, recording)
        else:
            if recording:
                raise NotWarm(_REFITTED)
            engine = self.pool.engine(weights, self.index)
            with engine.lock:
                stream = self._stream(side)
                self._ensure(engine, weights, stream)
                context = self._context(engine, recording)
                self._enqueue(context, call, weights, pointers, handle, side, recording)
                engine.ran(stream)
        if side is not None:
            side.leave()
        return outputs

    def warm(self, seen: Seen) -> None:
        """Does here what a first call does once: loads the engine, refits it, compiles its kernels, runs it on zeros.

        The context is left to the next thread that needs one.
        """
        with torch.cuda.device(self._ordinal):
            stream = side_stream(self.device).stream
            with torch.cuda.stream(stream):
                stream.wait_event(seen.event)
                inputs: list[Any] = [None] * len(self._given)
                for position, spec, stride in (self._fixed or self._call_at(seen.sizes)).inputs:
                    inputs[position] = empty_cuda(spec.shape, stride, spec.dtype).zero_()
                for (position, dim), size in zip(self._places, seen.sizes, strict=True):
                    if dim is None:
                        inputs[position] = size
                self._run(seen.weights, inputs)
                stream.synchronize()
            forget(stream)
        engine, context = self._thread.contexts.popitem()
        context.leave()
        self._thread.context = None
        self._preloading = Future()
        self._preloading.set_result((engine, context))

    def _stream(self, side: Side | None) -> torch.cuda.Stream:
        return side.stream if side is not None else torch.cuda.current_stream(self._ordinal)

    def _enqueue(
        self, context: Context, call: Call, weights: Bundle, pointers: list[int], handle: int, side: Side | None,
        recording: bool,
    ) -> None:  # fmt: skip
        if recording:
            if context.call is not call:
                raise NotWarm(_COLD.format("the sizes are not those of the last call"))
        elif context.handle != handle:
            context.enter(self._stream(side))
            context.token = context.held = None  # what is ours among the weights must be held for this stream too
        if context.call is not call or context.pointers != pointers or context.token is not weights.set.token:
            self._prepare(context, call, weights, pointers, self._stream(side), recording)
        done = context.execute(handle)
        if recording:
            self._give_away(context)
        if not done:
            context.token, context.pointers = None, []
            raise RuntimeError(f"TensorRT could not run engine {self.index}: {messages.text()}")
        if context.fresh:
            self._kernels.save(context)

    def _prepare(
        self, context: Context, call: Call, weights: Bundle, pointers: list[int], stream: torch.cuda.Stream,
        recording: bool = False,
    ) -> None:  # fmt: skip
        """Brings a context up to date: shapes, addresses that moved, weights."""
        if context.call is not call:
            for one in self.signature.symbols:
                if one.dim is None:
                    context.bind([one.name], [placeholder(self.device)], ())
            context.reshape(call)
        before, context.pointers = context.pointers, []
        context.bind(self._names, pointers, before)
        context.pointers = pointers
        current = weights.set
        if context.token is current.token:
            return
        if self._bound:
            if context.held is not current.held:
                nowhere = placeholder(self.device)
                addresses = [pointer or nowhere for pointer in current.pointers[self.index]]
                known, context.weights, context.held = context.weights, (), None
                context.bind(self._slots, addresses, known)
                for tensor in self._kept(weights):
                    tensor.record_stream(stream)  # another thread may drop it while this stream still reads it
                context.weights, context.held = addresses, current.held
            if current.ready is not None and not recording:
                stream.wait_event(current.ready)
        context.token = current.token

    def _kept(self, weights: Bundle) -> list[torch.Tensor]:
        return [tensor for tensor in weights.set.kept[self.index] if tensor is not None]

    def _give_away(self, context: Context) -> None:
        """Leaves a context and its scratch memory to a graph that the caller records, which may run beside anything.

        Nobody tells when that graph is gone, so it is kept as long as the compiled function.
        """
        context.take_scratch()
        self._given_away.append(context)
        self._thread.context = None
        for engine in [e for e, one in self._thread.contexts.items() if one is context]:
            del self._thread.contexts[engine]

    def _ensure(self, engine: Engine, weights: Bundle, stream: torch.cuda.Stream) -> None:
        """Refits the engine unless it holds these weights as they are now."""
        current, stamp = weights.set, weights.set.stamps[self.index]
        # The token alone does not tell: pieces that are alike share engines, and have one weight set.
        known = engine.identical or (engine.token is current.token and engine.stamp is stamp)
        if not engine.ready or not (known or engine.stamp == stamp):
            if current.ready is not None:
                stream.wait_event(current.ready)
            for tensor in self._kept(weights):
                tensor.record_stream(stream)
            self.on_refit(engine.refit(weights.slots(self.index), stream))
        engine.token, engine.stamp = current.token, stamp
        if engine.event is not None:
            stream.wait_event(engine.event)

    # ---------------------------------------------------------------- CUDA graphs

    def _replayed(
        self, call: Call, weights: Bundle, inputs: Sequence[Any], handle: int
    ) -> tuple[torch.Tensor, ...] | None:
        """The outputs through a CUDA graph; None while there is none for this call, the first of its kind."""
        latest = self._thread.latest
        if self._plain and latest is not None and latest.token is weights.set.token and latest.call is call:
            return latest.replay(inputs, handle)
        engine = self.pool.engine(weights, self.index)
        known = self._thread.recorded.setdefault(engine, OrderedDict())
        key = call.sizes, weights.set.pointers[self.index] if self._bound else ()
        if key not in known:
            known[key] = None
            while len(known) > _MAX_RECORDED:
                engine.retired.append(known.popitem(last=False))
            return None
        known.move_to_end(key)
        stream = torch.cuda.current_stream(self._ordinal)
        with engine.lock:
            recorded = known[key]
            if recorded is None:
                for other in [k for k, one in known.items() if one is not None and one.dead]:
                    del known[other]
                recorded = self._record(engine, call, weights, inputs)
                outputs = recorded.results()
                if recorded.why:
                    recorded = None
                    known.clear()
                    return outputs
                known[key] = recorded
            else:
                if not self._plain:
                    self._ensure(engine, weights, stream)
                    if recorded.refits != engine.refits:
                        recorded = None  # its context ends while the lock is held
                        known.clear()
                        return None
                if recorded.token is not weights.set.token and weights.set.ready is not None:
                    stream.wait_event(weights.set.ready)
                outputs = recorded.replay(inputs, handle)
            if not self._plain:
                engine.ran(stream)
        recorded.call, recorded.token, recorded.refits = call, weights.set.token, engine.refits
        self._thread.latest = recorded if self._plain else None
        return outputs

    def _record(self, engine: Engine, call: Call, weights: Bundle, inputs: Sequence[Any]) -> Recorded:
        def prepare(context: Context, pointers: list[int], stream: torch.cuda.Stream) -> None:
            if not self._plain:
                self._ensure(engine, weights, stream)
            context.enter(stream)
            self._prepare(context, call, weights, pointers, stream)

        context = self._kernels.context(engine, specialize=True)
        kept = self._kept(weights) if self._bound else []
        recorded = run_and_record(context, call, inputs, self.device, prepare, kept, weights.sources)
        told = self.on_record
        if recorded.why:
            self.on_record = None
        if told is not None:
            told(recorded.why)
        return recorded

    # ---------------------------------------------------------------- contexts

    def _context(self, engine: Engine, recording: bool) -> Context:
        contexts = self._thread.contexts
        context = contexts.get(engine)
        if context is None:
            if recording:
                raise NotWarm(_COLD.format("the engine has not run in this thread"))
            with self._lock:  # or two threads would share a context
                loading, self._preloading = self._preloading, None
            loaded = loading.result() if loading is not None else None
            ahead = loaded is not None and loaded[0] is engine
            with engine.lock:  # TensorRT does not say that an engine may make two at once
                left = engine.idle.pop() if engine.idle and not ahead else None
                context = loaded[1] if loaded and ahead else left or self._kernels.context(engine)
                contexts[engine] = context
        return context
