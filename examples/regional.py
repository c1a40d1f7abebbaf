"""One engine for 24 layers: compiles the block that repeats, and not the model around it.

    python examples/regional.py

The layers are equal but for their weights, which are in no key and in no plan. So the first one builds, the other 23
find its engine loaded, and each call of it is given the parameters of the layer that calls.
"""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.nn import functional as F

import trt_stripped_backend

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
OPTIONS = {"min_block_size": 1}
LAYERS, WIDTH, HEADS = 24, 64, 4


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.qkv, self.out = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.norm2, self.up, self.down = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 256), nn.Linear(256, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers, self.head = nn.ModuleList(Layer() for _ in range(LAYERS)), nn.Linear(WIDTH, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return self.head(x.mean(1))


def error(have: torch.Tensor, want: torch.Tensor) -> float:
    return float((have - want).norm() / want.norm())


@torch.no_grad()
def main() -> None:
    torch.manual_seed(0)
    model, x = Model().to(DEVICE).eval(), torch.randn(4, 32, WIDTH, device=DEVICE)
    eager = copy.deepcopy(model)
    first = trt_stripped_backend.prebuild(model.layers[0], (x,), options=OPTIONS)
    last = trt_stripped_backend.explain(model.layers[-1], x, options=OPTIONS)
    print(first, "\n")
    (engine,) = first.partitions
    assert [(p.key, p.status) for p in last.partitions] == [(engine.key, "hit")]
    print(f"layer {LAYERS} looks for the engine of layer 1, and finds it: {engine.plan_bytes / 1e6:.1f} MB for all")

    for layer in model.layers:
        layer.compile(backend="trt_stripped", options=OPTIONS)
    before = model(x)
    print(f"{LAYERS} layers through it: error against eager {error(before, eager(x)):.1e}")
    assert error(before, eager(x)) < 1e-4, "each layer with its own weights"
    for one in (model, eager):
        one.layers[11].down.weight.mul_(3)
    assert error(model(x), before) > 1e-3, "a changed layer must show"
    assert error(model(x), eager(x)) < 1e-4
    count = trt_stripped_backend.stats()
    assert count["builds"] <= 1
    print(f"{count['builds']} engines built for {LAYERS} layers")
    if DEVICE == "cpu":
        print("There is no GPU here: the plan waits in the cache, and the layers ran in PyTorch.")


if __name__ == "__main__":
    main()
