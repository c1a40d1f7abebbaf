"""Models whose engines are built ahead on a machine without a GPU, and their run on one.

    python -m tests.gpu.prebuilt float32        runs those of a dtype on the GPU; one line of JSON for each

``tests/tools/prebuilt.py`` builds them. A run is a process of its own, because the first engine of a process decides on
TF32 for all.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.export import Dim
from torch.nn import functional as F

import trt_stripped_backend as ts
from tests.gpu.common import Block, ConvNet, error, perturbed

OPTIONS = {"min_block_size": 1, "refit_mode": "bound"}
#: Relative error that is due to rounding, by dtype.
BOUND = {"float32": 1e-5, "float16": 2e-2, "bfloat16": 1e-1}


class Attention(nn.Module):
    def __init__(self, width: int = 64, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.qkv, self.out = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(self.norm(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        y = y + F.scaled_dot_product_attention(q.contiguous(), k, v)
        return x + self.out(y.transpose(1, 2).flatten(2))


class Parts(nn.Module):
    """Two engines around an operator that stays in PyTorch."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = Block(), Block()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.two(self.one(x).cumsum(1) * 0.1)


@dataclass(frozen=True)
class Case:
    """A model, the sizes of the calls of a run, and how the engines of all calls are prebuilt.

    Attributes:
        make: the model.
        calls: shapes of the argument, one for each call.
        variants: ``(shape, dynamic_shapes)`` for each.
        last: the model is channels_last.
    """

    make: Callable[[], nn.Module]
    calls: list[tuple[int, ...]]
    variants: list[tuple[tuple[int, ...], Any]]
    last: bool = False

    def model(self) -> nn.Module:
        return self.make().to(memory_format=torch.channels_last) if self.last else self.make()

    def argument(self, shape: tuple[int, ...], dtype: torch.dtype, device: str) -> torch.Tensor:
        x = torch.randn(shape, dtype=dtype, device=device)
        return x.to(memory_format=torch.channels_last) if self.last else x


BATCH = ({0: Dim.DYNAMIC},)
CASES: dict[str, Case] = {
    "block": Case(Block, [(4, 8, 64)], [((4, 8, 64), None)]),
    "attention": Case(Attention, [(2, 16, 64)], [((2, 16, 64), None)]),
    "parts": Case(Parts, [(4, 8, 64)], [((4, 8, 64), None)]),
    "convolution": Case(ConvNet, [(2, 3, 16, 16)], [((2, 3, 16, 16), None)]),
    "channels_last": Case(ConvNet, [(2, 3, 16, 16)], [((2, 3, 16, 16), None)], last=True),
    # PyTorch makes a size dynamic at the second one that it sees, and the range was prebuilt with a third.
    "sequences": Case(Attention, [(2, 8, 64), (2, 12, 64), (2, 40, 64)], [
        ((2, 8, 64), None), ((2, 300, 64), ({1: Dim.DYNAMIC},)),
    ]),
    "batches": Case(ConvNet, [(2, 3, 16, 16), (5, 3, 16, 16), (9, 3, 16, 16)], [
        ((2, 3, 16, 16), None), ((4, 3, 16, 16), BATCH),
    ]),
}  # fmt: skip


def run(case: Case, dtype: torch.dtype) -> dict[str, Any]:
    """One case on the GPU: its worst error, and what became of the engines."""
    torch.compiler.reset()
    ts.clear_stats()
    model = perturbed(case.model())
    exact = perturbed(case.model()).double()
    model = model.to(dtype)
    fast = torch.compile(model, backend="trt_stripped", options=OPTIONS)
    worst = 0.0
    with torch.no_grad():
        for shape in case.calls:
            x = case.argument(shape, dtype, "cuda")
            worst = max(worst, error(fast(x), exact(x.double())))
            model.load_state_dict({k: v * 1.05 if v.is_floating_point() else v for k, v in model.state_dict().items()})
            exact.load_state_dict(model.state_dict())
            worst = max(worst, error(fast(x), exact(x.double())))
    counts = ts.stats()
    misses = [[p.name, *p.differs] for report in ts.reports() for p in report.partitions if p.status == "built"]
    names = ("builds", "hits", "shared", "fallbacks", "engines")
    return {"error": worst, "misses": misses, **{name: counts[name] for name in names}}


def main(dtype: str) -> None:
    torch.backends.cudnn.allow_tf32 = False
    for name, case in CASES.items():
        print(json.dumps({"case": name, **run(case, getattr(torch, dtype))}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
