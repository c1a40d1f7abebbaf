"""Start-up, for :mod:`.bench_speed`: from ``torch.compile``, or from a file, to the first result."""

from __future__ import annotations

import contextlib
import functools
import importlib
import logging
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import nn

from tests.benchmarks.rows import Run, counts, milliseconds, ours, prepared, relative, timed


def _tracing() -> None:
    """What a trace imports beside torch."""
    for name in ("torch._dynamo", "torch._dynamo.backends.common", "torch._functorch.aot_autograd"):
        importlib.import_module(name)


def _imports() -> None:
    """What a warm start of ours imports beside torch."""
    for name in ("torch._dynamo", "torch._dynamo.aot_compile", "trt_stripped_backend.backend"):
        importlib.import_module(name)
    importlib.import_module("trt_stripped_backend.flavour").load()


def _first(row: str, import_: Callable[[], Any], compile: Callable[[nn.Module], Run]) -> dict[str, Any]:
    """Seconds of the imports, and from the call of ``torch.compile`` to the first result."""
    model, x = prepared(row)
    imports, _ = timed(import_)
    seconds, have = timed(lambda: compile(model)(x))
    again, _ = timed(lambda: model(x))
    return {"imports_s": imports, "first_s": seconds, "error": relative(have, model(x)), "eager_first_s": again}


def trace(row: str) -> dict[str, Any]:
    """Dynamo and AOTAutograd alone: the compiler returns the graph as it is."""
    from torch._dynamo.backends.common import aot_autograd
    from torch._functorch.aot_autograd import make_boxed_func

    backend = aot_autograd(fw_compiler=lambda gm, _: make_boxed_func(gm.forward))
    return _first(row, _tracing, lambda model: torch.compile(model, backend=backend, dynamic=False))


def start(row: str) -> dict[str, Any]:
    """Ours, cold or warm as the cache is; ``of``: seconds from Dynamo's graph on, of planning with the builds in it, of
    loading plans, and of RTX's own kernels, which it compiles for the GPU or finds in its runtime cache."""
    spent = dict.fromkeys(("backend", "plan", "load", "kernels"), 0.0)

    def timing(name: str, act: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(act)
        def timed_act(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            try:
                return act(*args, **kwargs)
            finally:
                spent[name] += time.perf_counter() - began

        return timed_act

    with contextlib.ExitStack() as stack:

        def compile(model: nn.Module) -> Run:
            from trt_stripped_backend import backend, compilation, context, refit  # imported by now

            places: list[tuple[Any, str]] = [
                (backend, "trt_stripped"), (compilation.Compilation, "plan"), (refit.Engine, "__init__"),
                (context.Context, "_make"),
            ]  # fmt: skip
            for name, (owner, attribute) in zip(spent, places, strict=True):
                stack.enter_context(mock.patch.object(owner, attribute, timing(name, getattr(owner, attribute))))
            return ours(model)

        found = _first(row, _imports, compile)
    return found | counts() | {"of": spent}


def precompiled(row: str) -> dict[str, Any]:
    """Ours with what PyTorch keeps of Dynamo's work, which an earlier process may have left."""
    logging.getLogger("torch._dynamo").setLevel(logging.ERROR)  # names every guard that it does not keep
    with torch._dynamo.config.patch(caching_precompile=True):
        found = _first(row, _imports, ours)
        torch.compiler.save_cache_artifacts()
    return found | counts()


def inductor(row: str) -> dict[str, Any]:
    """Inductor, cold or warm as its cache is."""
    imports = functools.partial(importlib.import_module, "torch._inductor.compile_fx")
    return _first(row, imports, lambda model: torch.compile(model, dynamic=False))


def _import_peer() -> None:
    """Torch-TensorRT 2.11 was made for RTX 1.3; two things that it needs are no longer there, and neither matters."""
    trt: Any = importlib.import_module("tensorrt_rtx")
    if not hasattr(trt, "IAlgorithmSelector"):  # named in an annotation alone
        trt.IAlgorithmSelector = object
    trt.ITensor.dtype = property(trt.ITensor.dtype.fget, lambda *_: None)  # set to what a typed network says anyway
    importlib.import_module("torch_tensorrt")


def peer(row: str) -> dict[str, Any]:
    """Torch-TensorRT with refittable engines and its cache, cold or warm as that is; and a call."""
    model, x = prepared(row)
    options = {
        "immutable_weights": False, "cache_built_engines": True, "reuse_cached_engines": True,
        "engine_cache_dir": os.environ["PEER_CACHE_DIR"],
        "use_python_runtime": True,  # its C++ runtime ends the process with an RTX that it was not made for
    }  # fmt: skip
    compiled: list[Run] = []

    def compile(model: nn.Module) -> Run:
        compiled.append(torch.compile(model, backend="torch_tensorrt", options=options, dynamic=False))
        return compiled[0]

    found = _first(row, _import_peer, compile)
    peer = importlib.import_module("torch_tensorrt")
    return found | {
        "version": peer.__version__, "cached": sum(p.is_dir() for p in Path(options["engine_cache_dir"]).iterdir()),
        "cache_mb": sum(f.stat().st_size for f in Path(options["engine_cache_dir"]).rglob("*") if f.is_file()) / 1e6,
        "ms": milliseconds(compiled[0], x), "eager_ms": milliseconds(model, x),
    }  # fmt: skip


def _aot_file() -> Path:
    return Path(os.environ["TRT_STRIPPED_CACHE_DIR"]) / "model.aot"


def _inputs_only(guards: Sequence[Any]) -> list[bool]:
    """Keeps the guards on the arguments, not those on the model: the bulk of what loading takes."""
    return [g.guard_type == "TENSOR_MATCH" and not g.is_global and "_modules" not in g.name for g in guards]


def aot_save_lean(row: str) -> dict[str, Any]:
    return aot_save(row, {"guard_filter_fn": _inputs_only})


def aot_save(row: str, options: dict[str, Any] | None = None) -> dict[str, Any]:
    model, x = prepared(row)
    if hasattr(torch._dynamo.config, "enable_aot_compile"):
        torch._dynamo.config.enable_aot_compile = True
    forward = type(model).forward
    compiled = torch.compile(forward, backend="trt_stripped", fullgraph=True, dynamic=False, options=options)
    seconds, saved = timed(lambda: compiled.aot_compile(((model, x), {})))
    saved.save_compiled_function(str(_aot_file()))
    return {"save_s": seconds, "artifact_mb": _aot_file().stat().st_size / 1e6}


def aot_load(row: str) -> dict[str, Any]:
    """No Dynamo: from the file to the first result."""
    model, x = prepared(row)
    imports, _ = timed(_imports)

    def first() -> tuple[float, Any]:
        with _aot_file().open("rb") as file:
            run = torch.compiler.load_compiled_function(file)
        return time.perf_counter(), run(model, x)

    began = time.perf_counter()
    seconds, (loaded, have) = timed(first)
    return {"imports_s": imports, "load_s": loaded - began, "first_s": seconds, "error": relative(have, model(x))}
