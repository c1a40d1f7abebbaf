"""Slices, diagonals, triangles and windows."""

from __future__ import annotations

import torch

from tests.cases import Case, T
from tests.cases.shape import BF16, BOOL, F16, I32, I64, NAMES, t

aten = torch.ops.aten


def _write(x: torch.Tensor, y: torch.Tensor, *place: slice | int) -> torch.Tensor:
    x = x.clone()
    x[place] = y
    return x


CASES = [
    Case("slice", lambda x: x[:, 1:3], (t(2, 5, 3),)),
    Case("slice_step", lambda x: x[1::2], (t(6, 3),)),
    Case("slice_step_uneven", lambda x: x[..., 1:6:3], (t(2, 7),)),
    Case("slice_negative_bounds", lambda x: x[:, -3:-1], (t(2, 5),)),
    Case("slice_out_of_range", lambda x: x[-9:99, 1 : 2**40], (t(2, 5),)),
    Case("slice_whole", lambda x: aten.slice(x, 0) + 1, (t(2, 5),)),
    Case("slice_empty", lambda x: x[:, 3:1], (t(2, 5),)),
    Case("slice_beyond", lambda x: x[5:], (t(2, 5),)),
    Case("slice_negative_dim", lambda x: aten.slice(x, -2, None, -1), (t(4, 5),)),
    Case("narrow", lambda x: x.narrow(-1, -3, 2), (t(2, 5),)),
    Case("select", lambda x: x[:, 2], (t(2, 5, 3),)),
    Case("select_negative", lambda x: x.select(-1, -2), (t(2, 5),)),
    Case("select_to_0d", lambda x: x[1], (t(3),)),
    Case("slice_and_select", lambda x: x[1, ..., ::2, None, -1], (t(2, 3, 4, 5),)),
    Case("slice_scatter", lambda x, y: torch.slice_scatter(x, y, 1, 1, 3), (t(2, 5), t(2, 2))),
    Case("slice_scatter_head", lambda x, y: torch.slice_scatter(x, y, 0, None, 2), (t(4, 3), t(2, 3))),
    Case("slice_scatter_tail", lambda x, y: torch.slice_scatter(x, y, -1, -2), (t(2, 5), t(2, 2))),
    Case("slice_scatter_whole", lambda x, y: torch.slice_scatter(x, y) + 1, (t(2, 3), t(2, 3))),
    Case("slice_scatter_step", lambda x, y: torch.slice_scatter(x, y, 1, 1, None, 2), (t(2, 6), t(2, 3))),
    Case("slice_scatter_step_inside", lambda x, y: torch.slice_scatter(x, y, 0, 1, 6, 3), (t(8, 2), t(2, 2))),
    Case("slice_scatter_step_once", lambda x, y: torch.slice_scatter(x, y, 1, 2, None, 4), (t(2, 6), t(2, 1))),
    Case(
        "slice_scatter_step_all_bool",
        lambda x: torch.slice_scatter(x, torch.ones_like(x), 1, 0, 1, 2),
        (t(2, 1, dtype=BOOL),),
    ),
    Case("write_slice", lambda x, y: _write(x, y, slice(1, 3)), (t(4, 3), t(3))),
    Case("write_select", lambda x, y: _write(x, y, slice(None), 1), (t(4, 3), t(4))),
    Case("write_casts", lambda x, y: _write(x, y, slice(1, 3)), (t(4, 3, dtype=I32), t(2, 3))),
    Case("select_scatter", lambda x, y: torch.select_scatter(x, y, 1, -2), (t(2, 5, 3), t(2, 3))),
    Case("select_scatter_1d", lambda x, y: torch.select_scatter(x, y, 0, 1), (t(3), t())),
    Case("diagonal", lambda x: x.diagonal(), (t(3, 5),)),
    Case("diagonal_above", lambda x: x.diagonal(2), (t(3, 5),)),
    Case("diagonal_below", lambda x: x.diagonal(-2), (t(5, 3),)),
    Case("diagonal_corner", lambda x: x.diagonal(4), (t(3, 5),)),
    Case("diagonal_dims", lambda x: x.diagonal(1, -1, 0), (t(3, 2, 4),)),
    Case("diagonal_empty", lambda x: x.diagonal(5), (t(3, 5),), rejected="empty diagonal"),
    Case("diag_trace", lambda x: x.diag() * x.trace(), (t(4, 4),)),
    Case("diag_embed", lambda x: torch.diag_embed(x), (t(2, 3),)),
    Case("diag_embed_offset", lambda x: (torch.diag_embed(x, 2), torch.diag_embed(x, -1)), (t(2, 3),)),
    Case("diag_embed_dims", lambda x: torch.diag_embed(x, 1, 0, 2), (t(2, 3),)),
    Case("diagonal_scatter", lambda x, y: torch.diagonal_scatter(x, y), (t(3, 5), t(3))),
    Case("diagonal_scatter_tall", lambda x, y: torch.diagonal_scatter(x, y), (t(5, 3), t(3))),
    Case("diagonal_scatter_above", lambda x, y: torch.diagonal_scatter(x, y, 1), (t(4, 3), t(2))),
    Case("diagonal_scatter_below", lambda x, y: torch.diagonal_scatter(x, y, -1, 2, 0), (t(4, 2, 3), t(2, 2))),
    Case("tril", lambda x: x.tril(), (t(3, 5),)),
    Case("tril_offset", lambda x: (x.tril(1), x.tril(-2)), (t(2, 4, 4),)),
    Case("triu", lambda x: x.triu(), (t(5, 3),)),
    Case("triu_offset", lambda x: (x.triu(2), x.triu(-1)), (t(2, 4, 4),)),
    Case("tril_all_or_none", lambda x: (x.tril(9), x.triu(9)), (t(3, 4),)),
    Case("tril_large", lambda x: x.tril(3), (t(90, 80),)),
    Case("tril_nan", lambda x: x.tril(), (T((8, 8), kind="nan"),)),
    Case("causal_mask", lambda x: x.masked_fill(torch.ones_like(x, dtype=BOOL).triu(1), -1e9), (t(4, 4),)),
    Case("causal_bias", lambda x: x + torch.full_like(x, float("-inf")).triu(1), (t(4, 4),)),
    Case("unfold", lambda x: x.unfold(1, 3, 2), (t(2, 8),)),
    Case("unfold_overlapping_middle", lambda x: x.unfold(1, 3, 1), (t(2, 6, 3),)),
    Case("unfold_patches", lambda x: x.unfold(2, 2, 2).unfold(3, 2, 2), (t(1, 2, 5, 4),)),
    Case("unfold_gaps", lambda x: x.unfold(-1, 2, 3), (t(2, 9),)),
    Case("unfold_one_window", lambda x: x.unfold(0, 4, 9), (t(5, 2),)),
    Case("unfold_large", lambda x: x.unfold(0, 80, 1), (t(200),)),
    Case("unfold_0d", lambda x: x.unfold(0, 1, 1), (t(),)),
    Case("unfold_empty_windows", lambda x: x.unfold(0, 0, 1), (t(5),), rejected="empty windows"),
    Case("as_strided", lambda x: (x + 1).as_strided((3, 4), (2, 1), 1), (t(4, 5),)),
    Case("as_strided_overlapping", lambda x: x.as_strided((3, 3, 2), (1, 0, 2)), (t(8),)),
    Case("as_strided_large", lambda x: x.as_strided((70, 70), (1, 2)), (t(300),)),
    Case("as_strided_0d", lambda x: x.as_strided((), (), 3), (t(8),)),
    Case("as_strided_transposed", lambda x: (x + 1).t().as_strided((2, 2), (2, 1)), (t(3, 4),), rejected="contiguous"),
    Case("as_strided_beyond", lambda x: x[:2].as_strided((4,), (1,)), (t(4),), rejected="beyond"),
    Case("im2col", lambda x: torch.nn.functional.unfold(x, 2, padding=1), (t(1, 2, 4, 4),)),
]

for _dtype in (F16, BF16, I32, I64, BOOL):
    _x, _name = t(4, 6, 4, dtype=_dtype), NAMES[_dtype]
    CASES += [
        Case(f"slice_{_name}", lambda x: x[1:, ::2, -1], (_x,)),
        Case(
            f"slice_scatter_{_name}",
            lambda x, y: torch.slice_scatter(x, y, 1, 1, step=2),
            (_x, t(4, 3, 4, dtype=_dtype)),
        ),
        Case(f"select_scatter_{_name}", lambda x, y: torch.select_scatter(x, y, 0, 1), (_x, t(6, 4, dtype=_dtype))),
        Case(f"diagonal_{_name}", lambda x: torch.diag_embed(x.diagonal(1, 0, 2)), (_x,)),
        Case(f"diagonal_scatter_{_name}", lambda x, y: torch.diagonal_scatter(x, y, -1), (_x, t(4, 3, dtype=_dtype))),
        Case(f"triangles_{_name}", lambda x: (x.tril(1), x.triu(-1)), (_x,)),
        Case(f"unfold_{_name}", lambda x: x.unfold(1, 3, 1), (_x,)),
        Case(f"as_strided_{_name}", lambda x: x.as_strided((2, 3), (3, 2), 1), (_x,)),
    ]
