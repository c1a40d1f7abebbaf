"""What a build shows, and how Ctrl-C ends it: with the real TensorRT-RTX."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cpu.test_build import plan, staged_mlp
from trt_stripped_backend import progress
from trt_stripped_backend.cache import open_cache
from trt_stripped_backend.progress import Bars, Lines, watched

#: Phases of every TensorRT's build.
PHASES = ("Building engine", "Cloning network graph", "Preparing graph for optimization")
SCRIPT = """
import signal, torch, trt_stripped_backend
signal.signal(signal.SIGINT, signal.default_int_handler)
layers = torch.nn.Sequential(*(torch.nn.Conv2d(8, 8, 3, padding=1) for _ in range(100)))
report = trt_stripped_backend.prebuild(layers, (torch.randn(1, 8, 16, 16),))
print(report.builds, "built")
"""


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """Python's own handler of SIGINT, which a process in the background does not start with."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Config:
    progress_monitor: Any = None


def built(monkeypatch: pytest.MonkeyPatch, stream: io.StringIO, **options: Any) -> str:
    """What a build prints to a stream that is stderr."""
    monkeypatch.setattr(sys, "stderr", stream)
    assert plan(staged_mlp(), **options).plan
    return stream.getvalue()


def test_a_pipe_sees_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert built(monkeypatch, io.StringIO()) == ""


def test_a_terminal_sees_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(Bars, "finish", lambda self, phase: self.progress.refresh())  # too fast to see otherwise
    text = built(monkeypatch, Terminal())
    assert "engine_0: Building engine" in text and "0:00:0" in text
    assert all(phase in text for phase in PHASES)


def test_bars_go_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    bars = Bars("engine_0", Terminal())
    bars.start("outer", None, 2)
    bars.start("inner", "outer", 4)
    bars.step("inner", 3)
    outer, inner = bars.progress.tasks
    assert (outer.description, inner.description) == ("engine_0: outer", "  inner")
    assert (inner.completed, inner.total) == (3, 4)
    for unknown in ("inner", "inner", "outer"):  # TensorRT may finish a phase twice
        bars.finish(unknown)
        bars.step(unknown, 1)
    assert not bars.progress.tasks
    bars.close()
    assert bars.progress.finished and not bars.progress.live.is_started


def test_a_terminal_may_be_told_to_stay_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    assert built(monkeypatch, Terminal(), progress=False) == ""
    monkeypatch.setenv("TRT_STRIPPED_PROGRESS", "0")
    assert built(monkeypatch, Terminal()) == ""


def test_a_pipe_may_be_told_to_show_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRT_STRIPPED_PROGRESS", "1")
    lines = built(monkeypatch, io.StringIO()).splitlines()
    assert lines[0] == "trt_stripped: engine_0: Building engine"
    told = [line.removeprefix("trt_stripped: engine_0: ") for line in lines[1:]]
    assert [phase for phase in PHASES[1:] if any(line.startswith(phase) for line in told)] == list(PHASES[1:])
    assert told[-1].startswith("Building engine: ") and told[-1].endswith(" s")


def test_a_stream_that_breaks_costs_no_build(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Lines, *_: Any) -> None:
        raise BrokenPipeError

    monkeypatch.setattr(Lines, "start", broken)
    assert built(monkeypatch, io.StringIO(), progress=True) == ""


def test_without_stderr(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)  # as under pythonw
    assert plan(staged_mlp(), progress=True).plan


# ------------------------------------------------------------------------------------------------ Ctrl-C


def interrupt_at(monkeypatch: pytest.MonkeyPatch, phase: str) -> None:
    """Sends SIGINT to this process, once, from the build."""
    start = Lines.start
    sent: list[str] = []

    def send(self: Lines, name: str, *rest: Any) -> None:
        start(self, name, *rest)
        if name == phase and not sent:
            sent.append(name)
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Lines, "start", send)


@pytest.mark.parametrize("phase", PHASES)
def test_ctrl_c_cancels_the_build(monkeypatch: pytest.MonkeyPatch, phase: str) -> None:
    interrupt_at(monkeypatch, phase)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        built(monkeypatch, io.StringIO(), progress=True)
    assert signal.getsignal(signal.SIGINT) is before
    assert plan(staged_mlp()).plan  # the next build works


def test_a_handler_that_raises_something_else(monkeypatch: pytest.MonkeyPatch) -> None:
    def handle(number: int, frame: Any) -> None:
        raise SystemExit(130)

    interrupt_at(monkeypatch, PHASES[0])
    before = signal.signal(signal.SIGINT, handle)
    try:
        with pytest.raises(SystemExit, match="130"):
            built(monkeypatch, io.StringIO(), progress=True)
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_handler_that_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    interrupt_at(monkeypatch, PHASES[0])
    before = signal.signal(signal.SIGINT, lambda number, frame: calls.append(number))
    try:
        assert built(monkeypatch, io.StringIO(), progress=True)
    finally:
        signal.signal(signal.SIGINT, before)
    assert calls == [signal.SIGINT]


def test_other_threads_keep_the_handler() -> None:
    config, seen = Config(), []

    def work() -> None:
        with watched(config, "engine_0", False):
            seen.append(signal.getsignal(signal.SIGINT))
            assert config.progress_monitor.step_complete("phase", 0)

    worker = threading.Thread(target=work)
    worker.start()
    worker.join()
    assert seen == [signal.getsignal(signal.SIGINT)] and config.progress_monitor is None


def test_an_interrupt_after_the_last_step() -> None:
    config = Config()
    with pytest.raises(KeyboardInterrupt), watched(config, "engine_0", False):
        signal.raise_signal(signal.SIGINT)
        assert not config.progress_monitor.step_complete("phase", 0)
    assert config.progress_monitor is None


def test_a_process_that_is_interrupted_leaves_nothing(own_cache: Path) -> None:
    command = [sys.executable, "-c", SCRIPT]
    environment = {**os.environ, "TRT_STRIPPED_PROGRESS": "1"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as child:
        assert child.stderr is not None
        killer = threading.Timer(120, child.kill)  # a child that hangs would hang the test
        killer.start()
        try:
            assert any("Building engine" in line for line in child.stderr)  # it has begun, and TensorRT is at work
            child.send_signal(signal.SIGINT)
            out, err = child.communicate(timeout=60)
        finally:
            killer.cancel()
            child.kill()
    assert out == "" and err.rstrip().endswith("KeyboardInterrupt"), err
    assert child.returncode == -signal.SIGINT
    cache = open_cache()
    assert cache.entries() == [] and cache.check() == []
    assert [path.name for path in (own_cache / "locks").iterdir()] == ["index.lock"]
    again = {**os.environ, "TRT_STRIPPED_LOCK_TIMEOUT": "0", "TRT_STRIPPED_CACHE_ERRORS": "raise"}
    done = subprocess.run(command, capture_output=True, text=True, env=again, timeout=120, check=True)
    assert done.stdout == "1 built\n" and len(open_cache().entries()) == 1


def test_the_monitor_is_made_once() -> None:
    assert progress._monitor_type() is progress._monitor_type()


def test_builds_at_one_time_share_a_display(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal()
    one, two = Bars("engine_0", terminal), Bars("engine_1", terminal)
    one.start("outer", None, 2)
    two.start("outer", None, 2)
    assert [task.description for task in one.progress.tasks] == ["engine_0: outer", "engine_1: outer"]
    one.close()
    assert [task.description for task in two.progress.tasks] == ["engine_1: outer"]
    assert two.progress.live.is_started
    two.close()
    assert not two.progress.live.is_started
    assert not Bars._displays
