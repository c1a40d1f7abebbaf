"""The host's time in a call, for a model whose weights did not move: ``python -m tests.benchmarks.bench_calls``.

A chain of linear layers with ``--weights`` parameters is one engine. Everything is in microseconds, the least of many
rounds.

call            of the compiled model, PyTorch's guards and wrappers included
weights         finding the weights of a call (``LiveWeights.current``)
default stream  a call of the engine (``Runner``) on the default stream: TensorRT runs on another, and back
own stream      the same on a stream of the caller's
floor           the least that a call takes: an output allocated, two addresses set, ``execute_async_v3``
execute alone   ``execute_async_v3`` and nothing else
over execute    weights + own stream - execute alone

Without a GPU TensorRT is a stand-in that returns at once, so the numbers are those of the Python alone.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import tempfile
import timeit
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from tests import emulated
from tests.graphs import aligned
from trt_stripped_backend import backend, run
from trt_stripped_backend.live import LiveWeights


def micros(act: Callable[[], object]) -> float:
    """The least of many rounds. On a GPU these are short: a call launches a kernel for each layer, and where the
    queue of some thousand is full, the host waits."""
    gpu = torch.cuda.is_available()
    rounds, calls = (150, 4) if gpu else (15, 200)
    act()
    times = []
    for _ in range(rounds):
        if gpu:
            torch.cuda.synchronize()
        times.append(timeit.timeit(act, number=calls) / calls)
    return 1e6 * min(times)


@contextlib.contextmanager
def _seen() -> Iterator[dict[str, Any]]:
    """The latest live weights with their arguments, and the latest runner with its."""
    seen: dict[str, Any] = {}
    current, call = LiveWeights.current, run.Runner.__call__

    def note_current(self: LiveWeights, args: Any) -> Any:
        seen["live"], seen["args"] = self, tuple(args)
        return current(self, args)

    def note_call(self: run.Runner, weights: Any, inputs: Any) -> Any:
        seen["runner"], seen["weights"], seen["inputs"] = self, weights, tuple(inputs)
        return call(self, weights, inputs)

    with mock.patch.object(LiveWeights, "current", note_current), mock.patch.object(run.Runner, "__call__", note_call):
        yield seen


def measure(weights: int, mode: str, device: str) -> dict[str, float]:
    """One mode with so many parameters."""
    torch._dynamo.reset()
    layers = [nn.Linear(32, 32) for _ in range(weights // 2)]
    model = nn.Sequential(*layers).to(device).eval()
    for p in model.parameters():
        p.data = aligned(p.data) if device == "cpu" else p.data
    x = aligned(torch.randn(4, 32)) if device == "cpu" else torch.randn(4, 32, device=device)
    options = {"refit_mode": mode, "min_block_size": 1}
    stream: Any = torch.cuda.Stream() if device == "cuda" else emulated.Stream(handle=emulated.SIDE)
    with torch.no_grad(), _seen() as seen, torch.cuda.stream(stream):
        fast = torch.compile(model, backend=backend.trt_stripped, options=options, dynamic=False)
        for _ in range(3):
            fast(x)
        whole = micros(lambda: fast(x))
    live, args = seen["live"], seen["args"]
    runner, bundle, inputs = seen["runner"], seen["weights"], seen["inputs"]
    row = {"call": whole, "weights": micros(lambda: live.current(args))}
    with torch.no_grad():
        row["default stream"] = micros(lambda: runner(bundle, inputs))
        with torch.cuda.stream(stream):
            row["own stream"] = micros(lambda: runner(bundle, inputs))
            engine = runner.pool.engine(bundle, 0)
            context = runner._thread.contexts[engine]
            outputs = [torch.empty_like(x)]
            handle = stream.cuda_stream
            pointers = [x.data_ptr(), outputs[0].data_ptr()]

            def floor() -> None:
                output = torch.empty_strided((4, 32), (32, 1), device=device)
                context.trt.set_tensor_address("x0", x.data_ptr())
                context.trt.set_tensor_address("y0", output.data_ptr())
                context.trt.execute_async_v3(handle)

            row["floor"] = micros(floor)
            for name, pointer in zip(("x0", "y0"), pointers, strict=True):
                context.trt.set_tensor_address(name, pointer)
            context.pointers = pointers
            row["execute alone"] = micros(lambda: context.trt.execute_async_v3(handle))
    row["over execute"] = row["own stream"] + row["weights"] - row["execute alone"]
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=int, nargs="+", default=[150, 300])
    parser.add_argument("--modes", nargs="+", default=["bound", "general"])
    parser.add_argument("--json", action="store_true", help="print JSON too")
    given = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as cache, contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.dict("os.environ", TRT_STRIPPED_CACHE_DIR=cache))
        if device == "cpu":
            stack.enter_context(emulated.emulated())
            stack.enter_context(mock.patch.object(emulated.ExecutionContext, "execute_async_v3", lambda *_: True))
            stack.enter_context(mock.patch.object(torch.cuda, "is_available", lambda: False))
        for weights in given.weights:
            for mode in given.modes:
                rows.append({"weights": weights, "mode": mode, "µs": measure(weights, mode, device)})
    table = Table("weights", "mode", *rows[0]["µs"], title=f"microseconds, {device}")
    for row in rows:
        table.add_row(str(row["weights"]), row["mode"], *(f"{value:.1f}" for value in row["µs"].values()))
    Console().print(table)
    if given.json:
        print(json.dumps(rows))


if __name__ == "__main__":
    main()
