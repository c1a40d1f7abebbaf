"""What :mod:`.bench_speed` measures, each task in a process of its own: start-up must find nothing warm.

``python -m tests.benchmarks.speed TASK ROW`` prints one line of JSON. Caches are where the environment says.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch

from tests.benchmarks.memory import Memory
from tests.benchmarks.rows import Gpt, Run, counts, milliseconds, ours, prepared, relative, timed
from tests.benchmarks.starts import aot_load, aot_save, aot_save_lean, inductor, peer, precompiled, start, trace


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
    """After all weights changed in place: host time and whole time of the next call, beside a call after no change; and
    what TensorRT's refitter took of it."""
    import trt_stripped_backend as ts

    model, x = prepared(row)
    found: dict[str, Any] = {}
    for mode in ("bound", "general"):
        torch.compiler.reset()
        with _noted() as seen:
            fast = ours(model, refit_mode=mode)
            for _ in range(3):
                fast(x)
        clock = _Clock(seen["runner"].pool.engine(seen["weights"], seen["runner"].index)) if mode == "general" else None
        host: dict[bool, list[float]] = {False: [], True: []}
        done: dict[bool, list[float]] = {False: [], True: []}
        before = ts.stats()["refitted_bytes"]
        for _ in range(7):
            for change in (False, True):
                if change:
                    for p in model.parameters():
                        p.neg_()
                torch.cuda.synchronize()
                start = time.perf_counter()
                have = fast(x)
                host[change].append(time.perf_counter() - start)
                torch.cuda.synchronize()
                done[change].append(time.perf_counter() - start)
        refitted = (ts.stats()["refitted_bytes"] - before) / 7e6
        assert relative(have, model(x)) < 0.05
        median = statistics.median
        found[mode] = {
            "still_us": 1e6 * median(host[False]), "changed_us": 1e6 * median(host[True]),
            "still_done_ms": 1e3 * median(done[False]), "done_ms": 1e3 * median(done[True]), "refitted_mb": refitted,
        }  # fmt: skip
        if clock is not None:
            assert len(clock.seconds) == 7
            found[mode]["refitter_ms"] = 1e3 * median(clock.seconds)
    return found


class _Clock:
    """Stands for an engine's refitter, and notes how long each refit takes it, GPU and all."""

    def __init__(self, engine: Any) -> None:
        self.refitter, self.seconds = engine._refitter, list[float]()
        engine._refitter = self

    def __getattr__(self, name: str) -> Any:
        return getattr(self.refitter, name)

    def refit_cuda_engine_async(self, stream: int) -> Any:
        took, done = timed(lambda: self.refitter.refit_cuda_engine_async(stream))
        self.seconds.append(took)
        return done


def memory(row: str) -> dict[str, Any]:
    """GPU memory of the first call of all, beyond the weights and what a run takes in PyTorch."""
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
    for task in (
        trace, start, memory, inductor, peer, precompiled, aot_save, aot_save_lean, aot_load, steady, host, update,
        layers,
    )
}  # fmt: skip


def main() -> None:
    task, row = sys.argv[1:]
    torch.backends.cudnn.allow_tf32 = False
    with torch.no_grad():
        print(json.dumps(TASKS[task](row)))


if __name__ == "__main__":
    main()
