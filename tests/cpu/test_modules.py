"""PyTorch's own modules through every stage before TensorRT: the same results, also after each weight changed."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils import _pytree as pytree

from tests.graphs import perturb, stage
from tests.harness import of_torch_2_11
from trt_stripped_backend.key import canonical

Make = Callable[[], nn.Module]
rows, words, image = torch.randn(2, 5, 8), torch.randint(0, 10, (2, 5)), torch.randn(2, 3, 6, 6)


class Of(nn.Module):
    """Calls a function with a module and the arguments."""

    def __init__(self, module: nn.Module, fn: Callable[..., Any]) -> None:
        super().__init__()
        self.module, self.fn = module, fn

    def forward(self, *args: torch.Tensor) -> Any:
        return self.fn(self.module, *args)


def heads(**arguments: Any) -> nn.Module:
    return nn.MultiheadAttention(8, 2, batch_first=True, **arguments)


def standardised(m: Any, x: torch.Tensor) -> torch.Tensor:
    w = m.weight
    return F.conv2d(x, (w - w.mean((1, 2, 3), keepdim=True)) / (w.std((1, 2, 3), keepdim=True) + 1e-5), m.bias)


def returned(m: Any, x: torch.Tensor) -> Any:
    return m(x), m.weight, m.weight.t(), m.weight * 2, (m.weight * 2).t(), m.bias[None].expand(3, 8)


def assigned(m: Any, x: torch.Tensor) -> torch.Tensor:
    y: torch.Tensor = m(x)
    y[:, 0] = m.bias
    return y


MODULES: list[tuple[str, Make, Callable[..., Any], tuple[torch.Tensor, ...]]] = [
    ("attention", heads, lambda m, x: m(x, x, x), (rows,)),
    ("cross_attention", heads, lambda m, x, y: m(x, y, y)[0], (rows, rows[:, 1:])),
    ("added_bias", lambda: heads(add_bias_kv=True, add_zero_attn=True), lambda m, x: m(x, x, x)[0], (rows,)),
    ("decoder", lambda: nn.TransformerDecoderLayer(8, 2, 16, batch_first=True), lambda m, x: m(x, x), (rows,)),
    ("max_norm", lambda: nn.Embedding(10, 4, max_norm=0.5), lambda m, i: m(i) * 2, (words,)),
    ("bag", lambda: nn.EmbeddingBag(10, 4), lambda m, i: m(i).relu(), (words,)),
    ("tied", lambda: nn.Embedding(10, 4), lambda m, i: F.linear(m(i), m.weight), (words,)),
    ("sliced", lambda: nn.Embedding(10, 8), lambda m, x: x + m.weight[:5] + m.weight[None, 5:], (rows,)),
    ("instance_norm", lambda: nn.InstanceNorm2d(3, True, track_running_stats=True), lambda m, x: m(x), (image,)),
    ("no_statistics", lambda: nn.BatchNorm2d(3, track_running_stats=False), lambda m, x: m(x), (image,)),
    ("circular", lambda: nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular"), lambda m, x: m(x), (image,)),
    ("unbatched", lambda: nn.ConvTranspose2d(3, 4, 3, 2), lambda m, x: m(x[0]), (image,)),
    ("standardised", lambda: nn.Conv2d(3, 4, 3), standardised, (image,)),
    ("indices", lambda: nn.MaxPool2d(2, return_indices=True), lambda m, x: m(x), (image,)),
    ("cell", lambda: nn.LSTMCell(8, 8), lambda m, x: m(x[0], (x[0], x[1])), (rows,)),
    ("sign", lambda: nn.Linear(8, 8), lambda m, x: F.linear(x, m.weight.sign() * m.weight.abs().mean()), (rows,)),
    ("fourier", lambda: nn.Linear(8, 8), lambda m, x: F.linear(x, torch.fft.fft(m.weight).real), (rows,)),
    ("largest", lambda: nn.Linear(8, 8), lambda m, x: x @ m.weight.topk(2, dim=0)[0].t(), (rows,)),
    ("returned", lambda: nn.Linear(8, 8), returned, (rows,)),
    ("in_place", lambda: nn.Sequential(nn.Linear(8, 8), nn.ReLU(True), nn.ELU(1, True)), lambda m, x: m(x), (rows,)),
    ("assigned", lambda: nn.Linear(8, 8), assigned, (rows,)),
    ("unbind", lambda: nn.Linear(8, 12), lambda m, x: m(x).view(2, 5, 3, 4).unbind(2), (rows,)),
    ("empty", lambda: nn.Linear(8, 8), lambda m, x: torch.cat([m(x), m(x[:, :0])], 1), (rows,)),
]
STRIDES = of_torch_2_11("a trace of attention has another layout than its kernel for CPUs")


@pytest.mark.parametrize(("make", "fn", "args"), [
    pytest.param(m, f, a, id=name, marks=[STRIDES] * (name == "attention")) for name, m, f, a in MODULES
])
def test_module(make: Make, fn: Callable[..., Any], args: tuple[torch.Tensor, ...]) -> None:
    model = perturb(Of(make(), fn))
    staged = stage(model, *args)
    assert all(canonical(piece)[1].outputs for piece in staged.cut.partitions)
    with torch.no_grad():
        for value in [None, *model.parameters(), *model.buffers()]:
            if value is not None and value.is_floating_point():
                value.mul_(1.2).add_(0.03)
            twin = copy.deepcopy(model)
            have, want = pytree.tree_leaves(staged.compiled(*args)), pytree.tree_leaves(twin(*args))
            torch.testing.assert_close(have, want, rtol=1e-4, atol=1e-5)
            assert [h.stride() for h in have] == [w.stride() for w in want]
            torch.testing.assert_close(dict(model.state_dict()), dict(twin.state_dict()))
