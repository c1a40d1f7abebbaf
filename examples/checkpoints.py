"""One engine, ten checkpoints: evaluates every checkpoint of a training run without building ten engines.

    python examples/checkpoints.py
"""

from __future__ import annotations

import itertools
import time

import torch
from torch import nn
from torch.nn import functional as F

import trt_stripped_backend

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
OPTIONS = {"min_block_size": 1}
CHECKPOINTS = 10


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.BatchNorm2d(32), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(128, 4),
    ).to(DEVICE)  # fmt: skip


def images(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Stripes in four directions, under noise, and which."""
    label = torch.randint(4, (count,), device=DEVICE)
    angle = label * torch.pi / 4 + 0.2 * torch.randn(count, device=DEVICE)
    y, x = torch.meshgrid(torch.arange(12.0, device=DEVICE), torch.arange(12.0, device=DEVICE), indexing="ij")
    wave = torch.cos(angle)[:, None, None] * x + torch.sin(angle)[:, None, None] * y
    return (torch.sin(1.5 * wave) + 0.5 * torch.randn(count, 12, 12, device=DEVICE)).unsqueeze(1), label


def train() -> list[dict[str, torch.Tensor]]:
    """The weights, ten times on the way."""
    model, saved = network(), []
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(CHECKPOINTS):
        for _ in range(6):
            inputs, labels = images(128)
            optimizer.zero_grad()
            F.cross_entropy(model(inputs), labels).backward()
            optimizer.step()
        saved.append({name: value.clone() for name, value in model.state_dict().items()})
    return saved


def error(have: torch.Tensor, want: torch.Tensor) -> float:
    return float((have - want).norm() / want.norm())


@torch.no_grad()
def evaluate(saved: list[dict[str, torch.Tensor]]) -> None:
    model, (inputs, labels) = network().eval(), images(1024)
    print(trt_stripped_backend.prebuild(model, (inputs,), options=OPTIONS), "\n")
    builds = trt_stripped_backend.stats()["builds"]
    served = torch.compile(model, backend="trt_stripped", options=OPTIONS)
    results = []
    for number, weights in enumerate(saved):
        start = time.perf_counter()
        model.load_state_dict(weights)
        have = served(inputs)
        seconds, want = time.perf_counter() - start, model(inputs)
        results.append(have)
        right = (have.argmax(1) == labels).float().mean()
        print(f"checkpoint {number}: {right:.1%} right, error {error(have, want):.1e}, {seconds:.3f} s to load and run")
        assert error(have, want) < 1e-4, "each checkpoint's own weights, its BatchNorm folded anew"
    assert all(error(a, b) > 1e-3 for a, b in itertools.pairwise(results)), "and no other's"
    assert right > 0.8
    assert trt_stripped_backend.stats()["builds"] == builds
    print(f"\n{trt_stripped_backend.stats()['builds']} engines built for {len(saved)} checkpoints")


if __name__ == "__main__":
    torch.manual_seed(0)
    torch.backends.cudnn.allow_tf32 = False  # eager convolutions round to TF32 otherwise, and engines do not
    evaluate(train())
    if DEVICE == "cpu":
        print("There is no GPU here: the plan waits in the cache, and the checkpoints ran in PyTorch.")
