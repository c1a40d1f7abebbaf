"""What RTX computes in one kernel with more rows than it reduced, with shorter rows, or with half of a product."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import torch
from torch.nn import functional as F

from tests.cases import Case, T

Layer = Callable[[torch.Tensor], torch.Tensor]

ROWS: dict[str, Layer] = {
    "shares": lambda v: v / (v.mean(-1, keepdim=True) + 0.1),
    "distances": lambda v: v - v.amax(-1, keepdim=True),
    "softmax": lambda v: v.softmax(-1),
    "layer_norm": lambda v: F.layer_norm(v, v.shape[-1:]),
    "rms_norm": lambda v: F.rms_norm(v, v.shape[-1:]),
}


def _of_a_norm(layer: Layer, dims: tuple[int, ...]) -> Layer:
    return lambda x: x * layer(x.square().mean(dims, keepdim=True).sqrt()) + x


def _beside(layer: Layer) -> Callable[..., torch.Tensor]:
    return lambda x, v: x * layer(v)


def _gated(cut: Callable[..., tuple[torch.Tensor, ...]], gate: Layer, last: bool) -> Callable[..., torch.Tensor]:
    def layer(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        one, two = cut(F.linear(x, w, b))
        return one * gate(two) if last else gate(one) * two

    return layer


#: Of layers, by whether these are weights: builds of float32 ones take half a second.
_WEIGHTS: tuple[tuple[int, ...], ...] = ((), (1, 2))

CASES = [
    Case(f"{name}_of_a_norm_of_{'x'.join(map(str, shape))}", _of_a_norm(layer, dims), (T(shape),), tol=1e-4)
    for (shape, dims), (name, layer) in product((((7, 10), (0,)), ((2, 3, 6, 24), (1, 2))), ROWS.items())
]
CASES += [
    Case(f"{name}_beside", _beside(layer), (T((1, 4, 3, 16)), T((1, 1, 1, 16), kind="pos")))
    for name, layer in ROWS.items()
]
CASES += [
    Case("shares_of_halves", _of_a_norm(ROWS["shares"], (0, 1)), (T((4, 3, 16), torch.float16),), tol=2e-2),
    Case("softmax_of_halves", _of_a_norm(ROWS["softmax"], (0,)), (T((6, 96), torch.float16),), tol=2e-2),
    Case("mean_of_a_line_beside", lambda x, v: x * (v / v.mean()), (T((5, 8)), T((8,), kind="pos")), (1,)),
    Case("group_norm_beside", lambda x: x * F.group_norm(x.mean((2, 3), True), 2), (T((1, 8, 3, 5)),), tol=1e-4),
    Case("var_of_short_softmax", lambda x: x.softmax(-1).var(-1), (T((7, 2, 5)),)),
    Case("softmax_of_short_softmax", lambda x: (x - (3 * x).softmax(-1)).softmax(-1), (T((8, 12, 6)),)),
    Case("sum_with_short_softmax", lambda x: (x.softmax(-1) + x).sum(), (T((1, 6)),)),
    Case("rms_norm_of_short_softmax", lambda x: F.rms_norm(x.softmax(-1) * x, (5,)), (T((2, 16, 12, 5)),)),
]  # fmt: skip
CASES += [
    Case(f"gated_{name}", _gated(cut, gate, last), (T((1, 5, 8)), T((12, 8)), T((12,))), (1, 2), tol=5e-3)
    for name, cut, gate, last in (
        ("halves", lambda y: y.chunk(2, -1), F.relu, True),
        ("first", lambda y: y.chunk(2, -1), F.gelu, False),
        ("overlapping", lambda y: (y[..., :8], y[..., 4:]), F.relu, True),
        ("columns", lambda y: (y[..., ::2], y[..., 1::2]), lambda t: F.gelu(t, approximate="tanh"), True),
        ("rows", lambda y: (y[:, :4], y[:, 1:]), F.gelu, True),
    )
]  # fmt: skip
CASES += [
    Case(f"gated_{name}_{'x'.join(map(str, shape))}", _gated(cut, gate, True), (T(shape), T((12, shape[-1])), T((12,))),
         _WEIGHTS[shape == (5, 8)], tol=5e-3)
    for shape in ((5, 8), (1, 5, 7), (5, 7), (16, 255), (3, 5, 8))
    for name, cut, gate in (
        ("halves", lambda y: y.chunk(2, -1), F.relu),
        ("whole", lambda y: (y, y), F.gelu),
        ("turned", lambda y: (y, y.flip(-1)), F.relu),
        ("first_rows", lambda y: (y[..., :-1, :], y[..., 1:, :]), F.gelu),
    )
]  # fmt: skip
CASES += [
    Case("gated_of_higher_rank",
         lambda x, w, b: (lambda y: y[..., :6] * y[..., 6:].relu())(torch.matmul(x, w) + b),
         (T((1, 5, 8)), T((1, 1, 8, 12)), T((12,))), (1, 2), tol=5e-3),
    Case("gated_batch_of_one",
         lambda x, w, b: (lambda y: y[..., :6] * y[..., 6:].relu())(torch.bmm(x, w) + b),
         (T((1, 5, 8)), T((1, 8, 12)), T((12,))), tol=5e-3),
    Case("gated_batch",
         lambda x, w, b: (lambda y: y * y.flip(-2).relu())(torch.bmm(x.relu(), w) + b),
         (T((3, 5, 8)), T((3, 8, 12)), T((12,))), tol=5e-3),
]  # fmt: skip
CASES += [
    Case(f"gated_by_another_layer_{name}_{'x'.join(map(str, shape))}",
         lambda x, v, a, w, b, gate=gate: gate(F.linear(x, v, a)) * F.linear(x, w, b),
         (T(shape), *(T(s) for s in ((12, shape[-1]), (12,)) * 2)), _WEIGHTS[shape == (5, 8)], tol=5e-3)
    for shape in ((5, 8), (1, 5, 8), (1, 33, 13), (3, 5, 8))
    for name, gate in (
        ("relu", F.relu), ("gelu", F.gelu), ("silu", F.silu),
        ("written_gelu", lambda y: 0.5 * y * (1 + torch.tanh(0.79788456 * (y + 0.044715 * y**3)))),
    )
]  # fmt: skip

CASES += [
    Case(f"{act}_of_a_layer_{name}_{'x'.join(map(str, shape))}",
         lambda x, w, b, f=f, behind=behind: behind(f(F.linear(x, w, b)), b), (T(shape), T((12, 8)), T((12,))),
         _WEIGHTS[shape == (5, 8)], tol=5e-3)
    for shape in ((5, 8), (1, 33, 8), (3, 5, 8))
    for act, f in (("relu", F.relu), ("gelu", F.gelu), ("new_gelu", lambda y: F.gelu(y, approximate="tanh")))
    for name, behind in (
        ("scaled", lambda r, b: r * 1.5 + 0.25),
        ("squared", lambda r, b: r.square()),
        ("by_columns", lambda r, b: r * b),
        ("by_its_turn", lambda r, b: r * r.flip(-1)),
        ("normalized", lambda r, b: F.rms_norm(r + 0.1, (12,))),
    )
] + [
    Case("relu_of_a_convolution_scaled", lambda x, w, b: F.conv2d(x, w, b, padding=1).relu() * 1.5 + 0.25,
         (T((2, 8, 9, 9)), T((12, 8, 3, 3)), T((12,))), (1, 2), tol=5e-3),
]  # fmt: skip

#: One element of each row, column or all, beside what it was taken of.
TAKEN: dict[str, Layer] = {
    "column": lambda y: y[..., :1],
    "selected": lambda y: y[..., 2].unsqueeze(-1),
    "row": lambda y: y[..., :1, :],
    "row_behind": lambda y: y[..., 1:2, :],
    "corner": lambda y: y[..., :1, :1],
    "split": lambda y: y.split(1, -1)[0],
    "unbound": lambda y: y.unbind(-2)[0].unsqueeze(-2),
    "turned": lambda y: y.flip(-1)[..., -1:],
    "joined": lambda y: torch.cat([y[..., :1]] * y.shape[-1], -1),
    "every_eighth": lambda y: y[..., ::8],
    "batch": lambda y: y[:1],
}
CASES += [
    Case(f"{name}_beside_{'x'.join(map(str, shape))}",
         lambda x, take=take: (lambda y: (take(y) * torch.exp(y)).sum(-1))(x * 2),
         (T(shape, kind="pos"),), tol=1e-4)
    for shape in ((3, 5, 8), (5, 7)) for name, take in TAKEN.items() if name != "every_eighth" or shape[-1] == 8
]  # fmt: skip
CASES += [
    Case(f"column_beside_{str(dtype)[6:]}", lambda x: (x[..., :1] * F.gelu(x)).sum(-1), (T((2, 9, 64), dtype, "pos"),),
         tol=2e-2)
    for dtype in (torch.float16, torch.bfloat16)
] + [
    Case("column_beside_row", lambda x: (x[..., :1] * x[..., :1, :].exp()).sum(-1), (T((3, 5, 8), kind="pos"),)),
    Case("column_beside_softmax", lambda x: (F.gelu(x) - x[..., :1]).softmax(-1), (T((5, 33)),)),
    Case("column_beside_norm", lambda x: F.rms_norm(x[..., :1] * torch.erf(x), (33,)), (T((5, 33), kind="pos"),)),
    Case("column_beside_extreme", lambda x: (x[..., :1] * x.sin()).amax(-1), (T((5, 33), kind="pos"),)),
    Case("column_beside_whole_numbers", lambda x: (x[..., :1] * x).sum(-1), (T((5, 33), torch.int64, "int:-9:9"),)),
    Case("column_beside_any", lambda x: (x[..., :1] ^ x).any(-1), (T((5, 33), torch.bool, "bool"),)),
    Case("part_rows_beside", lambda x: (x[:, 1:2] + (x[:, 1:] / 3).exp()).softmax(-1), (T((2, 5, 9)),)),
]  # fmt: skip

#: Parts of a tensor that begin with the same element, taken with different steps.
CASES += [
    Case("turned_beside_itself", lambda x, y: ((x * x.flip(-1))[..., 6:12] * y).softmax(-1),
         (T((1, 16, 13)), T((1, 16, 6)))),
    Case("turned_sums", lambda x: (x * x.flip(-1))[..., 16:].logsumexp(-1), (T((1, 2, 33), torch.float16),), tol=1e-2),
    Case("turned_rows", lambda x: (x.exp() * x.exp().flip(-2))[..., 2:4, :].sum(-2), (T((3, 5, 8)),), tol=1e-4),
    Case("turned_and_rolled", lambda x: (x.roll(1, -1) * x.flip(-1)).sum(-1), (T((5, 13)),)),
    Case("every_second_beside", lambda x: (x[..., ::2] * x.exp()[..., :7]).log_softmax(-1), (T((3, 2, 13)),)),
    Case("every_third_beside", lambda x: (x[..., 1::3] - x.sin().split([1, 4, 7], -1)[1]).norm(dim=-1), (T((5, 12)),)),
    Case("every_second_row_beside", lambda x: F.rms_norm(x[:, ::2] + x[:, :4] * 3, (8,)), (T((2, 7, 8)),)),
    Case("every_second_beside_halves", lambda x: (x[..., ::2] + x[..., :7]).mean(-1), (T((16, 13), torch.bfloat16),),
         tol=4e-2),
]  # fmt: skip

#: Products of few terms, and their operands again, before a reduction.
AGAIN: dict[str, Callable[..., torch.Tensor]] = {
    "left": lambda a, x: (a @ x * x).log_softmax(-1),
    "sum": lambda a, x: (a @ x - x).abs().sum(-1),
    "of_what_is_made": lambda a, x: ((a @ (x / 2).exp()).sin() * x.sin()).mean(-1),
    "norm": lambda a, x: F.layer_norm(a @ x + x, x.shape[-1:]),
    "twice": lambda a, x: (a @ (a @ x)).amax(-1),
    "twice_beside": lambda a, x: (a @ (a @ x) * x.sin()).softmax(-1),
    "right": lambda a, x: (x.mT @ a - x.mT).norm(dim=-1),
}
CASES += [
    Case(f"few_terms_{name}_{'x'.join(map(str, shape))}", fn, (T((*shape[:-1], shape[-2])), T(shape)), tol=1e-4)
    for shape in ((1, 2, 33), (3, 3, 8), (4, 13)) for name, fn in AGAIN.items()
] + [
    Case("few_terms_squared", lambda x: (x @ x).sum(-1), (T((3, 3)),)),
    Case("few_terms_turned", lambda x: (x @ x.mT - x[..., :3]).softmax(-1), (T((2, 3, 4)),)),
    Case("few_terms_of_halves", lambda a, x: (a @ x * x).log_softmax(-1), (T((3, 3)), T((3, 20000), torch.float32))),
    Case("few_tokens", lambda x: F.layer_norm(F.scaled_dot_product_attention(x, x, x) + x, (8,)), (T((2, 3, 8)),)),
]  # fmt: skip
