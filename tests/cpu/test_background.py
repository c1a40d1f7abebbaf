"""Builds in the background: PyTorch answers meanwhile, the next call switches, and nothing outlives the process.

Engines cannot run here, so a stand-in takes their place; plans are built by the real TensorRT-RTX.
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode

import trt_stripped_backend as ts
from tests.emulated import emulated
from tests.graphs import TwoEngines, perturb
from trt_stripped_backend import backend, background, compilation, context, enginecall, lowering, report, run
from trt_stripped_backend.errors import BuildFailed, OptionError
from trt_stripped_backend.flavour import load
from trt_stripped_backend.live import Bundle
from trt_stripped_backend.options import Options
from trt_stripped_backend.precision import Settlement

X = torch.randn(2, 3, 6, 6)
CPU = torch.device("cpu")


def close(have: Any, want: Any) -> None:
    torch.testing.assert_close(have, want, rtol=1e-5, atol=1e-6)


class StandIn:
    """A runner that computes in PyTorch, and notes what it was asked for."""

    def __init__(self, call: enginecall.EngineCall, entry: Any) -> None:
        self.call, self.entry = call, entry
        self.warmed: list[run.Seen] = []
        self.calls = 0

    def __call__(self, weights: Bundle, inputs: Any) -> tuple[torch.Tensor, ...]:
        self.calls += 1
        return self.call.in_torch(weights, *inputs)

    def warm(self, seen: run.Seen) -> None:
        self.warmed.append(seen)


class Bench:
    """Compiles models with stand-ins for engines, on the CPU; builds wait for ``gate``."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.gate, self.runners = threading.Event(), list[StandIn]()
        self.error: Exception | None = None
        self.attempts = 0
        self.report = ts.Report()
        real = compilation.build

        def build(*args: Any, **kwargs: Any) -> Any:
            assert self.gate.wait(60)
            self.attempts += 1
            if self.error is not None:
                raise self.error
            return real(*args, **kwargs)

        def runner(call: enginecall.EngineCall, entry: Any) -> Any:
            if entry is None:
                return None
            self.runners.append(StandIn(call, entry))
            return self.runners[-1]

        monkeypatch.setattr(compilation, "settlement", Settlement())
        monkeypatch.setattr(compilation, "build", build)
        monkeypatch.setattr(enginecall.EngineCall, "_runner", runner)
        monkeypatch.setattr(run, "seen", lambda weights, sizes: run.Seen(weights, sizes, object()))  # type: ignore[arg-type]

    def compile(self, model: Callable[..., Any], **options: Any) -> Callable[..., Any]:
        chosen = Options.of({"min_block_size": 1, "build": "background", **options})

        def callable(lowered: lowering.Lowered) -> Callable[..., Any]:
            one = compilation.Compilation.of(chosen, load(), CPU)
            self.report = one.report
            return backend.assembled(one, one.plan(lowered), lowered.names)[0]

        def stand_in(gm: fx.GraphModule, inputs: Any) -> Callable[..., Any]:
            return lowering.trace(gm, inputs, callable)

        stand_in.compiler_name = "eager"  # type: ignore[attr-defined]
        return torch.compile(model, backend=stand_in)

    @property
    def statuses(self) -> list[str]:
        return [p.status for p in self.report.partitions]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    torch._dynamo.reset()
    ts.clear_stats()
    monkeypatch.setattr(report, "_warned", set())
    made = Bench(monkeypatch)
    yield made
    made.gate.set()
    assert ts.wait(timeout=60)
    torch._dynamo.reset()


@torch.no_grad()
def test_pytorch_answers_until_the_engines_are_there(bench: Bench) -> None:
    model = perturb(TwoEngines())
    fast = bench.compile(model)
    close(fast(X), model(X))
    model.head.bias.add_(1)
    close(fast(X), model(X))
    assert bench.statuses == ["pending", "pending"]
    assert "in PyTorch until it is built" in str(bench.report)
    assert not bench.runners
    assert not ts.wait(fast, timeout=0)
    bench.gate.set()
    assert ts.wait(fast, timeout=60)
    assert bench.statuses == ["built", "built"]
    assert ts.stats()["builds"] == ts.stats()["engines"] == 2
    assert [len(r.warmed) for r in bench.runners] == [1, 1]
    assert [r.calls for r in bench.runners] == [0, 0]
    close(fast(X), model(X))
    assert [r.calls for r in bench.runners] == [1, 1]


@torch.no_grad()
def test_a_hit_needs_no_worker(bench: Bench) -> None:
    bench.gate.set()
    model = perturb(TwoEngines())
    ts.prebuild(model, (X,), options={"min_block_size": 1, "build": "background"})
    bench.gate.clear()
    fast = bench.compile(model)
    close(fast(X), model(X))
    assert bench.statuses == ["hit", "hit"]
    assert [(r.calls, r.warmed) for r in bench.runners] == [(1, []), (1, [])]


@torch.no_grad()
def test_what_a_call_had_is_let_go(bench: Bench) -> None:
    model = perturb(TwoEngines())
    bench.compile(model)(X)
    bench.gate.set()
    assert ts.wait(timeout=60)
    last = weakref.ref(model.head.bias.untyped_storage())
    bench.runners.clear()
    torch._dynamo.reset()
    del model
    gc.collect()
    assert last() is None


@torch.no_grad()
def test_a_build_that_fails_is_a_rejection(bench: Bench) -> None:
    bench.error = BuildFailed("TensorRT's own words")
    model = perturb(TwoEngines())
    fast = bench.compile(model)
    fast(X)
    bench.gate.set()
    with pytest.warns(UserWarning, match="stays in PyTorch: TensorRT's own words"):
        assert ts.wait(timeout=60)
    assert bench.statuses == ["failed", "failed"]
    assert [r.reason for r in bench.report.rejections if r.kind == "build"] == ["TensorRT's own words"] * 2
    close(fast(X), model(X))
    assert ts.stats()["engines"] == 0


@torch.no_grad()
def test_an_engine_that_cannot_be_loaded_is_a_rejection(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: StandIn, seen: run.Seen) -> None:
        raise RuntimeError("no\n context")

    monkeypatch.setattr(StandIn, "warm", broken)
    model = perturb(TwoEngines())
    fast = bench.compile(model)
    fast(X)
    bench.gate.set()
    with pytest.warns(UserWarning, match="no context"):
        assert ts.wait(timeout=60)
    close(fast(X), model(X))
    assert [r.reason for r in bench.report.rejections if r.kind == "build"] == ["no context"] * 2


@torch.no_grad()
def test_require_full_raises_at_the_next_call(bench: Bench) -> None:
    bench.error = BuildFailed("TensorRT's own words")
    fast = bench.compile(lambda x: x.relu() + 1, require_full=True)
    fast(X)
    bench.gate.set()
    assert ts.wait(timeout=60)
    for _ in range(2):
        with pytest.raises(BuildFailed, match=r"engine_0 \(require_full\): TensorRT's own words"):
            fast(X)


@torch.no_grad()
def test_sizes_beyond_the_range_wait_alone(bench: Bench) -> None:
    """While an engine for more sizes is built, those of the old one keep it."""
    bench.gate.set()
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    fast = bench.compile(model, dynamic_range=(2, 8))
    small, large = torch.randn(6, 4), torch.randn(20, 4)
    torch._dynamo.mark_dynamic(small, 0)
    fast(small)
    assert ts.wait(timeout=60)
    (first,) = bench.runners
    first.calls = 0  # whether the call found it built already
    bench.gate.clear()
    close(fast(large), model(large))
    assert first.calls == 0
    close(fast(small), model(small))
    assert first.calls == 1
    bench.gate.set()
    assert ts.wait(timeout=60)
    second = bench.runners[-1]
    assert [one.sizes for one in second.warmed] == [(6,)]
    for x in (small, large):
        close(fast(x), model(x))
    assert (first.calls, second.calls) == (1, 2)
    assert [r.entry.header["ranges"] for r in (first, second)] == [[[2, 8, 8]], [[2, 32, 4096]]]


@pytest.mark.parametrize("background", [True, False])
@torch.no_grad()
def test_without_a_wider_engine_the_old_one_stays(bench: Bench, background: bool) -> None:
    bench.gate.set()
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
    fast = bench.compile(model, dynamic_range=(2, 8), **({} if background else {"build": "now"}))
    small, large = torch.randn(6, 4), torch.randn(20, 4)
    torch._dynamo.mark_dynamic(small, 0)
    fast(small)
    assert ts.wait(timeout=60)
    (first,) = bench.runners
    bench.error = BuildFailed(f"too wide {background}")
    with pytest.warns(UserWarning, match=f"stays in PyTorch: too wide {background}"):
        close(fast(large), model(large))
        assert ts.wait(timeout=60)
    calls, builds = first.calls, bench.attempts
    for x in (small, large, small):
        close(fast(x), model(x))
    assert (first.calls, bench.attempts) == (calls + 2, builds)


@torch.no_grad()
def test_a_number_that_is_no_size(bench: Bench) -> None:
    """An engine takes it as others, and negative ones are PyTorch's."""

    def fn(x: torch.Tensor, n: int) -> tuple[torch.Tensor, ...]:
        return (x * n).relu() + torch.full((4,), n), x.pow(n)

    bench.gate.set()
    fast, x = bench.compile(fn), torch.rand(4)
    for n in (2, 3):  # Dynamo's second graph is for any number
        fast(x, n)
    assert ts.wait(timeout=60)
    assert [(r.target, r.kind) for r in bench.report.rejections] == [("aten.pow.Tensor_Scalar", "limit")]
    (engine,) = bench.runners[1:]
    engine.calls = 0  # whether the call found it built already
    for count, n in enumerate((5, 7, 0), start=1):
        close(fast(x, n), fn(x, n))
        assert engine.calls == count
    for n in (-3, -1):
        close(fast(x, n), fn(x, n))
    close(fast(x, 5), fn(x, 5))
    assert engine.calls == 4
    assert bench.runners[1:] == [engine], "no other was built"


@torch.no_grad()
def test_a_negative_number_may_come_first(bench: Bench) -> None:
    bench.gate.set()
    fast, x = bench.compile(torch.mul), torch.rand(4)
    for n in (2, -3, 5):
        close(fast(x, n), x * n)
        assert ts.wait(timeout=60)
    assert bench.runners[-1].entry.header["ranges"] == [[0, 1, 4096]]
    assert bench.runners[-1].calls == 1


@pytest.mark.parametrize("mode", ["identical", "immutable"])
def test_modes_that_hold_values_are_refused(mode: str) -> None:
    with FakeTensorMode():
        x = torch.empty(2, device="cuda:0")
    with pytest.raises(OptionError, match=f"cannot build for refit_mode='{mode}'.*use refit_mode='bound'"):
        backend._start(Options.of({"refit_mode": mode, "build": "background"}), [x])
    compiled = backend._start(Options.of({"build": "background"}), [x])
    assert isinstance(compiled, compilation.Compilation)
    assert compiled.background


# ------------------------------------------------------------------------------------------------ the first call


@pytest.mark.parametrize("mode", ["bound", "general"])
@torch.no_grad()
def test_the_worker_does_what_a_first_call_does(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With emulated engines: the caller finds the engine refitted and a context, and gets no other's scratch memory."""
    torch._dynamo.reset()
    ts.clear_stats()
    with emulated():
        contexts: list[str] = []
        real, build = context.Context.__init__, compilation.build
        gate = threading.Event()

        def init(self: context.Context, *args: Any, **kwargs: Any) -> None:
            contexts.append(threading.current_thread().name)
            real(self, *args, **kwargs)

        monkeypatch.setattr(context.Context, "__init__", init)
        monkeypatch.setattr(compilation, "build", lambda *a, **k: gate.wait(60) and build(*a, **k))
        model = perturb(nn.Sequential(nn.Linear(4, 4), nn.ReLU()))
        x = torch.randn(3, 4)
        options = {"min_block_size": 1, "refit_mode": mode, "build": "background"}
        fast = torch.compile(model, backend=backend.trt_stripped, options=options, dynamic=False)
        close(fast(x), model(x))
        gate.set()
        assert ts.wait(timeout=60)
        assert not context._scratches
        assert ts.stats()["refits"] == (mode == "general")
        made = len(contexts)
        torch.testing.assert_close(fast(x), model(x))
        assert made == len(contexts) == 1, "the one that was loaded ahead, warmed by the worker"
        assert "MainThread" not in contexts
        model[0].weight.mul_(2)
        torch.testing.assert_close(fast(x), model(x))
        assert ts.stats()["refits"] == 2 * (mode == "general")
        assert (ts.stats()["builds"], ts.stats()["fallbacks"]) == (1, 0)
        monkeypatch.undo()
    torch._dynamo.reset()


# ------------------------------------------------------------------------------------------------ the worker


def test_jobs_run_in_order_and_survive_each_other(caplog: pytest.LogCaptureFixture) -> None:
    worker, done = background.Worker(), list[Any]()

    def wait_for_itself() -> None:
        with pytest.raises(RuntimeError, match="cannot wait for all"):
            worker.wait()
        done.append("own")

    for job in (lambda: done.append(1), lambda: 1 // 0, wait_for_itself, lambda: done.append(2)):
        worker.submit(job)  # type: ignore[arg-type]
    assert worker.wait(60)
    assert done == [1, "own", 2]
    assert "a background build failed" in caplog.text
    worker.submit(lambda: done.append(3))
    assert worker.wait(60)
    assert done[-1] == 3


#: Starts a build that takes long, and ends. A child of a fork has nothing to wait for.
SCRIPT = """
import os, threading, torch
import trt_stripped_backend as ts
from trt_stripped_backend import background, compilation

begun, real = threading.Event(), compilation.build
def build(*args, **kwargs):
    begun.set()
    return real(*args, **kwargs)
compilation.build = build

layers = torch.nn.Sequential(*(torch.nn.Conv2d(8, 8, 3, padding=1) for _ in range(40)))
for _ in range(3):
    background.worker.submit(lambda: ts.prebuild(layers, (torch.randn(1, 8, 16, 16),)))
assert begun.wait(60)
child = os.fork()
if not child:
    os._exit(0 if ts.wait(timeout=0) else 1)
assert os.waitpid(child, 0)[1] == 0
assert not ts.wait(timeout=0)
print("ends", flush=True)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_the_end_of_the_process_gives_up_builds(own_cache: Path) -> None:
    environment = {**os.environ, "TRT_STRIPPED_CACHE_DIR": str(own_cache), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, env=environment, check=False, timeout=120
    )
    assert (done.returncode, done.stdout) == (0, "ends\n"), done.stderr
    assert all("BuildCanceled" in line for line in done.stderr.splitlines() if line)
    assert not ts.open_cache().entries()
    assert not ts.open_cache().check()
