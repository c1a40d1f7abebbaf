"""Dynamic shapes on a GPU: one engine for many sizes, right for each of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import trt_stripped_backend as ts
from tests.gpu.common import Block, compiled, error, perturbed
from trt_stripped_backend import lowering

MODES = ["bound", "general"]


class Decoder(nn.Module):
    """Two causal layers over tokens, with learned positions."""

    def __init__(self, width: int = 64, heads: int = 4, length: int = 2048) -> None:
        super().__init__()
        self.heads = heads
        self.tokens, self.places = nn.Embedding(100, width), nn.Embedding(length, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.qkv = nn.ModuleList(nn.Linear(width, 3 * width) for _ in range(2))
        self.out = nn.ModuleList(nn.Linear(width, width) for _ in range(2))
        self.mlp = nn.ModuleList(Block(width) for _ in range(2))
        self.head = nn.Linear(width, 100, bias=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        batch, length = ids.shape
        x = self.tokens(ids) + self.places(torch.arange(length, device=ids.device))
        for norm, qkv, out, mlp in zip(self.norms, self.qkv, self.out, self.mlp, strict=True):
            q, k, v = qkv(norm(x)).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
            attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = mlp(x + out(attended.transpose(1, 2).reshape(batch, length, -1)))
        return self.head(x)


class Places(nn.Module):
    """Convolutions over images of any size."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.conv2, self.norm = nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.GroupNorm(4, 32)
        self.head = nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.bn(self.conv1(x)))
        x = F.silu(self.norm(self.conv2(x)))
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


class Pyramid(nn.Module):
    """Images of any size: halved, enlarged, rolled, and the best channels of each place."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(16, 6, 1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        x = F.relu(self.first(x))
        small = F.max_pool2d(x, 2)
        large = F.interpolate(small, scale_factor=2.0, mode="nearest")
        smooth = F.interpolate(F.avg_pool2d(small, 3, 1, 1), scale_factor=2, mode="bilinear")
        cubic = F.interpolate(small, scale_factor=2, mode="bicubic", align_corners=True)
        y = self.second(torch.cat([large, smooth.roll(1, 1)], 1))
        return y.topk(2, 1).values, y.mean(1), cubic, y.max()


def sizes(x: torch.Tensor, y: torch.Tensor) -> tuple[Any, ...]:
    """Sizes that come from tensors, from each other, and from no tensor that the engine computes with."""
    batch, length, _ = x.shape
    z = (x * 2).view(batch, length, 2, -1).transpose(1, 2)
    places = torch.arange(length, device=x.device) + y.shape[0]
    return (
        z.reshape(batch * 2, -1)[:, :-1], places, z.sum() / length, torch.cat([x, x], 1).view(-1),
        torch.ones(batch + length, device=x.device), x[:, -1], x.new_zeros(length // 2, 3), length, x.flip(1),
        x.amax(1), x.repeat(1, 2, 1), torch.tril(x @ x.transpose(1, 2)),
    )  # fmt: skip


@pytest.mark.parametrize("mode", MODES)
@torch.no_grad()
def test_a_growing_sequence_takes_two_engines(mode: str) -> None:
    model = perturbed(Decoder())
    fast = compiled(model, mode)
    for length in (1, 2, 3, 5, 8, 100, 511, 512, 513, 1000, 2047, 2048, 7):
        ids = torch.randint(0, 100, (1, length), device="cuda")
        assert error(fast(ids), model(ids)) < 2e-5, length
    counts = ts.stats()
    assert counts["fallbacks"] == 0
    assert counts["builds"] == 2  # one for the first length alone, one for all others


@pytest.mark.parametrize("mode", MODES)
@torch.no_grad()
def test_sizes_in_and_out(mode: str) -> None:
    fast = torch.compile(
        sizes, backend="trt_stripped", options={"refit_mode": mode, "min_block_size": 1}, dynamic=True
    )
    for batch, length, rows in ((3, 5, 6), (2, 9, 4), (7, 4, 40), (3, 5, 6)):
        x, y = torch.randn(batch, length, 8, device="cuda"), torch.randn(rows, device="cuda")
        for index, (have, want) in enumerate(zip(fast(x, y), sizes(x, y), strict=True)):
            torch.testing.assert_close(have, want, rtol=1e-5, atol=1e-5, msg=lambda m, i=index: f"output {i}: {m}")
    assert ts.stats()["fallbacks"] == 0
    assert ts.stats()["builds"] >= 1


@pytest.mark.parametrize("mode", MODES)
@torch.no_grad()
def test_live_weights_with_images_of_any_size(mode: str) -> None:
    model = perturbed(Places())
    fast = torch.compile(
        model, backend="trt_stripped", options={"refit_mode": mode, "min_block_size": 1}, dynamic=True
    )
    for shape in ((4, 3, 16, 16), (2, 3, 32, 20), (9, 3, 64, 64)):
        x = torch.randn(shape, device="cuda")
        assert error(fast(x), model(x)) < 1e-5, shape
        for p in model.parameters():
            p.mul_(1.05)
        assert error(fast(x), model(x)) < 1e-5, shape
    assert ts.stats()["fallbacks"] == 0


@torch.no_grad()
def test_a_size_beyond_the_range_leads_to_one_more_engine() -> None:
    model = perturbed(Block())
    fast = torch.compile(
        model, backend="trt_stripped", options={"dynamic_range": (2, 8), "min_block_size": 1}, dynamic=True
    )
    for rows in (4, 8, 9, 300, 4):
        x = torch.randn(rows, 6, 64, device="cuda")
        assert error(fast(x), model(x)) < 1e-5, rows
    assert ts.stats()["builds"] == 2
    assert ts.stats()["fallbacks"] == 0


@torch.no_grad()
def test_marked_bounds_and_a_second_start() -> None:
    model = perturbed(Block())
    for start in range(2):
        torch.compiler.reset()
        fast = compiled(model, "bound")
        x = torch.randn(5 + start, 64, device="cuda")
        torch._dynamo.mark_dynamic(x, 0, min=2, max=16)
        assert error(fast(x), model(x)) < 1e-5
        x = torch.randn(16, 64, device="cuda")
        assert error(fast(x), model(x)) < 1e-5
    (entry,) = ts.open_cache().entries()
    assert entry.header["ranges"] == [[2, 8, 16]]
    assert ts.stats()["builds"] == 1


@pytest.mark.parametrize("mode", MODES)
@torch.no_grad()
def test_images_resized_and_pooled_at_any_size(mode: str) -> None:
    model = perturbed(Pyramid())
    fast = torch.compile(model, backend="trt_stripped", options={"min_block_size": 1, "refit_mode": mode}, dynamic=True)
    for shape in ((2, 3, 8, 12), (1, 3, 16, 6), (3, 3, 10, 10), (2, 3, 64, 48)):
        x = torch.randn(shape, device="cuda")
        for have, want in zip(fast(x), model(x), strict=True):
            torch.testing.assert_close(have, want, rtol=2e-4, atol=2e-4)
    assert ts.stats()["fallbacks"] == 0
    assert not [r for report in ts.reports() for r in report.rejections]


@torch.no_grad()
def test_writes_and_sorts_of_any_batch() -> None:
    def fn(x: torch.Tensor, places: torch.Tensor) -> tuple[torch.Tensor, ...]:
        y = x * 2
        y[:, 1] = 1.5
        y[..., ::2] = x[..., ::2] + 1
        z = torch.zeros_like(x).scatter(1, places, x[:, :2])
        w = x.clone()
        w[:, :, torch.tensor([0, 3], device=x.device)] = 0.25
        return y, z, w, x.sort(-1).values, x.median(1).values, x.diagonal(0, 1, 2), x.unfold(2, 2, 1)

    fast = torch.compile(fn, backend="trt_stripped", options={"min_block_size": 1})
    for batch in (3, 4, 9, 2):
        x = torch.randn(batch, 5, 6, device="cuda")
        places = torch.rand(batch, 5, 6, device="cuda").argsort(1)[:, :2]
        for one in (x, places):
            torch._dynamo.mark_dynamic(one, 0, min=2, max=16)
        torch.testing.assert_close(fast(x, places), fn(x, places), rtol=0, atol=0)
    assert ts.stats()["builds"] == 1
    assert not [r for report in ts.reports() for r in report.rejections]


@torch.no_grad()
def test_reductions_of_short_rows_of_any_length() -> None:
    def fn(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (x * x.sum(-1, keepdim=True)).mean(-1), (x / x.abs().sum(-1, keepdim=True)).amax(-1)

    fast = torch.compile(fn, backend="trt_stripped", options={"min_block_size": 1})
    for length in (4, 5, 6, 7, 8, 3):
        x = torch.randn(2, 3, length, device="cuda")
        torch._dynamo.mark_dynamic(x, 2, min=2, max=9)
        for have, want in zip(fast(x), fn(x.double()), strict=True):
            torch.testing.assert_close(have.double(), want, rtol=1e-5, atol=1e-5)
    assert ts.stats()["builds"] == 1


#: Of shape [2, s, 64].
SMALL: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "amax": lambda x: x.amax(1, keepdim=True),
    "less_amax": lambda x: x - x.amax(1, keepdim=True),
    "amin": lambda x: x.exp().amin(1, keepdim=True) * 2,
    "pooled": lambda x: x.amax(1).square(),
    "argmax": lambda x: x.argmax(1),
    "spread": lambda x: x.amax(1) - x.amin(1),
    "logsumexp": lambda x: x.logsumexp(1, keepdim=True),
    "var": lambda x: x / x.var(1, keepdim=True),
    "softmax": lambda x: x.softmax(1),
    "log_softmax": lambda x: x.log_softmax(1),
    "layer_norm": lambda x: F.layer_norm(x.mT, x.shape[1:2]),
    "group_norm": lambda x: F.group_norm(x.mT, 32),
    "instance_norm": lambda x: F.instance_norm(x.mT),
    "attention": lambda x: F.gelu((x @ x.mT * 0.1).softmax(-1) @ x),
    "one_matrix": lambda x: (x[:1] @ x[:1].mT * 0.1).softmax(-1) @ x[:1],
    "columns": lambda x: x * x.amax(1).unsqueeze(1),
    "all": lambda x: x / x.abs().amax((1, 2), keepdim=True),
    "infinite_norm": lambda x: x / torch.linalg.vector_norm(x, float("inf"), 1, keepdim=True),
    "max": lambda x: x.max(1, keepdim=True).values,
    "any": lambda x: x.where((x > 2).any(1, keepdim=True), 0.5),
    "rows_and_back": lambda x: x.mT.flatten(0, 1).softmax(-1).view(-1, 64, x.shape[1]),
    "means_and_back": lambda x: (lambda y: y - y.mean(-1, True))(x.mT.flatten(0, 1)).view(-1, 64, x.shape[1]),
    "layer_norm_of_two": lambda x: F.layer_norm(x, x.shape[1:]),
    "batch_norm": lambda x: F.batch_norm(x.mT, None, None, training=True),
    "scores": lambda x: (x @ x.exp().mT * 0.1).softmax(-1),
    "one_head": lambda x: F.scaled_dot_product_attention(*(x[None, :1] * scale for scale in (1, 2, 3))),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("fn", SMALL.values(), ids=SMALL.keys())
@torch.no_grad()
def test_small_sizes(fn: Callable[[torch.Tensor], torch.Tensor], dtype: torch.dtype) -> None:
    options = {"min_block_size": 1, "require_full": True}
    for top in (20, 4096):
        torch._dynamo.reset()
        fast = torch.compile(fn, backend="trt_stripped", options=options)
        for length in (5, 8, 3, 20):
            x = torch.randn(2, length, 64, device="cuda").to(dtype)
            torch._dynamo.mark_dynamic(x, 1, min=2, max=top)
            tol = 2e-5 if dtype == torch.float32 else 1e-2
            torch.testing.assert_close(fast(x).double(), fn(x.double()).double(), rtol=tol, atol=tol)
    assert ts.stats()["builds"] == 2


@torch.no_grad()
def test_engines_on_both_sides_of_pytorch() -> None:
    first, second = perturbed(Block()), perturbed(Block(), seed=1)

    def model(x: torch.Tensor) -> torch.Tensor:
        return second(torch.cumsum(first(x), 1).reshape(-1, x.shape[1], 64))

    fast = torch.compile(model, backend="trt_stripped", options={"min_block_size": 1}, dynamic=True)
    for shape in ((2, 5, 64), (3, 9, 64)):
        x = torch.randn(shape, device="cuda")
        assert error(fast(x), model(x)) < 1e-5
    assert ts.stats()["builds"] == 2
    assert ts.stats()["fallbacks"] == 0


@pytest.mark.parametrize("mode", MODES)
@torch.no_grad()
def test_the_second_start_with_other_sizes_traces_nothing(mode: str) -> None:
    options = {"dynamic_range": (2, 64)}
    compiled(perturbed(Decoder()), mode, **options)(_marked(2, 5))
    builds = ts.stats()["builds"]
    torch.compiler.reset()
    model, stale = perturbed(Decoder(), 1), perturbed(Decoder())
    fast = compiled(model, mode, **options)
    with mock.patch.object(lowering, "trace", side_effect=AssertionError("traced again")):
        for shape in ((4, 9), (3, 64), (2, 5)):
            ids = _marked(*shape)
            want = model(ids)
            assert error(fast(ids), want) < 2e-5, shape
            assert error(stale(ids), want) > 1e-2
        model.mlp[0].up.weight.mul_(1.5)
        assert error(fast(ids), model(ids)) < 2e-5
    assert (ts.stats()["traces"], ts.stats()["builds"]) == (1, builds)
    ids = _marked(2, 300)
    for _ in range(2):
        assert error(fast(ids), model(ids)) < 2e-5, "beyond what was restored"
    assert (ts.stats()["builds"], ts.stats()["fallbacks"]) == (builds + 1, 0)


def _marked(*shape: int) -> torch.Tensor:
    ids = torch.randint(0, 100, shape, device="cuda")
    for dim in range(len(shape)):
        torch._dynamo.mark_dynamic(ids, dim)
    return ids
