"""Derived weights computed in one launch: never older than their sources, also on other streams and threads."""

from __future__ import annotations

import gc
import threading

import pytest
import torch
from torch import nn

import trt_stripped_backend as ts
from tests.gpu.common import ConvNet, LoRA, compiled, error, perturbed
from trt_stripped_backend import live
from trt_stripped_backend.renewal import Renewal


class Adapted(nn.Module):
    """Folded BatchNorms, and a product of parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.lora = ConvNet(), LoRA(10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.lora(self.conv(x))


class Cast(nn.Module):
    """Weights that autocast rounds at each use."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(nn.Linear(64, 64) for _ in range(6)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cuda", torch.bfloat16):
            return self.layers(x)


@pytest.fixture(params=["bound", "general"])
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> list[Renewal]:
    """Those that were launched, in order."""
    seen: list[Renewal] = []
    launch = Renewal.launch
    monkeypatch.setattr(Renewal, "launch", lambda self: (seen.append(self), launch(self)))
    return seen


def _places() -> list[int]:
    """Where derived weights are."""
    return sorted(own.data_ptr() for one in live._all_live if one._last for own in one._last[2].values)


@torch.no_grad()
def test_every_write_is_in_the_next_call(mode: str, launches: list[Renewal]) -> None:
    model, x = perturbed(Adapted()), torch.randn(4, 3, 16, 16, device="cuda")
    fast = compiled(model, mode)
    fast(x)
    where = _places()
    for seed in range(1, 9):
        perturbed(model, seed)
        filler = [torch.full((1 << k,), float("nan"), device="cuda") for k in range(8, 20)]  # over memory let go
        assert error(fast(x), model(x)) < 1e-5, seed
        del filler
    assert len(launches) == 6
    assert _places() == where
    model.lora.a.mul_(2)
    assert error(fast(x), model(x)) < 1e-5
    assert len(launches) == 6, "one piece of several"
    model.conv.conv1.weight.data = model.conv.conv1.weight.data * 2
    assert error(fast(x), model(x)) < 1e-5
    assert ts.stats()["builds"] == 1


@torch.no_grad()
def test_a_write_on_another_stream(mode: str, launches: list[Renewal]) -> None:
    model, x = perturbed(Adapted()), torch.randn(4, 3, 16, 16, device="cuda")
    states = [{k: v.clone() for k, v in perturbed(Adapted(), seed).state_dict().items()} for seed in (1, 2)]
    fast = compiled(model, mode)
    streams = [torch.cuda.Stream() for _ in range(3)]
    torch.cuda.synchronize()
    results = []
    for index in range(9):
        stream = streams[index % 3]
        stream.wait_stream(streams[(index - 1) % 3])
        with torch.cuda.stream(stream):
            torch.cuda._sleep(1_000_000)
            model.load_state_dict(states[index % 2])
            results.append((fast(x), model(x)))
    torch.cuda.synchronize()
    assert [index for index, (have, want) in enumerate(results) if error(have, want) > 1e-5] == []
    assert launches


@torch.no_grad()
def test_casts_of_a_whole_model(mode: str, launches: list[Renewal]) -> None:
    model, x = perturbed(Cast()), torch.randn(8, 64, device="cuda")
    fast = compiled(model, mode)
    for seed in range(1, 6):
        perturbed(model, seed)
        assert error(fast(x).float(), model(x).float()) < 2e-2
        assert torch.equal(fast(x), fast(x))
    assert len(launches) == 2  # of four writes after the first call; the second is recorded


@torch.no_grad()
def test_other_threads_compute_and_allocate_meanwhile(mode: str, launches: list[Renewal]) -> None:
    models = [perturbed(Adapted(), seed) for seed in range(4)]
    x, failures = torch.randn(4, 3, 16, 16, device="cuda"), []
    fast = [compiled(model, mode) for model in models]
    for one in fast:
        one(x)

    def serve(model: nn.Module, run: nn.Module, number: int) -> None:
        with torch.no_grad(), torch.cuda.stream(torch.cuda.Stream()):
            for seed in range(12):
                perturbed(model, 100 * number + seed)
                have, want = run(x), model(x)
                torch.rand(1 << (seed + 4), device="cuda")
                torch.cuda.current_stream().synchronize()
                if error(have, want) > 1e-5:
                    failures.append((number, seed, error(have, want)))

    threads = [threading.Thread(target=serve, args=(*pair, n)) for n, pair in enumerate(zip(models, fast, strict=True))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert len({*launches}) == 4


@torch.no_grad()
def test_what_is_left_of_a_model_serves_the_next(mode: str, launches: list[Renewal]) -> None:
    x = torch.randn(4, 3, 16, 16, device="cuda")
    gc.collect()
    places = []
    for _ in range(3):
        torch.compiler.reset()
        launches.clear()
        model = perturbed(Adapted())
        fast = compiled(model, mode)
        for seed in range(6):
            perturbed(model, seed)
            torch._C._cuda_clearCublasWorkspaces()  # as Inductor does, before it records
            filler = torch.full((1 << 26,), float("nan"), device="cuda")
            assert error(fast(x), model(x)) < 1e-5, seed
            del filler
        places.append(launches[0]._place)
        del model, fast
        launches.clear()
        torch.compiler.reset()
        gc.collect()
    assert places[0] is places[1] is places[2] is not None
