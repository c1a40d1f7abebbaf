"""Repeated blocks: found by structure, one engine for all, each with its own weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch._dynamo.aot_compile import AOTCompiledFunction

import trt_stripped_backend as ts
from tests import saved
from tests.emulated import World
from tests.graphs import Staged, perturb, stage
from trt_stripped_backend import backend, lowering, weights
from trt_stripped_backend.key import canonical, digest
from trt_stripped_backend.ops.library import lookup
from trt_stripped_backend.options import Options
from trt_stripped_backend.partition import partition

X = torch.randn(2, 9, 32)


class Layer(nn.Module):
    def __init__(self, width: int = 32, *, scale: float = 1.0, eps: float = 1e-5) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(width, eps), nn.Linear(width, 48), nn.Linear(48, width)
        self.scale = scale

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        scores = self.norm(x) @ x.transpose(1, 2) * self.scale + mask
        return x + self.down(torch.relu(self.up(scores.softmax(-1) @ x)))


class Other(Layer):
    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return torch.tanh(super().forward(x, mask) * 0.5)


class Stack(nn.Module):
    """Layers under one mask, between an entrance and an exit."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.enter, self.layers, self.leave = nn.Linear(32, 32), nn.ModuleList(layers), nn.Linear(32, 7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mask = torch.sigmoid(x.sum(-1, keepdim=True) * 0.01)
        x = torch.relu(self.enter(x))
        for layer in self.layers:
            x = layer(x, mask)
        return self.leave(x)


def cut(*layers: nn.Module) -> list[str]:
    """The key of each piece, in order; the pieces compute what the model does."""
    model = perturb(Stack(*layers))
    staged: Staged = stage(model, X, dedupe_layers=True, min_block_size=5)
    torch.testing.assert_close(staged.compiled(X), model(X))
    return [digest(canonical(part)[0]) for part in staged.cut.partitions]


@torch.no_grad()
def test_layers_have_one_key() -> None:
    keys = cut(*(Layer() for _ in range(8)))
    assert len(keys) == 10
    assert len(set(keys)) == 3
    assert len(set(keys[1:-1])) == 1


@torch.no_grad()
@pytest.mark.parametrize("odd", [Layer(scale=2.0), Layer(eps=1e-3)])
def test_a_layer_that_differs_is_no_repetition(odd: nn.Module) -> None:
    keys = cut(*(Layer() for _ in range(3)), odd, *(Layer() for _ in range(3)))
    assert max(map(keys.count, keys)) == 6
    layers = [key for key in keys if keys.count(key) == 6]
    first, last = keys.index(layers[0]), len(keys) - keys[::-1].index(layers[0])
    assert len(keys[first:last]) == 7, "the odd one is a piece of its own"


@torch.no_grad()
def test_a_layer_with_more_behind_it_is_one_and_a_piece() -> None:
    keys = cut(*(Layer() for _ in range(3)), Other(), *(Layer() for _ in range(3)))
    assert max(map(keys.count, keys)) == 7


@torch.no_grad()
def test_layers_by_turns() -> None:
    keys = cut(*(kind() for _ in range(3) for kind in (Layer, Other)))
    assert len(keys) == 5
    assert len(set(keys[1:-1])) == 1, "a block is both of them"


@torch.no_grad()
def test_stages_of_other_widths() -> None:
    def run(width: int) -> nn.Sequential:
        inner = [nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Tanh()) for _ in range(4)]
        return nn.Sequential(*inner, nn.Linear(width, 2 * width))

    model = perturb(nn.Sequential(run(8), run(16)))
    staged = stage(model, torch.randn(3, 8), dedupe_layers=True, min_block_size=3)
    keys = [digest(canonical(part)[0]) for part in staged.cut.partitions]
    assert sorted(map(keys.count, set(keys)))[-2:] == [4, 4]


@torch.no_grad()
def test_nothing_is_cut_unasked_or_without_a_repetition() -> None:
    model = perturb(Stack(*(Layer() for _ in range(4))))
    assert len(stage(model, X, min_block_size=5).cut.partitions) == 1
    assert len(cut(Layer())) == 1


@torch.no_grad()
def test_dynamic_sizes() -> None:
    found: list[list[str]] = []

    def compile(lowered: lowering.Lowered) -> Any:
        made = partition(weights.split(lowered), Options.of({"dedupe_layers": True}), lookup)
        found.append([digest(canonical(part)[0]) for part in made.partitions])
        return lowering.boxed(lowered.module)

    model = perturb(Stack(*(Layer() for _ in range(5)))).requires_grad_(False)
    compiled = torch.compile(model, backend=lambda gm, inputs: lowering.trace(gm, inputs, compile), dynamic=True)
    torch.testing.assert_close(compiled(X), model(X))
    assert len(found[0]) == 7
    assert len(set(found[0][1:-1])) == 1


@torch.no_grad()
def test_saved_and_loaded(world: World) -> None:
    model, other = (perturb(Stack(*(Layer() for _ in range(4))), seed) for seed in (0, 1))
    compiled = saved.compiled(model, dedupe_layers=True, refit_mode="general", min_block_size=5)
    made = AOTCompiledFunction.serialize(compiled.aot_compile(((model, X), {}))).serialized_data
    ts.clear_stats()
    run = AOTCompiledFunction.deserialize(made)
    for one in (other, model, other):
        torch.testing.assert_close(run(one, X), one(X))
    counts = ts.stats()
    assert (counts["builds"], counts["fallbacks"]) == (0, 0)
    assert counts["refits"] == 12, "each layer of each model keeps an engine with its weights"


@torch.no_grad()
@settings(max_examples=8, deadline=None)
@given(st.lists(st.sampled_from([(Layer, 1.0), (Layer, 2.0), (Other, 1.0)]), min_size=1, max_size=7))
def test_any_stack_is_right(kinds: list[tuple[type[Layer], float]]) -> None:
    assert cut(*(kind(scale=scale) for kind, scale in kinds))


@torch.no_grad()
@pytest.mark.parametrize("mode", ["bound", "general"])
@pytest.mark.parametrize("cache", [True, False])
def test_one_engine_runs_all_layers_with_their_own_weights(world: World, mode: str, cache: bool) -> None:
    model = perturb(Stack(*(Layer() for _ in range(12))))
    options = {"refit_mode": mode, "dedupe_layers": True, "cache": cache}
    fast = torch.compile(model, backend=backend.trt_stripped, options=options)
    torch.testing.assert_close(fast(X), model(X))
    assert world.calls["build"] == 3
    refits = world.calls["refit"]
    assert refits == (14 if mode == "general" else 0)
    for _ in range(3):
        torch.testing.assert_close(fast(X), model(X))
    assert world.calls["refit"] == refits, "each layer keeps an engine with its weights"
    model.layers[5].up.weight.mul_(1.5)
    torch.testing.assert_close(fast(X), model(X))
    assert world.calls["refit"] == refits + (mode == "general")
    counts = ts.stats()
    assert (counts["builds"], counts["shared"], counts["fallbacks"]) == (3, 11, 0)
