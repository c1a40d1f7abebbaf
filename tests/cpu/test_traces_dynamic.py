"""What a start keeps of a graph with dynamic sizes: found for other sizes, and not where other guards would hold."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import torch
from torch import nn

import trt_stripped_backend as ts
from tests.emulated import World
from tests.graphs import perturb
from trt_stripped_backend import backend, lowering
from trt_stripped_backend.lowering import Lowered

pytestmark = pytest.mark.usefixtures("world")
OPTIONS = {"min_block_size": 1}


class Net(nn.Module):
    """Two engines around a cumsum; half as many rows come out."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(8, 8), nn.Linear(8, 8)
        self.places = nn.Parameter(torch.randn(64, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.one(x) + self.places[: x.shape[1]]).cumsum(1)
        return self.two(y.view(x.shape[0] // 2, 2, x.shape[1], 8).sum(1)) * 2


def started(fn: Callable[..., Any], *args: Any, **options: Any) -> tuple[Any, Any, int]:
    """The function in a fresh start, its first result, and how many graphs it had to trace."""
    torch._dynamo.reset()
    fast = torch.compile(fn, backend=backend.trt_stripped, options=OPTIONS | options, dynamic=True)
    have, count = traced(fast, *args)
    return fast, have, count


def traced(fast: Callable[..., Any], *args: Any) -> tuple[Any, int]:
    """A result, and how many graphs were traced for it."""
    with mock.patch.object(lowering, "trace", side_effect=lowering.trace) as trace:
        return fast(*args), trace.call_count


@torch.no_grad()
@pytest.mark.parametrize("mode", ["bound", "general"])
def test_another_start_with_other_sizes_and_weights_traces_nothing(world: World, mode: str) -> None:
    for index, shape in enumerate([(4, 6, 8), (12, 7, 8), (6, 20, 8)]):
        model, x = perturb(Net().eval(), index), torch.randn(shape)
        fast, have, count = started(model, x, refit_mode=mode)
        torch.testing.assert_close(have, model(x))
        assert count == (index == 0)
    assert world.calls["build"] == 2
    assert ts.stats()["traces"] == 2
    for shape in [(4, 6, 8), (30, 9, 8), (4, 63, 8)]:
        x = torch.randn(shape)
        have, count = traced(fast, x)
        torch.testing.assert_close(have, model(x))
        assert count == 0
    model.one.weight.mul_(2)
    torch.testing.assert_close(fast(x), model(x))
    assert world.calls["build"] == 2


@torch.no_grad()
@pytest.mark.parametrize("shape", [(2, 6, 8), (4, 8, 8), (4, 65, 8)])
def test_sizes_for_which_pytorch_traces_something_else(shape: tuple[int, ...]) -> None:
    """Half of two is one, a size is another's, the places do not suffice."""
    model, x = perturb(Net().eval()), torch.randn(shape)
    started(model, torch.randn(4, 6, 8))
    if shape[1] > 64:
        with pytest.raises(RuntimeError):
            started(model, x)
        return
    fast, have, count = started(model, x)
    torch.testing.assert_close(have, model(x))
    assert count == 1
    for other in [(4, 6, 8), (6, 9, 8), shape]:
        torch.testing.assert_close(fast(y := torch.randn(other)), model(y))


@torch.no_grad()
def test_what_the_lowering_asks_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes one way for even sizes and another for odd ones: a guard that Dynamo's graph does not tell."""
    plain = lowering._lowered

    def picky(module: Any, *rest: Any) -> Lowered:
        size = next(n.meta["val"] for n in module.graph.find_nodes(op="placeholder") if "val" in n.meta)
        ways.append("even" if size % 2 == 0 else "odd")
        return plain(module, *rest)

    def double(x: torch.Tensor) -> torch.Tensor:
        return x * 2 + 1

    ways: list[str] = []
    monkeypatch.setattr(lowering, "_lowered", picky)
    counts = []
    for rows in (4, 6, 7, 8):
        fast, _, count = started(double, torch.randn(rows, 3))
        counts.append(count)
    assert counts == [1, 0, 1, 1], "what is kept last is for odd sizes"
    assert ways == ["even", "odd", "even"]
    fast, _, count = started(double, torch.randn(10, 3))
    assert count == 0
    assert traced(fast, torch.randn(12, 3))[1] == 0
    x = torch.randn(13, 3)
    have, count = traced(fast, x)
    assert torch.equal(have, double(x))
    assert (count, ways[-1]) == (1, "odd"), "the guard that was kept is one of this start's too"


@torch.no_grad()
@pytest.mark.parametrize("mode", ["bound", "general"])
def test_sizes_that_outgrow_what_was_restored(world: World, mode: str) -> None:
    model = perturb(Net().eval())
    options = {"refit_mode": mode, "dynamic_range": (2, 64)}
    started(model, torch.randn(4, 6, 8), **options)
    fast, _, count = started(model, torch.randn(10, 6, 8), **options)
    assert (count, world.calls["build"]) == (0, 2)
    for rows, builds in ((64, 2), (500, 4), (4, 4), (400, 4)):
        x = torch.randn(rows, 7, 8)
        torch.testing.assert_close(fast(x), model(x))
        assert world.calls["build"] == builds, rows
    model.two.weight.mul_(2)
    torch.testing.assert_close(fast(x), model(x))
    assert ts.stats()["fallbacks"] == 0


@torch.no_grad()
def test_numbers_come_as_sizes_do(world: World) -> None:
    def scaled(x: torch.Tensor, n: int) -> torch.Tensor:
        return x.relu() * n + torch.arange(n, device=x.device).sum()

    for index, (rows, n) in enumerate([(4, 3), (5, 7), (9, 12)]):
        x = torch.randn(rows, 6)
        _, have, count = started(scaled, x, n)
        torch.testing.assert_close(have, scaled(x, n))
        assert count == (index == 0)


@torch.no_grad()
def test_numbers_of_a_module_are_not_in_the_way() -> None:
    """PyTorch has a symbol for an embedding's ``norm_type``, of which nothing is ever asked.

    It makes a constant of it in a second attempt, so the first is traced at each start.
    """

    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.norm = nn.Embedding(10, 8), nn.LayerNorm(8)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.norm(self.words(ids)).relu()  # type: ignore[no-any-return]

    for index, shape in enumerate([(2, 5), (4, 9)]):
        model, ids = perturb(Words(), index), torch.randint(0, 10, shape)
        _, have, count = started(model, ids)
        torch.testing.assert_close(have, model(ids))
        assert (ts.stats()["traces"], count) == (index, 2 - index)


@torch.no_grad()
def test_a_float_that_changes_is_not_what_it_was() -> None:
    def scaled(x: torch.Tensor, by: float) -> torch.Tensor:
        return (x * by).relu() + x.shape[0]

    for rows, by in [(4, 2.0), (5, 3.0), (7, -1.5), (5, 3.0)]:
        x = torch.randn(rows, 6)
        fast, have, _ = started(scaled, x, by)
        torch.testing.assert_close(have, scaled(x, by))
        torch.testing.assert_close(fast(x, by + 1), scaled(x, by + 1))


@torch.no_grad()
def test_a_size_among_the_results() -> None:
    def sized(x: torch.Tensor) -> tuple[torch.Tensor, int]:
        return x.relu() * 2, x.shape[0] * 3

    for index, rows in enumerate((4, 9)):
        x = torch.randn(rows, 6)
        _, (have, size), count = started(sized, x)
        assert torch.equal(have, x.relu() * 2)
        assert (size, count) == (rows * 3, index == 0)


@torch.no_grad()
def test_sizes_that_depend_on_data_are_not_kept() -> None:
    def rest(x: torch.Tensor, n: torch.Tensor) -> torch.Tensor:
        return x[: n.item()].relu() * 2

    x = torch.randn(9, 6)
    with torch._dynamo.config.patch(capture_scalar_outputs=True):
        for n in (3, 5):
            _, have, count = started(rest, x, torch.tensor(n))
            assert torch.equal(have, x[:n].relu() * 2)
            assert count == 1
