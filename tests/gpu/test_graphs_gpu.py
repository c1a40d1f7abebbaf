"""CUDA graphs, ours and the caller's, and the streams of a call."""

from __future__ import annotations

import gc
import threading
from typing import Any

import pytest
import torch
from torch import nn

import trt_stripped_backend as ts
from tests.gpu.common import Block, ConvNet, LoRA, compiled, error, perturbed
from trt_stripped_backend import report
from trt_stripped_backend.cudagraph import CudaGraph

MODES = ["bound", "general"]


class Mixed(nn.Module):
    """Folded, derived and plain weights, and an operator between that stays in PyTorch."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.lora, self.block = ConvNet(), LoRA(10), Block(10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.block(self.lora(self.conv(x)).cumsum(0))


def image(batch: int = 4) -> torch.Tensor:
    return torch.randn(batch, 3, 16, 16, device="cuda")


@pytest.mark.parametrize("mode", MODES)
@torch.no_grad()
def test_replays_are_right_and_results_are_the_callers_own(mode: str) -> None:
    model = perturbed(Mixed())
    fast, inputs = compiled(model, mode, cuda_graphs=True), [image() for _ in range(8)]
    results = [fast(x) for x in inputs]
    for have, x in zip(results, inputs, strict=True):
        assert error(have, model(x)) < 2e-5
    assert len({r.data_ptr() for r in results}) == len(results)
    counts = ts.stats()
    assert counts["cuda_graphs"] == counts["engines"] == 2, ts.reports()[-1]
    assert counts["fallbacks"] == 0


@pytest.mark.parametrize("mode", MODES)
@torch.no_grad()
def test_a_replay_sees_every_change_of_weights(mode: str) -> None:
    model, x = perturbed(Mixed()), image()
    fast = compiled(model, mode, cuda_graphs=True)
    for _ in range(3):
        fast(x)
    for seed in range(1, 5):
        before = model(x)
        for p, q in zip(model.parameters(), perturbed(Mixed(), seed).parameters(), strict=True):
            p.copy_(q)
        assert error(before, model(x)) > 1e-3
        assert error(fast(x), model(x)) < 2e-5, seed
    if mode == "bound":
        assert ts.stats()["cuda_graphs"] == 2, "written in place: no new graph"
    for p in model.parameters():
        p.data = p.data * 1.1
    for _ in range(3):
        assert error(fast(x), model(x)) < 2e-5
    model.conv.bn1.running_mean.add_(0.5)
    assert error(fast(x), model(x)) < 2e-5


@torch.no_grad()
def test_replays_on_several_streams_without_waiting() -> None:
    model = perturbed(nn.Sequential(*[Block() for _ in range(6)]))
    fast = compiled(model, "bound", cuda_graphs=True)
    streams = [torch.cuda.current_stream(), *(torch.cuda.Stream() for _ in range(3))]
    inputs = [torch.randn(4, 8, 64, device="cuda") for _ in range(24)]
    torch.cuda.synchronize()
    results = []
    for index, x in enumerate(inputs):
        with torch.cuda.stream(streams[index % len(streams)]):
            results.append(fast(x))
    torch.cuda.synchronize()
    for have, x in zip(results, inputs, strict=True):
        assert error(have, model(x)) < 1e-5


@pytest.mark.parametrize("mode", MODES)
def test_threads_record_and_replay_at_once(mode: str) -> None:
    model = perturbed(Block())
    fast, wrong = compiled(model, mode, cuda_graphs=True), []
    with torch.no_grad():
        fast(torch.randn(4, 8, 64, device="cuda"))

    def serve() -> None:
        with torch.no_grad(), torch.cuda.stream(torch.cuda.Stream()):
            for _ in range(60):
                x = torch.randn(4, 8, 64, device="cuda")
                have, want = fast(x), model(x)
                torch.cuda.current_stream().synchronize()
                if not error(have, want) < 1e-5:
                    wrong.append(error(have, want))

    threads = [threading.Thread(target=serve) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@torch.no_grad()
def test_other_threads_draw_random_numbers_while_one_records(monkeypatch: pytest.MonkeyPatch) -> None:
    end, drawn = CudaGraph.end, []

    def draw() -> None:
        with torch.cuda.stream(torch.cuda.Stream()):
            drawn.append(torch.rand(8, device="cuda"))

    def later(graph: CudaGraph, stream: int) -> None:
        thread = threading.Thread(target=draw)
        thread.start()
        thread.join()
        end(graph, stream)

    monkeypatch.setattr(CudaGraph, "end", later)
    model, x = perturbed(Block()), torch.randn(4, 8, 64, device="cuda")
    fast = compiled(model, "bound", cuda_graphs=True)
    for _ in range(4):
        assert error(fast(x), model(x)) < 1e-5
    assert len(drawn) == ts.stats()["cuda_graphs"] == 1, ts.reports()[-1]


@torch.no_grad()
def test_dynamic_sizes_have_a_graph_each() -> None:
    model = perturbed(nn.Sequential(Block(), Block()))
    fast = torch.compile(
        model, backend="trt_stripped", dynamic=True,
        options={"refit_mode": "bound", "min_block_size": 1, "cuda_graphs": True, "dynamic_range": (2, 32)},
    )  # fmt: skip
    for _ in range(4):
        for batch in (4, 9, 16):
            x = torch.randn(batch, 8, 64, device="cuda")
            assert error(fast(x), model(x)) < 1e-5, batch
    assert ts.stats()["cuda_graphs"] == 3, ts.reports()[-1]
    assert ts.stats()["fallbacks"] == 0


@torch.no_grad()
def test_graphs_are_let_go_with_the_model() -> None:
    x = torch.randn(4, 512, 64, device="cuda")

    def use() -> int:
        model = perturbed(nn.Sequential(Block(), Block()))
        fast = compiled(model, "bound", cuda_graphs=True)
        for _ in range(4):
            fast(x)
        del model, fast
        torch.compiler.reset()
        gc.collect()
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        return torch.cuda.memory_reserved()

    first = use()
    for _ in range(4):
        last = use()
    assert last <= first + (4 << 20), "memory of the graphs of dead models"


@torch.no_grad()
def test_reduce_overhead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRT_STRIPPED_MIN_BLOCK_SIZE", "1")
    model, x = perturbed(Block()), torch.randn(4, 8, 64, device="cuda")
    fast = torch.compile(model, backend="trt_stripped", mode="reduce-overhead")
    for _ in range(4):
        assert error(fast(x), model(x)) < 1e-5
    assert ts.stats()["cuda_graphs"] == 1


# ------------------------------------------------------------------------------------------------ the caller's graphs


@pytest.mark.parametrize("graphs", [False, True])
@torch.no_grad()
def test_recorded_into_the_callers_graph(graphs: bool) -> None:
    """No wait, no default stream: the recording succeeds; what is written in place later is read by the replay."""
    model, static = perturbed(Mixed()), image()
    fast = compiled(model, "bound", cuda_graphs=graphs)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            fast(static)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = fast(static)
    assert ts.stats()["fallbacks"] == 0
    for _ in range(3):
        static.copy_(image())
        graph.replay()
        assert error(out, model(static)) < 2e-5
        assert error(fast(static), model(static)) < 2e-5, "calls between replays"
    for p in model.parameters():
        p.mul_(1.1)
    assert error(fast(static), model(static)) < 2e-5
    graph.replay()
    assert error(out, model(static)) < 2e-5, "the weights as the call before brought them up to date"


@pytest.mark.parametrize(("mode", "why"), [("bound", "call the model once"), ("general", "replaying it after a refit")])
@torch.no_grad()
def test_what_cannot_be_recorded_runs_in_pytorch(mode: str, why: str) -> None:
    model = perturbed(nn.Sequential(ConvNet()))
    x = image()
    fast = compiled(model, mode)
    fast(x)
    if mode == "bound":
        for p in model.parameters():  # a derived weight is out of date now
            p.mul_(0.5)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        model(x)  # PyTorch too must have run before it is recorded
    side.synchronize()
    report._warned.clear()  # a warning is said once a process
    graph = torch.cuda.CUDAGraph()
    with pytest.warns(UserWarning, match=why), torch.cuda.graph(graph, stream=side):
        out = fast(x)
    fast(x)
    x.copy_(image())
    graph.replay()
    assert error(out, model(x)) < 1e-5


# ------------------------------------------------------------------------------------------------ streams


@pytest.mark.parametrize("graphs", [False, True])
@torch.no_grad()
def test_order_with_the_callers_stream(graphs: bool) -> None:
    """Inputs that are still being made, results used at once, on the default stream and on others."""
    model = perturbed(nn.Sequential(*[Block() for _ in range(4)]))
    fast = compiled(model, "bound", cuda_graphs=graphs)
    big = torch.randn(2048, 2048, device="cuda")

    def late() -> tuple[torch.Tensor, torch.Tensor]:
        slow = big
        for _ in range(8):
            slow = slow @ big * 0.01
        x = slow[:32, :64].nan_to_num(0.5, 0.5, -0.5).clamp(-1, 1).reshape(4, 8, 64)
        return x, fast(x) * 2

    for stream in (torch.cuda.default_stream(), torch.cuda.Stream(), torch.cuda.default_stream()):
        with torch.cuda.stream(stream):
            made: list[Any] = [late() for _ in range(6)]
            stream.synchronize()
            for x, have in made:
                assert error(have, model(x) * 2) < 1e-5
