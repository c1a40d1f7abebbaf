"""Engines and weights that graphs, layers and threads of one process share: nobody gets what is another's."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef

import trt_stripped_backend as ts
from tests import emulated
from tests.emulated import World
from tests.graphs import aligned
from trt_stripped_backend import compilation, context, enginecall, live, placement, refit, run
from trt_stripped_backend.backend import trt_stripped
from trt_stripped_backend.errors import BuildFailed

N, PATIENCE = 16, 60
X = torch.randn(3, N)


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w, self.v = (nn.Parameter(aligned(torch.randn(N, N), 512)) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(torch.relu(x @ self.w) @ self.v).softmax(-1)


class Doubled(nn.Module):
    """Its weight is derived."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(aligned(torch.randn(N, N), 512))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x @ (self.w * 2))


@pytest.fixture(autouse=True)
def _no_grad(world: World) -> Iterator[None]:
    with torch.no_grad():
        yield


def compiled(model: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    options = {"min_block_size": 1, "cache": False, **options}
    return torch.compile(model, backend=trt_stripped, dynamic=False, options=options)


def close(have: torch.Tensor, want: torch.Tensor) -> None:
    torch.testing.assert_close(have, want, rtol=1e-4, atol=1e-4)


def layers(count: int, **options: Any) -> tuple[nn.Module, Callable[..., Any]]:
    model = nn.Sequential(*(Layer() for _ in range(count)))
    return model, compiled(model, refit_mode="general", dedupe_layers=True, min_block_size=3, **options)


def test_layers_that_share_an_engine_wait_for_their_own_weights(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """One thread has the engine of a layer, and before it locks it another refits it for the next layer."""
    pool = refit.pool
    monkeypatch.setattr(refit, "pool", lambda entry, device, *_, **__: pool(entry, device, 1))
    model, fast = layers(4)
    want = model(X)
    close(fast(X), want)
    find, paused, go, out = refit.EnginePool.engine, threading.Event(), threading.Event(), []

    def engine(self: refit.EnginePool, weights: live.Bundle, partition: int) -> refit.Engine:
        found = find(self, weights, partition)
        if threading.current_thread().name == "slow" and partition == 1 and not paused.is_set():
            paused.set()
            go.wait(PATIENCE)
        return found

    def call() -> None:
        with torch.no_grad():
            out.append(fast(X))

    monkeypatch.setattr(refit.EnginePool, "engine", engine)
    slow = threading.Thread(target=call, name="slow")
    slow.start()
    assert paused.wait(PATIENCE)
    call()
    go.set()
    slow.join()
    for have in out:
        close(have, want)


def test_a_small_budget_holds_the_layers_of_one_model(world: World) -> None:
    _, fast = layers(4, max_weight_bytes=1)
    for _ in range(3):
        fast(X)
    assert ts.stats()["refits"] == 4


@pytest.mark.parametrize("mode", ["bound", "general"])
def test_a_refresh_holds_for_graphs_that_come_later(world: World, mode: str) -> None:
    model = Doubled()
    fast = compiled(model, refit_mode=mode)
    fast(X)
    model.w.data.mul_(-3)  # leaves no trace
    ts.refresh()
    other = torch.randn(5, N)
    close(fast(other), model(other))


def test_memory_of_a_weight_that_was_copied_into_another_layout_is_held(world: World) -> None:
    """A view into a flat buffer, as FSDP has them, is copied for the engine; its address must not come back."""
    model = Layer()
    fast = compiled(model, refit_mode="general")
    flat = torch.randn(N * N + 1)
    model.w.data = flat[1:].view(N, N)
    held = StorageWeakRef(flat.untyped_storage())
    del flat
    close(fast(X), model(X))
    model.w.data = torch.empty(0)
    gc.collect()
    assert not held.expired(), "an engine's weights are told from others by this address"


def test_a_graph_that_the_caller_recorded_keeps_its_memory(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another graph of the model computes the derived weight first; this one's stays where the recording reads it."""
    for module in (placement, run):
        monkeypatch.setattr(module, "ALIGNMENT", 64)  # the CPU allocator's, so that derived weights are bound in place
    model = Doubled()
    fast = compiled(model)
    fast(X)
    (mine,) = (made for one in live._all_live for found in one._sets.values() for _, made in found.pieces)
    address = mine.tensors[0].data_ptr()
    model.w.mul_(-3)
    fast(torch.randn(5, N))
    close(fast(X), model(X))
    assert mine.tensors[0].data_ptr() == address
    close(mine.tensors[0], model.w * 2)
    assert any(mine is made for one in live._all_live for found in one._sets.values() for _, made in found.pieces)


def test_two_models_of_one_graph_in_two_threads_get_their_own_engines(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One thread is about to return the engine of its values when another chooses that of its own."""
    one, two = Layer(), Layer()
    fast = compiled(lambda model, x: model(x), refit_mode="identical")
    close(fast(one, X), one(X))
    close(fast(two, X), two(X))
    paused, go, out, assign = threading.Event(), threading.Event(), {}, enginecall.EngineCall.__setattr__

    def setattr_(self: nn.Module, name: str, value: Any) -> None:
        assign(self, name, value)
        if name == "latest" and threading.current_thread().name == "one":
            paused.set()
            go.wait(PATIENCE)

    def call(name: str, model: nn.Module) -> threading.Thread:
        def run() -> None:
            with torch.no_grad():
                out[name] = fast(model, X)

        thread = threading.Thread(target=run, name=name)
        thread.start()
        return thread

    monkeypatch.setattr(enginecall.EngineCall, "__setattr__", setattr_)
    first = call("one", one)
    assert paused.wait(PATIENCE)
    second = call("two", two)
    second.join(0.3)  # it may have to wait for the first
    go.set()
    first.join()
    second.join()
    close(out["one"], one(X))
    close(out["two"], two(X))
    close(fast(one, X), one(X))


def test_an_engine_is_warmed_with_the_weights_that_were_seen(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the worker builds, the model has other weights for a while, as an EMA swap gives it."""
    gate, build = threading.Event(), compilation.build
    monkeypatch.setattr(compilation, "build", lambda *a, **k: gate.wait(PATIENCE) and build(*a, **k))
    model = Layer()
    fast = compiled(model, refit_mode="general", build="background")
    fast(X)
    own = model.w.data
    model.w.data = aligned(torch.randn(N, N), 512)
    gate.set()
    assert ts.wait(timeout=PATIENCE)
    model.w.data = own
    close(fast(X), model(X))
    assert ts.stats()["fallbacks"] == 0


def test_changing_weights_leave_no_engines_behind(world: World) -> None:
    model = Layer()
    fast = compiled(model, refit_mode="identical")
    for _ in range(8):
        model.w.mul_(1.01)
        close(fast(X), model(X))
    gc.collect()
    assert len(refit._pools) <= 4


@pytest.mark.parametrize("mode", ["identical", "immutable"])
def test_require_full_holds_for_engines_that_are_built_at_a_call(
    world: World, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    def build(*_: Any, **__: Any) -> Any:
        raise BuildFailed(f"no {mode} engine")  # each warning is given once

    monkeypatch.setattr(compilation, "build", build)
    with pytest.raises(BuildFailed, match=r"engine_0 \(require_full\): no .* engine"):
        compiled(Layer(), refit_mode=mode, require_full=True)(X)
    torch._dynamo.reset()
    model = Layer()
    with pytest.warns(UserWarning, match=f"stays in PyTorch: no {mode} engine"):
        have = compiled(model, refit_mode=mode)(X)
    close(have, model(X))


def test_an_engine_that_could_not_be_compared_is_compared_later(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Layer()
    fast, in_torch = compiled(model, verify=True), enginecall.EngineCall.in_torch
    monkeypatch.setattr(emulated.ExecutionContext, "execute_async_v3", lambda *_: True)  # writes nothing
    monkeypatch.setattr(run, "empty_cuda", lambda shape, stride, dtype: torch.full(shape, 7, dtype=dtype))

    def no_memory(*_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(enginecall.EngineCall, "in_torch", no_memory)
    with pytest.raises(torch.OutOfMemoryError):
        fast(X)
    monkeypatch.setattr(enginecall.EngineCall, "in_torch", in_torch)
    with pytest.warns(UserWarning, match="differs from PyTorch"):
        have = fast(X)
    close(have, model(X))


def test_a_context_without_scratch_memory_asks_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    lent: list[int] = []
    monkeypatch.setattr(emulated.ExecutionContext, "set_device_memory", lambda self, pointer, size: lent.append(size))
    scratch = context._scratch

    def full(*_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    model = Layer()
    fast = compiled(model)
    monkeypatch.setattr(context, "_scratch", full)
    with pytest.raises(torch.OutOfMemoryError):
        fast(X)
    monkeypatch.setattr(context, "_scratch", scratch)
    close(fast(X), model(X))
    assert lent


@torch.no_grad()
def test_what_has_no_weights_has_one_engine_in_both_modes(world: World) -> None:
    def softly(x: torch.Tensor) -> torch.Tensor:
        return x.softmax(-1) * 2

    x = torch.randn(4, 8)
    for mode in ("general", "bound"):
        torch._dynamo.reset()
        fast = torch.compile(softly, backend=trt_stripped, options={"refit_mode": mode, "min_block_size": 1})
        torch.testing.assert_close(fast(x), softly(x))
    assert world.calls["build"] == 1
    assert world.calls["refit"] == 0
    assert [report.mode for report in ts.reports()] == ["general", "bound"]


@torch.no_grad()
@pytest.mark.parametrize("mode", ["bound", "general"])
def test_weights_are_live_without_pytorchs_guards(world: World, mode: str) -> None:
    """docs/performance.md recommends this stance for serving."""
    model = Doubled()
    fast = torch.compile(model, backend=trt_stripped, options={"refit_mode": mode, "min_block_size": 1})
    fast(X)
    changes: list[Callable[[], Any]] = [
        lambda: model.w.mul_(1.5), lambda: setattr(model.w, "data", aligned(torch.randn(N, N), 512)),
        lambda: setattr(model, "w", nn.Parameter(aligned(torch.randn(N, N), 512))),
        lambda: model.load_state_dict(Doubled().state_dict()),
    ]  # fmt: skip
    with torch.compiler.set_stance(skip_guard_eval_unsafe=True):
        for change in changes:
            change()
            torch.testing.assert_close(fast(X), model(X))
    assert world.calls["build"] == 1
