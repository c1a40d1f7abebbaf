"""Engines that end before TensorRT-RTX builds for minutes give PyTorch's values."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

import trt_stripped_backend as ts
from tests.rounds import ENDS, STEPS, layer, layer_of, products, rounds

TOLERANCES = {torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 1e-1}


def check(fn: Callable[..., torch.Tensor], *inputs: torch.Tensor) -> None:
    want = fn(*(value.double() for value in inputs)).double()
    fast = torch.compile(fn, backend="trt_stripped", options={"cache": False, "min_block_size": 1}, dynamic=False)
    with torch.no_grad():
        have = fast(*(value.cuda() for value in inputs))
    bound = TOLERANCES[inputs[0].dtype]
    torch.testing.assert_close(have.cpu().double(), want, rtol=bound, atol=bound)
    (report,) = ts.reports()
    assert not report.rejections
    assert report.nodes_in_engines == report.nodes


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("shape", [(2, 4, 4), (3, 2), (2, 4, 7), (5, 3, 4)], ids=str)
@pytest.mark.parametrize("name", STEPS)
def test_rounds(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    check(rounds(STEPS[name][0]), (torch.rand(shape) + 0.5).to(dtype))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("length", [2, 3, 4])
@pytest.mark.parametrize("extreme", [torch.amax, torch.amin])
@pytest.mark.parametrize("name", STEPS)
def test_extremes_of_what_was_reduced(
    name: str, extreme: Callable[..., torch.Tensor], length: int, dtype: torch.dtype
) -> None:
    def fn(x: torch.Tensor) -> torch.Tensor:
        y = STEPS[name][0](x, -1)
        return y - extreme(y, -1, keepdim=True)

    check(fn, (4 * torch.rand(2, 4, length) + 0.5).to(dtype))  # so far apart that another element shows


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize(("tokens", "width"), [(4, 4), (2, 2), (3, 4), (4, 3), (8, 8), (1, 4), (1, 2)])
def test_a_narrow_layer(tokens: int, width: int, dtype: torch.dtype) -> None:
    check(layer, *layer_of(tokens, width, dtype))


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("shape", [(4,), (1, 4), (3, 1, 4), (6, 4)], ids=str)
def test_products_of_each_other(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    check(products, torch.rand(shape).to(dtype), (torch.rand(4, 4) / 4).to(dtype))


@pytest.mark.parametrize("name", ENDS)
def test_values_that_are_read_again_and_again(name: str) -> None:
    check(ENDS[name], torch.randn(6, 64))
