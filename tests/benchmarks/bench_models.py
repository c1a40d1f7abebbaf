"""Real models through the backend: error against float32, share of operators inside engines, cold and warm start.

    python -m tests.benchmarks.bench_models [--models gpt2,unet] [--dtypes float16] [--modes bound] [--jobs 4]

Each figure comes from a fresh process; the warm one finds the cold one's cache. Bounds: relative L2 error at most twice
eager's own at the same dtype, or 2e-3 (float16), 1.6e-2 (bfloat16), 1e-5 (float32 without TF32), whichever is larger.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.benchmarks import process

BOUNDS = {"float16": 2e-3, "bfloat16": 1.6e-2, "float32": 1e-5}


def one(name: str, dtype: str, mode: str) -> dict[str, Any]:
    """One model in this process; the cache is where the environment says."""
    import torch

    import trt_stripped_backend as ts
    from tests.benchmarks.models import make

    torch.backends.cudnn.allow_tf32 = False
    model, x = make(name)

    def relative(a: torch.Tensor, b: torch.Tensor) -> float:
        return float((a.double() - b.double()).norm() / b.double().norm())

    def milliseconds(f: Any) -> float:
        times = []
        for _ in range(13):
            torch.cuda.synchronize()
            start = time.perf_counter()
            for _ in range(5):
                f(x)
            torch.cuda.synchronize()
            times.append((time.perf_counter() - start) / 5e-3)
        return sorted(times)[6]

    with torch.no_grad():
        want = model(x)
        model = model.to(getattr(torch, dtype))
        x = x.to(getattr(torch, dtype)) if x.is_floating_point() else x
        eager = relative(model(x), want)
        torch.cuda.synchronize()
        start = time.perf_counter()
        fast = torch.compile(model, backend="trt_stripped", options={"refit_mode": mode})
        have = fast(x)
        torch.cuda.synchronize()
        first = time.perf_counter() - start
        error = relative(have, want)
        again = relative(fast(x), want)
        times = milliseconds(fast), milliseconds(model)
    reports, counts = ts.reports(), ts.stats()
    bound = max(2 * eager, BOUNDS[dtype])
    return {
        "model": name, "dtype": dtype, "mode": mode, "error": max(error, again), "eager_error": eager, "bound": bound,
        "right": max(error, again) <= bound, "seconds": first, "ms": times[0], "eager_ms": times[1],
        "graphs": sum(r.graphs for r in reports), "engines": sum(len(r.partitions) for r in reports),
        "nodes": sum(r.nodes for r in reports), "inside": sum(r.nodes_in_engines for r in reports),
        "builds": counts["builds"], "hits": counts["hits"], "fallbacks": counts["fallbacks"],
        "plan_mb": sum(p.plan_bytes for r in reports for p in r.partitions) / 1e6,
        "weights_mb": sum(p.weight_bytes for r in reports for p in r.partitions) / 1e6,
        "rejections": [str(j) for r in reports for j in r.rejections],
    }  # fmt: skip


def fresh(name: str, dtype: str, mode: str, cache: str) -> dict[str, Any]:
    """:func:`one` in a fresh process."""
    return process.fresh(
        __spec__.name, "--one", name, dtype, mode, timeout=600, environment={"TRT_STRIPPED_CACHE_DIR": cache},
        model=name, dtype=dtype, mode=mode, right=False,
    )  # fmt: skip


def row(name: str, dtype: str, mode: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as cache:
        cold = fresh(name, dtype, mode, cache)
        if "failed" in cold:
            return cold
        warm = fresh(name, dtype, mode, cache)
        return cold | {f"warm_{k}": warm.get(k) for k in ("seconds", "builds", "hits", "error", "right", "failed")}


def environment() -> dict[str, str]:
    import torch

    import trt_stripped_backend as ts
    from trt_stripped_backend.flavour import load

    return {
        "gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "flavour": str(load()),
        "python": sys.version.split()[0], "package": ts.__version__, "date": time.strftime("%Y-%m-%d"),
    }  # fmt: skip


def line(r: dict[str, Any]) -> str:
    """A row as text."""
    head = f"{r['model']:16} {r['dtype']:8} {r['mode']:8}"
    if "failed" in r:
        return f"{head} FAILED {r['failed'][-300:]!r}"
    verdict = "right" if r["right"] and r["warm_right"] else "WRONG"
    return (
        f"{head} {verdict} err {r['error']:.1e} (eager {r['eager_error']:.1e}) in {r['inside']}/{r['nodes']} "
        f"engines {r['engines']} cold {r['seconds']:.1f}s warm {r['warm_seconds'] or -1:.1f}s "
        f"builds {r['builds']}/{r['warm_builds']} {r['ms']:.2f} ms (eager {r['eager_ms']:.2f}) "
        f"plan {r['plan_mb']:.1f}/{r['weights_mb']:.0f} MB fallbacks {r['fallbacks']}"
    )


def main() -> None:
    from tests.benchmarks.models import MODELS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--one", nargs=3)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--dtypes", default="float32,float16,bfloat16")
    parser.add_argument("--modes", default="bound,general")
    parser.add_argument("--jobs", type=int, default=1, help="processes at once; times are clean with 1 only")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(one(*arguments.one)))
        return
    wanted = [
        (name, dtype, mode)
        for name in arguments.models.split(",")
        for dtype in arguments.dtypes.split(",")
        for mode in arguments.modes.split(",")
    ]
    rows = []
    with ThreadPoolExecutor(arguments.jobs) as pool:
        for r in pool.map(lambda w: row(*w), wanted):
            rows.append(r)
            print(line(r), flush=True)
            if arguments.out:  # kept as far as it got, whatever comes later
                report = {"environment": environment(), "jobs": arguments.jobs, "rows": rows}
                arguments.out.write_text(json.dumps(report, indent=1))
    for text in sorted({j for r in rows for j in r.get("rejections", ())}):
        print("  rejected:", text[:160])


if __name__ == "__main__":
    main()
