"""Generates text with a decoder and a static KV cache: every token comes from one engine of fixed shapes.

    python examples/generate.py [--gpt2]         --gpt2: 12 layers of 768, as GPT-2 small

The keys and values of past tokens lie in buffers of full length; a step writes one position of them and looks at those
so far. So all steps are one graph, built once. A language model of random weights writes no English, but what the
engine writes is what PyTorch writes, token by token.
"""

from __future__ import annotations

import sys
import time

import torch
from torch import nn
from torch.nn import functional as F

import trt_stripped_backend

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
OPTIONS = {"min_block_size": 1}
LAYERS, WIDTH, HEADS, WORDS, LENGTH = (12, 768, 12, 50257, 256) if "--gpt2" in sys.argv else (2, 64, 4, 101, 32)


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.qkv, self.out = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.norm2, self.up, self.down = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)
        for name in ("keys", "values"):
            self.register_buffer(name, torch.zeros(1, HEADS, LENGTH, WIDTH // HEADS), persistent=False)

    def forward(self, x: torch.Tensor, position: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        self.keys.index_copy_(2, position, k)
        self.values.index_copy_(2, position, v)
        y = F.scaled_dot_product_attention(q, self.keys, self.values, attn_mask=seen)
        x = x + self.out(y.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(WORDS, WIDTH), nn.Embedding(LENGTH, WIDTH)
        self.layers, self.norm = nn.ModuleList(Layer() for _ in range(LAYERS)), nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, WORDS, bias=False)
        self.register_buffer("positions", torch.arange(LENGTH), persistent=False)

    def forward(self, token: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
        """How likely each word is to follow ``token``, which stands at ``position``."""
        x = self.words(token) + self.places(position)
        seen = (self.positions <= position).view(1, 1, 1, LENGTH)
        for layer in self.layers:
            x = layer(x, position, seen)
        return self.head(self.norm(x))[0, -1]


@torch.no_grad()
def generate(step: nn.Module, model: Decoder, prompt: list[int]) -> tuple[list[int], float]:
    """The most likely words after a prompt, up to the full length, and the seconds that a step took."""
    for layer in model.layers:
        layer.keys.zero_()
        layer.values.zero_()
    tokens, start = list(prompt), 0.0
    for place in range(LENGTH - 1):
        if place == len(prompt):
            start = time.perf_counter()
        position = torch.tensor([place], device=DEVICE)
        likely = step(torch.tensor([[tokens[place]]], device=DEVICE), position)
        if place + 1 == len(tokens):
            tokens.append(int(likely.argmax()))
    return tokens, (time.perf_counter() - start) / (LENGTH - 1 - len(prompt))


def main() -> None:
    torch.manual_seed(0)
    model = Decoder().to(DEVICE).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(std=0.2 if p.ndim < 2 else 1.5 * p.shape[1] ** -0.5)
    call = torch.zeros(1, 1, dtype=torch.long, device=DEVICE), torch.zeros(1, dtype=torch.long, device=DEVICE)
    report = trt_stripped_backend.prebuild(model, call, options=OPTIONS)
    print(report, "\n")
    fast = torch.compile(model, backend="trt_stripped", options=OPTIONS)
    builds = trt_stripped_backend.stats()["builds"]
    for prompt in ([3, 1, 4, 1, 5], [2, 7, 1, 8]):
        want, eager = generate(model, model, prompt)
        have, seconds = generate(fast, model, prompt)
        print(f"{prompt} → {have[len(prompt) :][:12]} …: {1e3 * seconds:.2f} ms a token, eager {1e3 * eager:.2f} ms")
        assert have == want, "the same words as PyTorch"
        assert len(set(have)) > 5, "not one word again and again"
    count = trt_stripped_backend.stats()
    assert count["builds"] == builds
    inside = f"{report.nodes_in_engines} of {report.nodes} operators in them"
    print(f"{count['builds']} engines built for all steps; {inside}")
    if DEVICE == "cpu":
        print("There is no GPU here: the plans wait in the cache, and the decoder ran in PyTorch.")


if __name__ == "__main__":
    main()
