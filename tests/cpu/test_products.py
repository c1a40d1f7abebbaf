"""Products: of matrices, written out as elementwise products and sums, and of what repeats along each other."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.torch_network import Tensor, TorchNetwork
from trt_stripped_backend import flavour
from trt_stripped_backend.flavour import trt
from trt_stripped_backend.ops.net import Net
from trt_stripped_backend.types import TensorSpec


class Watched(TorchNetwork):
    """Notes the shapes of what is multiplied."""

    def __init__(self, *sets: dict[str, torch.Tensor]) -> None:
        super().__init__(*sets)
        self.multiplied: list[tuple[tuple[int, ...], tuple[int, ...]]] = []

    def add_elementwise(self, input1: Tensor, input2: Tensor, op: Any) -> Any:
        if op == trt.ElementWiseOperation.PROD:
            self.multiplied.append((tuple(input1.shape), tuple(input2.shape)))
        return super().add_elementwise(input1, input2, op)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    ("left", "right"),
    [
        ((2, 4, 1, 16), (2, 4, 32, 16)),  # a query and the keys of a cache
        ((2, 4, 32, 16), (2, 4, 1, 16)),
        ((2, 1, 16), (8, 16)),
        ((8, 16), (1, 16)),
        ((1, 16), (1, 16)),
    ],
)
@pytest.mark.parametrize("transposed", [True, False])
def test_layers_repeat_a_vector(
    left: tuple[int, ...], right: tuple[int, ...], dtype: torch.dtype, transposed: bool
) -> None:
    """RTX 1.6.1 is wrong where a product repeats one that is itself a sum: only a GPU tells."""
    a, b = torch.randn(left).to(dtype), torch.randn(right).to(dtype)
    given = {"a": a, "b": b if transposed else b.mT.contiguous()}
    network = Watched(given)
    net = Net(network, flavour.load(), bound=True)
    x, y = (net.input(name, TensorSpec.of(value)) for name, value in given.items())
    made = net.product(x, y, transpose_b=transposed)
    torch.testing.assert_close(made.value, a.float() @ b.float().mT)
    assert network.multiplied
    assert all(one == other for one, other in network.multiplied)


@pytest.mark.parametrize("shape", [(7,), (1, 7), (2, 7), (1, 2, 7), (2, 1, 7), (2, 7, 1), (1, 1, 2, 7)], ids=str)
@pytest.mark.parametrize("turned", [False, True])
def test_layers_repeat_a_view_for_another_of_one_tensor(shape: tuple[int, ...], turned: bool) -> None:
    """RTX 1.6.1 takes one for the other: only a GPU tells."""
    x = torch.randn(shape)
    network = Watched({"x": x})
    net = Net(network, flavour.load(), bound=True)
    given = net.input("x", TensorSpec.of(x))
    column, row = net.reshape(given, [-1, 7, 1]), net.reshape(given, [-1, 1, 7])
    made = net.mul(row, column) if turned else net.mul(column, row)
    torch.testing.assert_close(made.value, x.view(-1, 7, 1) * x.view(-1, 1, 7))
    ((one, other),) = network.multiplied
    whole = (x.numel() // 7, 7, 7)
    assert whole in (one, other)


def test_layers_repeat_a_view_after_another_operator() -> None:
    """Fused, all of these are one kernel."""
    given = {"x": torch.randn(1, 7), "z": torch.randn(7, 7)}
    network = Watched(given)
    net = Net(network, flavour.load(), bound=True)
    x, z = (net.input(name, TensorSpec.of(value)) for name, value in given.items())
    first = net.mul(z, net.mul(x, 2.0))
    second = net.mul(net.reshape(net.unary(trt.UnaryOperation.EXP, x), [7, 1]), first)
    want = given["x"].exp().view(7, 1) * given["z"] * given["x"] * 2
    torch.testing.assert_close(second.value, want)
    assert network.multiplied[1:] == [((7, 7), (1, 7)), ((7, 7), (7, 7))]


def test_a_reduction_is_no_view() -> None:
    """A mask, and which of its rows are empty: repeated for each head, attention would be no attention to RTX."""
    given = {"mask": torch.rand(1, 1, 7, 7), "scores": torch.randn(1, 2, 7, 7)}
    network = Watched(given)
    net = Net(network, flavour.load(), bound=True)
    mask, scores = (net.input(name, TensorSpec.of(value)) for name, value in given.items())
    masked = net.mul(scores, mask)
    net.mul(masked, net.reduce(trt.ReduceOperation.MAX, mask, [-1], keepdim=True))
    assert network.multiplied == [((1, 2, 7, 7), (1, 1, 7, 7)), ((1, 2, 7, 7), (1, 1, 7, 1))]


@pytest.mark.parametrize("other", [(1, 1, 5), (2, 1, 7)])
def test_tensors_of_their_own_are_left_to_tensorrt(other: tuple[int, ...]) -> None:
    """A state space model multiplies large ones so."""
    given = {"x": torch.randn(2, 7, 1), "y": torch.randn(other)}
    network = Watched(given)
    net = Net(network, flavour.load(), bound=True)
    x, y = (net.input(name, TensorSpec.of(value)) for name, value in given.items())
    net.mul(net.mul(x, 2.0), net.mul(y, 2.0))
    assert network.multiplied[2:] == [((2, 7, 1), other)]
