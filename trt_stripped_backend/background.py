"""Engine builds that no caller waits for: jobs, one after the other, in a thread that ends with the process."""

from __future__ import annotations

import atexit
import logging
import os
import threading
from collections import deque
from collections.abc import Callable

from .progress import ending

log = logging.getLogger("trt_stripped_backend")


class Worker:
    """Runs jobs in the order in which they come. Its thread exists while there are any.

    One thread, so that builds take no more than one core from the calls. A daemon, because nobody should wait for
    builds that are not begun; but the end of the interpreter waits for the one that is, which is given up at its next
    step: TensorRT must not run on while the process is taken down.
    """

    def __init__(self) -> None:
        self._forget()
        # A child of a fork has no thread of its parent's: what waited there runs in PyTorch.
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forget)

    def _forget(self) -> None:
        self._changed = threading.Condition()
        self._jobs: deque[Callable[[], None]] = deque()
        self._running = 0
        self._thread: threading.Thread | None = None

    def submit(self, job: Callable[[], None]) -> None:
        """Runs a job later; what it raises is logged. Dropped when the interpreter is ending."""
        with self._changed:
            if ending.is_set():
                return
            self._jobs.append(job)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="trt_stripped builds", daemon=True)
                self._thread.start()

    def wait(self, timeout: float | None = None) -> bool:
        """Until no job is left; whether that came within ``timeout`` seconds.

        Raises:
            RuntimeError: called from a job, which would wait for itself.
        """
        if self._thread is threading.current_thread():
            raise RuntimeError("a background build cannot wait for all background builds")
        with self._changed:
            return self._changed.wait_for(lambda: not self.pending, timeout)

    @property
    def pending(self) -> int:
        """Jobs that are not done."""
        return len(self._jobs) + self._running

    def end(self) -> None:
        """Drops the jobs that wait, and waits for the one that runs."""
        ending.set()
        with self._changed:
            self._jobs.clear()
            self._changed.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join()

    def _work(self) -> None:
        while True:
            with self._changed:
                if not self._jobs:
                    self._thread = None
                    return
                job, self._running = self._jobs.popleft(), 1
            try:
                job()
            except Exception:
                log.exception("a background build failed")
            del job  # what it holds must not outlive it
            with self._changed:
                self._running = 0
                self._changed.notify_all()


#: The process's.
worker = Worker()
atexit.register(worker.end)
