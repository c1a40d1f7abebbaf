"""Several GPUs in one process: each model runs where its weights are, and none gets another's.

Each test is a fresh process: Dynamo remembers the devices of parameters that moved.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

import trt_stripped_backend as ts
from tests.gpu.common import Block, ConvNet, compiled, error, perturbed

pytestmark = pytest.mark.gpus
ROOT = Path(__file__).parents[2]
ONE, TWO = torch.device("cuda", 0), torch.device("cuda", 1)


@torch.no_grad()
def one_graph_on_two_devices(mode: str) -> None:
    models = [perturbed(ConvNet(), seed).to(device) for seed, device in enumerate((ONE, TWO))]
    fast = [compiled(model, mode) for model in models]
    for round_ in range(6):  # from the fourth on derived weights are computed in one launch
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


@torch.no_grad()
def a_model_that_moves(mode: str) -> None:
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


def a_thread_for_each_device(mode: str) -> None:
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
def a_weight_on_the_other_device(mode: str) -> None:
    model, x = perturbed(Block()), torch.randn(4, 8, 64, device=ONE)
    fast = compiled(model, mode)
    fast(x)
    model.up.weight.data = model.up.weight.data.to(TWO)
    with pytest.raises((RuntimeError, torch._dynamo.exc.TorchDynamoException)):  # as in PyTorch itself
        fast(x)


TASKS = {
    task.__name__: task
    for task in (one_graph_on_two_devices, a_model_that_moves, a_thread_for_each_device, a_weight_on_the_other_device)
}


@pytest.mark.parametrize("mode", ["bound", "general"])
@pytest.mark.parametrize("task", TASKS)
def test_in_a_process(task: str, mode: str) -> None:
    command = [sys.executable, "-W", "ignore", "-m", "tests.gpu.test_devices_gpu", task, mode]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]


if __name__ == "__main__":
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    TASKS[sys.argv[1]](sys.argv[2])
