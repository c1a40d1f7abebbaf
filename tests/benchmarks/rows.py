"""The rows of :mod:`.bench_speed`: their models, and the clock."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

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
