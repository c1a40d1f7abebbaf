"""Views of one tensor beside each other, which repeat along each other's dimensions: each is to stay what it is."""

from __future__ import annotations

from collections.abc import Callable

import torch

from tests.cases import Case, T

Both = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

#: Of a column and a row.
PAIRS: dict[str, Both] = {
    "distance": lambda a, b: (a - b).abs().sum(-1),
    "distance_back": lambda a, b: (b - a).abs().sum(-2),
    "nearest": lambda a, b: (a - b).amin(-1),
    "order": lambda a, b: (a > b).sum(-1),
    "kernel": lambda a, b: (a * b).softmax(-1),
    "product": lambda a, b: (a @ b).softmax(-1),
    "chosen": lambda a, b: torch.where(a > 0, b, a * 2).sum(-1),
    "alone": lambda a, b: a - b,
}
#: With dimensions of one element before, between and after the others, and without.
SHAPES = [(7,), (1, 7), (2, 7), (1, 1, 7), (1, 2, 7), (2, 1, 7), (2, 7, 1), (1, 2, 1, 7), (2, 1, 1, 7), (2, 1, 7, 1)]


def named(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _beside(pair: Both, *, computed: bool) -> Callable[[torch.Tensor], torch.Tensor]:
    def fn(x: torch.Tensor) -> torch.Tensor:
        y = x.sin() if computed else x
        return pair(y.reshape(-1, 7, 1), y.reshape(-1, 1, 7))

    return fn


CASES = [
    Case(f"{name}_{named(shape)}{'_computed' * computed}", _beside(pair, computed=computed), (T(shape),))
    for name, pair in PAIRS.items()
    for shape in SHAPES
    for computed in (False, True)
]
CASES += [c.with_dtype(torch.float16) for c in CASES if c.name in ("distance_1x2x7", "order_1x1x7", "kernel_2x1x7")]

BETWEEN: dict[str, Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "sum": lambda a, b, z: ((a + z) * b).sum(-1),
    "amax": lambda a, b, z: (a * z - b).amax(-1),
    "softmax": lambda a, b, z: (a * z + b).softmax(-1),
    "computed": lambda a, b, z: ((a.sin() + z) * b.cos()).sum(-2),
    "twice": lambda a, b, z: (z * a).sum(-1) + (z * b).sum(-1),
}


def _between(pair: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]) -> Callable[..., torch.Tensor]:
    return lambda x, z: pair(x.reshape(-1, 7, 1), x.reshape(-1, 1, 7), z)


CASES += [
    Case(f"between_{name}_{named(shape)}", _between(pair), (T(shape), T((torch.Size(shape).numel() // 7, 7, 7))))
    for name, pair in BETWEEN.items()
    for shape in SHAPES
]
CASES += [
    Case("matrix_of_one", lambda x: (x.t() - x).exp().sum(-1), (T((1, 9)),)),
    Case("itself", lambda x: (x - x.reshape(1, 9, 1)).exp().sum(-1), (T((1, 1, 9)),)),
    Case("slices", lambda x: (x[..., :4].reshape(4, 1) - x[..., 1:].reshape(1, 4)).abs().sum(-1), (T((1, 5)),)),
    Case("of_a_weight", lambda x, w: ((w.reshape(9, 1) - w).abs() * x).sum(-1), (T((9,)), T((1, 9))), (1,)),
    Case("scaled", lambda x, s: (x.view(9, 1) * s - x).abs().sum(-1), (T((1, 9)), T((1, 1)))),
    Case("scaled_by_itself",
         lambda x: ((x @ x.mT).sin() / (x.mT.abs() + 1) * x).amax(-1), (T((2, 2, 1, 33)),), tol=1e-4),
    Case("attention_of_one", lambda x: (torch.nn.functional.scaled_dot_product_attention(x, x, x) - x.mT).softmax(-1),
         (T((1, 5), torch.bfloat16),), tol=4e-2),
    Case("sort", lambda x: torch.sort(x, stable=True)[1], (T((1, 2, 7), kind="int:-4:5"),)),
]  # fmt: skip
