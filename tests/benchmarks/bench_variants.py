"""Ways to write an operator beside each other, on whole models: error, time and build, so that the choice is measured.

    python -m tests.benchmarks.bench_variants [--models vit_base,whisper_encoder] [--variants now,conv16] [--jobs 2]

Each figure comes from a fresh process without a cache. Error: relative L2 against float32, eager's own beside it. ms:
of a call, and of one that replays CUDA graphs, where the host does not count.

now        as the converters are
half_sums  matrix products as TensorRT sums them: ``torch.backends.cuda.matmul.allow_fp16_accumulation``
short16    float16 products of at most 256 terms summed in float16
layers     small products as layers, not written out
bias32     the bias of a linear layer added in float32, before the one rounding
conv16     convolutions as TensorRT sums them
line16     only those over one dimension
conv32     all without groups summed in float32, whatever follows
gelu32     GELU in float32
gelu_erf   GELU from the error function, in float32
soft32     the softmax of attention in float32
pixels     convolutions of one pixel as layers, also where their operands are cast
contiguous kernels of convolutions where and as the model has them
last       weights of convolutions in channels_last memory
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import nn

from tests.benchmarks import process
from tests.benchmarks.bench_models import BOUNDS, environment
from trt_stripped_backend import key, weights
from trt_stripped_backend.flavour import trt
from trt_stripped_backend.ops import conv, matmul
from trt_stripped_backend.ops.library import lookup
from trt_stripped_backend.ops.net import Dim, ITensor, Net
from trt_stripped_backend.ops.products import EXACT_TERMS
from trt_stripped_backend.ops.registry import registry

Convert = Callable[..., Any]

aten = torch.ops.aten
MODELS = (
    "vit_base", "bert_base", "gpt2", "llama_gqa", "whisper_encoder", "resnet50", "convnext_tiny", "efficientnet_b0",
    "swin_tiny", "unet", "vgg11", "maxvit", "hf_vit", "hubert", "inception_v3",
)  # fmt: skip


@contextlib.contextmanager
def _converter(target: torch._ops.OpOverload, change: Callable[[Convert], Convert]) -> Iterator[None]:
    """While open, an operator is converted by what ``change`` makes of its converter."""
    found = lookup(target)
    assert found is not None
    with mock.patch.dict(registry, {target: dataclasses.replace(found, convert=change(found.convert))}):
        yield


def _gelu32() -> contextlib.AbstractContextManager[None]:
    def change(convert: Convert) -> Convert:
        def changed(net: Net, self: ITensor, approximate: str = "none") -> ITensor:
            kind = trt.ActivationType.GELU_TANH if approximate == "tanh" else trt.ActivationType.GELU_ERF
            return net.cast(net.activation(kind, net.wide(self)), net.out.dtype)

        return changed

    return _converter(aten.gelu.default, change)


def _gelu_erf() -> contextlib.AbstractContextManager[None]:
    def change(convert: Convert) -> Convert:
        def changed(net: Net, self: ITensor, approximate: str = "none") -> ITensor:
            if approximate == "tanh":
                return convert(net, self, approximate)
            x = net.wide(self)
            cdf = net.add(net.unary(trt.UnaryOperation.ERF, net.mul(x, math.sqrt(0.5))), 1)
            return net.cast(net.mul(net.mul(x, 0.5), cdf), net.out.dtype)

        return changed

    return _converter(aten.gelu.default, change)


def _bias32() -> contextlib.AbstractContextManager[None]:
    def change(convert: Convert) -> Convert:
        def changed(net: Net, input: ITensor, weight: ITensor, bias: ITensor | None = None) -> ITensor:
            if bias is None:
                return convert(net, input, weight)
            y = matmul._product(net, input, weight, transpose_b=len(weight.shape) == 2)
            return net.cast(net.add(net.wide(y), net.wide(bias)), net.out.dtype)

        return changed

    return _converter(aten.linear.default, change)


def _line16() -> contextlib.AbstractContextManager[Any]:
    before = conv._sums_in_half

    def changed(net: Net, input: ITensor, groups: int, spatial: int) -> bool:
        return spatial > 1 and before(net, input, groups, spatial)

    return mock.patch.object(conv, "_sums_in_half", changed)


def _soft32() -> contextlib.AbstractContextManager[Any]:
    softmax = Net.softmax

    def wide(net: Net, x: ITensor, dim: int) -> ITensor:
        return net.cast(softmax(net, net.wide(x), dim), net.dtype(x))

    return mock.patch.object(Net, "softmax", wide)


def _short16() -> contextlib.AbstractContextManager[Any]:
    product = Net.product

    def short(net: Net, a: ITensor, b: ITensor, *, transpose_b: bool = False, rounded: bool = True) -> ITensor:
        terms = net.shape(a)[-1]
        few = net.few_products(a, b, transpose_b=transpose_b)
        if net.dtype(a) != torch.float16 or few or isinstance(terms, Dim) or terms > EXACT_TERMS:
            return product(net, a, b, transpose_b=transpose_b, rounded=rounded)
        y = net.matmul(a, b, transpose_b=transpose_b)
        return y if rounded else net.wide(y)

    return mock.patch.object(Net, "product", short)


@contextlib.contextmanager
def _contiguous() -> Iterator[None]:
    with (
        mock.patch.object(weights, "to_be_laid_out", lambda _: False),
        mock.patch.object(key, "is_laid_out", lambda *_: False),
    ):
        yield


@contextlib.contextmanager
def _half_sums() -> Iterator[None]:
    before = torch.backends.cuda.matmul.allow_fp16_accumulation
    torch.backends.cuda.matmul.allow_fp16_accumulation = True
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_fp16_accumulation = before


#: Name → what makes the converters so.
VARIANTS: dict[str, Callable[[], contextlib.AbstractContextManager[Any]]] = {
    "now": contextlib.nullcontext,
    "half_sums": _half_sums,
    "short16": _short16,
    "layers": lambda: mock.patch.object(Net, "few_products", lambda *_, **__: False),
    "bias32": _bias32,
    "conv16": lambda: mock.patch.object(conv, "_sums_in_half", lambda *_, **__: False),
    "line16": _line16,
    "conv32": lambda: mock.patch.object(
        conv, "_sums_in_half", lambda net, x, groups, spatial: groups == 1 and net.dtype(x) == torch.float16
    ),
    "pixels": lambda: mock.patch.object(conv, "is_product", lambda *_, **__: False),
    "gelu32": _gelu32,
    "gelu_erf": _gelu_erf,
    "soft32": _soft32,
    "contiguous": _contiguous,
    "last": contextlib.nullcontext,
}


@contextlib.contextmanager
def variant(names: str) -> Iterator[None]:
    """Several at once are joined by ``+``."""
    with contextlib.ExitStack() as stack:
        for name in names.split("+"):
            stack.enter_context(VARIANTS[name]())
        yield


class _First(nn.Module):
    """The first output of an architecture that has one input."""

    def __init__(self, model: nn.Module, name: str) -> None:
        super().__init__()
        self.model, self.name = model, name

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.model(**{self.name: x}) if self.name else self.model(x)
        first: torch.Tensor = out[0]
        return first


def _made(name: str) -> tuple[nn.Module, torch.Tensor]:
    """A row of the models or of the architectures, and its input."""
    from tests.benchmarks import architectures, models

    if name in models.MODELS:
        return models.make(name)
    model, args, named = architectures.make(name)
    (given,) = [*(("", x) for x in args), *named.items()]
    return _First(model, given[0]), given[1]


def one(name: str, dtype: str, names: str, mode: str) -> dict[str, Any]:
    """A model in this process."""
    import trt_stripped_backend as ts
    from tests.benchmarks.rows import milliseconds, relative

    torch.backends.cudnn.allow_tf32 = False
    kind = getattr(torch, dtype)
    with torch.no_grad():
        model, x = _made(name)
        want = model(x)
        model, x = model.to(kind), x.to(kind) if x.is_floating_point() else x
        eager, eager_ms = relative(model(x), want), milliseconds(model, x)
        if "last" in names.split("+"):
            model = model.to(memory_format=torch.channels_last)
        ms, errors = [], []
        with variant(names):
            for graphs in (False, True):
                torch.compiler.reset()
                options = {"refit_mode": mode, "cache": False, "cuda_graphs": graphs}
                fast = torch.compile(model, backend="trt_stripped", options=options, dynamic=False)
                start = time.perf_counter()
                errors.append(relative(fast(x), want))
                torch.cuda.synchronize()
                first = time.perf_counter() - start
                ms.append(milliseconds(fast, x))
                errors.append(relative(fast(x), want))
    counts = ts.stats()
    return {
        "model": name, "dtype": dtype, "variant": names, "mode": mode, "error": max(errors), "eager_error": eager,
        "right": max(errors) <= max(2 * eager, BOUNDS[dtype]), "ms": ms[0], "graphs_ms": ms[1], "eager_ms": eager_ms,
        "first_s": first, "build_s": counts["build_seconds"] / 2, "fallbacks": counts["fallbacks"],
    }  # fmt: skip


def fresh(name: str, dtype: str, names: str, mode: str, timeout: float) -> dict[str, Any]:
    """:func:`one` in a fresh process; a failure is a row too."""
    return process.fresh(
        __spec__.name, "--one", name, dtype, names, mode, timeout=timeout, model=name, dtype=dtype, variant=names,
        mode=mode, right=False,
    )  # fmt: skip


def line(r: dict[str, Any]) -> str:
    """A row as text."""
    head = f"{r['model']:16} {r['dtype']:8} {r['mode']:8} {r['variant']:16}"
    if "failed" in r:
        return f"{head} FAILED {' '.join(r['failed'].split())[-200:]}"
    return (
        f"{head} {'right' if r['right'] else 'WRONG'} err {r['error']:.1e} (eager {r['eager_error']:.1e}) "
        f"{r['ms']:.3f} ms, graphs {r['graphs_ms']:.3f} (eager {r['eager_ms']:.3f}) build {r['build_s']:.1f} s"
    )


def summary(rows: Sequence[dict[str, Any]]) -> str:
    """Of each variant the median time against ``now`` on the same model, and how many rows are wrong."""
    now = {(r["model"], r["dtype"], r["mode"]): r for r in rows if r["variant"] == "now" and "failed" not in r}
    lines = []
    for name in dict.fromkeys(r["variant"] for r in rows):
        mine = [r for r in rows if r["variant"] == name]
        pairs = [(r, now.get((r["model"], r["dtype"], r["mode"]))) for r in mine if "failed" not in r]
        ratios = [r["graphs_ms"] / base["graphs_ms"] for r, base in pairs if base is not None]
        wrong = sum(not r["right"] for r in mine)
        times = f"{statistics.median(ratios):.2f} times as long as now" if ratios else "not compared"
        lines.append(f"{name:16} {times} (median of {len(ratios)}), {wrong} of {len(mine)} not right")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--models", default=",".join(MODELS), help="of bench_models or of bench_architectures")
    parser.add_argument("--dtypes", default="float16,bfloat16")
    parser.add_argument("--variants", default=",".join(VARIANTS), help="several at once: conv16+gelu32")
    parser.add_argument("--mode", default="bound")
    parser.add_argument("--jobs", type=int, default=1, help="processes at once; times are clean with 1 only")
    parser.add_argument("--minutes", type=float, default=600, help="begin nothing after so many")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(one(*given.one)))
        return
    unknown = {name for names in given.variants.split(",") for name in names.split("+")} - VARIANTS.keys()
    if unknown:
        parser.error(f"no such variant: {', '.join(sorted(unknown))}; known: {', '.join(VARIANTS)}")
    wanted = [
        (model, dtype, names)
        for model in given.models.split(",")
        for dtype in given.dtypes.split(",")
        for names in given.variants.split(",")
    ]
    until, rows, about = time.monotonic() + 60 * given.minutes, [], environment()

    def timely(work: tuple[str, str, str]) -> dict[str, Any] | None:
        left = until - time.monotonic()
        return fresh(*work, given.mode, left) if left > 0 else None

    with ThreadPoolExecutor(given.jobs) as pool:
        for row in pool.map(timely, wanted):
            if row is None:
                continue
            rows.append(row)
            print(line(row), flush=True)
            if given.out:
                given.out.write_text(json.dumps({"environment": about, "jobs": given.jobs, "rows": rows}, indent=1))
    print(summary(rows))
    if len(rows) < len(wanted):
        print(f"no time for {len(wanted) - len(rows)} of {len(wanted)}")


if __name__ == "__main__":
    main()
