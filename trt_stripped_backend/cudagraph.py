"""CUDA graphs through CUDA's driver.

``torch.cuda.CUDAGraph`` takes PyTorch's random number generator along: while it records, a random number that another
thread draws on that GPU raises (``CUDAGeneratorImpl.cpp``, "Offset increment outside graph capture"). An engine draws
none, so there is no need for it.
"""

from __future__ import annotations

import ctypes
import gc
import threading

from .driver import check, driver

_THREAD_LOCAL = 1  # CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: other threads may allocate and wait meanwhile


class CudaGraph:
    """A recorded piece of work. Streams are given by their numbers."""

    def __init__(self) -> None:
        self._ready = ctypes.c_void_p()

    def begin(self, stream: int) -> None:
        """What this thread enqueues on the stream is recorded from now on, and not run; not on the default stream.

        Raises:
            RuntimeError: CUDA cannot record here.
        """
        check(driver().cuStreamBeginCapture_v2(stream, _THREAD_LOCAL))

    def end(self, stream: int) -> None:
        """Ends the recording; :meth:`launch` runs it.

        Raises:
            RuntimeError: something was enqueued that cannot be recorded.
        """
        graph = ctypes.c_void_p()
        check(driver().cuStreamEndCapture(stream, ctypes.byref(graph)))
        try:
            check(driver().cuGraphInstantiateWithFlags(ctypes.byref(self._ready), graph, 0))
        finally:
            driver().cuGraphDestroy(graph)

    def launch(self, stream: int) -> None:
        """Enqueues the recorded work.

        Raises:
            RuntimeError: CUDA refused.
        """
        status = driver().cuGraphLaunch(self._ready, stream)
        if status:
            check(status)

    def __del__(self) -> None:
        if self._ready:
            driver().cuGraphExecDestroy(self._ready)  # CUDA waits for runs under way


class _Uncollected:
    """No garbage collection while a thread records: what it frees may call into CUDA, which would end the recording."""

    def __init__(self) -> None:
        self._lock, self._threads, self._enabled = threading.Lock(), 0, False

    def __enter__(self) -> None:
        with self._lock:
            if not self._threads:
                self._enabled = gc.isenabled()
                gc.disable()
            self._threads += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._threads -= 1
            if not self._threads and self._enabled:
                gc.enable()


uncollected = _Uncollected()
