"""What decides a plan is in its key, and nothing else is."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.graphs import Staged, cut_up, graph_digest, lower, perturb, stage
from trt_stripped_backend import key
from trt_stripped_backend.key import canonical, environment, make_key
from trt_stripped_backend.options import Options
from trt_stripped_backend.types import Json

aten = torch.ops.aten
a, b, c, m = torch.randn(4, 6), torch.randn(4, 6), torch.randn(6), torch.randn(6, 6)
image, kernel = torch.randn(1, 4, 8, 8), torch.randn(4, 4, 3, 3)
q = torch.randn(1, 2, 6, 4)


def traced(fn: Callable[..., Any], *args: torch.Tensor, sources: int = 0) -> Staged:
    return cut_up(lower(fn, *args, sources=sources))


def of(fn: Callable[..., Any], *args: torch.Tensor, sources: int = 0) -> Json:
    return graph_digest(traced(fn, *args, sources=sources))


def conv(x: torch.Tensor, w: torch.Tensor, **arguments: Any) -> torch.Tensor:
    return torch.conv2d(x, w, **{"padding": 2, **arguments})


def resized(**arguments: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda x: F.interpolate(x, (5, 5), mode="bilinear", **arguments)


# ------------------------------------------------------------------------------------------------ must differ

Fn = Callable[..., Any]
DIFFER: list[tuple[str, Fn, Fn, tuple[torch.Tensor, ...]]] = [
    ("operands", lambda a, b: (a - b) * a, lambda a, b: (b - a) * a, (a, b)),
    ("softmax_dim", lambda x: x.softmax(0), lambda x: x.softmax(1), (a,)),
    ("clamp", lambda x: x.clamp(0, 1), lambda x: x.clamp(0, 6), (a,)),
    ("clamp_none", lambda x: x.clamp(min=1), lambda x: x.clamp(max=1), (a,)),
    ("permute", lambda x: x.permute(0, 2, 1, 3) + 1, lambda x: x.permute(0, 2, 3, 1) + 1, (image,)),
    ("slice", lambda x: x[:, :3] + 1, lambda x: x[:, 3:] + 1, (a,)),
    ("slice_step", lambda x: x[:, ::2] + 1, lambda x: x[:, 0:3] + 1, (a,)),
    ("stride", lambda x, w: conv(x, w), lambda x, w: conv(x, w, stride=2), (image, kernel)),
    ("dilation", lambda x, w: conv(x, w), lambda x, w: conv(x, w, dilation=2), (image, kernel)),
    ("padding", lambda x, w: conv(x, w), lambda x, w: conv(x, w, padding=1), (image, kernel)),
    ("groups", lambda x, w: conv(x, w), lambda x, w: conv(x, w[:, :1], groups=4), (image, kernel)),
    ("eps", lambda x, w: F.layer_norm(x, [6], w, w), lambda x, w: F.layer_norm(x, [6], w, w, 0.1), (a, c)),
    ("slope", lambda x: F.leaky_relu(x), lambda x: F.leaky_relu(x, 0.2), (a,)),
    ("gelu", lambda x: F.gelu(x), lambda x: F.gelu(x, approximate="tanh"), (a,)),
    ("wiring", lambda a, b: (a * b) + a, lambda a, b: (a * b) + b, (a, b.relu())),
    ("outputs", lambda x: (x.relu(), x.exp()), lambda x: (x.exp(), x.relu()), (a,)),
    ("scalar", lambda x: x + 1, lambda x: x + 2, (a,)),
    ("scalar_type", lambda x: x * 2, lambda x: x * 2.0, (torch.arange(4),)),
    ("zero_sign", lambda x: x * 0.0, lambda x: x * -0.0, (a,)),
    ("last_bit", lambda x: x * 0.1, lambda x: x * 0.10000000000000002, (a,)),
    ("infinity", lambda x: x.clamp(max=float("inf")), lambda x: x.clamp(max=float("-inf")), (a,)),
    ("literal", lambda x: x * torch.tensor([1.0, 2.0] * 3), lambda x: x * torch.tensor([1.0, 3.0] * 3), (a,)),
    ("literal_shape", lambda x: x * torch.tensor([1.0]), lambda x: x * torch.tensor([[1.0]]), (a,)),
    ("literal_type", lambda x: x * torch.tensor([1]), lambda x: x * torch.tensor([1.0]), (a,)),
    ("alpha", lambda a, b: torch.add(a, b), lambda a, b: torch.add(a, b, alpha=2), (a, b)),
    ("keepdim", lambda x: x.sum(1), lambda x: x.sum(1, keepdim=True), (a,)),
    ("dims", lambda x: x.sum((0, 1)), lambda x: x.sum((1,)), (a,)),
    ("correction", lambda x: x.var(1), lambda x: x.var(1, correction=0), (a,)),
    (
        "causal",
        lambda q: F.scaled_dot_product_attention(q, q, q),
        lambda q: F.scaled_dot_product_attention(q, q, q, is_causal=True),
        (q,),
    ),
    (
        "attention_scale",
        lambda q: F.scaled_dot_product_attention(q, q, q, scale=0.1),
        lambda q: F.scaled_dot_product_attention(q, q, q, scale=0.5),
        (q,),
    ),
    (
        "attention_wiring",
        lambda q: F.scaled_dot_product_attention(q, q + 1, q),
        lambda q: F.scaled_dot_product_attention(q, q, q + 1),
        (q,),
    ),
    ("resize", lambda x: F.interpolate(x, (4, 4)), lambda x: F.interpolate(x, scale_factor=0.5), (image,)),
    ("corners", resized(align_corners=False), resized(align_corners=True), (image,)),
    ("transposed", lambda x, w: x @ w, lambda x, w: x @ w.t(), (a, m)),
    ("chunk", lambda x: x.chunk(2, 1)[0] + 1, lambda x: x.chunk(2, 1)[1] + 1, (a,)),
    ("cast", lambda x: x.half() + 1, lambda x: x.bfloat16() + 1, (a,)),
    ("reused", lambda x: x.relu() + x.relu(), lambda x: (y := x.relu()) + y, (a,)),
]


@pytest.mark.parametrize(("one", "two", "args"), [pytest.param(f, g, args, id=name) for name, f, g, args in DIFFER])
def test_must_differ(one: Fn, two: Fn, args: tuple[torch.Tensor, ...]) -> None:
    for sources in {0, len(args) - 1}:
        assert of(one, *args, sources=sources) != of(two, *args, sources=sources)
        assert of(one, *args, sources=sources) == of(one, *args, sources=sources)


TENSORS: list[tuple[str, torch.Tensor, torch.Tensor]] = [
    ("dtype", a, a.half()),
    ("shape", a, a[:, :4].contiguous()),
    ("rank", a, a[None]),
    ("layout", image, image.to(memory_format=torch.channels_last)),
    ("transposed", m, m.t()),
]


@pytest.mark.parametrize(("one", "two"), [pytest.param(x, y, id=name) for name, x, y in TENSORS])
@pytest.mark.parametrize("sources", [0, 1])
def test_tensors_must_differ(one: torch.Tensor, two: torch.Tensor, sources: int) -> None:
    assert of(torch.relu, one, sources=sources) != of(torch.relu, two, sources=sources)


def test_weights_are_no_inputs_and_tied_ones_are_one() -> None:
    def fn(p: torch.Tensor, q: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return x @ p @ q

    keys = [of(fn, m, m.clone(), a, sources=n) for n in (0, 1, 2)]
    keys.append(of(lambda p, x: x @ p @ p, m, a, sources=1))
    assert len(set(keys)) == 4


# ------------------------------------------------------------------------------------------------ must be equal

EQUAL: list[tuple[str, Fn, Fn, tuple[torch.Tensor, ...]]] = [
    ("default", lambda x: F.gelu(x), lambda x: F.gelu(x, approximate="none"), (a,)),
    ("unused", lambda x: x.relu(), lambda x: (x.exp(), x.relu())[1], (a,)),
    ("order", lambda a, b: a.exp() * b.relu(), lambda a, b: (z := b.relu(), a.exp() * z)[1], (a, b)),
    ("literal", lambda x: x + torch.tensor([1.0] * 6), lambda x: x + torch.tensor([1.0] * 6), (a,)),
    ("copies", lambda x: x.t().contiguous().sum(1), lambda x: x.t().sum(1), (a,)),
    ("nan", lambda x: x * float("nan"), lambda x: x * float("nan"), (a,)),
]


@pytest.mark.parametrize(("one", "two", "args"), [pytest.param(f, g, args, id=name) for name, f, g, args in EQUAL])
def test_must_be_equal(one: Fn, two: Fn, args: tuple[torch.Tensor, ...]) -> None:
    assert of(one, *args) == of(two, *args)


def test_values_and_layouts_that_are_copied_do_not_matter() -> None:
    assert of(torch.relu, a) == of(torch.relu, a + 1)
    assert of(torch.relu, a) == of(torch.relu, torch.randn(4, 12)[:, ::2])
    assert of(torch.matmul, m, a.t(), sources=1) == of(torch.matmul, m * 3, a.t(), sources=1)


def test_arguments_in_another_order_are_bound_in_that_order() -> None:
    """One plan serves both differences, because its inputs are told by use and not by position."""
    one, two = (traced(fn, a, b) for fn in (lambda a, b: a - b, lambda a, b: b - a))
    assert graph_digest(one) == graph_digest(two)
    names = [[name for name, _ in canonical(s.cut.partitions[0])[1].inputs] for s in (one, two)]
    assert names[0] == names[1][::-1]


class Block(nn.Module):
    def __init__(self, size: int = 8) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(size), nn.Linear(size, 16), nn.Linear(16, size)

    def forward(self, x: torch.Tensor) -> Any:
        return x + self.down(F.gelu(self.up(self.norm(x))))


class Renamed(Block):
    def __init__(self) -> None:
        super().__init__()
        self.last, self.first = self.down, self.up
        del self.down, self.up

    def forward(self, hidden: torch.Tensor) -> Any:
        skip = hidden
        hidden = self.norm(hidden)
        hidden = F.gelu(self.first(hidden))
        return skip + self.last(hidden)


def test_models_of_one_structure_are_equal() -> None:
    x = torch.randn(3, 8)
    keys = {graph_digest(stage(model, x)) for model in (perturb(Block()), perturb(Block(), seed=1), Renamed())}
    assert len(keys) == 1
    assert graph_digest(stage(Block(), torch.randn(4, 8))) not in keys

    class Layers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList([Block() for _ in range(3)])

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for layer in self.layers:
                x = layer(x.cumsum(0))
            return x

    staged = stage(Layers(), x)
    graphs = [key.digest([canonical(piece)[0]]) for piece in staged.cut.partitions]
    assert len(graphs) == 3
    assert set(graphs) == keys


def one_key() -> str:
    """The key of a partition with weights, literals and several outputs."""

    def block(w: torch.Tensor, x: torch.Tensor) -> Any:
        return F.gelu(x @ w.t()) * torch.tensor([1.0, 2.0]), x.softmax(-1), x.amax(1)

    options = Options.of({"torch_executed_ops": ["mine.b", "mine.a", "mine.c"]}).in_key("tensorrt")
    environ = environment(("rtx", "1.7"), "portable", "bound", options, tf32=False, half_sums=False)
    return make_key({"graph": of(block, torch.empty(2, 4), torch.empty(3, 4), sources=1), **environ}).digest


def test_other_processes_agree() -> None:
    other = subprocess.run(
        [sys.executable, "-c", "from tests.cpu.test_key import one_key; print(one_key())"],
        env={**os.environ, "PYTHONHASHSEED": "1" if os.environ.get("PYTHONHASHSEED") == "0" else "0"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert other.stdout.strip() == one_key()
    assert len(one_key()) == 64


@pytest.mark.parametrize("model", ["block", "attention", "convolution"])
def test_the_device_of_the_trace_does_not_matter(model: str) -> None:
    """Fake CUDA tensors need no CUDA; where the operators are kept whole both devices give one graph."""

    def block(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return F.rms_norm(F.silu(F.linear(F.layer_norm(x, [8]), w)), [8])

    def attention(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        y = x.view(1, 2, 2, 8)
        return F.scaled_dot_product_attention(y @ w, y, y, is_causal=True).softmax(-1)

    def convolution(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        y = torch.conv2d(x.view(1, 1, 4, 8), w.view(8, 1, 4, 2), padding=2)
        return F.max_pool2d(F.group_norm(F.interpolate(y, scale_factor=2.0), 2), 2)

    fn = {"block": block, "attention": attention, "convolution": convolution}[model]
    found = set()
    for device in ("cpu", "cuda:0"):
        with FakeTensorMode():
            args = torch.empty(8, 8, device=device), torch.empty(4, 8, device=device)
            found.add(of(fn, *args, sources=1))
    assert len(found) == 1
