"""CUDA graphs through CUDA's driver.

``torch.cuda.CUDAGraph`` takes PyTorch's random number generator along: while it records, a random number that another
thread draws on that GPU raises (``CUDAGeneratorImpl.cpp``, "Offset increment outside graph capture"). An engine draws
none, so there is no need for it.
"""

from __future__ import annotations

import ctypes
import functools
import sys
from typing import Any

_THREAD_LOCAL = 1  # CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: other threads may allocate and wait meanwhile


@functools.cache
def _driver() -> Any:
    """The driver's library, which PyTorch has loaded already."""
    library: Any = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    pointer, out = ctypes.c_void_p, ctypes.POINTER(ctypes.c_void_p)
    for name, arguments in {
        "cuStreamBeginCapture_v2": (pointer, ctypes.c_int), "cuStreamEndCapture": (pointer, out),
        "cuGraphInstantiateWithFlags": (out, pointer, ctypes.c_ulonglong), "cuGraphLaunch": (pointer, pointer),
        "cuGraphExecDestroy": (pointer,), "cuGraphDestroy": (pointer,),
        "cuGetErrorString": (ctypes.c_int, ctypes.POINTER(ctypes.c_char_p)),
    }.items():  # fmt: skip
        getattr(library, name).argtypes = arguments
    return library


def _check(status: int) -> None:
    if status:
        text = ctypes.c_char_p()
        _driver().cuGetErrorString(status, ctypes.byref(text))
        raise RuntimeError(f"CUDA error {status}: {(text.value or b'unknown').decode()}")


class CudaGraph:
    """A recorded piece of work. Streams are given by their numbers."""

    def __init__(self) -> None:
        self._ready = ctypes.c_void_p()

    def begin(self, stream: int) -> None:
        """What this thread enqueues on the stream is recorded from now on, and not run; not on the default stream.

        Raises:
            RuntimeError: CUDA cannot record here.
        """
        _check(_driver().cuStreamBeginCapture_v2(stream, _THREAD_LOCAL))

    def end(self, stream: int) -> None:
        """Ends the recording; :meth:`launch` runs it.

        Raises:
            RuntimeError: something was enqueued that cannot be recorded.
        """
        driver, graph = _driver(), ctypes.c_void_p()
        _check(driver.cuStreamEndCapture(stream, ctypes.byref(graph)))
        try:
            _check(driver.cuGraphInstantiateWithFlags(ctypes.byref(self._ready), graph, 0))
        finally:
            driver.cuGraphDestroy(graph)

    def launch(self, stream: int) -> None:
        """Enqueues the recorded work.

        Raises:
            RuntimeError: CUDA refused.
        """
        status = _driver().cuGraphLaunch(self._ready, stream)
        if status:
            _check(status)

    def __del__(self) -> None:
        if self._ready:
            _driver().cuGraphExecDestroy(self._ready)  # CUDA waits for runs under way
