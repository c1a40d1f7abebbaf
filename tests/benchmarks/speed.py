"""What :mod:`.bench_speed` measures, each task in a process of its own: start-up must find nothing warm.

``python -m tests.benchmarks.speed TASK ROW`` prints one line of JSON. Caches are where the environment says.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import itertools
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import nn
from torch.nn import functional

from tests.benchmarks.models import LARGE, MODELS, make

Run = Callable[..., Any]

#: Row → (model, shape of its input). None: the model's own shape.
ROWS: dict[str, tuple[str, tuple[int, ...] | None]] = {
    "resnet50_8": ("resnet50", None), "vit_8": ("vit_base", None), "bert_1x128": ("bert_base", (1, 128)),
    "bert_16x512": ("bert_base", (16, 512)), "gpt2_1x128": ("gpt2", (1, 128)), "gpt2_8x512": ("gpt2", (8, 512)),
    "llama_1x128": ("llama_1b5", (1, 128)), "unet": ("unet", None), "gpt_plain": ("", (1, 128)),
}  # fmt: skip


class Layer(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.out(functional.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        return x + self.down(functional.gelu(self.up(self.norm2(x))))


class Gpt(nn.Module):
    """GPT-2's shape, in plain PyTorch: GPT-2 small by default."""

    def __init__(self, layers: int = 12, width: int = 768, heads: int = 12, vocabulary: int = 50257) -> None:
        super().__init__()
        self.embed, self.places = nn.Embedding(vocabulary, width), nn.Embedding(1024, width)
        self.layers = nn.ModuleList(Layer(width, heads) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embed(ids) + self.places.weight[: ids.shape[1]]
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x))


def prepared(row: str) -> tuple[nn.Module, torch.Tensor]:
    """The model of a row in float16 (bfloat16 for the large one) and its input, on the GPU, and the GPU awake."""
    name, shape = ROWS[row]
    torch.manual_seed(0)
    if name:
        model, x = make(name)
        kind = (MODELS | LARGE)[name]
        if shape is not None:
            x = torch.randint(0, kind.vocabulary, shape, device="cuda")
        dtype = torch.float16 if kind.dtype == torch.float32 else kind.dtype
    else:
        with torch.device("cuda"):
            model, x, dtype = Gpt().eval().requires_grad_(False), torch.randint(0, 50257, (1, 128)), torch.float16
    model, x = model.to(dtype), x.to(dtype) if x.is_floating_point() else x
    torch.cuda.synchronize()
    return model, x


def ours(model: nn.Module, **options: Any) -> Run:
    run: Run = torch.compile(model, backend="trt_stripped", options=options, dynamic=False)
    return run


def timed(act: Callable[[], Any]) -> tuple[float, Any]:
    torch.cuda.synchronize()
    start = time.perf_counter()
    result = act()
    torch.cuda.synchronize()
    return time.perf_counter() - start, result


def milliseconds(run: Run, x: torch.Tensor, rounds: int = 15, calls: int = 10) -> float:
    """Median time of a call, calls in flight."""
    for _ in range(4):
        run(x)

    def some() -> None:
        for _ in range(calls):
            run(x)

    return 1e3 / calls * statistics.median(timed(some)[0] for _ in range(rounds))


def relative(have: torch.Tensor, want: torch.Tensor) -> float:
    return float((have.double() - want.double()).norm() / want.double().norm())


def counts() -> dict[str, Any]:
    import trt_stripped_backend as ts

    found, reports = ts.stats(), ts.reports()
    return {
        **{name: found[name] for name in ("builds", "hits", "fallbacks", "build_seconds", "cuda_graphs", "refits")},
        "plan_mb": sum(p.plan_bytes for r in reports for p in r.partitions) / 1e6,
        "engines": sum(len(r.partitions) for r in reports), "nodes": sum(r.nodes for r in reports),
        "inside": sum(r.nodes_in_engines for r in reports), "notes": [n for r in reports for n in r.notes],
        "lookup_s": sum(p.seconds for r in reports for p in r.partitions),
    }  # fmt: skip


# ------------------------------------------------------------------------------------------------ start-up


def _nothing() -> None: ...


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
    return _first(row, _nothing, lambda model: torch.compile(model, backend=backend, dynamic=False))


def start(row: str) -> dict[str, Any]:
    """Ours, cold or warm as the cache is."""
    return _first(row, _imports, lambda model: ours(model)) | counts()


def memory(row: str) -> dict[str, Any]:
    """GPU memory of the first call of all, beyond the weights and what a run takes in PyTorch."""
    from tests.benchmarks.memory import Memory

    model, x = prepared(row)
    weights = sum({t.data_ptr(): t.nbytes for t in (*model.parameters(), *model.buffers())}.values())
    model(x)
    with Memory() as eager:
        plain = model(x)
    del plain
    with Memory() as first:
        have = ours(model)(x)
    kept = first.torch_kept - have.nbytes + first.outside_kept
    peak = first.torch_peak + first.outside_peak
    return {
        "weights_mb": weights / 1e6, "kept_mb": kept / 1e6, "peak_mb": peak / 1e6,
        "eager_peak_mb": (eager.torch_peak + eager.outside_peak) / 1e6,
        "peak_over_steady": (weights + peak) / (weights + max(kept, 0) + eager.torch_peak + eager.outside_peak),
    }  # fmt: skip


def inductor(row: str) -> dict[str, Any]:
    """Inductor, cold or warm as its cache is."""
    imports = functools.partial(importlib.import_module, "torch._inductor.compile_fx")
    return _first(row, imports, lambda model: torch.compile(model, dynamic=False))


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


# ------------------------------------------------------------------------------------------------ calls


def steady(row: str) -> dict[str, Any]:
    """Milliseconds a call; all in one process, one after the other, then the first again to show the drift."""
    model, x = prepared(row)
    kinds: dict[str, Callable[[], Run]] = {
        "eager": lambda: model,
        "ours": lambda: ours(model),
        "ours_graphs": lambda: ours(model, cuda_graphs=True),
        "ours_deduped": lambda: ours(model, dedupe_layers=True),
        "baked": lambda: ours(model, refit_mode="immutable"),
        "baked_graphs": lambda: ours(model, refit_mode="immutable", cuda_graphs=True),
        "inductor": lambda: torch.compile(model, dynamic=False),
        "inductor_graphs": lambda: torch.compile(model, dynamic=False, mode="reduce-overhead"),
    }
    want, found, errors = model(x), {}, {}
    for name, make_run in kinds.items():
        torch.compiler.reset()
        run = make_run()
        errors[name] = relative(run(x), want)
        found[name] = milliseconds(run, x)
    return {"ms": found, "errors": errors, "eager_again_ms": milliseconds(model, x)} | counts()


@contextlib.contextmanager
def _noted() -> Iterator[dict[str, Any]]:
    """The latest runner, its arguments and the live weights with theirs."""
    from trt_stripped_backend import live, run

    seen: dict[str, Any] = {}
    call, current = run.Runner.__call__, live.LiveWeights.current

    def note(self: Any, weights: Any, inputs: Any) -> Any:
        seen.update(runner=self, weights=weights, inputs=tuple(inputs))
        return call(self, weights, inputs)

    def note_live(self: Any, args: Any) -> Any:
        seen.update(live=self, args=tuple(args))
        return current(self, args)

    with mock.patch.object(run.Runner, "__call__", note), mock.patch.object(live.LiveWeights, "current", note_live):
        yield seen


def host(row: str) -> dict[str, Any]:
    """Host time of a call on the same plan, the GPU idle before each: ours beyond ``execute_async_v3`` alone."""
    model, x = prepared(row)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        with _noted() as seen:
            fast = ours(model)
            for _ in range(3):
                fast(x)
        runner, weights, inputs = seen["runner"], seen["weights"], seen["inputs"]
        context = runner._thread.context
        live, args = seen["live"], seen["args"]
        acts: dict[str, Callable[[], Any]] = {
            "call": lambda: fast(x),
            "weights": lambda: live.current(args),
            "runner": lambda: runner(weights, inputs),
            "execute": lambda: context.execute(stream.cuda_stream),
        }
        times: dict[str, list[float]] = {name: [] for name in acts}
        for _ in range(200):
            for name, act in acts.items():
                stream.synchronize()
                start = time.perf_counter()
                act()
                times[name].append(1e6 * (time.perf_counter() - start))
        stream.synchronize()
    found = {name: statistics.median(values) for name, values in times.items()}
    over = found["weights"] + found["runner"] - found["execute"]
    return {"us": found, "over_execute_us": over, "slots": len(runner._slots), "device_ms": _device(context, stream)}


def _device(context: Any, stream: torch.cuda.Stream) -> float:
    """Milliseconds of a bare loop over ``execute_async_v3``."""

    def some() -> None:
        for _ in range(20):
            context.execute(stream.cuda_stream)

    return 50 * statistics.median(timed(some)[0] for _ in range(9))


def update(row: str) -> dict[str, Any]:
    """After all weights changed in place: host time and whole time of the next call, beside a call after no change."""
    import trt_stripped_backend as ts

    model, x = prepared(row)
    found: dict[str, Any] = {}
    for mode in ("bound", "general"):
        torch.compiler.reset()
        fast = ours(model, refit_mode=mode)
        for _ in range(3):
            fast(x)
        still, changed, done = [], [], []
        before = ts.stats()["refitted_bytes"]
        for _ in range(7):
            for times, change in ((still, False), (changed, True)):
                if change:
                    for p in model.parameters():
                        p.neg_()
                torch.cuda.synchronize()
                start = time.perf_counter()
                have = fast(x)
                times.append(time.perf_counter() - start)
                torch.cuda.synchronize()
                if change:
                    done.append(time.perf_counter() - start)
        assert relative(have, model(x)) < 0.05
        median = statistics.median
        found[mode] = {
            "still_us": 1e6 * median(still), "changed_us": 1e6 * median(changed), "done_ms": 1e3 * median(done),
            "refitted_mb": (ts.stats()["refitted_bytes"] - before) / 7e6,
        }  # fmt: skip
    return found


def layers(row: str) -> dict[str, Any]:
    """A plain GPT of 12 and of 48 layers, as one engine and with repeated layers built once."""
    import trt_stripped_backend as ts
    from trt_stripped_backend import compilation

    found: dict[str, Any] = {}
    spent: list[float] = []
    cut = compilation.partition

    def timed_cut(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        try:
            return cut(*args, **kwargs)
        finally:
            spent.append(time.perf_counter() - start)

    with mock.patch.object(compilation, "partition", timed_cut):
        for dedupe, count in itertools.product((False, True), (12, 48)):
            torch.compiler.reset()
            ts.clear_stats()
            with torch.device("cuda"):
                model = Gpt(count, 256, 4, 1024).eval().requires_grad_(False).half()
                x = torch.randint(0, 1024, (1, 128))
            run = ours(model, dedupe_layers=dedupe, cache=False)
            seconds, have = timed(functools.partial(run, x))
            plans = {p.key: p.plan_bytes for r in ts.reports() for p in r.partitions}
            found[f"{'deduped ' * dedupe}{count}"] = counts() | {
                "first_s": seconds, "partition_ms": 1e3 * spent[-1], "plan_mb": sum(plans.values()) / 1e6,
                "ms": milliseconds(run, x), "error": relative(have, model(x)),
            }  # fmt: skip
    return found


TASKS: dict[str, Callable[[str], dict[str, Any]]] = {
    task.__name__: task
    for task in (trace, start, memory, inductor, aot_save, aot_save_lean, aot_load, steady, host, update, layers)
}  # fmt: skip


def main() -> None:
    task, row = sys.argv[1:]
    torch.backends.cudnn.allow_tf32 = False
    with torch.no_grad():
        print(json.dumps(TASKS[task](row)))


if __name__ == "__main__":
    main()
