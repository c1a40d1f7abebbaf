"""What a piece of work takes on the host and on the GPU, in PyTorch's allocator and beside it."""

from __future__ import annotations

import gc
import resource
import threading
from pathlib import Path
from types import TracebackType

import torch

#: Seconds between two looks: TensorRT's own memory leaves no record of its peak.
_PERIOD = 0.01


def _resident() -> int:
    """Bytes of this process in the host's memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def _record() -> int:
    """The most bytes that this process ever had in the host's memory."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _outside() -> int:
    """Bytes of the current GPU in use that are not PyTorch's: contexts, code, TensorRT, and other processes."""
    free, total = torch.cuda.mem_get_info()
    return total - free - torch.cuda.memory_reserved()


class Memory:
    """Growth of memory inside a ``with`` block, in bytes; the GPU should be nobody else's meanwhile.

    Attributes:
        host_peak: most resident memory of the process, beyond what it had at the start.
        host_kept: the same at the end.
        torch_peak: most memory in PyTorch's allocator, beyond what was allocated at the start.
        torch_kept: the same at the end.
        outside_peak: most memory on the GPU that PyTorch's allocator does not know, beyond the start.
        outside_kept: the same at the end.
    """

    def __enter__(self) -> Memory:
        gc.collect()
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        self._start = _resident(), torch.cuda.memory_allocated(), _outside()
        self._known = _record()
        self.host_peak = self.outside_peak = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()
        if kind is not None:
            return
        torch.cuda.synchronize()
        self._look()
        host, allocated, outside = self._start
        if _record() > self._known:  # a new record is exact, where looks may miss a peak
            self.host_peak = max(self.host_peak, _record() - host)
        self.host_kept, self.outside_kept = _resident() - host, _outside() - outside
        self.torch_peak = torch.cuda.max_memory_allocated() - allocated
        self.torch_kept = torch.cuda.memory_allocated() - allocated

    def _watch(self) -> None:
        while not self._done.wait(_PERIOD):
            self._look()

    def _look(self) -> None:
        host, _, outside = self._start
        self.host_peak = max(self.host_peak, _resident() - host)
        self.outside_peak = max(self.outside_peak, _outside() - outside)
