"""Saves a compiled function, or loads and runs it: each in a process of its own, with emulated engines.

``python -m tests.saved save|load FILE [OPTION=VALUE…]`` prints one line of JSON.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import nn

import trt_stripped_backend as ts
from tests.emulated import emulated
from tests.graphs import TwoEngines, perturb
from trt_stripped_backend import backend, lowering

X = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))


def compiled(model: nn.Module, **options: Any) -> Any:
    if hasattr(torch._dynamo.config, "enable_aot_compile"):
        torch._dynamo.config.enable_aot_compile = True
    options = {"min_block_size": 1, **options}
    return torch.compile(
        type(model).forward, backend=backend.trt_stripped, fullgraph=True, dynamic=False, options=options
    )


def save(file: Path, **options: Any) -> dict[str, Any]:
    model = perturb(TwoEngines())
    made = compiled(model, **options).aot_compile(((model, X), {}))
    made.save_compiled_function(str(file))
    right = torch.allclose(made(model, X), model(X), atol=1e-5)
    weights = max(p.nbytes for p in model.parameters())
    return {"right": right, "builds": ts.stats()["builds"], "bytes": file.stat().st_size, "largest": weights}


def load(file: Path) -> dict[str, Any]:
    """Three sets of weights through what was saved; nothing may be traced."""
    model, errors = perturb(TwoEngines(), seed=5), []
    with mock.patch.object(lowering, "trace", side_effect=AssertionError("traced")), file.open("rb") as stream:
        run = torch.compiler.load_compiled_function(stream)
        for seed in (5, 6, 7):
            perturb(model, seed)
            errors.append(float((run(model, X) - model(X)).abs().max()))
        model.head = perturb(TwoEngines(), 9).head
        errors.append(float((run(model, X) - model(X)).abs().max()))
        try:
            run(model, X[:1])
        except RuntimeError as error:
            refused = str(error)
    return {"errors": errors, "graphs": ts.stats()["graphs"], "builds": ts.stats()["builds"], "refused": refused}


def main() -> None:
    task, file, *options = sys.argv[1:]
    with emulated() as world, torch.no_grad():
        try:
            given = dict(one.split("=") for one in options)
            result = save(Path(file), **given) if task == "save" else load(Path(file))
        except Exception as error:
            result = {"raised": f"{type(error).__name__}: {error}"}
    print(json.dumps(result | {"refits": world.calls["refit"]}))


if __name__ == "__main__":
    main()
