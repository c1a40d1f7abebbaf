"""Several engines of one graph are built at once where TensorRT allows it, with the results of one after the other."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import trt_stripped_backend as ts
from tests import emulated as emulation
from tests.emulated import World
from tests.graphs import perturb
from trt_stripped_backend import backend, compilation
from trt_stripped_backend.errors import BuildFailed
from trt_stripped_backend.types import Entry, Key

X = torch.randn(4, 8)
PATIENCE = 60.0


class Pieces(nn.Module):
    """Three engines, of other sizes, around two running sums."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = nn.Linear(8, 8), nn.Linear(8, 16), nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.one(x)).cumsum(0)
        return torch.tanh(self.three(torch.sigmoid(self.two(x)).cumsum(1)))


@pytest.fixture(autouse=True)
def cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 4)


def compiled(model: nn.Module, **options: Any) -> Callable[..., torch.Tensor]:
    return torch.compile(model, backend=backend.trt_stripped, options={"min_block_size": 1, **options})


@torch.no_grad()
def test_builds_overlap(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    together = threading.Barrier(3, timeout=PATIENCE)

    def build(*args: Any, **kwargs: Any) -> Entry:
        together.wait()  # raises unless all three are here at once
        return emulation.build(*args, **kwargs)

    monkeypatch.setattr(compilation, "build", build)
    model = perturb(Pieces())
    torch.testing.assert_close(compiled(model)(X), model(X))
    assert (ts.stats()["builds"], ts.stats()["fallbacks"]) == (3, 0)
    assert [p.name for p in ts.reports()[-1].partitions] == ["engine_0", "engine_1", "engine_2"]


@torch.no_grad()
def test_one_that_fails_leaves_the_others(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def build(piece: Any, *args: Any, **kwargs: Any) -> Entry:
        if any(n.op == "call_function" and n.meta["val"].shape[-1] == 16 for n in piece.module.graph.nodes):
            raise BuildFailed("the second: no such layer")
        return emulation.build(piece, *args, **kwargs)

    monkeypatch.setattr(compilation, "build", build)
    model = perturb(Pieces())
    with pytest.warns(UserWarning, match="no such layer"):
        have = compiled(model, min_block_size=2)(X)
    torch.testing.assert_close(have, model(X))
    assert (ts.stats()["builds"], ts.stats()["fallbacks"]) == (2, 1)
    assert [r.reason for r in ts.reports()[-1].rejections if r.kind == "build"] == ["the second: no such layer"]


@torch.no_grad()
def test_an_interruption_ends_the_others_too(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    given_up = []

    def build(piece: Any, *args: Any, stop: threading.Event, **kwargs: Any) -> Entry:
        if piece.name == "engine_0":
            raise KeyboardInterrupt
        given_up.append(stop.wait(PATIENCE))
        raise BuildFailed("given up")

    monkeypatch.setattr(compilation, "build", build)
    with pytest.raises(KeyboardInterrupt):
        compiled(perturb(Pieces()))(X)
    assert given_up == [True] * len(given_up)


@torch.no_grad()
def test_plans_are_those_of_builds_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plans = []
    for count in (1, 2):
        monkeypatch.setattr("os.cpu_count", lambda count=count: count)
        options = {"cache_dir": str(tmp_path / str(count)), "min_block_size": 1}
        report = ts.prebuild(perturb(Pieces()).requires_grad_(False), (X,), options=options)
        assert [p.status for p in report.partitions] == ["built"] * 3
        cache = ts.open_cache(tmp_path / str(count))
        found = {p.key: cache.get(Key(p.key, {})) for p in report.partitions}
        plans.append({key: entry.plan if entry is not None else b"" for key, entry in found.items()})
    assert plans[0] == plans[1]
    assert len(plans[0]) == 3 and all(plans[0].values())
