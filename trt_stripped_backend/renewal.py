"""Derived weights computed anew in one launch, where the weights that they are computed of are written again and again.

Folded BatchNorms and casts by autocast are hundreds of small operators: each costs the host microseconds, whatever it
computes. A CUDA graph of them is one launch.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import NamedTuple

import torch

from .cudagraph import CudaGraph, uncollected
from .streams import borrow
from .watch import current_handle

log = logging.getLogger("trt_stripped_backend")


class _Place(NamedTuple):
    """Where work is recorded, one recording at a time.

    cuBLAS keeps a workspace for each stream, which a recording reads and writes whenever it is launched. So neither the
    stream nor the memory is ever anybody else's, and they outlive the recording.
    """

    stream: torch.cuda.Stream
    pool: torch.cuda.MemPool


_idle: dict[torch.device, list[_Place]] = {}


class Renewal:
    """Work that is recorded the second time that it is done.

    Args:
        device: where it runs. Nothing is ever recorded on a CPU.
    """

    def __init__(self, device: torch.device) -> None:
        self._device, self._times = device, 0
        self._graph: CudaGraph | None = None
        self._place: _Place | None = None
        self._done: torch.cuda.Event | None = None

    @property
    def recorded(self) -> bool:
        return self._graph is not None

    def again(self, act: Callable[[], None]) -> None:
        """Says that this work was done once more; it may be done another time here, to be recorded.

        Args:
            act: enqueues it on the current stream; reads and writes memory that stays where it is. What it needs
                meanwhile comes from a pool that nothing else uses.
        """
        self._times += 1
        if self._times != 2 or self._device.type != "cuda":
            return
        try:
            self._record(act)
        except RuntimeError as error:
            log.info("derived weights are computed one by one: %s", error)

    def _record(self, act: Callable[[], None]) -> None:
        try:
            place = _idle.setdefault(self._device, []).pop()
        except IndexError:
            place = _Place(borrow(self._device), torch.cuda.MemPool())
        self._place = place
        caller, graph = torch.cuda.current_stream(self._device), CudaGraph()
        place.stream.wait_stream(caller)
        try:
            with (
                torch.cuda.device(self._device), torch.cuda.stream(place.stream), torch.cuda.use_mem_pool(place.pool),
                uncollected,
            ):  # fmt: skip
                act()  # what is done once, as loading kernels, cannot be recorded
                graph.begin(place.stream.cuda_stream)
                try:
                    act()
                finally:
                    graph.end(place.stream.cuda_stream)
        finally:
            caller.wait_stream(place.stream)
        self._graph = graph

    def launch(self) -> None:
        """Does what was recorded, on the current stream.

        Raises:
            RuntimeError: CUDA refused.
        """
        assert self._graph is not None
        with torch.cuda.device(self._device):
            self._graph.launch(current_handle(self._device.index))
            if self._done is None:
                self._done = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._done.record(torch.cuda.current_stream(self._device))

    def __del__(self, idle: dict[torch.device, list[_Place]] = _idle) -> None:  # a default outlives the module
        if self._done is not None:
            self._done.synchronize()  # its memory is the next one's from now on
        self._graph = None
        if self._place is not None:
            idle[self._device].append(self._place)
