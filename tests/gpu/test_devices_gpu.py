"""Several GPUs in one process: each model runs where its weights are, and none gets another's."""

from __future__ import annotations

import threading

import pytest
import torch

import trt_stripped_backend as ts
from tests.gpu.common import Block, ConvNet, compiled, error, perturbed

pytestmark = pytest.mark.gpus
MODES = ["bound", "general"]
ONE, TWO = torch.device("cuda", 0), torch.device("cuda", 1)


@pytest.mark.parametrize("mode", MODES)
@torch.no_grad()
def test_one_graph_on_two_devices(mode: str) -> None:
    models = [perturbed(ConvNet(), seed).to(device) for seed, device in enumerate((ONE, TWO))]
    fast = [compiled(model, mode) for model in models]
    for round_ in range(3):
        for model, run, device in zip(models, fast, (ONE, TWO), strict=True):
            x = torch.randn(2, 3, 16, 16, device=device)
            have = run(x)
            assert have.device == device
            assert error(have, model(x)) < 1e-5, (round_, device)
            assert torch.cuda.current_device() == 0
            for p in model.parameters():
                p.mul_(1.05)
    assert ts.stats()["builds"] == 1, "one plan serves both"
    assert ts.stats()["fallbacks"] == 0


@pytest.mark.parametrize("mode", MODES)
@torch.no_grad()
def test_a_model_that_moves(mode: str) -> None:
    model, x = perturbed(Block()), torch.randn(4, 8, 64, device=ONE)
    fast = compiled(model, mode)
    assert error(fast(x), model(x)) < 1e-5
    model.to(TWO)
    x = x.to(TWO)
    assert error(fast(x), model(x)) < 1e-5
    model.to(ONE)
    x = x.to(ONE)
    model.up.weight.mul_(1.5)
    assert error(fast(x), model(x)) < 1e-5
    assert ts.stats()["builds"] == 1


@pytest.mark.parametrize("mode", MODES)
def test_a_thread_for_each_device(mode: str) -> None:
    models = [perturbed(Block(), seed).to(device) for seed, device in enumerate((ONE, TWO))]
    fast, failures = [compiled(model, mode) for model in models], []
    with torch.no_grad():
        for model, run in zip(models, fast, strict=True):
            run(torch.randn(4, 8, 64, device=model.up.weight.device))

    def work(index: int) -> None:
        device = models[index].up.weight.device
        with torch.no_grad(), torch.cuda.device(device):
            for _ in range(30):
                x = torch.randn(4, 8, 64, device=device)
                worst = error(fast[index](x), models[index](x))
                if worst > 1e-5:
                    failures.append((device, worst))

    threads = [threading.Thread(target=work, args=(index % 2,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


@torch.no_grad()
def test_a_weight_on_the_other_device_is_refused_before_the_engine_sees_it() -> None:
    model, x = perturbed(Block()), torch.randn(4, 8, 64, device=ONE)
    fast = compiled(model, "bound")
    want = fast(x)
    model.up.weight.data = model.up.weight.data.to(TWO)
    with pytest.raises((RuntimeError, torch._dynamo.exc.TorchDynamoException)):  # as in PyTorch itself
        fast(x)
    model.up.weight.data = model.up.weight.data.to(ONE)
    assert error(fast(x), want) == 0
