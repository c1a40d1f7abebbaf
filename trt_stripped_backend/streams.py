"""CUDA streams that one thread at a time enqueues on.

``torch.cuda.Stream()`` hands out 32 streams in turn, and then the same ones again. What another thread enqueued on one
of those while this thread records a CUDA graph on it would become part of the graph, and not run.
"""

from __future__ import annotations

import ctypes

import torch

from .driver import check, driver

_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING: not ordered with the default stream, as PyTorch's own
#: By device. A list's own operations are atomic: a lock might be asked for again by what the garbage collector ends.
_idle: dict[torch.device, list[torch.cuda.Stream]] = {}


def borrow(device: torch.device) -> torch.cuda.Stream:
    """A stream that nobody else has until it is given :func:`back`.

    None is ever destroyed: PyTorch's allocator remembers the streams that used a tensor's memory.
    """
    try:
        return _idle.setdefault(device, []).pop()
    except IndexError:
        pass
    made = ctypes.c_void_p()
    with torch.cuda.device(device):
        torch.cuda.current_stream(device).query()  # a thread's first call of the runtime makes the device's context its
        check(driver().cuStreamCreate(ctypes.byref(made), _NON_BLOCKING))
    stream: torch.cuda.Stream = torch.cuda.ExternalStream(made.value, device=device)  # type: ignore[no-untyped-call]
    return stream


def back(device: torch.device, stream: torch.cuda.Stream) -> None:
    """The stream may be lent to the next."""
    _idle.setdefault(device, []).append(stream)
