"""The whole road on a GPU: right results, live weights, cache hits, PyTorch where TensorRT must not."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import trt_stripped_backend as ts
from tests.gpu.common import Block, ConvNet, compiled, error, perturbed
from trt_stripped_backend.context import Context
from trt_stripped_backend.refit import Engine

MODES = ["bound", "general"]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("make", "shape"), [(Block, (4, 8, 64)), (ConvNet, (2, 3, 16, 16))])
@torch.no_grad()
def test_right_and_live(mode: str, make: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    model, x = perturbed(make()), torch.randn(shape, device="cuda")
    other = perturbed(make(), seed=1)
    fast = compiled(model, mode)
    assert error(fast(x), model(x)) < 1e-5
    stale = model(x)
    changes: list[Callable[[], Any]] = [
        lambda: [p.mul_(1.1) for p in model.parameters()],
        lambda: model.load_state_dict(other.state_dict()),
        lambda: [setattr(p, "data", p.data * 0.9) for p in model.parameters()],
        lambda: model.load_state_dict({k: v.clone() * 0.7 for k, v in other.state_dict().items()}, assign=True),
        lambda: ([p.data.add_(0.05) for p in model.parameters()], ts.refresh(fast)),
        lambda: [b.add_(0.1) for b in model.buffers() if b.is_floating_point()],
    ]
    for index, change in enumerate(changes):
        change()
        want = model(x)
        if index < 5 or list(model.buffers()):
            assert error(stale, want) > 1e-2, "the change must show"
        assert error(fast(x), want) < 1e-5, index
        stale = want
    counts = ts.stats()
    assert counts["fallbacks"] == 0
    assert counts["builds"] == 1


@torch.no_grad()
def test_bound_sees_silent_writes() -> None:
    model, x = perturbed(Block()), torch.randn(4, 8, 64, device="cuda")
    fast = compiled(model, "bound")
    fast(x)
    for p in model.parameters():
        p.data.add_(0.05)
    assert error(fast(x), model(x)) < 1e-5


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@torch.no_grad()
def test_half_types(mode: str, dtype: torch.dtype) -> None:
    model = perturbed(nn.Sequential(Block(), Block(), Block()))
    x = torch.randn(4, 8, 64, device="cuda")
    want = model(x)
    model = model.to(dtype)
    own = error(model(x.to(dtype)), want)
    assert error(compiled(model, mode)(x.to(dtype)), want) < max(2 * own, 2e-3 if dtype == torch.float16 else 1.6e-2)


@pytest.mark.parametrize("mode", MODES)
@torch.no_grad()
def test_second_compile_hits(mode: str) -> None:
    x = torch.randn(4, 8, 64, device="cuda")
    first = perturbed(Block())
    compiled(first, mode)(x)
    torch._dynamo.reset()
    ts.clear_stats()
    second = perturbed(Block(), seed=3)
    assert error(compiled(second, mode)(x), second(x)) < 1e-5
    assert (ts.stats()["builds"], ts.stats()["hits"]) == (0, 1)


@pytest.mark.parametrize("mode", MODES)
@torch.no_grad()
def test_two_models_one_graph(mode: str) -> None:
    one, two, x = perturbed(Block()), perturbed(Block(), seed=1), torch.randn(4, 8, 64, device="cuda")
    fast = [compiled(m, mode) for m in (one, two)]
    for _ in range(3):
        for model, f in zip((one, two), fast, strict=True):
            assert error(f(x), model(x)) < 1e-5
    assert ts.stats()["builds"] == 1
    if mode == "general":
        assert ts.stats()["refits"] == 2, "switching back must not refit"


@pytest.mark.parametrize("mode", MODES)
@torch.no_grad()
def test_cumsum_and_embedding_bag_stay_in_torch(mode: str) -> None:
    class Middle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.bag = Block(), Block(), nn.EmbeddingBag(32, 64)

        def forward(self, x: torch.Tensor, bags: torch.Tensor) -> torch.Tensor:
            return self.two(self.one(x).cumsum(1) * 0.1 + self.bag(bags)[:, None])

    model = perturbed(Middle())
    x, bags = torch.randn(4, 8, 64, device="cuda"), torch.randint(0, 32, (4, 5), device="cuda")
    report = ts.explain(model, x, bags, options={"refit_mode": mode})
    assert len(report.partitions) == 2
    refused = {r.target.split(".")[1] for r in report.rejections if "not refittable" in r.reason}
    refused = {name.removesuffix("_forward_only") for name in refused}
    assert refused == {"cumsum", "_embedding_bag"}
    assert error(compiled(model, mode, min_block_size=3)(x, bags), model(x, bags)) < 1e-5
    assert ts.stats()["engines"] == 2 + len(report.partitions)


@torch.no_grad()
def test_views_aliases_mutation_none_and_int() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lin = nn.Linear(8, 8)
            self.register_buffer("state", torch.zeros(4, 8))

        def forward(self, x: torch.Tensor) -> Any:
            y = torch.relu(self.lin(x))
            self.state.add_(y)
            return y, y.view(-1), x, None, 3, y.t(), x[:, :2], (y > 0.5).long(), y.sum(), self.state * 2

    model, x = perturbed(Odd()), torch.randn(4, 8, device="cuda")
    twin = perturbed(Odd())
    fast = compiled(model, "bound")
    for _ in range(3):
        have, want = fast(x), twin(x)
        for a, b in zip(have, want, strict=True):
            assert type(a) is type(b)
            if isinstance(a, torch.Tensor):
                assert (a.shape, a.stride(), a.dtype) == (b.shape, b.stride(), b.dtype)
                torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert have[0].data_ptr() == have[1].data_ptr(), "a view shares its base's memory"
    have[0].zero_()
    assert not have[1].any()
    torch.testing.assert_close(model.state, twin.state, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_layouts() -> None:
    model = perturbed(ConvNet())
    x = torch.randn(2, 3, 16, 16, device="cuda")
    for m in (model, model.to(memory_format=torch.channels_last)):
        torch._dynamo.reset()
        fast = compiled(m, "bound")
        for form in (torch.contiguous_format, torch.channels_last):
            given = x.contiguous(memory_format=form)
            assert error(fast(given), model(given)) < 1e-5
        assert error(fast(x.expand(2, 3, 16, 16)[:, :, ::2, ::2]), model(x[:, :, ::2, ::2])) < 1e-5
    flat = torch.randn(16 * 3 * 3 * 3 + 1, device="cuda")
    model.conv1.weight.data = flat[1:].view(16, 3, 3, 3)  # not aligned
    assert error(fast(x), model(x)) < 1e-5


@pytest.mark.parametrize("mode", MODES)
@torch.no_grad()
def test_streams(mode: str) -> None:
    model, x = perturbed(nn.Sequential(*[Block(256) for _ in range(4)])), torch.randn(64, 128, 256, device="cuda")
    fast = compiled(model, mode)
    fast(x)
    streams = [torch.cuda.current_stream(), torch.cuda.Stream(), torch.cuda.Stream()]
    for round_ in range(12):
        stream = streams[round_ % 3]
        stream.wait_stream(streams[(round_ - 1) % 3])
        with torch.cuda.stream(stream):
            y = x
            for _ in range(3):
                y = y * 1.01 + round_
            have, want = fast(y), model(y)
            x = want * 0.1
        stream.synchronize()
        assert error(have, want) < 1e-5


@pytest.mark.parametrize("mode", MODES)
def test_threads(mode: str) -> None:
    model, x = perturbed(Block()), torch.randn(8, 8, 64, device="cuda")
    fast, failures = compiled(model, mode), []
    with torch.no_grad():
        fast(x)

    def work(seed: int) -> None:
        with torch.no_grad(), torch.cuda.stream(torch.cuda.Stream()):
            generator = torch.Generator("cuda").manual_seed(seed)
            for _ in range(30):
                y = torch.randn(8, 8, 64, device="cuda", generator=generator)
                worst = error(fast(y), model(y))
                if worst > 1e-5:
                    failures.append(worst)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_gradients_are_right() -> None:
    model, x = perturbed(Block()), torch.randn(4, 8, 64, device="cuda")
    fast = compiled(model, "bound")
    with pytest.warns(UserWarning, match="gradient is needed"):
        fast(x).square().sum().backward()
    have = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    model(x).square().sum().backward()
    for a, p in zip(have, model.parameters(), strict=True):
        torch.testing.assert_close(a, p.grad)
    with torch.no_grad():
        assert error(fast(x), model(x)) < 1e-5
    assert ts.stats()["engines"] == 1


@torch.no_grad()
def test_verify_and_odd_dtypes() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = Block()

        def forward(self, x: torch.Tensor) -> Any:
            y = self.block(x)
            z = torch.fft.rfft(y).abs()
            return self.block(y), z, (y.double() * 2).float(), y.argmax(-1)

    model, x = perturbed(Mixed()), torch.randn(4, 8, 64, device="cuda")
    for a, b in zip(compiled(model, "bound", verify=True)(x), model(x), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
    assert ts.stats()["fallbacks"] == 0


@pytest.mark.parametrize("mode", MODES)
@torch.no_grad()
def test_dead_models_free_their_memory(mode: str) -> None:
    x = torch.randn(4, 8, 2048, device="cuda")
    held = []
    for seed in range(6):
        model = perturbed(Block(2048), seed)
        assert error(compiled(model, mode)(x), model(x)) < 1e-5
        del model
        gc.collect()
        alive = [type(one) for one in gc.get_objects() if type(one) in (Engine, Context)]
        held.append((alive.count(Engine), alive.count(Context), torch.cuda.memory_allocated() >> 20))
    assert held[-1] == held[1], held  # a block is 67 MB
    assert held[-1][0] == 1, "one engine, refitted where it holds weights"


@torch.no_grad()
def test_shape_changed_behind_dynamo_runs_in_torch() -> None:
    model, x = perturbed(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))), torch.randn(2, 8, device="cuda")
    fast = compiled(model, "bound")
    fast(x)
    model[0].weight.data = torch.randn(8, 8, device="cuda", dtype=torch.float32).t()
    assert error(fast(x), model(x)) < 1e-5
