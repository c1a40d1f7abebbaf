"""Operators that the decomposition table takes apart, and that an exported graph or another PyTorch may keep."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from tests.cases import NOT_REFITTABLE, Case, T

aten = torch.ops.aten
INT = torch.int64


def whole(name: str, fn: Callable[..., Any], *inputs: T, **kwargs: Any) -> Case:
    return Case(name, fn, inputs, whole=True, **kwargs)


X = T((3, 4))
#: Where a maximum was, none named twice.
PLACES, VOLUME, PLACES_3D = T((2, 3, 1, 1), INT, "int:0:12"), T((1, 2, 1, 1, 1)), T((1, 2, 1, 1, 1), INT, "int:0:12")
CASES = [
    whole(
        "baddbmm", lambda c, a, b: torch.baddbmm(c, a, b, beta=0.5, alpha=2), T((2, 3, 5)), T((2, 3, 4)), T((2, 4, 5))
    ),
    whole("bitwise_xor_scalar", lambda x: aten.bitwise_xor.Scalar_Tensor(True, x), T((3, 4), torch.bool, "bool")),
    whole("cumprod", lambda x: x.cumprod(1), X, rejected=NOT_REFITTABLE),
    whole("cumsum", lambda x: x.cumsum(-1), X, rejected=NOT_REFITTABLE),
    whole("cumsum_int", lambda x: x.cumsum(0), T((3, 4), INT, "int:-5:5"), rejected=NOT_REFITTABLE),
    whole("diag_embed", lambda x: torch.diag_embed(x, 1), X),
    whole("div_scalar", lambda x: aten.div.Scalar(x, 3.0), X),
    whole("div_scalar_floor", lambda x: aten.div.Scalar_mode(x, 3.0, rounding_mode="floor"), X),
    whole("div_scalar_trunc", lambda x: aten.div.Scalar_mode(x, 3, rounding_mode="trunc"), T((9,), INT, "int:-9:9")),
    whole("dot", torch.dot, T((5,)), T((5,))),
    whole("mv", torch.mv, X, T((4,)), weights=(0,)),
    whole("prelu", lambda x, w: aten._prelu_kernel(x, w), T((2, 3, 4)), T((1, 3, 1)), weights=(1,)),
    whole("max_unpool2d", lambda x, i: aten.max_unpool2d(x, i, [4, 3]), T((2, 3, 1, 1)), PLACES),
    whole("max_unpool3d", lambda x, i: aten.max_unpool3d(x, i, [2, 3, 2], [1, 1, 1], [0, 0, 0]), VOLUME, PLACES_3D),
    whole("select_scatter", lambda x, y: torch.select_scatter(x, y, 1, 2), X, T((3,))),
    whole("split", lambda x: torch.split(x, 3, 1), T((2, 7))),
    whole("stack", lambda x, y: torch.stack([x, y], -1), X, X),
    whole("sub_scalar", lambda x: aten.sub.Scalar(x, 2, 3), X),
    whole("tril", lambda x: x.tril(1), T((2, 4, 5))),
    whole("triu", lambda x: x.triu(-1), T((2, 4, 5))),
    whole("unbind", lambda x: torch.unbind(x, 1), X),
]
for _rank in (1, 2, 3):
    _x, _pads = T((2, 3, *range(4, 4 + _rank))), [1, 2] * _rank
    for _kind in ("reflection", "replication"):
        _op = getattr(aten, f"{_kind}_pad{_rank}d").default
        CASES.append(whole(f"{_kind}_{_rank}d", lambda x, op=_op, pads=_pads: op(x, pads), _x))
for _bag in (aten._embedding_bag.default, aten._embedding_bag_forward_only.default):
    CASES.append(
        whole(
            _bag.name().removeprefix("aten::"),
            lambda w, i, o, op=_bag: op(w, i, o)[0],
            T((9, 4)),
            T((7,), INT, "int:0:9"),
            T((1,), INT, "zeros"),
            weights=(0,),
            rejected=NOT_REFITTABLE,
        )
    )
