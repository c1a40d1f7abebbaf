"""One tensor in two orientations: no fusion may take one for the other. Square, so that shapes agree."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations

import pytest
import torch
from torch.nn import functional

import trt_stripped_backend as ts

Along = Callable[[torch.Tensor, int], torch.Tensor]

ALONG: dict[str, Along] = {
    "amax": lambda y, d: y.amax(d),
    "spread": lambda y, d: y.amax(d) - y.amin(d),
    "argmax": lambda y, d: y.argmax(d),
    "max": lambda y, d: y.max(d).values,
    "sum": lambda y, d: y.sum(d),
    "mean": lambda y, d: y.float().mean(d),
    "prod": lambda y, d: (y.float() * 0.5).prod(d),
    "any": lambda y, d: (y > 1).any(d),
    "var": lambda y, d: y.float().var(d),
    "norm": lambda y, d: y.float().norm(dim=d),
    "rms": lambda y, d: y.float() * (y.float().square().mean(d, keepdim=True) + 1e-5).rsqrt(),
    "logsumexp": lambda y, d: y.float().logsumexp(d),
    "softmax": lambda y, d: y.float().softmax(d),
    "median": lambda y, d: y.median(d).values,
    "topk": lambda y, d: y.topk(2, d).values,
    "sort": lambda y, d: torch.sort(y, dim=d, stable=True).indices,
    "normalize": lambda y, d: functional.normalize(y.float(), dim=d),
}
#: Shapes, and the two dimensions that are taken for one another.
SQUARES = [
    ((6, 6), 0, 1), ((16, 16), 0, 1), ((40, 40), 0, 1), ((3, 6, 6), 1, 2), ((6, 6, 3), 0, 1), ((1, 6, 1, 6), 1, 3),
]  # fmt: skip
#: Shapes with dimensions of one element before, between and after the others.
SINGLE = [(7, 6, 1), (1, 7, 6), (1, 1, 7, 6), (2, 1, 7, 6), (1, 7, 6, 5), (1, 1, 7, 6, 5)]
#: One tensor, and the same turned.
TURNED: dict[str, Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]] = {
    "input": lambda x: (x.t(), x),
    "computed": lambda x: ((x + 1).t(), x + 1),
    "then_computed": lambda x: ((x + 1).t() * 2, (x + 1) * 2),
    "product": lambda x: (x @ x, (x @ x).t()),
    "back": lambda x: ((x + 1).t().relu().t() - 1, (x + 1).t().relu()),
}


def data(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    torch.manual_seed(sum(shape))
    if dtype.is_floating_point:
        return torch.randn(shape, device="cuda").to(dtype)
    return torch.randint(-9, 9, shape, device="cuda", dtype=dtype)


def is_right(graph: Callable[[torch.Tensor], tuple[torch.Tensor, ...]], x: torch.Tensor) -> None:
    """Compares a graph with PyTorch; it runs in engines alone."""
    torch.compiler.reset()
    fast = torch.compile(graph, backend="trt_stripped", options={"min_block_size": 1, "cache": False})
    close = {torch.float16: 2e-2, torch.bfloat16: 6e-2}.get(x.dtype, 3e-5)
    with torch.no_grad():
        for have, want in zip(fast(x), graph(x), strict=True):
            torch.testing.assert_close(have, want, rtol=close, atol=close)
    assert not ts.reports()[-1].rejections


@pytest.mark.parametrize("name", ALONG)
@pytest.mark.parametrize(("shape", "a", "b"), SQUARES, ids=str)
def test_over_either_dimension_of_a_square(shape: tuple[int, ...], a: int, b: int, name: str) -> None:
    along = ALONG[name]
    is_right(lambda x: (along(x + 1, a), along(x + 1, b)), data(*shape))


@pytest.mark.parametrize("name", ALONG)
@pytest.mark.parametrize("dtype", [torch.int32, torch.float16], ids=str)
def test_over_either_dimension_in_other_types(dtype: torch.dtype, name: str) -> None:
    along = ALONG[name]
    is_right(lambda x: (along(x + 1, 0), along(x + 1, 1)), data(6, 6, dtype=dtype))


@pytest.mark.parametrize("name", ["amax", "argmax", "var", "logsumexp", "sum", "softmax", "sort"])
@pytest.mark.parametrize("turned", TURNED)
@pytest.mark.parametrize("size", [6, 40])
@pytest.mark.parametrize("dim", [0, 1])
def test_a_square_and_its_transpose(size: int, turned: str, name: str, dim: int) -> None:
    along, both = ALONG[name], TURNED[turned]
    is_right(lambda x: tuple(along(y, dim) for y in both(x)), data(size, size))


@pytest.mark.parametrize("name", ["amax", "argmax"])
@pytest.mark.parametrize("dtype", [torch.int32, torch.float16], ids=str)
def test_a_square_and_its_transpose_in_other_types(dtype: torch.dtype, name: str) -> None:
    along = ALONG[name]
    is_right(lambda x: (along((x + 1).t(), 1), along(x + 1, 1)), data(6, 6, dtype=dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("size", [6, 16])
def test_beside_a_product_with_a_vector(size: int, dtype: torch.dtype) -> None:
    """RTX gets such a product as a sum over the last dimension."""

    def graph(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return functional.linear(x, x[:1] + 1).float(), x.amax(-2), x.argmax(1, keepdim=True), x.t().amin(1)

    is_right(graph, data(size, size, dtype=dtype))


@pytest.mark.parametrize("count", [3, 5])
def test_many_orientations_of_one_shape(count: int) -> None:
    def graph(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        made = []
        for k in range(count):
            y = (x + k).permute(*((0, 1, 2), (0, 2, 1), (1, 0, 2), (2, 0, 1), (2, 1, 0))[k])
            made += [y.amax(0), y.amax(1), y.amax(2), y.var(2)]
        return tuple(made)

    is_right(graph, data(6, 6, 6))


@pytest.mark.parametrize("order", list(permutations(range(3))), ids=str)
def test_a_cube_in_every_orientation(order: tuple[int, ...]) -> None:
    def graph(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        each = (x + 1).permute(order), x + 1
        return tuple(
            made for y in each for made in (y.amax(-1), y.argmax(1), y.var((1, 2)), y.flatten(1).argmax(1), y.sum(0))
        )

    is_right(graph, data(6, 6, 6))


@pytest.mark.parametrize("shape", SINGLE, ids=str)
@pytest.mark.parametrize("dims", [(-1, -2), (-2, -3), (-1, -3)], ids=str)
def test_all_pairs_of_a_transpose(shape: tuple[int, ...], dims: tuple[int, int]) -> None:
    def graph(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        y = x.transpose(*dims)
        rows = y.reshape(-1, y.shape[-1])
        ranks = (rows.unsqueeze(1) < rows.unsqueeze(2)).int().sum(2)
        return ranks, ranks.reshape(y.shape).transpose(*dims), (y.unsqueeze(-1) < y.unsqueeze(-2)).int().sum(-1)

    is_right(graph, data(*shape))


@pytest.mark.parametrize("shape", [(7, 6), (1, 7, 6), (1, 1, 7, 6), (2, 1, 7, 6), (1, 7, 1, 6)], ids=str)
@pytest.mark.parametrize("descending", [False, True])
def test_sorting_a_dimension_before_the_last(shape: tuple[int, ...], descending: bool) -> None:
    dim = shape.index(7)
    is_right(lambda x: tuple(torch.sort(x, dim=dim, stable=True, descending=descending)), data(*shape))


@pytest.mark.parametrize("shape", [(4, 5, 7, 3), (4, 5, 7, 16), (2, 6, 6), (6, 6), (6, 6, 3)], ids=str)
def test_sums_of_a_softmax(shape: tuple[int, ...]) -> None:
    is_right(lambda x: (x.softmax(-1).sum(-2), x.softmax(-1).amax(-2), x.softmax(-2).sum(-1)), data(*shape))


@pytest.mark.parametrize("size", [6, 40])
def test_rows_and_columns_in_turn(size: int) -> None:
    """Sinkhorn's: each step divides by the sums of the rows, then by those of the columns."""

    def graph(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        x = x.exp()
        for _ in range(4):
            x = x / x.sum(0, keepdim=True)
            x = x / x.amax(1, keepdim=True)
        return x, x.argmax(0), x.argmax(1)

    is_right(graph, data(size, size))


@pytest.mark.parametrize("size", [6, 32, 100])
def test_contrastive_loss(size: int) -> None:
    """CLIP's: logits of images against texts, softmax over each."""

    def graph(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        images, texts = (functional.normalize(t, dim=-1) for t in x)
        logits = images @ texts.t() * 10
        labels = torch.arange(size, device=x.device)
        losses = functional.cross_entropy(logits, labels), functional.cross_entropy(logits.t(), labels)
        return *losses, logits.argmax(0), logits.argmax(1), logits.t().argmax(1), logits.amax(0), logits.amax(1)

    is_right(graph, data(2, size, 64))
