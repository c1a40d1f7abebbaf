"""Trains two small classifiers of handwritten digits, serves them from weight-stripped TensorRT engines, trains on.

    python examples/quickstart.py

The engines are built once: they are found again after more training, by the other checkpoints of the same architecture
and by the next run of this script. Without a GPU the plans are built all the same (TensorRT-RTX needs none for that)
and the models run in PyTorch.
"""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

import trt_stripped_backend

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
OPTIONS = {"min_block_size": 1}


class Convolutions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        )  # fmt: skip
        self.head = nn.Linear(64, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(images).flatten(1))


class Attention(nn.Module):
    """Each row of an image is a token."""

    def __init__(self, width: int = 64, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.embed, self.place = nn.Linear(8, width), nn.Parameter(torch.zeros(8, width))
        self.norm, self.qkv, self.out = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 128), nn.GELU(), nn.Linear(128, width))
        self.head = nn.Linear(width, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.embed(images.squeeze(1)) + self.place
        q, k, v = self.qkv(self.norm(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return self.head((x + self.mlp(x)).mean(1))


def digits() -> tuple[torch.Tensor, torch.Tensor]:
    """1797 images of 8×8 pixels with their digits, in an order of their own."""
    data = load_digits()
    order = torch.randperm(len(data.target))
    images = torch.tensor(data.images, dtype=torch.float32).unsqueeze(1) / 16
    return images[order].to(DEVICE), torch.tensor(data.target)[order].to(DEVICE)


def train(model: nn.Module, images: torch.Tensor, labels: torch.Tensor, epochs: int) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, total_iters=epochs * len(images) // 64)
    model.train()
    for _ in range(epochs):
        for batch in torch.randperm(len(images), device=DEVICE).split(64):
            loss = F.cross_entropy(model(images[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    model.eval()


@torch.no_grad()
def accuracy(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> str:
    return f"{(model(images).argmax(1) == labels).float().mean():.1%}"


def show(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> None:
    seen, unseen = slice(0, 1437), slice(1437, None)
    test = images[unseen], labels[unseen]
    train(model, images[seen], labels[seen], epochs=12)

    print(f"\n=== {type(model).__name__}\n{trt_stripped_backend.prebuild(model, (test[0],), options=OPTIONS)}")
    served = torch.compile(model, backend="trt_stripped", options=OPTIONS)
    print(f"trained:            {accuracy(model, *test)} in PyTorch, {accuracy(served, *test)} through the backend")

    builds = trt_stripped_backend.stats()["builds"]
    train(model, images[seen], labels[seen], epochs=2)
    print(f"two epochs further: {accuracy(model, *test)} in PyTorch, {accuracy(served, *test)} through the backend")
    again = trt_stripped_backend.explain(model, test[0], options=OPTIONS)
    assert trt_stripped_backend.stats()["builds"] == builds and not again.misses
    print("the same engines, none was built for the new weights")


def main() -> None:
    torch.manual_seed(0)
    images, labels = digits()
    for model in (Convolutions(), Attention()):
        show(model.to(DEVICE), images, labels)
    count = trt_stripped_backend.stats()
    print(
        f"\n{count['builds']} engines built in {count['build_seconds']:.2f} s, {count['hits']} found in the cache: "
        f"{count['saved_seconds']:.2f} s saved"
    )
    if DEVICE == "cpu":
        print("There is no GPU here: the plans wait in the cache, and the models ran in PyTorch.")


if __name__ == "__main__":
    main()
