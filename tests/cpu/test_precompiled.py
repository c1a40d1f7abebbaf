"""``caching_precompile``: PyTorch keeps Dynamo's work, and with it what became of each graph."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import fx
from torch._dynamo.precompile_context import PrecompileContext

from tests.cpu.warm import Run
from tests.emulated import emulated
from tests.graphs import TwoEngines, perturb
from tests.saved import X
from trt_stripped_backend import backend
from trt_stripped_backend.errors import Unsupported

ROOT = Path(__file__).parents[2]
Start = Callable[..., dict[str, Any]]


@pytest.fixture
def start(run_warm: Run, tmp_path: Path) -> Start:
    """A start in a process of its own."""

    def run(*options: str) -> dict[str, Any]:
        places = {"TRT_STRIPPED_CACHE_DIR": "engines", "TORCHINDUCTOR_CACHE_DIR": "pytorch"}
        environment = os.environ | {name: str(tmp_path / place) for name, place in places.items()}
        environment["PYTHONPATH"] = str(ROOT)
        done = run_warm(ROOT / "tests" / "precompiled.py", *options, env=environment, cwd=ROOT)
        assert done.returncode == 0, done.stderr
        result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        assert max(result["errors"]) < 1e-5, "results are those of each call's own weights"
        return result | {"log": done.stderr}

    return run


def test_another_process_traces_nothing(start: Start) -> None:
    first, second = start(), start()
    assert (first["lowered"], first["graphs"]) == (2, 2), "of two shapes"
    assert (second["lowered"], second["graphs"], second["builds"]) == (0, 0, 0)
    assert second["status"] == ["hit", "hit"]


def test_a_graph_that_the_cache_had_is_kept_too(start: Start, tmp_path: Path) -> None:
    start()
    shutil.rmtree(tmp_path / "pytorch")
    assert start()["lowered"] == 0, "a trace"
    assert start()["graphs"] == 0


def test_without_its_engines_a_graph_is_traced_anew(start: Start, tmp_path: Path) -> None:
    start()
    shutil.rmtree(tmp_path / "engines")
    second = start()
    assert (second["lowered"], second["builds"]) == (2, 4)
    assert start()["graphs"] == 0


def test_what_is_not_kept_says_why(start: Start) -> None:
    for _ in range(2):
        made = start("cache=0")
        assert made["graphs"] > 0
        assert "caching_precompile does not keep a graph, which the next process traces: no cache keeps" in made["log"]


def test_no_graph_of_dynamic_sizes_is_kept() -> None:
    pieces = [SimpleNamespace(signature=SimpleNamespace(symbols=symbols)) for symbols in ((), ("s0",))]
    planned: Any = SimpleNamespace(pieces=pieces)
    with pytest.raises(Unsupported, match="sizes beyond those that its engines are built for"):
        backend._lasting(None, planned, None, 1)  # type: ignore[arg-type]


def test_no_weights_are_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TRT_STRIPPED_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(PrecompileContext, "_backend_artifacts_by_key", {})
    model = perturb(TwoEngines())

    def kept(gm: fx.GraphModule, inputs: Any) -> Any:
        gm._backend_id = "__compiled_fn_0"  # type: ignore[assignment]
        return backend.trt_stripped(gm, inputs, options={"min_block_size": 1})

    torch._dynamo.reset()
    with emulated(), torch.no_grad():
        torch.compile(model, backend=kept)(X)
        assert not PrecompileContext._backend_artifacts_by_key, "it is not asked for"
        torch._dynamo.reset()
        with torch._dynamo.config.patch(caching_precompile=True):
            torch.compile(model, backend=kept)(X)
    torch._dynamo.reset()
    (one,) = PrecompileContext._backend_artifacts_by_key.values()
    assert isinstance(one, backend.Precompiled)
    for tensor in (*model.parameters(), *model.buffers()):
        assert tensor.numel() < 2 or tensor.detach().numpy().tobytes() not in one.content
