"""Pooling: windows, strides, padding, dilation, rounding up, what an average counts, adapted sizes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F

from tests.cases import Case, T

LINE, IMAGE, VOLUME = (2, 3, 11), (2, 3, 10, 9), (1, 2, 7, 6, 8)


def pool(name: str, fn: Callable[..., Any], shape: tuple[int, ...], *args: Any, **kwargs: Any) -> Case:
    return Case(name, lambda x: fn(x, *args, **kwargs), (T(shape),))


def adapt(name: str, fn: Callable[..., Any], shape: tuple[int, ...], size: Any) -> Case:
    return pool(f"adaptive_{name}", fn, shape, size)


CASES = [
    pool("max_1d", F.max_pool1d, LINE, 3),
    pool("max_1d_unbatched", F.max_pool1d, (3, 11), 2, stride=1),
    pool("max_1d_ceil", F.max_pool1d, LINE, 3, 2, 1, ceil_mode=True),
    Case("whole_line", lambda x: (F.max_pool1d(x, 7), F.avg_pool1d(x, 7)), (T((2, 3, 7)),)),
    Case("whole_line_adapted", lambda x: F.adaptive_avg_pool1d(x, 1), (T((2, 3, 7)),)),
    pool("max_1d_one_window", F.max_pool1d, (2, 3, 4), 3, 2),
    pool("max_1d_one_window_padded", F.max_pool1d, (1, 1, 2), 3, None, 1, ceil_mode=True),
    pool("avg_1d_one_window", F.avg_pool1d, (2, 3, 4), 3, 2),
    pool("avg_1d_one_window_padded", F.avg_pool1d, (2, 3, 2), 4, 4, 1),
    pool("avg_1d_one_window_not_counted", F.avg_pool1d, (2, 3, 2), 4, 4, 1, count_include_pad=False),
    Case(
        "one_window_beside_a_product", lambda x, y, w: (F.max_pool1d(x, 3, 2), F.linear(y, w)),
        (T((1, 3, 4)), T((6, 5)), T((6, 5))), (2,),
    ),
    pool("max_1d_dilation_of_one", F.max_pool1d, LINE, 1, 1, 0, 2),
    pool("max_1d_dilation", F.max_pool1d, LINE, 3, 2, 1, 2),
    pool("max_2d", F.max_pool2d, IMAGE, 2),
    pool("max_2d_resnet", F.max_pool2d, IMAGE, 3, 2, 1),
    pool("max_2d_uneven", F.max_pool2d, IMAGE, (3, 2), (1, 3), (1, 0)),
    pool("max_2d_ceil", F.max_pool2d, IMAGE, 2, 2, ceil_mode=True),
    pool("max_2d_ceil_padded", F.max_pool2d, IMAGE, 3, 2, 1, ceil_mode=True),
    pool("max_2d_ceil_drops_a_window", F.max_pool2d, (1, 2, 5, 5), 2, 3, 1, ceil_mode=True),
    pool("max_2d_ceil_large_stride", F.max_pool2d, (1, 2, 10, 11), 3, 4, 1, ceil_mode=True),
    pool("max_2d_dilation", F.max_pool2d, IMAGE, 3, 2, 1, 2),
    pool("max_2d_dilation_ceil", F.max_pool2d, IMAGE, (2, 3), 2, (1, 0), (3, 2), ceil_mode=True),
    pool("max_2d_unbatched", F.max_pool2d, (3, 8, 8), 2),
    pool("max_2d_stride_1", F.max_pool2d, IMAGE, 5, 1, 2),
    pool("max_3d", F.max_pool3d, VOLUME, 2),
    pool("max_3d_ceil", F.max_pool3d, VOLUME, 3, 2, 1, ceil_mode=True),
    pool("max_3d_unbatched", F.max_pool3d, (2, 4, 4, 4), 2),
    pool("max_3d_dilation", F.max_pool3d, VOLUME, 2, 1, 1, (1, 2, 3)),
    Case("max_2d_op", lambda x: torch.ops.aten.max_pool2d_with_indices(x, [2, 2])[0], (T(IMAGE),)),
    Case("max_3d_op", lambda x: torch.ops.aten.max_pool3d_with_indices(x, [2, 2, 2])[0], (T(VOLUME),)),
    pool("avg_1d", F.avg_pool1d, LINE, 3),
    pool("avg_1d_padded", F.avg_pool1d, LINE, 4, 2, 2),
    pool("avg_1d_not_counted", F.avg_pool1d, LINE, 4, 2, 2, count_include_pad=False),
    pool("avg_1d_ceil", F.avg_pool1d, LINE, 4, 3, 1, ceil_mode=True),
    pool("avg_1d_unbatched", F.avg_pool1d, (3, 11), 3, 1, 1),
    pool("avg_2d", F.avg_pool2d, IMAGE, 2),
    pool("avg_2d_padded", F.avg_pool2d, IMAGE, 3, 1, 1),
    pool("avg_2d_not_counted", F.avg_pool2d, IMAGE, 3, 1, 1, count_include_pad=False),
    pool("avg_2d_ceil", F.avg_pool2d, IMAGE, 2, 2, ceil_mode=True),
    pool("avg_2d_ceil_padded", F.avg_pool2d, IMAGE, (3, 4), (2, 3), 1, ceil_mode=True),
    pool("avg_2d_ceil_not_counted", F.avg_pool2d, IMAGE, (3, 4), (2, 3), 1, True, False),
    pool("avg_2d_divisor", F.avg_pool2d, IMAGE, 3, 2, 1, divisor_override=5),
    pool("avg_2d_divisor_ceil", F.avg_pool2d, IMAGE, (3, 4), (2, 3), 1, True, False, 2),
    pool("avg_2d_unbatched", F.avg_pool2d, (3, 8, 8), 2),
    pool("avg_3d", F.avg_pool3d, VOLUME, 2),
    pool("avg_3d_padded", F.avg_pool3d, VOLUME, 3, 2, 1),
    pool("avg_3d_ceil_not_counted", F.avg_pool3d, VOLUME, 3, 2, 1, True, False),
    adapt("avg_1d", F.adaptive_avg_pool1d, (2, 3, 12), 4),
    adapt("avg_1d_to_one", F.adaptive_avg_pool1d, LINE, 1),
    adapt("avg_1d_uneven", F.adaptive_avg_pool1d, LINE, 4),
    adapt("avg_2d_to_one", F.adaptive_avg_pool2d, IMAGE, 1),
    adapt("avg_2d", F.adaptive_avg_pool2d, (2, 3, 14, 21), 7),
    adapt("avg_2d_uneven", F.adaptive_avg_pool2d, IMAGE, (7, 4)),
    adapt("avg_2d_grows", F.adaptive_avg_pool2d, (2, 3, 4, 5), 7),
    adapt("avg_2d_one_kept", F.adaptive_avg_pool2d, IMAGE, (None, 3)),
    Case("adaptive_avg_2d_infinite", lambda x: F.adaptive_avg_pool2d(x, (7, 4)), (T(IMAGE, kind="nan"),)),
    Case("adaptive_avg_1d_to_none", lambda x: F.adaptive_avg_pool1d(x, 0), (T(LINE),), rejected="no windows"),
    Case("adaptive_max_2d_to_none", lambda x: F.adaptive_max_pool2d(x, (0, 2)), (T(IMAGE),), rejected="no windows"),
    adapt("avg_2d_unbatched", F.adaptive_avg_pool2d, (3, 10, 9), (5, 2)),
    adapt("avg_3d_to_one", F.adaptive_avg_pool3d, VOLUME, 1),
    adapt("avg_3d", F.adaptive_avg_pool3d, (1, 2, 4, 6, 8), 2),
    adapt("avg_3d_uneven", F.adaptive_avg_pool3d, VOLUME, (3, 2, 5)),
    adapt("max_2d", F.adaptive_max_pool2d, (2, 3, 14, 21), 7),
    adapt("max_2d_to_one", F.adaptive_max_pool2d, IMAGE, 1),
    adapt("max_2d_uneven", F.adaptive_max_pool2d, IMAGE, (7, 4)),
    adapt("max_1d_uneven", F.adaptive_max_pool1d, LINE, 4),
    adapt("max_3d_uneven", F.adaptive_max_pool3d, VOLUME, (3, 2, 5)),
    Case("adaptive_avg_2d_op", lambda x: torch.ops.aten._adaptive_avg_pool2d(x, [5, 3]), (T(IMAGE),)),
    Case("adaptive_avg_3d_op", lambda x: torch.ops.aten._adaptive_avg_pool3d(x, [3, 2, 5]), (T(VOLUME),)),
    Case("max_2d_below_zero", lambda x: F.max_pool2d(x - 100, 3, 2, 1, ceil_mode=True), (T(IMAGE),)),
    Case("max_2d_int", lambda x: F.max_pool2d(x, 2), (T(IMAGE, torch.int64, "int:-9:9"),), rejected="int64"),
]
_BOTH = {
    "max_2d_resnet", "max_2d_ceil_padded", "max_2d_dilation", "avg_2d", "avg_2d_padded", "avg_2d_ceil_not_counted",
    "adaptive_avg_2d", "adaptive_avg_2d_uneven", "adaptive_avg_2d_to_one",
}  # fmt: skip
CASES += [c.with_dtype(d) for d in (torch.float16, torch.bfloat16) for c in CASES if c.name in _BOTH]


#: What makes equal maxima, and NaN among them.
_TIES, _NAN = T(IMAGE, kind="int:0:3"), T(IMAGE, kind="nan")
_INDICES = {"return_indices": True}
CASES += [
    pool("indices_2d", F.max_pool2d, IMAGE, 2, **_INDICES),
    pool("indices_2d_resnet", F.max_pool2d, IMAGE, 3, 2, 1, **_INDICES),
    pool("indices_2d_ceil", F.max_pool2d, IMAGE, 3, 2, 1, ceil_mode=True, **_INDICES),
    pool("indices_2d_dilation", F.max_pool2d, IMAGE, 3, 2, 0, 2, **_INDICES),
    pool("indices_2d_dilation_padding", F.max_pool2d, IMAGE, 3, 2, 1, (1, 2), **_INDICES),
    pool("indices_2d_dilation_ceil", F.max_pool2d, (1, 2, 3, 6), (3, 2), 2, 0, (1, 2), ceil_mode=True, **_INDICES),
    pool("indices_3d_dilation_ceil", F.max_pool3d, (1, 2, 3, 6, 5), 3, 2, 0, (1, 2, 1), ceil_mode=True, **_INDICES),
    Case(
        "max_1d_all_padding", lambda x: F.max_pool1d(x, 2, 2, 1, 2, ceil_mode=True), (T((1, 6, 1)),),
        rejected="all padding",
    ),
    pool("indices_2d_unbatched", F.max_pool2d, IMAGE[1:], (2, 3), (1, 2), **_INDICES),
    pool("indices_3d", F.max_pool3d, VOLUME, 2, 2, 1, **_INDICES),
    pool("indices_1d", F.max_pool1d, LINE, 3, 2, 1, **_INDICES),
    Case("indices_of_ties", lambda x: F.max_pool2d(x, 3, 2, 1, return_indices=True), (_TIES,)),
    Case("indices_of_nan", lambda x: F.max_pool2d(x, 3, 2, 1, return_indices=True)[1], (_NAN,)),
    Case("indices_of_no_size", lambda x: F.max_pool2d(x / 0 - torch.inf, 2, 2, 1, return_indices=True)[1], (_TIES,)),
]
