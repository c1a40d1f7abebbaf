"""The range of sizes that an engine is built for."""

from __future__ import annotations

import pytest
import torch
from torch import fx
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

from trt_stripped_backend import profile
from trt_stripped_backend.types import Partition, Ranges, Signature, Symbol, TensorSpec


def made(*symbols: tuple[int, int | None, int], square: bool = False) -> tuple[Partition, Signature]:
    """A partition whose input has one dimension for each ``(low, high, example)``."""
    chosen = StatelessSymbolicContext(dynamic_sizes=[DimDynamic.DYNAMIC] * len(symbols))
    like = torch.empty([3 + 2 * i for i in range(len(symbols))])
    fake = FakeTensorMode(shape_env=ShapeEnv()).from_tensor(like, symbolic_context=chosen)
    graph = fx.Graph()
    x = graph.placeholder("x")
    x.meta["val"] = fake
    y = graph.call_function(torch.relu, (x,))
    y.meta["val"] = fake.new_empty(fake.shape[0] * fake.shape[0], 1 << 10) if square else fake
    graph.output((y,))
    names = tuple(f"d{i}" for i in range(len(symbols)))
    spec = TensorSpec(names, torch.float32, tuple(range(len(names))))
    found = tuple(Symbol(name, *limits, "x", i) for i, (name, limits) in enumerate(zip(names, symbols, strict=True)))
    return (
        Partition("engine_0", fx.GraphModule({}, graph), frozenset(), 1),
        Signature((("x", spec),), (), (spec,), found),
    )


@pytest.mark.parametrize(
    ("symbol", "limits", "want"),
    [
        ((2, 64, 5), None, (2, 8, 64)),  # PyTorch's own limits
        ((2, 6, 5), None, (2, 6, 6)),
        ((2, None, 5), None, (2, 8, 4096)),
        ((2, None, 3000), None, (2, 4096, 16384)),
        ((2, None, 5), (1, 100), (2, 8, 100)),
        ((2, None, 500), (1, 100), (2, 512, 4096)),  # beyond the option: as without it
        ((0, None, 1), None, (0, 1, 4096)),
    ],
)
def test_ranges(symbol: tuple[int, int | None, int], limits: tuple[int, int] | None, want: Ranges) -> None:
    assert profile.ranges(*made(symbol), limits) == (want,)


def test_sizes_that_must_fit() -> None:
    partition, signature = made((2, None, 5), (2, 16, 3))
    found = profile.ranges(partition, signature, (2, 8), [5000, 16])
    assert profile.contains(found, [5000, 16])
    assert not profile.contains(found, [5000, 17])
    assert profile.as_intervals(signature, found) == {"d0": (2, 32768), "d1": (2, 16)}


def test_neighbours_of_a_size_that_is_no_power() -> None:
    assert profile.neighbours(((7, 21, 70),))[:2] == [((7, 16, 70),), ((7, 32, 70),)]


def test_no_tensor_is_larger_than_tensorrt_holds() -> None:
    (found,) = profile.ranges(*made((2, None, 8), square=True), None)
    low, best, high = found
    assert (low, best) == (2, 8)
    assert high * high * 1024 <= profile.MAX_ELEMENTS < 4 * high * high * 1024


def test_what_is_needed_is_kept_even_if_tensorrt_may_refuse_it() -> None:
    (found,) = profile.ranges(*made((2, None, 8), square=True), None, [3000])
    assert found[2] >= 3000
