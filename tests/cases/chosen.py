"""Values compared with what was chosen among their own elements: both sides are to be the same numbers."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from tests.cases import Case, T

#: Computed values, of which a kernel may compute some anew.
VALUES: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "sum_of_products": lambda x, w: x * w + x * x,
    "softmax": lambda x, w: (x * w).softmax(-2),
    "bicubic": lambda x, w: F.interpolate(x * w, size=(6, 8), mode="bicubic", align_corners=False),
    "bilinear": lambda x, w: F.interpolate(x * w, size=(6, 8), mode="bilinear", align_corners=False),
    "pairs": lambda x, w: (x[..., None] * (x * w)[..., None, :]).sum(-1),
    "layer_norm": lambda x, w: F.layer_norm(x, x.shape[-1:], w, w),
    "gelu": lambda x, w: F.gelu(x * w),
    "product": lambda x, w: x @ (x * w).transpose(-1, -2) + 0.1,
}
CHOICES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "largest": lambda y: y == y.amax(-1, keepdim=True),
    "largest_of_columns": lambda y: y == y.amax(-2, keepdim=True),
    "largest_of_all": lambda y: y >= y.max(),
    "none_above": lambda y: ((y - y.amax(-1, keepdim=True)) >= 0).any(-1),
    "rank": lambda y: (y[..., :, None] > y[..., None, :]).sum(-1),
    "rank_of_columns": lambda y: (y[..., :, None, :] > y[..., None, :, :]).sum(-2),
    "below_top": lambda y: y.masked_fill(y < y.topk(2, -1).values[..., -1:], -1.0) == -1.0,
    "argmax": lambda y: y.argmax(-1),
    "argmin_of_columns": lambda y: y.argmin(-2),
    "first_of_all": lambda y: y.argmax(),
    "max": lambda y: y.max(-2).indices,
    "itself": lambda y: y.gather(-1, y.argmax(-1, keepdim=True)) == y,
    "order": lambda y: torch.sort(y, dim=-1, stable=True).indices,
    "order_of_columns": lambda y: torch.sort(y, dim=-2, descending=True, stable=True).indices,
    "place": lambda y: torch.searchsorted(y.sort(-1).values, y),
}


def _of(
    value: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], choice: Callable[[torch.Tensor], torch.Tensor]
) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    return lambda x, w: choice(value(x, w))


X, W = T((1, 3, 4, 6)), T((6,))
CASES = [
    Case(f"{choice}_of_{value}", _of(VALUES[value], CHOICES[choice]), (X, W), weights=(1,))
    for value in VALUES
    for choice in CHOICES
]
CASES += [
    case.with_dtype(torch.float16)
    for case in CASES
    if case.name in ("largest_of_softmax", "itself_of_softmax", "argmax_of_pairs", "order_of_gelu", "argmax_of_product")
]
