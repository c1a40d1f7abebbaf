"""A run of an engine as a CUDA graph: recorded once for its sizes and weights, then replayed in one launch.

The graph reads and writes memory of its own. Inputs are copied into it and results out of it, so that a result is the
caller's like any other tensor, and no later call writes to it. Bound weights are read where they lie, so a write to a
parameter is seen by the next replay. A refit ends a graph: on TensorRT-RTX 1.6.1 a replay after it kills the process.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef

from .context import Call, Context, empty_cuda, placeholder, side_stream
from .cudagraph import CudaGraph, uncollected
from .flavour import messages


class _Arena:
    """Scratch memory of a thread's graphs on a device. They share it, so they run one after the other."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.handle: int | None = None
        self._stream: torch.cuda.Stream | None = None
        self._scratch: torch.Tensor | None = None

    def enter(self, stream: torch.cuda.Stream) -> None:
        if self._stream is not None:
            stream.wait_stream(self._stream)
        self._stream, self.handle = stream, stream.cuda_stream

    def scratch(self, size: int) -> torch.Tensor:
        if self._scratch is None or self._scratch.numel() < size:
            self._scratch = torch.empty(max(size, 1), dtype=torch.uint8, device=self._device)
        return self._scratch


class _Local(threading.local):
    def __init__(self) -> None:
        self.arenas: dict[torch.device, _Arena] = {}


_local = _Local()


class Recorded:
    """A recorded run. Belongs to one thread.

    Attributes:
        token: stands for the weights that it was last seen to hold.
        call: its sizes.
        refits: how often its engine had been refitted.
        why: why there is no graph; ``""`` if there is one.
    """

    def __init__(
        self, context: Context, call: Call, inputs: Sequence[torch.Tensor], outputs: Sequence[torch.Tensor],
        arena: _Arena, kept: Sequence[torch.Tensor], sources: Sequence[torch.Tensor],
    ) -> None:  # fmt: skip
        self.call, self.context, self.refits = call, context, 0
        self.token: object | None = None
        self._inputs, self._outputs, self._arena, self._kept = inputs, outputs, arena, kept
        weak: Callable[[torch.UntypedStorage], Any] = StorageWeakRef
        self._sources = [weak(t.untyped_storage()) for t in sources]
        self._graph = CudaGraph()
        self._handle: int | None = None
        self.why = ""

    @property
    def dead(self) -> bool:
        """Whether a weight that it reads is gone."""
        return any(source.expired() for source in self._sources)

    def results(self) -> tuple[torch.Tensor, ...]:
        return tuple([output.clone() for output in self._outputs])

    def replay(self, inputs: Sequence[Any], handle: int) -> tuple[torch.Tensor, ...]:
        """The outputs for these inputs, enqueued on the current stream, whose number is ``handle``."""
        if self._arena.handle != handle:
            self._arena.enter(torch.cuda.current_stream())
        if self._handle != handle:
            for tensor in (*self._inputs, *self._outputs, *self._kept):
                tensor.record_stream(torch.cuda.current_stream())
            self._handle = handle
        for mine, (position, _, _) in zip(self._inputs, self.call.inputs, strict=True):
            mine.copy_(inputs[position])
        self._graph.launch(handle)
        return self.results()

    def record(self, stream: torch.cuda.Stream) -> None:
        """Records a run on ``stream``; the context ran before, so there is nothing left that cannot be recorded."""
        messages.clear()
        done = False
        try:
            with torch.cuda.stream(stream), uncollected:
                self._graph.begin(stream.cuda_stream)
                try:
                    done = self.context.execute(stream.cuda_stream)
                finally:
                    self._graph.end(stream.cuda_stream)
        except RuntimeError as error:
            self.why = str(error)
        else:
            self.why = "" if done else messages.text()


def run_and_record(
    context: Context, call: Call, inputs: Sequence[Any], device: torch.device,
    prepare: Callable[[Context, list[int], torch.cuda.Stream], None],
    kept: Sequence[torch.Tensor], sources: Sequence[torch.Tensor],
) -> Recorded:  # fmt: skip
    """Runs an engine once, on memory for a graph, and records the next run.

    Args:
        context: a new one, for this graph alone.
        call: the sizes.
        inputs: the arguments, copied.
        device: the engine's.
        prepare: sets shapes and binds the addresses of inputs and outputs, and the weights, for runs on a stream.
        kept: memory of ours that holds weights.
        sources: the model's weights; when one is gone, the graph is too.

    Returns:
        Its :meth:`Recorded.results` are those of the run, also if nothing could be recorded.

    Raises:
        RuntimeError: TensorRT could not run the engine.
    """
    arena = _local.arenas.get(device) or _local.arenas.setdefault(device, _Arena(device))
    side, caller = side_stream(device), torch.cuda.current_stream(device)
    with torch.inference_mode(False), torch.no_grad():
        mine = [empty_cuda(spec.shape, stride, spec.dtype) for _, spec, stride in call.inputs]
        outputs = [empty_cuda(*one) for one in call.outputs]
        for static, (position, _, _) in zip(mine, call.inputs, strict=True):
            static.copy_(inputs[position])
    side.stream.wait_stream(caller)
    pointers = [t.data_ptr() or placeholder(device) for t in (*mine, *outputs)]
    arena.enter(side.stream)
    prepare(context, pointers, side.stream)
    if context.scratch_size is not None:
        # Before the first run: what TensorRT copies to the device when its memory changes must not be recorded.
        context.lend(arena.scratch(context.scratch_size))
    if not context.execute(side.handle):
        raise RuntimeError(f"TensorRT could not run the engine: {messages.text()}")
    recorded = Recorded(context, call, mine, outputs, arena, kept, sources)
    recorded.record(side.stream)
    caller.wait_stream(side.stream)
    return recorded
