"""Is strip + refit slower than just building? Each way of giving an engine its weights, on real models.

    python -m tests.benchmarks.bench_modes [--models gpt2,llama_1b5] [--modes bound,general] [--out modes.json]

A row is a fresh process with an empty cache, then a second one that finds the first one's. A tiny decoder is compiled
before anything is measured, so that what a process pays once (libraries, CUDA modules) is in ``process_s`` alone.

build       of the engines: network, TensorRT, plan
first call  tracing, build, loading, context and run, after eager has run; warm start: the same with the plans cached
refit       ``Engine.refit`` between two synchronisations; later: median of 5, after all weights changed in place
next call   from the change of all weights to the finished result, median of 5; in identical, immutable: a build
moved       bound: host time of a call for which every weight lies elsewhere (in brackets: of one where none does)
run         median, calls in flight; eager's in brackets
GPU         most memory during the first call, beyond the weights and what eager's own run took; kept after it
host        most resident memory during the first call, beyond what the tiny decoder's second build took
error       relative L2 against float32 of the same weights
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest import mock

from tests.benchmarks import process
from tests.benchmarks.bench_models import BOUNDS, environment

NAMES = ["resnet50", "bert_base", "gpt2", "llama_1b5"]
MODES = ["bound", "general", "identical", "immutable"]
DTYPES = dict.fromkeys(("llama_1b5", "llama_narrow"), "bfloat16")  # float16 otherwise
#: How often all weights change. Where that means a build, once is enough; identical goes back to what it knows.
CHANGES = {"bound": 5, "general": 5, "identical": 2, "immutable": 1}


def _megabytes(size: float) -> float:
    return round(size / 1e6, 3)


def one(name: str, mode: str, *, brief: bool) -> dict[str, Any]:
    """One model in this process, the cache is where the environment says; ``brief``: no more than the first call."""
    import torch

    import trt_stripped_backend as ts
    from tests.benchmarks.memory import Memory
    from tests.benchmarks.models import Llama, make
    from trt_stripped_backend.refit import Engine

    torch.backends.cudnn.allow_tf32 = False
    dtype = getattr(torch, DTYPES.get(name, "float16"))
    refits: list[tuple[float, int]] = []
    spent: list[float] = []
    refit = Engine.refit

    def timed_refit(engine: Engine, tensors: Sequence[torch.Tensor], stream: torch.cuda.Stream) -> int:
        torch.cuda.synchronize()
        start = time.perf_counter()
        size = refit(engine, tensors, stream)
        torch.cuda.synchronize()
        refits.append((time.perf_counter() - start, size))
        return size

    def compiled(model: torch.nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
        fast: Callable[[torch.Tensor], torch.Tensor]
        fast = torch.compile(model, backend="trt_stripped", options={"refit_mode": mode})
        return fast

    def call(f: Callable[[torch.Tensor], torch.Tensor]) -> tuple[float, float, torch.Tensor]:
        """Seconds until it returns, seconds until it is done, and the result."""
        torch.cuda.synchronize()
        start = time.perf_counter()
        result = f(x)
        returned = time.perf_counter()
        torch.cuda.synchronize()
        return returned - start, time.perf_counter() - start, result

    def milliseconds(f: Callable[[torch.Tensor], torch.Tensor]) -> float:
        def five(x: torch.Tensor) -> torch.Tensor:
            return [f(x) for _ in range(5)][-1]

        return 200 * statistics.median(call(five)[1] for _ in range(13))

    def relative(a: torch.Tensor, b: torch.Tensor) -> float:
        return float((a.double() - b.double()).norm() / b.double().norm())

    def pace() -> dict[str, float]:
        """Seconds and GB/s of the refits of one call, over all its engines."""
        seconds, size = sum(s for s, _ in refits), sum(b for _, b in refits)
        refits.clear()
        return {"s": seconds, "gb_s": size / 1e9 / seconds} if size else {}

    with torch.no_grad(), mock.patch.object(Engine, "refit", timed_refit):
        # The first build of a process pays for more than itself; the second takes what any build takes.
        for inner in (128, 192):
            tiny = compiled(Llama(1, 64, inner, 64, 2).to("cuda", dtype).eval().requires_grad_(False))
            x = torch.zeros(1, 8, dtype=torch.int64, device="cuda")
            with Memory() as least:
                spent.append(call(tiny)[1])
            torch.compiler.reset()  # else the model's sizes would be taken for dynamic
        del tiny
        model, x = make(name)
        model, x = model.to(dtype), x.to(dtype) if x.is_floating_point() else x
        weights = {t.data_ptr(): t.nbytes for t in (*model.parameters(), *model.buffers())}
        model(x)
        with Memory() as eager:
            plain = model(x)
        del plain
        refits.clear()
        ts.clear_stats()
        fast = compiled(model)
        with Memory() as memory:
            _, seconds, first = call(fast)
        counts, reports = ts.stats(), ts.reports()
        row = {
            "model": name, "dtype": str(dtype).removeprefix("torch."), "mode": mode, "process_s": spent[0],
            "first_s": seconds, "build_s": counts["build_seconds"], "refit": pace(),
            "plan_mb": _megabytes(sum(p.plan_bytes for r in reports for p in r.partitions)),
            "slots_mb": _megabytes(sum(p.weight_bytes for r in reports for p in r.partitions)),
            "weights_mb": _megabytes(sum(weights.values())), "parameters": sum(p.numel() for p in model.parameters()),
            "eager_peak_mb": _megabytes(eager.torch_peak + eager.outside_peak),
            "gpu_peak_mb": _megabytes(memory.torch_peak - eager.torch_peak + memory.outside_peak),
            "gpu_kept_mb": _megabytes(memory.torch_kept - first.nbytes + memory.outside_kept),
            "memory": {k: _megabytes(v) for k, v in vars(memory).items() if k.endswith(("_peak", "_kept"))},
            "host_peak_mb": _megabytes(memory.host_peak - least.host_peak), "tiny_host_mb": _megabytes(least.host_peak),
            "builds": counts["builds"], "hits": counts["hits"],
            "engines": sum(len(r.partitions) for r in reports), "nodes": sum(r.nodes for r in reports),
            "inside": sum(r.nodes_in_engines for r in reports),
            "rejections": [str(j) for r in reports for j in r.rejections],
        }  # fmt: skip
        del reports
        followed = True
        if not brief:
            row |= {"ms": milliseconds(fast), "eager_ms": milliseconds(model)}
            row |= {"host_ms": 1e3 * statistics.median(call(fast)[0] for _ in range(5))}
            last = plain = model(x)

            def changes(change: Callable[[torch.nn.Parameter], object], times: int) -> list[dict[str, Any]]:
                """Changes all weights and calls, so often; each result must be near the new weights."""
                nonlocal last, followed
                made = []
                for _ in range(times):
                    for p in model.parameters():
                        change(p)
                    before = ts.stats()["builds"]
                    host, done, have = call(fast)
                    want = model(x)
                    moved, error = relative(last, want), relative(have, want)
                    followed = followed and error < moved / 4
                    made.append({
                        "host_s": host, "s": done, "refit": pace(), "builds": ts.stats()["builds"] - before,
                        "difference": moved, "error": error,
                    })  # fmt: skip
                    last = want
                return made

            # The sign is what changes: exactly undone by the next change, and never too large for float16.
            row["changes"] = changes(lambda p: p.neg_(), CHANGES[mode])
            if mode == "bound":
                row["moved"] = changes(lambda p: setattr(p, "data", p.data.neg()), CHANGES[mode])
            if sum(len(row.get(kind, ())) for kind in ("changes", "moved")) % 2:
                for p in model.parameters():
                    p.neg_()
        plain = model(x)
        counts = ts.stats()
        want = model.float()(x.float() if x.is_floating_point() else x)
        error, eager_error = relative(first, want), relative(plain, want)
        bound = max(2 * eager_error, BOUNDS[row["dtype"]])
        right = error <= bound and followed and row["engines"] > 0 and counts["fallbacks"] == 0
        return row | {
            "error": error, "eager_error": eager_error, "bound": bound, "followed": followed, "right": right,
            "fallbacks": counts["fallbacks"],
        }  # fmt: skip


def fresh(name: str, mode: str, cache: str, *, brief: bool = False, timeout: float = 400) -> dict[str, Any]:
    """:func:`one` in a fresh process; a failure is a row too."""
    return process.fresh(
        __spec__.name, "--one", name, mode, *["--brief"] * brief, timeout=timeout,
        environment={"TRT_STRIPPED_CACHE_DIR": cache}, model=name, mode=mode, right=False,
    )  # fmt: skip


def row(name: str, mode: str, timeout: float) -> dict[str, Any]:
    """Cold, then warm; nothing is cached in ``immutable``."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as cache:
        cold = fresh(name, mode, cache, timeout=timeout)
        if "failed" in cold or mode == "immutable":
            return cold
        warm = fresh(name, mode, cache, brief=True, timeout=timeout)
    cold["right"] = cold["right"] and warm["right"] and warm["builds"] == 0
    kept = ("process_s", "first_s", "refit", "builds", "hits", "error", "right", "failed")
    return cold | {f"warm_{k}": warm[k] for k in kept if k in warm}


def _number(value: float | None, digits: int = 1) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _refit(refits: Sequence[dict[str, float]], scale: float, digits: int) -> str:
    """The median of some refits and its pace; a dash where there was none."""
    refits = sorted((r for r in refits if r), key=lambda r: r["s"])
    if not refits:
        return "–"
    middle = refits[len(refits) // 2]
    return f"{scale * middle['s']:.{digits}f} ({middle['gb_s']:.1f})"


HEAD = (
    "model", "mode", "build s", "first call s", "warm start s", "plan / weights MB", "first refit s (GB/s)",
    "later refit ms (GB/s)", "next call ms", "moved ms (still)", "run ms (eager)", "GPU MB peak / kept", "host MB peak",
    "error (eager)", "",
)  # fmt: skip


def cells(r: dict[str, Any]) -> Sequence[str]:
    """A row of the table."""
    if "failed" in r:
        return [r["model"], r["mode"], f"FAILED {' '.join(r['failed'][-300:].split())}"]
    refits = [c["refit"] for c in r["changes"]]
    # identical: the first change is the one that builds, the second goes back to values that it knows
    calls = [1e3 * c["s"] for c in r["changes"]]
    after = " then ".join(map(_number, calls)) if r["mode"] == "identical" else _number(statistics.median(calls))
    moved = statistics.median(1e3 * c["host_s"] for c in r["moved"]) if "moved" in r else None
    return [
        r["model"], r["mode"], _number(r["build_s"]), _number(r["first_s"]), _number(r.get("warm_first_s")),
        f"{r['plan_mb']:.1f} / {r['weights_mb']:.0f}", _refit([r["refit"]], 1, 2), _refit(refits, 1e3, 1), after,
        f"{_number(moved, 3)} ({r['host_ms']:.3f})", f"{r['ms']:.3f} ({r['eager_ms']:.3f})",
        f"{r['gpu_peak_mb']:.0f} / {r['gpu_kept_mb']:.0f}", f"{r['host_peak_mb']:.0f}",
        f"{r['error']:.1e} ({r['eager_error']:.1e})", "right" if r["right"] else "WRONG",
    ]  # fmt: skip


def _line(values: Sequence[str]) -> str:
    return f"| {' | '.join(v.replace('|', '/') for v in values)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--brief", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--models", default=",".join(NAMES))
    parser.add_argument("--modes", default=",".join(MODES))
    parser.add_argument("--jobs", type=int, default=1, help="processes at once; times and memory are clean with 1 only")
    parser.add_argument("--timeout", type=float, default=400, help="seconds for one process")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(one(*arguments.one, brief=arguments.brief)))
        return
    wanted = [(name, mode) for name in arguments.models.split(",") for mode in arguments.modes.split(",")]
    unknown = {mode for _, mode in wanted} - set(MODES)
    if unknown:
        parser.error(f"no such mode: {', '.join(sorted(unknown))}")
    about = environment()  # before any row: it may make a CUDA context, which is memory on the GPU
    rows: list[dict[str, Any]] = []
    print(_line(HEAD), _line(["---"] * len(HEAD)), sep="\n", flush=True)
    with ThreadPoolExecutor(arguments.jobs) as pool:
        for r in pool.map(lambda w: row(w[0], w[1], arguments.timeout), wanted):
            rows.append(r)
            print(_line(cells(r)), flush=True)
            if arguments.out:  # kept as far as it got, whatever comes later
                report = {"environment": about, "jobs": arguments.jobs, "rows": rows}
                arguments.out.write_text(json.dumps(report, indent=1))
    for text in sorted({j for r in rows for j in r.get("rejections", ())}):
        print("  rejected:", text[:160])


if __name__ == "__main__":
    main()
