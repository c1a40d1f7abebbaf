"""Buffers that a model writes to: right step after step, and only what is put there leaves an engine."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import fx, nn
from torch.nn import functional as F

from tests.graphs import Staged, lower, perturb, stage, targets
from tests.harness import Given
from trt_stripped_backend.inplace import is_written
from trt_stripped_backend.key import canonical

LENGTH = 8
Write = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], object]


def by_slice(cache: torch.Tensor, new: torch.Tensor, place: torch.Tensor) -> None:
    """A window that moves on, as the static cache of a sliding window does."""
    moved = torch.cat([cache, new], 2)[:, :, new.shape[2] :]
    cache.copy_(moved)


WRITES: dict[str, Write] = {
    "index_copy_": lambda cache, new, place: cache.index_copy_(2, place, new),
    "index_put_": lambda cache, new, place: cache.__setitem__((slice(None), slice(None), place), new),
    "scatter_": lambda cache, new, place: cache.scatter_(2, place[:, None].expand_as(new), new),
    "slice": lambda cache, new, place: cache[:, :, 3 : 3 + new.shape[2]].copy_(new),
    "slices": lambda cache, new, place: cache[:, 1][:, 2 : 2 + new.shape[2]].copy_(new[:, 0]),
    "setitem": lambda cache, new, place: cache.__setitem__((0, slice(None), 1), new[0, :, 0]),
}


class Attention(nn.Module):
    """A decoder's step with a cache of fixed length."""

    def __init__(self, write: Write) -> None:
        super().__init__()
        self.write, self.qkv, self.out = write, nn.Linear(8, 24), nn.Linear(8, 8)
        for name in ("keys", "values"):
            self.register_buffer(name, torch.zeros(1, 2, LENGTH, 4))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, x: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(x).view(1, -1, 3, 2, 4).permute(2, 0, 3, 1, 4)
        self.write(self.keys, k, place)
        self.write(self.values, v, place)
        self.steps.add_(1)
        mask = torch.arange(LENGTH, device=x.device) <= place[:, None]
        attended = F.scaled_dot_product_attention(q, self.keys, self.values, attn_mask=mask)
        return self.out(attended.transpose(1, 2).flatten(2)) * self.steps


def emulated(model: Callable[..., object], *args: torch.Tensor) -> Staged:
    """A model with its engines on the emulated network from its second call on."""
    staged = stage(model, *args)
    for piece in staged.cut.partitions:
        staged.cut.module.set_submodule(piece.name, Given(piece))
    return staged


@pytest.mark.parametrize("way", WRITES)
@torch.no_grad()
def test_a_cache_is_right_step_after_step_and_only_the_update_leaves_the_engine(way: str) -> None:
    model = perturb(Attention(WRITES[way]))
    other, x = copy.deepcopy(model), torch.randn(6, 1, 1, 8)
    staged = emulated(other, x[0], torch.tensor([0]))
    (piece,) = staged.cut.partitions
    assert max(spec.numel for spec in canonical(piece)[1].outputs) <= 3 * 8
    assert "aten.copy_.default" not in targets(piece.module)
    model(x[0], torch.tensor([0]))
    for step in range(1, 6):
        place = torch.tensor([step])
        torch.testing.assert_close(staged.compiled(x[step], place), model(x[step], place))
        for mine, want in zip(other.buffers(), model.buffers(), strict=True):
            torch.testing.assert_close(mine, want)
    assert int(other.steps) == 6


@torch.no_grad()
def test_a_window_that_moves_on() -> None:
    model = perturb(Attention(by_slice))
    other, x, place = copy.deepcopy(model), torch.randn(4, 1, 1, 8), torch.tensor([7])
    staged = emulated(other, x[0], place)
    model(x[0], place)
    for one in x[1:]:
        torch.testing.assert_close(staged.compiled(one, place), model(one, place))
    torch.testing.assert_close(other.keys, model.keys)


def shifted(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    a[1:] = a[:-1].clone()
    return a * 2


def kept(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    old = a.clone()
    a[0] = 7
    b.copy_(old)
    return a + b


def crossed(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    first = a[0].clone()
    a[0] = b[1]
    b[1] = first
    return a - b


def chained(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    a[1:3] = b[:2]
    a[2:] = a[1:3] * 2
    a[0, 1] += 1
    return a.sum()


def transposed(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    a.t()[0] = a[0]
    return a.clone()


def added(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    a.index_put_((torch.tensor([1, 1, 0]),), b[:3], accumulate=True)
    a.diagonal().fill_(3)
    return a @ b


def both(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    a[1] = b[0]
    b[2] = a[1]
    return b


@pytest.mark.parametrize("fn", [shifted, kept, crossed, chained, transposed, added, both])
@torch.no_grad()
def test_what_is_written_is_what_was_there(fn: Callable[..., torch.Tensor]) -> None:
    first, second = ([torch.randn(4, 4) for _ in range(2)] for _ in range(2))
    staged = emulated(fn, *(t.clone() for t in first))
    have, want = ([t.clone() for t in second] for _ in range(2))
    torch.testing.assert_close(staged.compiled(*have), fn(*want))
    for mine, other in zip(have, want, strict=True):
        torch.testing.assert_close(mine, other)


@pytest.mark.parametrize("values", [lambda a: a, lambda a: a[1:3], lambda a: a.t()])
def test_what_is_put_there_from_there_is_computed_first(values: Callable[..., torch.Tensor]) -> None:
    def fn(a: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        a.copy_(torch.ops.aten.index_put(a, [places], values(a)))
        return a.exp()

    a, places = torch.randn(4, 4), torch.tensor([3, 0] if values(torch.ones(4, 4)).shape[0] == 2 else [3, 0, 2, 1])
    assert targets(lower(fn, a, places).module)[-1] == "aten.copy_.default"


def test_a_part_is_written_where_it_lies() -> None:
    def fn(a: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        a[:, 2:4] = x.relu()
        return a.exp()

    lowered = lower(fn, torch.randn(3, 8), torch.randn(3, 2))
    assert targets(lowered.module)[-2:] == ["aten.slice.Tensor", "aten.copy_.default"]
    (view, copy_) = list(lowered.module.graph.nodes)[-3:-1]
    assert view.args[0].op == "placeholder"
    assert copy_.args[0] is view
    assert str(copy_.args[1].target) == "aten.relu.default"


def test_a_long_chain_of_views() -> None:
    graph = fx.Graph()
    first = node = graph.placeholder("x")
    for _ in range(2000):
        node = graph.call_function(torch.ops.aten.t.default, (node,))
    assert not is_written(first)
    graph.call_function(torch.ops.aten.add_.Tensor, (node, 1))
    assert is_written(first)
