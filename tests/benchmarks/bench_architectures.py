"""Architectures of timm and transformers through the backend: error, share of operators in engines, engines.

    python -m tests.benchmarks.bench_architectures [--only resnet18,bert] [--dtypes float16] [--jobs 8] [--minutes 9]

Each figure comes from a fresh process with an empty cache of its own. Bounds: relative L2 error of all outputs, against
float32, at most twice eager's own at the same dtype, or 2e-3 (float16), 1.6e-2 (bfloat16), whichever is larger.
``--plan`` stops before engines and needs no GPU: what would be inside.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.benchmarks import process
from tests.benchmarks.bench_models import BOUNDS, environment

RESULTS = Path(__file__).parent / "results"
#: Seconds that one architecture may take.
LIMIT = 300


def one(name: str, dtype: str, mode: str) -> dict[str, Any]:
    """One architecture in this process; the cache is where the environment says."""
    import torch

    import trt_stripped_backend as ts
    from tests.benchmarks.architectures import make

    torch.backends.cudnn.allow_tf32 = False
    model, args, named = make(name)
    kind = getattr(torch, dtype)

    def cast(value: torch.Tensor) -> torch.Tensor:
        return value.to(kind) if value.is_floating_point() else value

    def relative(have: Sequence[torch.Tensor], want: Sequence[torch.Tensor]) -> float:
        assert [t.shape for t in have] == [t.shape for t in want]
        errors = [float((a.double() - b.double()).norm() / b.double().norm()) for a, b in zip(have, want, strict=True)]
        return max(errors)

    with torch.no_grad():
        want = model(*args, **named)
        model = model.to(kind)
        args, named = [cast(v) for v in args], {k: cast(v) for k, v in named.items()}
        eager = relative(model(*args, **named), want)
        start = time.perf_counter()
        fast = torch.compile(model, backend="trt_stripped", options={"refit_mode": mode})
        error = relative(fast(*args, **named), want)
        error = max(error, relative(fast(*args, **named), want))
        seconds = time.perf_counter() - start
    counts, bound = ts.stats(), max(2 * eager, BOUNDS[dtype])
    # A NaN is not within any bound.
    return _row(name, dtype, ts.reports()) | {
        "mode": mode, "error": error, "eager_error": eager, "bound": bound, "right": error <= bound,
        "seconds": seconds, "builds": counts["builds"], "fallbacks": counts["fallbacks"],
    }  # fmt: skip


def planned(name: str, dtype: str) -> dict[str, Any]:
    """What of an architecture would be inside engines; nothing is run or built."""
    import torch

    import trt_stripped_backend as ts
    from tests.benchmarks.architectures import make

    model, args, named = make(name, "cpu")
    kind = getattr(torch, dtype)
    args = [v.to(kind) if v.is_floating_point() else v for v in args]
    named = {k: v.to(kind) if v.is_floating_point() else v for k, v in named.items()}
    start = time.perf_counter()
    report = ts.explain(model.to(kind), *args, options={"cache": False}, **named)
    return _row(name, dtype, [report]) | {"right": True, "seconds": time.perf_counter() - start}


def _row(name: str, dtype: str, reports: Sequence[Any]) -> dict[str, Any]:
    from tests.benchmarks.architectures import ARCHITECTURES

    return {
        "model": name, "family": ARCHITECTURES[name].family, "library": ARCHITECTURES[name].library, "dtype": dtype,
        "graphs": sum(r.graphs for r in reports), "engines": sum(len(r.partitions) for r in reports),
        "nodes": sum(r.nodes for r in reports), "inside": sum(r.nodes_in_engines for r in reports),
        "rejections": [[j.target, j.reason] for r in reports for j in r.rejections],
    }  # fmt: skip


def fresh(name: str, dtype: str, mode: str, until: float) -> dict[str, Any] | None:
    """:func:`one` or :func:`planned` in a process with a cache of its own; None when the time is up."""
    if time.monotonic() > until:
        return None
    with tempfile.TemporaryDirectory() as cache:
        environment = {"TRT_STRIPPED_CACHE_DIR": cache, "OMP_NUM_THREADS": "2", "HF_HUB_OFFLINE": "1"}
        return process.fresh(
            __spec__.name, "--one", name, dtype, mode, timeout=LIMIT, environment=environment, model=name, dtype=dtype,
            right=False,
        )  # fmt: skip


def line(r: dict[str, Any]) -> str:
    """A row as text."""
    head = f"{r['model']:16} {r['dtype']:8}"
    if "failed" in r:
        return f"{head} FAILED {r['failed'][-300:]!r}"
    inside = f"in {r['inside']}/{r['nodes']} engines {r['engines']} graphs {r['graphs']} {r['seconds']:.1f}s"
    if "error" not in r:
        return f"{head} {inside}"
    verdict = "right" if r["right"] else "WRONG"
    return f"{head} {verdict} err {r['error']:.1e} (eager {r['eager_error']:.1e}) {inside} fallbacks {r['fallbacks']}"


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Rows that ran, as a table of Markdown."""
    lines = [
        "| architecture | dtype | operators in engines | engines | graphs | error | eager's |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        if "failed" not in r:
            errors = f"{r['error']:.1e} | {r['eager_error']:.1e}" if "error" in r else "– | –"
            lines.append(
                f"| {r['family']} (`{r['model']}`) | {r['dtype']} | {r['inside']} of {r['nodes']} | {r['engines']} "
                f"| {r['graphs']} | {errors} |"
            )
    return "\n".join(lines)


def outside(rows: Sequence[dict[str, Any]]) -> str:
    """Which operators stay in PyTorch most often, and in how many models."""
    counts: Counter[tuple[str, str]] = Counter()
    models: dict[tuple[str, str], set[str]] = {}
    for r in rows:
        for target, reason in r.get("rejections", ()):
            counts[target, reason] += 1
            models.setdefault((target, reason), set()).add(r["model"])
    return "\n".join(
        f"{count:5} × in {len(models[what]):2} models  {what[0]}: {what[1][:140]}"
        for what, count in counts.most_common()
    )


def main() -> int:
    from tests.benchmarks.architectures import ARCHITECTURES

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--one", nargs=3)
    parser.add_argument("--only", default=",".join(ARCHITECTURES))
    parser.add_argument("--dtypes", default="float16,bfloat16")
    parser.add_argument("--mode", default="bound")
    parser.add_argument("--plan", action="store_true", help="no engines, no GPU: what would be inside")
    parser.add_argument("--jobs", type=int, default=1, help="processes at once")
    parser.add_argument("--minutes", type=float, default=1e6, help="begin nothing after so many")
    parser.add_argument("--out", type=Path, default=RESULTS / "architectures.json", help="goes on where this ends")
    given = parser.parse_args()
    if given.one:
        name, dtype, mode = given.one
        print(json.dumps(planned(name, dtype) if mode == "plan" else one(name, dtype, mode)))
        return 0
    until = time.monotonic() + 60 * given.minutes
    mode = "plan" if given.plan else given.mode
    rows = json.loads(given.out.read_text())["rows"] if given.out.exists() else []
    known = {(r["model"], r["dtype"]) for r in rows if "failed" not in r}
    rows = [r for r in rows if "failed" not in r]
    wanted = [(n, d) for n in given.only.split(",") for d in given.dtypes.split(",") if (n, d) not in known]
    with ThreadPoolExecutor(given.jobs) as pool:
        for r in pool.map(lambda w: fresh(*w, mode, until), wanted):
            if r is not None:
                rows.append(r)
                print(line(r), flush=True)
                where = {} if given.plan else environment()
                given.out.write_text(json.dumps({"environment": where, "rows": rows}, indent=1))
    print(table(rows), outside(rows), sep="\n\n")
    bad = [r for r in rows if not r["right"]]
    share = sum(r.get("inside", 0) for r in rows) / max(sum(r.get("nodes", 0) for r in rows), 1)
    print(f"\n{len(rows)} of {len(wanted) + len(known)} rows, {share:.1%} of operators inside, {len(bad)} not right")
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())
