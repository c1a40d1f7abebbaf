"""One base model, three LoRA adapters, one engine: an adapter is swapped by loading its weights.

    python examples/lora_swap.py

``W + s·B@A`` is arithmetic on parameters alone. The backend takes it out of the engine and computes it again when one
of its parameters changed: a call costs what the base model costs, and no adapter needs an engine of its own.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

import trt_stripped_backend

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
OPTIONS = {"min_block_size": 1}
ADAPTERS = ("poems", "code", "law")


class LoRALinear(nn.Module):
    def __init__(self, inputs: int, outputs: int, rank: int = 4) -> None:
        super().__init__()
        self.base = nn.Linear(inputs, outputs)
        self.a, self.b = nn.Parameter(torch.zeros(rank, inputs)), nn.Parameter(torch.zeros(outputs, rank))
        self.register_buffer("s", torch.tensor(2.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.base.weight + self.s * (self.b @ self.a), self.base.bias)


class Model(nn.Module):
    def __init__(self, width: int = 64, layers: int = 4) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(layers))
        self.up = nn.ModuleList(LoRALinear(width, 4 * width) for _ in range(layers))
        self.down = nn.ModuleList(LoRALinear(4 * width, width) for _ in range(layers))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for norm, up, down in zip(self.norms, self.up, self.down, strict=True):
            x = x + down(F.gelu(up(norm(x))))
        return x


def adapter(model: nn.Module, seed: int) -> dict[str, torch.Tensor]:
    """What fine-tuning would have left: the adapter's own parameters, a few percent of the model's."""
    generator = torch.Generator().manual_seed(seed)
    names = [name for name, _ in model.named_parameters() if name.endswith((".a", ".b"))]
    shapes = {name: model.get_parameter(name).shape for name in names}
    return {name: 0.1 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def error(have: torch.Tensor, want: torch.Tensor) -> float:
    return float((have - want).norm() / want.norm())


@torch.no_grad()
def main() -> None:
    torch.manual_seed(0)
    model, x = Model().to(DEVICE).eval(), torch.randn(32, 64, device=DEVICE)
    print(trt_stripped_backend.prebuild(model, (x,), options=OPTIONS), "\n")
    fast = torch.compile(model, backend="trt_stripped", options=OPTIONS)
    base, builds = fast(x), trt_stripped_backend.stats()["builds"]
    for seed, name in enumerate(ADAPTERS):
        weights = adapter(model, seed)
        model.load_state_dict(weights, strict=False)
        have, want = fast(x), model(x)
        size = sum(w.numel() for w in weights.values()) / sum(p.numel() for p in model.parameters())
        print(
            f"adapter {name!r}: {size:.1%} of the weights, changes the result by {error(base, want):.0%}; "
            f"error against eager {error(have, want):.1e}"
        )
        assert error(base, want) > 0.05, "an adapter must show"
        assert error(have, want) < 1e-4, "the engine must use it"
    model.load_state_dict({name: torch.zeros_like(w) for name, w in weights.items()}, strict=False)
    assert error(fast(x), base) < 1e-6, "without an adapter it is the base model again"
    assert trt_stripped_backend.stats()["builds"] == builds
    count = trt_stripped_backend.stats()
    print(f"\n{count['builds']} engines built for the base and {len(ADAPTERS)} adapters")
    if DEVICE == "cpu":
        print("There is no GPU here: the plan waits in the cache, and the model ran in PyTorch.")


if __name__ == "__main__":
    main()
