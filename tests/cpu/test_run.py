"""A call's own road: what is bound, when, and on which stream; with engines that PyTorch emulates."""

from __future__ import annotations

import gc
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

import trt_stripped_backend as ts
from tests.emulated import MAIN, ExecutionContext, Runtime, World, emulated
from tests.graphs import TwoEngines, aligned, perturb
from trt_stripped_backend import backend, refit, report, run

MODES = ["bound", "general"]


class Mlp(nn.Module):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = torch.relu(layer(x)) + x
        return x


@pytest.fixture(autouse=True)
def world() -> Iterator[World]:
    torch._dynamo.reset()
    ts.clear_stats()
    with emulated() as made, torch.no_grad():
        yield made
    torch._dynamo.reset()


def compiled(model: Any, refit_mode: str = "bound", **options: Any) -> Any:
    options = {"refit_mode": refit_mode, "min_block_size": 1, **options}
    return torch.compile(model, backend=backend.trt_stripped, options=options, dynamic=False)


def close(have: torch.Tensor, want: torch.Tensor) -> None:
    torch.testing.assert_close(have, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_right_through_pieces_in_pytorch_and_changes(mode: str, world: World) -> None:
    model, x = perturb(TwoEngines()), torch.randn(2, 3, 6, 6)
    fast = compiled(model, mode)
    for seed in range(3):
        close(fast(x), model(x))
        close(fast(x), model(x))
        before = model(x)
        perturb(model, seed + 1)
        assert not torch.allclose(before, model(x))
    assert ts.stats()["fallbacks"] == 0
    assert world.calls["refit"] == (6 if mode == "general" else 0), "two engines, three sets of values"


def test_only_addresses_that_moved_are_bound(world: World) -> None:
    model, x = perturb(Mlp()), aligned(torch.randn(4, 8))
    for p in model.parameters():
        p.data = aligned(p.data)
    fast = compiled(model)
    results = [fast(x)]
    assert world.calls["set_tensor_address"] == 8 + 2
    for _ in range(3):
        results.append(fast(x))
    assert world.calls["set_tensor_address"] <= 8 + 2 + 3, "an input that stays where it was is not bound anew"
    before = world.calls["set_tensor_address"]
    model.layers[1].weight.data = aligned(model.layers[1].weight.data * 2)
    close(fast(x), model(x))
    assert world.calls["set_tensor_address"] - before <= 2, "one weight and the output"
    before = world.calls["set_tensor_address"]
    model.layers[2].weight.mul_(3)
    close(fast(x), model(x))
    assert world.calls["set_tensor_address"] - before <= 1
    assert len({r.data_ptr() for r in results}) == 4, "each result has memory of its own"


@pytest.mark.parametrize("stream", [MAIN, 5])
def test_never_on_the_default_stream(stream: int, world: World) -> None:
    model, x = perturb(Mlp()), torch.randn(4, 8)
    world.current = stream
    fast = compiled(model)
    close(fast(x), model(x))
    world.current = 5 - stream
    close(fast(x), model(x))


def test_one_engine_is_called_without_the_graph_module(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    forward = backend.EngineCall.forward
    monkeypatch.setattr(backend.EngineCall, "forward", lambda *a: calls.append("graph") or forward(*a))

    def swapped(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, ...]:
        a = torch.relu(y) - x
        return a * 2, a

    x, y = torch.randn(4, 8), torch.randn(4, 8)
    for have, want in zip(compiled(swapped)(x, y), swapped(x, y), strict=True):
        close(have, want)
    assert not calls
    model, image = perturb(TwoEngines()), torch.randn(2, 3, 6, 6)
    close(compiled(model)(image), model(image))
    assert calls == ["graph", "graph"]


@pytest.mark.parametrize("mode", MODES)
def test_models_that_share_code_keep_their_weights(mode: str) -> None:
    models, x = [perturb(Mlp(), seed) for seed in range(3)], torch.randn(4, 8)
    fast = [compiled(model, mode, max_weight_sets=2) for model in models]
    for _ in range(3):
        for call, model in zip(fast, models, strict=True):
            close(call(x), model(x))
    assert ts.stats()["builds"] == 1


def test_inputs_of_any_layout_and_alignment() -> None:
    model = perturb(Mlp())
    fast = compiled(model)
    row = torch.randn(1, 8)
    odd = [torch.randn(33)[1:].view(4, 8), torch.randn(8, 4).t(), torch.randn(4, 16)[:, ::2], row.expand(4, 8)]
    for x in (aligned(torch.randn(4, 8)), *odd):
        close(fast(x), model(x))


def test_threads_have_contexts_of_their_own(world: World) -> None:
    model = perturb(Mlp())
    fast = compiled(model)
    fast(torch.randn(4, 8))
    wrong: list[BaseException] = []

    def work() -> None:
        try:
            with torch.no_grad():
                for _ in range(20):
                    x = torch.randn(4, 8)
                    close(fast(x), model(x))
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("graphs", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_a_thread_that_ends_leaves_its_context_to_the_next(
    mode: str, graphs: bool, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RTX may crash in the refit of an engine of which a context ended, or ends beside it."""
    ended: list[bool] = []

    def end(context: ExecutionContext) -> None:
        engines = [engine for pool in refit._pools.values() for engine in pool._engines.values()]
        ended.extend(e.lock._is_owned() for e in engines if e.engine is context.engine)  # type: ignore[attr-defined]

    model, x = perturb(Mlp()), aligned(torch.randn(4, 8))
    fast = compiled(model, mode, cuda_graphs=graphs)
    fast(x)
    monkeypatch.setattr(ExecutionContext, "__del__", end, raising=False)
    before = world.calls["context"]

    def serve() -> None:
        with torch.no_grad():
            for _ in range(3):
                close(fast(x), model(x))

    for seed in range(3):
        thread = threading.Thread(target=serve)
        thread.start()
        thread.join()
        gc.collect()
        perturb(model, seed)
        close(fast(x), model(x))
    assert world.calls["context"] - before == (1 if not graphs else 1 + world.calls["record"])
    assert all(ended), "those of CUDA graphs, under the lock"
    assert bool(ended) == graphs


@pytest.mark.parametrize("mode", MODES)
def test_engines_are_loaded_ahead_and_once(mode: str, world: World) -> None:
    model, x = perturb(TwoEngines()), torch.randn(2, 3, 6, 6)
    fast = compiled(model, mode)
    close(fast(x), model(x))
    close(fast(x), model(x))
    assert world.calls["deserialize"] == world.calls["context"] == 2


def test_an_engine_that_cannot_be_loaded_leaves_its_part_to_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Runtime, "deserialize_cuda_engine", lambda *_: None)
    report._warned.clear()
    model, x = perturb(TwoEngines()), torch.randn(2, 3, 6, 6)
    fast = compiled(model)
    with pytest.warns(UserWarning, match="TensorRT cannot load the engine of key"):
        close(fast(x), model(x))
    close(fast(x), model(x))
    assert ts.stats()["fallbacks"] == 2


# ------------------------------------------------------------------------------------------------ CUDA graphs


@pytest.mark.parametrize("mode", MODES)
def test_the_second_call_records_and_the_third_replays(mode: str, world: World) -> None:
    model = perturb(TwoEngines())
    fast, xs = compiled(model, mode, cuda_graphs=True), [torch.randn(2, 3, 6, 6) for _ in range(5)]
    results = [fast(x) for x in xs]
    for have, x in zip(results, xs, strict=True):
        close(have, model(x))
    assert world.calls["record"] == 2, "two engines"
    assert world.calls["replay"] == 2 * 3
    assert world.calls["execute"] == 2 * 2
    assert ts.stats()["cuda_graphs"] == 2


@pytest.mark.parametrize("mode", MODES)
def test_a_replay_sees_every_change_of_weights(mode: str, world: World) -> None:
    model, x = perturb(TwoEngines()), torch.randn(2, 3, 6, 6)
    fast = compiled(model, mode, cuda_graphs=True)
    for _ in range(3):
        fast(x)
    for seed in (1, 2):
        before = model(x)
        perturb(model, seed)
        assert not torch.allclose(before, model(x))
        replays = world.calls["replay"]
        close(fast(x), model(x))
        assert (world.calls["replay"] == replays) is (mode == "general"), "a graph must not be replayed after a refit"
        for _ in range(3):
            close(fast(x), model(x))
        assert world.calls["replay"] > replays
    if mode == "bound":
        assert world.calls["record"] == 2, "what is written in place is read by the same graph, derived weights too"
    records = world.calls["record"]
    model.head.weight.data = model.head.weight.data * 2
    for _ in range(3):
        close(fast(x), model(x))
    assert world.calls["record"] > records, "a weight that moved takes another graph"


def test_graphs_by_sizes_and_by_weights_are_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "_MAX_RECORDED", 2)
    models, x = [perturb(Mlp(), seed) for seed in range(3)], torch.randn(4, 8)
    fast = [compiled(model, cuda_graphs=True) for model in models]
    for index in (0, 0, 0, 1, 1, 1, 2, 2, 2, 0, 0, 0):
        close(fast[index](x), models[index](x))
    assert world.calls["record"] == 4
    assert world.calls["replay"] == 4


def test_graphs_of_a_dead_model_are_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    runners: list[run.Runner] = []
    begin = run.Runner.__init__
    monkeypatch.setattr(run.Runner, "__init__", lambda self, *a, **k: runners.append(self) or begin(self, *a, **k))
    models, x = [perturb(Mlp(), seed) for seed in range(2)], torch.randn(4, 8)
    fast = [compiled(model, cuda_graphs=True) for model in models]

    def recorded() -> int:
        (known,) = runners[0]._thread.recorded.values()
        return sum(one is not None for one in known.values())

    fast[0](x)
    fast[0](x)
    assert recorded() == 1
    del fast[0], models[0]
    gc.collect()
    for _ in range(3):
        close(fast[0](x), models[0](x))
    assert len(runners) == 1
    assert recorded() == 1


def test_what_cannot_be_recorded_runs_without_and_says_so(world: World) -> None:
    model, x = perturb(Mlp()), torch.randn(4, 8)
    world.unrecordable = True
    fast = compiled(model, cuda_graphs=True)
    with pytest.warns(UserWarning, match="runs without CUDA graphs: operation not permitted"):
        results = [fast(x) for _ in range(4)]
    for have in results:
        close(have, model(x))
    assert (world.calls["record"], world.calls["replay"]) == (1, 0)
    assert any("without CUDA graphs" in note for report in ts.reports() for note in report.notes)
    assert ts.stats()["fallbacks"] == 0


def test_reduce_overhead_is_cuda_graphs(world: World) -> None:
    model, x = perturb(Mlp()), torch.randn(4, 8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRT_STRIPPED_MIN_BLOCK_SIZE", "1")
        fast = torch.compile(model, backend=backend.trt_stripped, mode="reduce-overhead", dynamic=False)
        for _ in range(3):
            close(fast(x), model(x))
    assert world.calls["replay"] == 1


def test_engines_that_are_refitted_are_not_recorded_by_the_caller(world: World) -> None:
    model, x = perturb(TwoEngines()), torch.randn(2, 3, 6, 6)
    fast = compiled(model, "general")
    fast(x)
    world.recorded_by_caller = True
    report._warned.clear()
    with pytest.warns(UserWarning, match="after a refit would end the process"):
        close(fast(x), model(x))


def test_recorded_by_the_caller(world: World) -> None:
    """Nothing waits, refits or makes a context; what would have to runs in PyTorch for this call."""
    model, x = perturb(TwoEngines()), torch.randn(2, 3, 6, 6)
    fast = compiled(model, "bound", cuda_graphs=True)
    fast(x)
    world.recorded_by_caller = True
    executed = world.calls["execute"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fast(x)
    assert world.calls["execute"] == executed
    perturb(model, 3)
    report._warned.clear()
    with pytest.warns(UserWarning, match="call the model once"):
        close(fast(x), model(x))
    world.recorded_by_caller = False
    close(fast(x), model(x))
    assert world.calls["execute"] > executed
