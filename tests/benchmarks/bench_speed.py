"""Start-up, each call, each weight update, disk and memory, beside Inductor, eager and TensorRT alone.

    python -m tests.benchmarks.bench_speed [--rows gpt2_1x128,…] [--columns start,steady] [--minutes 8] [--out x.json]

Every figure comes from a process of its own, on caches of its own; times are medians, start-up is a single run unless
``--repeat`` says more. Rows are done one after the other, or ``--jobs`` at once, on the GPUs in turn; what there was no
time for is left out and named. Figures that ``--out`` holds already stay, so that one report can be made in parts, and
``--caches`` keeps what was compiled between them.

start     cold and warm: from ``torch.compile`` to the first result, models and CUDA ready, imports of compilers apart;
          trace: Dynamo and AOTAutograd alone; inductor: the same of Inductor, with caches of its own
aot       a function saved by ``aot_compile`` and loaded by another process: from the file to the first result; lean:
          saved with guards on the arguments alone
kept      a start where PyTorch kept Dynamo's work (``caching_precompile``)
peer      Torch-TensorRT on the same library, its cache cold and then hit: as start, and a call; where it is installed
steady    ms of a call, calls in flight: ours, with CUDA graphs, weights built in, eager, Inductor, reduce-overhead
host      µs of the host for a call beyond ``execute_async_v3`` alone, on the same plan
update    µs of the host in the call after all weights changed in place; ms until it is done (general:
          refitted), and what TensorRT's refitter took of it
memory    GPU MB beyond the weights; peak of compilation against steady use
layers    a plain GPT with 12 and 48 layers, as one engine and with repeated layers built once
"""

from __future__ import annotations

import argparse
import contextlib
import json
import queue
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.benchmarks import process

ROWS = (
    "resnet50_8", "vit_8", "bert_1x128", "bert_16x512", "gpt2_1x128", "gpt2_8x512", "llama_1x128", "unet", "gpt_plain",
)  # fmt: skip

#: Column → its tasks: (key in the result, task). A task that comes twice is cold, then warm.
COLUMNS: dict[str, list[tuple[str, str]]] = {
    "start": [
        ("trace", "trace"), ("cold", "start"), ("warm", "start"), ("inductor_cold", "inductor"),
        ("inductor_warm", "inductor"),
    ],
    "aot": [
        ("aot_save", "aot_save"), ("aot_load", "aot_load"), ("aot_save_lean", "aot_save_lean"),
        ("aot_load_lean", "aot_load"),
    ],
    "kept": [("kept_cold", "precompiled"), ("kept_warm", "precompiled")],
    "peer": [("peer_cold", "peer"), ("peer_warm", "peer")],
    "steady": [("steady", "steady")],
    "host": [("host", "host")],
    "update": [("update", "update")],
    "memory": [("memory", "memory")],
    "layers": [("layers", "layers")],
}  # fmt: skip
#: Columns that are no matter of the row's model.
ONCE = {"layers": "gpt_plain"}


class Budget:
    """Seconds left, and what they did not suffice for."""

    def __init__(self, minutes: float) -> None:
        self.end = time.monotonic() + 60 * minutes
        self.skipped: list[str] = []

    @property
    def left(self) -> float:
        return self.end - time.monotonic()


def fresh(task: str, row: str, environment: dict[str, str], limit: float) -> dict[str, Any]:
    """A task in a fresh process; a failure is a result too."""
    return process.fresh("tests.benchmarks.speed", task, row, timeout=limit, environment=environment)


def middle(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of several runs of a task that of the median first result, with all of them."""
    ordered = sorted(results, key=lambda r: r.get("first_s", 0.0))
    return ordered[len(ordered) // 2] | {"all_first_s": [r.get("first_s") for r in results]}


def measure(
    row: str, columns: Sequence[str], repeat: int, budget: Budget, *, gpu: str | None = None, caches: Path | None = None
) -> dict[str, Any]:
    """The columns of one row, on one GPU."""
    found: dict[str, Any] = {"row": row}
    with contextlib.ExitStack() as stack:
        folder = caches and caches / row
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
        environment = {
            "TRT_STRIPPED_CACHE_DIR": f"{folder}/ours", "TORCHINDUCTOR_CACHE_DIR": f"{folder}/inductor",
            "TRITON_CACHE_DIR": f"{folder}/triton", "PEER_CACHE_DIR": f"{folder}/peer",
        }  # fmt: skip
        if gpu is not None:
            environment["CUDA_VISIBLE_DEVICES"] = gpu
        (folder / "ours").mkdir(mode=0o700, parents=True, exist_ok=True)
        for column in columns:
            if ONCE.get(column, row) != row:
                continue
            for key, task in COLUMNS[column]:
                if budget.left < 5:
                    budget.skipped.append(f"{row}: {key}")
                    continue
                cold = key.endswith("cold") or task.startswith("aot_save") or task == "layers"
                runs = [fresh(task, row, environment, budget.left) for _ in range(1 if cold else repeat)]
                found[key] = next((r for r in runs if "failed" in r), None) or middle(runs)
                if "failed" in found[key]:
                    print(f"  {row}: {key} failed: {found[key]['failed'][-600:]}", flush=True)
    return found


def value(row: dict[str, Any], *path: str) -> Any:
    """A figure, or None where it was not measured."""
    found: Any = row
    for name in path:
        found = found.get(name) if isinstance(found, dict) else None
    return found


def ratio(a: float | None, b: float | None) -> float | None:
    return a / b if a is not None and b else None


def text(number: float | None, digits: int = 2) -> str:
    return "–" if number is None else f"{number:.{digits}f}"


def _scientific(number: float | None) -> str:
    return "–" if number is None else f"{number:.1e}"


Show = Callable[[dict[str, Any]], str]


def _pair(a: Sequence[str], b: Sequence[str], digits: int = 2) -> Show:
    """Ours, and in brackets its ratio to another figure."""
    return lambda r: f"{text(value(r, *a), digits)} ({text(ratio(value(r, *a), value(r, *b)))})"


def _stage(kind: str, more: str, less: str) -> Show:
    """Seconds of one stage of a start without those of others."""

    def show(r: dict[str, Any]) -> str:
        spent = value(r, kind, "of")
        if not isinstance(spent, dict):
            return "–"
        whole = {"first": r[kind]["first_s"], **spent}
        return text(whole[more] - sum(whole[one] for one in less.split()))

    return show


#: Heading and cell of each table; a table is printed if a cell of it has a figure.
TABLES: dict[str, list[tuple[str, Show]]] = {
    "start-up, s (in brackets: against Dynamo + AOT alone; against Inductor)": [
        ("trace", lambda r: text(value(r, "trace", "first_s"))),
        ("cold", _pair(("cold", "first_s"), ("inductor_cold", "first_s"))),
        ("warm / trace", _pair(("warm", "first_s"), ("trace", "first_s"))),
        ("warm / inductor", _pair(("warm", "first_s"), ("inductor_warm", "first_s"))),
        ("aot-loaded", lambda r: text(value(r, "aot_load", "first_s"))),
        ("of it: load", lambda r: text(value(r, "aot_load", "load_s"))),
        ("lean guards", lambda r: text(value(r, "aot_load_lean", "first_s"))),
        ("kept by PyTorch", lambda r: text(value(r, "kept_warm", "first_s"))),
        ("inductor cold", lambda r: text(value(r, "inductor_cold", "first_s"))),
        ("inductor warm", lambda r: text(value(r, "inductor_warm", "first_s"))),
        ("peer cold", lambda r: text(value(r, "peer_cold", "first_s"))),
        ("cold / peer's", lambda r: text(ratio(value(r, "cold", "first_s"), value(r, "peer_cold", "first_s")))),
        ("peer's hit", lambda r: text(value(r, "peer_warm", "first_s"))),
        ("peer's error after it", lambda r: _scientific(value(r, "peer_warm", "error"))),
        ("peer's engines", lambda r: text(value(r, "peer_warm", "cached"), 0)),
        ("imports: ours", lambda r: text(value(r, "warm", "imports_s"))),
        ("inductor", lambda r: text(value(r, "inductor_warm", "imports_s"))),
        ("builds", lambda r: f"{text(value(r, 'cold', 'builds'), 0)} / {text(value(r, 'warm', 'builds'), 0)}"),
        ("error", lambda r: _scientific(value(r, "warm", "error"))),
    ],
    "where a start goes, s": [
        (f"{kind}: {name}", _stage(kind, more, less))
        for kind in ("cold", "warm")
        for name, more, less in (
            ("Dynamo, running", "first", "backend load kernels"), ("AOT, lowering", "backend", "plan"),
            ("build or read", "plan", ""), ("load", "load", ""), ("RTX's kernels", "kernels", ""),
        )
    ],
    "a call, ms (in brackets: against eager)": [
        ("eager", lambda r: text(value(r, "steady", "ms", "eager"), 3)),
        *(
            (name, _pair(("steady", "ms", name), ("steady", "ms", "eager"), 3))
            for name in ("ours", "ours_graphs", "ours_deduped", "baked", "baked_graphs", "inductor", "inductor_graphs")
        ),
        ("peer", lambda r: f"{text(value(r, 'peer_warm', 'ms'), 3)} ("
         f"{text(ratio(value(r, 'peer_warm', 'ms'), value(r, 'peer_warm', 'eager_ms')))})"),
        ("ours / baked", lambda r: text(ratio(value(r, "steady", "ms", "ours"), value(r, "steady", "ms", "baked")))),
        (
            "graphs / reduce-overhead",
            lambda r: text(ratio(value(r, "steady", "ms", "ours_graphs"), value(r, "steady", "ms", "inductor_graphs"))),
        ),
    ],
    "host, µs": [
        ("slots", lambda r: text(value(r, "host", "slots"), 0)),
        *((name, lambda r, name=name: text(value(r, "host", "us", name), 1)) for name in ("weights", "runner")),
        ("execute alone", lambda r: text(value(r, "host", "us", "execute"), 1)),
        ("over execute", lambda r: text(value(r, "host", "over_execute_us"), 1)),
        ("whole call", lambda r: text(value(r, "host", "us", "call"), 1)),
        ("bound: call after a change", lambda r: text(value(r, "update", "bound", "changed_us"), 0)),
        ("after none", lambda r: text(value(r, "update", "bound", "still_us"), 0)),
        ("general: done, ms", lambda r: text(value(r, "update", "general", "done_ms"), 1)),
        ("of it TensorRT's refitter, ms", lambda r: text(value(r, "update", "general", "refitter_ms"), 1)),
        ("refitted MB", lambda r: text(value(r, "update", "general", "refitted_mb"), 0)),
    ],
    "disk and GPU, MB": [
        ("weights", lambda r: text(value(r, "memory", "weights_mb"), 0)),
        ("plan", lambda r: text(value(r, "cold", "plan_mb"), 1)),
        ("plan / weights", lambda r: text(ratio(value(r, "cold", "plan_mb"), value(r, "memory", "weights_mb")), 3)),
        ("kept beside the weights", lambda r: text(value(r, "memory", "kept_mb"), 0)),
        ("peak", lambda r: text(value(r, "memory", "peak_mb"), 0)),
        ("eager's", lambda r: text(value(r, "memory", "eager_peak_mb"), 0)),
        ("peak / steady", lambda r: text(value(r, "memory", "peak_over_steady"))),
    ],
    "12 → 48 layers": [
        (f"{kind}{name}", lambda r, kind=kind, path=path, digits=digits: " → ".join(
            text(value(r, "layers", f"{kind}{count}", path), digits) for count in ("12", "48")))
        for kind in ("", "deduped ")
        for name, path, digits in (
            ("plan MB", "plan_mb", 2), ("build s", "build_seconds", 2), ("partition ms", "partition_ms", 1),
            ("first result s", "first_s", 1), ("engines", "engines", 0), ("ms a call", "ms", 3),
        )
    ],
}  # fmt: skip


def tables(rows: Sequence[dict[str, Any]]) -> str:
    """The results as Markdown."""
    lines: list[str] = []
    for title, columns in TABLES.items():
        cells = [(row["row"], [show(row) for _, show in columns]) for row in rows]
        shown = [(name, line) for name, line in cells if any(c.isdigit() for c in "".join(line))]
        if not shown:
            continue
        lines += [f"\n{title}\n", f"| row | {' | '.join(name for name, _ in columns)} |"]
        lines += [f"|{'---|' * (len(columns) + 1)}", *(f"| {name} | {' | '.join(line)} |" for name, line in shown)]
    return "\n".join(lines)


def plot(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Bars of a call's time against eager's, one group a row."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    names = {
        "eager": "eager", "inductor": "Inductor", "inductor_graphs": "reduce-overhead", "ours": "bound",
        "ours_graphs": "bound, cuda_graphs", "baked": "built in",
    }  # fmt: skip
    measured = [row for row in rows if value(row, "steady", "ms", "eager")]
    figure, axes = pyplot.subplots(figsize=(1.5 + 1.6 * len(measured), 4))
    for index, (name, label) in enumerate(names.items()):
        heights = [ratio(value(r, "steady", "ms", name), value(r, "steady", "ms", "eager")) or 0 for r in measured]
        axes.bar([k + 0.13 * (index - 2.5) for k in range(len(measured))], heights, 0.12, label=label)
    axes.set_xticks(range(len(measured)), [row["row"] for row in measured])
    axes.set_ylabel("time of a call / eager")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=len(names), fontsize=8, frameon=False)
    figure.savefig(path, bbox_inches="tight", dpi=150)


def _chosen(parser: argparse.ArgumentParser, text: str, known: Sequence[str]) -> list[str]:
    names = [name for name in text.split(",") if name]
    if unknown := set(names) - set(known):
        parser.error(f"no such {', '.join(sorted(unknown))}; known: {', '.join(known)}")
    return names


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", "--models", default=",".join(ROWS))
    parser.add_argument("--columns", default=",".join(COLUMNS))
    parser.add_argument("--minutes", type=float, default=60, help="start no task after so many")
    parser.add_argument("--repeat", type=int, default=1, help="runs of each task that is not cold; the median counts")
    parser.add_argument("--jobs", type=int, default=1, help="rows at once; a GPU to each, for the times of calls")
    parser.add_argument("--caches", type=Path, help="a folder to keep what is compiled in; else it is removed")
    parser.add_argument("--out", type=Path, help="JSON, written after each row; what it holds already is kept")
    parser.add_argument("--plot", type=Path, help="a picture of the calls (needs matplotlib)")
    given = parser.parse_args()
    names, columns = _chosen(parser, given.rows, ROWS), _chosen(parser, given.columns, list(COLUMNS))
    from tests import gpus
    from tests.benchmarks.bench_models import environment

    about, budget = environment(), Budget(given.minutes)
    kept = json.loads(given.out.read_text())["rows"] if given.out and given.out.exists() else []
    rows: dict[str, dict[str, Any]] = {row["row"]: row for row in kept}
    free: queue.SimpleQueue[str] = queue.SimpleQueue()
    lock = threading.Lock()
    visible = gpus.names()
    for job in range(given.jobs):
        free.put(visible[job % len(visible)])

    def one(name: str) -> None:
        gpu, began = free.get(), time.monotonic()
        found = measure(name, columns, given.repeat, budget, gpu=gpu, caches=given.caches)
        free.put(gpu)
        print(f"{name}: {time.monotonic() - began:.0f} s", flush=True)
        with lock:
            rows[name] = rows.get(name, {}) | found
            ordered = [rows[n] for n in ROWS if n in rows]
            if given.out:  # kept as far as it got, whatever comes later
                report = {"environment": about, "repeat": given.repeat, "rows": ordered, "skipped": budget.skipped}
                given.out.write_text(json.dumps(report, indent=1))

    with ThreadPoolExecutor(given.jobs) as pool:
        list(pool.map(one, names))
    results = [rows[name] for name in ROWS if name in rows]
    print(tables(results))
    if budget.skipped:
        print(f"\nno time for: {'; '.join(budget.skipped)}")
    over = [value(r, "host", "over_execute_us") for r in results]
    if measured := [o for o in over if o is not None]:
        print(f"\nhost over execute, median of rows: {statistics.median(measured):.1f} µs")
    if given.plot:
        plot(results, given.plot)


if __name__ == "__main__":
    main()
