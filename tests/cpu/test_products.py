"""Matrix products that are written out as elementwise products and sums."""

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
