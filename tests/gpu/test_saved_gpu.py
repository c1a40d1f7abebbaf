"""``aot_compile`` and ``caching_precompile`` with real engines: one process saves, another loads and traces nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import trt_stripped_backend as ts
from tests.benchmarks.rows import Gpt
from tests.gpu.common import error, perturbed

ROOT = Path(__file__).parents[2]


def model(seed: int) -> torch.nn.Module:
    return perturbed(Gpt(4, 128, 4, 512), seed).requires_grad_(False)


def ids() -> torch.Tensor:
    return torch.arange(64, device="cuda").view(1, 64) * 7 % 512


def save(file: Path, mode: str) -> dict[str, Any]:
    if hasattr(torch._dynamo.config, "enable_aot_compile"):
        torch._dynamo.config.enable_aot_compile = True
    net = model(1)
    options = {"refit_mode": mode, "min_block_size": 1}
    fast = torch.compile(Gpt.forward, backend="trt_stripped", fullgraph=True, dynamic=False, options=options)
    made = fast.aot_compile(((net, ids()), {}))
    made.save_compiled_function(str(file))
    return {"error": error(made(net, ids()), net(ids())), **ts.stats()}


def load(file: Path, mode: str) -> dict[str, Any]:
    net, x = model(2), ids()  # other weights than those that it was saved with
    with file.open("rb") as stream:
        fast = torch.compiler.load_compiled_function(stream)
    errors = [error(fast(net, x), net(x))]
    for p in net.parameters():
        p.mul_(1.1)
    errors.append(error(fast(net, x), net(x)))
    return {"errors": errors, **ts.stats()}


def keep(file: Path, mode: str) -> dict[str, Any]:
    """A start as any other, of which PyTorch keeps what it did; other weights in each process, which then change."""
    net, x = model(1 + file.exists()), ids()
    file.touch()
    with torch._dynamo.config.patch(caching_precompile=True):
        fast = torch.compile(net, backend="trt_stripped", options={"refit_mode": mode}, dynamic=False)
        errors = [error(fast(x), net(x))]
        for p in net.parameters():
            p.mul_(1.1)
        errors.append(error(fast(x), net(x)))
        net.head = model(7).head
        errors.append(error(fast(x), net(x)))
        torch.compiler.save_cache_artifacts()
    return {"errors": errors, **ts.stats()}


def process(task: str, file: Path, mode: str, cache: Path) -> dict[str, Any]:
    command = [sys.executable, "-W", "ignore", "-m", "tests.gpu.test_saved_gpu", task, str(file), mode]
    places = {"TRT_STRIPPED_CACHE_DIR": str(cache), "TORCHINDUCTOR_CACHE_DIR": f"{cache}-of-pytorch"}
    environment = os.environ | places | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


@pytest.mark.parametrize("mode", ["bound", "general"])
def test_saved_and_loaded(mode: str, tmp_path: Path) -> None:
    saved = process("save", tmp_path / "gpt.aot", mode, tmp_path / "cache")
    assert saved["error"] < 1e-5
    assert saved["builds"] >= 1
    loaded = process("load", tmp_path / "gpt.aot", mode, tmp_path / "cache")
    assert max(loaded["errors"]) < 1e-5
    assert (loaded["builds"], loaded["graphs"], loaded["fallbacks"]) == (0, 0, 0)


@pytest.mark.parametrize("mode", ["bound", "general"])
def test_kept_by_pytorch(mode: str, tmp_path: Path) -> None:
    first, second = (process("keep", tmp_path / "began", mode, tmp_path / "cache") for _ in range(2))
    assert (first["graphs"], first["builds"]) == (1, 1)
    assert (second["graphs"], second["builds"], second["fallbacks"]) == (0, 0, 0)
    for one in (first, second):
        assert max(one["errors"]) < 1e-5


if __name__ == "__main__":
    torch.set_float32_matmul_precision("highest")
    with torch.no_grad():
        print(json.dumps({"save": save, "load": load, "keep": keep}[sys.argv[1]](Path(sys.argv[2]), sys.argv[3])))
