"""An engine build as people see it: a bar for each phase on a terminal, and Ctrl-C that stops it."""

from __future__ import annotations

import functools
import logging
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from .flavour import trt

log = logging.getLogger("trt_stripped_backend")

#: Set when the interpreter ends: builds are given up at TensorRT's next step, and none is begun.
ending = threading.Event()


@contextmanager
def watched(
    config: Any, name: str, show: bool | None, stream: TextIO | None = None, stop: threading.Event = ending
) -> Iterator[None]:
    """While open, the build of ``config`` is shown and can be interrupted.

    TensorRT cannot unwind a Python exception. So what a SIGINT raises (``KeyboardInterrupt``, or what the handler of
    the program chooses) is kept until TensorRT has given up the build at the next step, and raised on leaving.

    Args:
        config: the builder config.
        name: what is built.
        show: whether to show it; None if ``stream`` is a terminal, and the program's main thread builds.
        stream: default: ``sys.stderr``.
        stop: ends the build at the next step once it is set.
    """
    stream = sys.stderr if stream is None else stream
    terminal = stream is not None and stream.isatty()
    wanted = shown_here(stream) if show is None else show
    view = None if stream is None or not wanted else (Bars if terminal else Lines)
    with _deferred() as pending:
        shown = view(name, stream) if view is not None else None
        config.progress_monitor = monitor = _monitor_type()(pending, shown, stop)
        try:
            yield
        finally:
            monitor.close()
            config.progress_monitor = None


def shown_here(stream: TextIO | None = None) -> bool:
    """Whether a build that this thread waits for is shown if nobody says otherwise."""
    stream = sys.stderr if stream is None else stream
    return stream is not None and stream.isatty() and threading.current_thread() is threading.main_thread()


@contextmanager
def _deferred() -> Iterator[list[BaseException]]:
    """While open, what the handler of SIGINT raises goes into the list that it gives; leaving raises it.

    Only the main thread has signals; in others, and for a handler that is not Python's, nothing changes.
    """
    pending: list[BaseException] = []
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield pending
        return

    def handle(number: int, frame: Any) -> None:
        try:
            before(number, frame)
        except BaseException as error:
            pending.append(error)

    signal.signal(signal.SIGINT, handle)
    try:
        yield pending
    finally:
        signal.signal(signal.SIGINT, before)
        if pending:
            raise pending[0]


@functools.cache
def _monitor_type() -> Any:
    """The ``trt.IProgressMonitor`` of this package; its base exists once TensorRT is imported."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self, pending: list[BaseException], view: Bars | Lines | None, stop: threading.Event) -> None:
            trt.IProgressMonitor.__init__(self)
            self.pending, self.view, self.stop = pending, view, stop

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self.tell("start", phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            self.tell("step", phase_name, step + 1)
            return not (self.pending or self.stop.is_set() or ending.is_set())

        def phase_finish(self, phase_name: str) -> None:
            self.tell("finish", phase_name)

        def close(self) -> None:
            self.tell("close")

        def tell(self, event: str, *args: Any) -> None:
            """A terminal that goes away must not stop a build."""
            try:
                if self.view is not None:
                    getattr(self.view, event)(*args)
            except Exception as error:
                self.view = None
                log.debug("the progress of a build cannot be shown: %s", error)

    return Monitor


class Bars:
    """A bar for each phase under way, on a terminal; gone when the build ends. Builds at one time share the display."""

    _lock = threading.Lock()
    _displays: ClassVar[dict[TextIO, tuple[Progress, int]]] = {}  # with how many builds each shows

    def __init__(self, name: str, stream: TextIO) -> None:
        self.name, self.stream = name, stream
        self.tasks: dict[str, tuple[TaskID, int]] = {}
        with Bars._lock:
            columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
            known = Bars._displays.get(stream)
            self.progress, count = known or (Progress(*columns, console=Console(file=stream), transient=True), 0)
            Bars._displays[stream] = self.progress, count + 1
            if not count:
                self.progress.start()

    def start(self, phase: str, parent: str | None, steps: int) -> None:
        depth = self.tasks[parent][1] + 1 if parent in self.tasks else 0
        text = "  " * depth + phase if depth else f"{self.name}: {phase}"
        self.tasks[phase] = self.progress.add_task(text, total=steps), depth

    def step(self, phase: str, done: int) -> None:
        if phase in self.tasks:
            self.progress.update(self.tasks[phase][0], completed=done)

    def finish(self, phase: str) -> None:
        if phase in self.tasks:
            self.progress.remove_task(self.tasks.pop(phase)[0])

    def close(self) -> None:
        for phase in list(self.tasks):
            self.finish(phase)
        with Bars._lock:
            progress, count = Bars._displays.pop(self.stream)
            if count > 1:
                Bars._displays[self.stream] = progress, count - 1
            else:
                progress.stop()


class Lines:
    """A line as each of the outer phases ends, with its seconds: for files and pipes."""

    def __init__(self, name: str, stream: TextIO) -> None:
        self.name, self.stream = name, stream
        self.phases: dict[str, tuple[float, int]] = {}

    def start(self, phase: str, parent: str | None, steps: int) -> None:
        depth = self.phases[parent][1] + 1 if parent in self.phases else 0
        self.phases[phase] = time.perf_counter(), depth
        if not depth:
            self._say(phase)

    def step(self, phase: str, done: int) -> None:
        """Steps are too many for lines."""

    def finish(self, phase: str) -> None:
        if phase not in self.phases:
            return
        start, depth = self.phases.pop(phase)
        if depth < 2:
            self._say(f"{phase}: {time.perf_counter() - start:.1f} s")

    def close(self) -> None:
        self.stream.flush()

    def _say(self, text: str) -> None:
        print(f"trt_stripped: {self.name}: {text}", file=self.stream, flush=True)
