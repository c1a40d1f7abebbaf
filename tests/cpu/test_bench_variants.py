"""Each variant that the benchmark compares makes another network, and none outlives its ``with``."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import nn
from torch.nn import functional

from tests.benchmarks.bench_variants import VARIANTS, summary, variant
from tests.graphs import stage
from trt_stripped_backend import flavour
from trt_stripped_backend.build import build
from trt_stripped_backend.key import canonical, make_key
from trt_stripped_backend.options import Options
from trt_stripped_backend.precision import half_sums_allowed


class Model(nn.Module):
    """Something for every variant."""

    def __init__(self) -> None:
        super().__init__()
        self.line, self.image = nn.Conv1d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.pixels = nn.Conv2d(8, 8, 1)
        self.linear, self.across, self.head = nn.Linear(512, 512), nn.Linear(8, 64), nn.Linear(512, 4)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        pixels = self.pixels(x.unflatten(2, (2, 256)).relu()).relu()
        y = functional.gelu(self.line(x))
        y = functional.silu(self.image(y.unflatten(2, (2, 256)))).flatten(2)
        y = self.linear(y)
        attended = functional.scaled_dot_product_attention(y, y, y)
        return pixels, attended, self.across(y.transpose(1, 2)), self.head(y.mean(1))


def layers() -> int:
    """Of the network for :class:`Model` in float16."""
    with torch.no_grad():
        staged = stage(Model().half().eval().requires_grad_(False), torch.randn(8, 8, 512).half())
    (piece,) = staged.cut.partitions
    entry = build(
        piece, canonical(piece)[1], make_key({}), flavour=flavour.load(), mode="bound", options=Options.of({}),
        tf32=True, half_sums=half_sums_allowed(),
    )  # fmt: skip
    count: int = entry.header["layers"]
    return count


@functools.cache
def layers_now() -> int:
    """Without a variant; each test counts again after its own, so one that stays on is found where it was."""
    return layers()


@pytest.mark.parametrize("names", [*(n for n in VARIANTS if n not in ("now", "last", "contiguous")), "conv16+gelu32"])
def test_a_variant_makes_another_network_and_ends(names: str) -> None:
    before = layers_now()
    with variant(names):
        assert layers() != before
    assert layers() == before


def test_contiguous_kernels() -> None:
    """They make the same layers, of other engine inputs."""

    def kinds() -> list[bool]:
        with torch.no_grad():
            staged = stage(nn.Sequential(nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8)).eval(), torch.randn(1, 8, 5, 5))
        (piece,) = staged.cut.partitions
        return [slot.kernel or slot.relaid for _, slot in canonical(piece)[1].slots]

    with variant("contiguous"):
        assert not any(kinds())
    assert any(kinds())


def test_summary() -> None:
    rows = [
        {"model": "m", "dtype": "d", "mode": "bound", "variant": name, "graphs_ms": ms, "right": name == "now"}
        for name, ms in (("now", 2.0), ("other", 3.0))
    ]
    rows.append({"model": "n", "dtype": "d", "mode": "bound", "variant": "other", "right": False, "failed": "so"})
    assert summary(rows).splitlines() == [
        "now              1.00 times as long as now (median of 1), 0 of 1 not right",
        "other            1.50 times as long as now (median of 1), 2 of 2 not right",
    ]
