"""Convolutions: dimensions, groups, strides, dilation, transposition, output padding."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import torch
from torch.nn import functional as F

from tests.cases import Case, T


def conv(name: str, fn: Any, x: tuple[int, ...], weight: tuple[int, ...], bias: int = 0, **kwargs: Any) -> Case:
    inputs = (T(x), T(weight)) + ((T((bias,)),) if bias else ())
    weights = (1, 2) if bias else (1,)
    return Case(name, functools.partial(fn, **kwargs), inputs, weights)


CASES = [
    conv("1d", F.conv1d, (2, 3, 17), (4, 3, 3), 4),
    conv("1d_no_bias_stride_padding", F.conv1d, (2, 3, 17), (4, 3, 5), stride=2, padding=3),
    conv("1d_dilation_groups", F.conv1d, (2, 4, 20), (6, 2, 3), 6, dilation=3, groups=2),
    conv("1d_same", F.conv1d, (1, 2, 9), (2, 2, 4), 2, padding="same"),
    conv("1d_unbatched", F.conv1d, (3, 11), (4, 3, 3), 4),
    conv("2d", F.conv2d, (2, 3, 11, 9), (8, 3, 3, 3), 8, padding=1),
    conv("2d_pointwise", F.conv2d, (2, 8, 5, 5), (4, 8, 1, 1), 4),
    conv("2d_patches", F.conv2d, (2, 3, 16, 16), (8, 3, 4, 4), 8, stride=4),
    conv("2d_uneven", F.conv2d, (1, 3, 12, 10), (4, 3, 3, 5), 4, stride=(2, 1), padding=(0, 2), dilation=(2, 1)),
    conv("2d_depthwise", F.conv2d, (2, 8, 9, 9), (8, 1, 3, 3), 8, padding=1, groups=8),
    conv("2d_depthwise_double", F.conv2d, (1, 4, 9, 9), (8, 1, 3, 3), padding=1, groups=4),
    conv("2d_groups", F.conv2d, (2, 8, 9, 9), (12, 2, 3, 3), 12, groups=4, stride=2),
    conv("2d_unbatched", F.conv2d, (3, 8, 8), (4, 3, 3, 3), 4),
    conv("3d", F.conv3d, (1, 3, 5, 6, 7), (4, 3, 3, 3, 3), 4, padding=1),
    conv("3d_uneven", F.conv3d, (2, 2, 7, 6, 9), (4, 2, 1, 2, 3), stride=(1, 2, 3), padding=(0, 1, 1)),
    conv("3d_groups", F.conv3d, (1, 4, 5, 5, 5), (4, 2, 2, 2, 2), 4, groups=2),
    conv("transposed_1d", F.conv_transpose1d, (2, 4, 9), (4, 3, 4), 3, stride=2, padding=1),
    conv("transposed_1d_surplus", F.conv_transpose1d, (1, 4, 6), (4, 3, 3), 3, stride=3, output_padding=2),
    replace(
        conv("transposed_3d_all_cropped", F.conv_transpose3d, (1, 4, 8, 8, 7), (4, 3, 4, 4, 2), padding=(2, 0, 4)),
        rejected="crops everything",
    ),
    conv("transposed_2d", F.conv_transpose2d, (2, 4, 7, 6), (4, 5, 2, 2), 5, stride=2),
    conv(
        "transposed_2d_output_padding",
        F.conv_transpose2d,
        (1, 4, 7, 6),
        (4, 3, 3, 3),
        3,
        stride=2,
        padding=1,
        output_padding=1,
    ),
    conv(
        "transposed_2d_surplus",
        F.conv_transpose2d,
        (1, 4, 5, 6),
        (4, 3, 3, 3),
        3,
        stride=(3, 2),
        padding=(1, 0),
        output_padding=(2, 1),
    ),
    conv("transposed_2d_groups", F.conv_transpose2d, (1, 4, 5, 6), (4, 3, 3, 3), 6, stride=2, padding=1, groups=2),
    conv("transposed_2d_groups_dilation", F.conv_transpose2d, (1, 4, 8, 8), (4, 3, 3, 3), 6, dilation=2, groups=2),
    conv("transposed_2d_dilation", F.conv_transpose2d, (1, 4, 8, 8), (4, 3, 3, 3), dilation=2, padding=1),
    conv("transposed_3d", F.conv_transpose3d, (1, 3, 4, 3, 5), (3, 2, 2, 2, 2), 2, stride=2),
    Case(
        "weight_computed",
        lambda x, w, s: F.conv2d(x, w * s),
        (T((1, 3, 8, 8)), T((4, 3, 3, 3)), T((4, 1, 1, 1))),
        (1, 2),
    ),
    Case("weight_is_data", F.conv2d, (T((1, 3, 8, 8)), T((4, 3, 3, 3)))),
]
_TRANSPOSED = functools.partial(conv, fn=F.conv_transpose2d)
CASES += [
    _TRANSPOSED("transposed_2d_strided", x=(1, 1, 5, 6), weight=(1, 2, 3, 2), stride=2, padding=1, output_padding=1),
    _TRANSPOSED("transposed_2d_cropped", x=(2, 3, 6, 5), weight=(3, 4, 2, 1), bias=4, stride=(1, 2), padding=(2, 1)),
    _TRANSPOSED("transposed_2d_tiles", x=(2, 4, 3, 5), weight=(4, 6, 2, 3), bias=6, stride=(2, 3)),
    _TRANSPOSED("transposed_2d_both", x=(1, 4, 4, 5), weight=(4, 3, 2, 3), bias=3, stride=2, dilation=(1, 2)),
    _TRANSPOSED("transposed_2d_both_groups", x=(1, 4, 4, 5), weight=(4, 3, 2, 2), stride=2, dilation=2, groups=2),
    replace(
        _TRANSPOSED("transposed_2d_both_many", x=(1, 32, 4, 4), weight=(32, 1, 2, 2), stride=2, dilation=2, groups=32),
        rejected="32 groups",
    ),
    _TRANSPOSED("transposed_2d_column", x=(1, 2, 3, 3), weight=(2, 1, 3, 1)),
    conv("transposed_1d_tiles", F.conv_transpose1d, (2, 4, 9), (4, 3, 4), 3, stride=4),
    conv("transposed_1d_unbatched", F.conv_transpose1d, (4, 9), (4, 3, 3), 3, stride=2),
    conv("transposed_3d_padded", F.conv_transpose3d, (1, 3, 4, 3, 5), (3, 2, 3, 2, 3), 2, stride=2, padding=1),
]
_BOTH = ("1d", "2d", "2d_depthwise", "3d", "transposed_1d", "transposed_2d", "transposed_2d_surplus")
CASES += [c.with_dtype(torch.bfloat16) for c in CASES if c.name in _BOTH or c.name.startswith("transposed")]
# TensorRT sums float16 convolutions in float16.
_HALF = (
    *_BOTH, "transposed_3d", "transposed_2d_column", "transposed_2d_tiles", "transposed_2d_both", "transposed_1d_tiles",
)  # fmt: skip
CASES += [replace(c.with_dtype(torch.float16), tol=1e-2) for c in CASES if c.name in _HALF]


def small(*shape: int) -> T:
    """Values whose sums stay small, so that one convolution after another keeps the tolerance."""
    return T(shape, kind="tenths:-5:6")


LINE, MATRIX = small(2, 16, 50), small(10, 48)
# Kernels in the memory layout of TensorRT's own, and convolutions of single pixels, which are products where float16 is
# summed in float32.
_KERNELS = [
    conv("2d_kernel", F.conv2d, (2, 16, 9, 8), (24, 16, 3, 3), 24, padding=1),
    conv("2d_kernel_uneven", F.conv2d, (1, 8, 12, 10), (4, 8, 3, 5), stride=(2, 1), padding=(0, 2), dilation=(2, 1)),
    Case(
        "2d_kernel_computed",
        lambda x, w, s: F.conv2d(x, w * s, padding=1),
        (small(2, 8, 9, 8), small(16, 8, 3, 3), small(16, 1, 1, 1)),
        (1, 2),
    ),
    Case(
        "2d_kernel_computed_and_read",
        lambda x, w, s: (F.conv2d(x, w * s, padding=1), (w * s).amax((1, 2, 3))),
        (small(2, 8, 9, 8), small(16, 8, 3, 3), small(16, 1, 1, 1)),
        (1, 2),
    ),
    Case(
        "2d_kernel_twice",
        lambda x, w: F.conv2d(F.conv2d(x, w, padding=1).relu(), w, padding=1, stride=2),
        (small(2, 8, 9, 8), small(8, 8, 3, 3)),
        (1,),
    ),
    Case(
        "2d_pixels",
        lambda x, w, v, b: F.conv2d(F.conv2d(x, w).relu(), v, b).relu(),
        (small(2, 16, 7, 9), small(64, 16, 1, 1), small(24, 64, 1, 1), small(24)),
        (1, 2, 3),
    ),
    Case(
        "2d_pixels_strided",
        lambda x, w, b: F.relu(F.conv2d(x, w, b, stride=(2, 3))),
        (small(2, 64, 17, 19), small(32, 64, 1, 1), small(32)),
        (1, 2),
    ),
    Case(
        "2d_pixel",
        lambda x, w, v: F.conv2d(F.conv2d(x, w).relu(), v),
        (small(4, 256, 1, 1), small(32, 256, 1, 1), small(256, 32, 1, 1)),
        (1, 2),
    ),
    Case(
        "3d_pixels",
        lambda x, w: F.conv3d(x, w, stride=2).relu(),
        (small(1, 64, 9, 8, 7), small(32, 64, 1, 1, 1)),
        (1,),
    ),
    Case("1d_pixels", lambda x, w: F.conv1d(x, w, stride=2), (small(2, 64, 99), small(32, 64, 1)), (1,)),
    Case("1d_twice", lambda x, w, v: F.conv1d(F.conv1d(x, w), v), (LINE, small(8, 16, 3), small(5, 8, 3)), (1, 2)),
    Case("1d_before_linear", lambda x, w, v: F.linear(F.conv1d(x, w), v), (LINE, small(8, 16, 3), MATRIX), (1, 2)),
    Case(
        "1d_before_linear_with_biases",
        lambda x, w, v, b, c: F.linear(F.conv1d(x, w, b, dilation=2), v, c),
        (small(1, 1, 50), small(8, 1, 2), MATRIX, small(8), small(10)),
        (1, 2, 3, 4),
    ),
    Case("1d_before_matmul", lambda x, w, v: F.conv1d(x, w) @ v.t(), (LINE, small(8, 16, 3), MATRIX), (1, 2)),
    Case(
        "1d_flattened",
        lambda x, w, v: F.linear(F.conv1d(x, w).flatten(1), v),
        (small(2, 4, 14), small(4, 4, 3), MATRIX),
        (1, 2),
    ),
    Case(
        "1d_turned",
        lambda x, w, v: F.linear(F.gelu(F.conv1d(x, w)).transpose(1, 2), v.t()),
        (LINE, small(10, 16, 3), MATRIX),
        (1, 2),
    ),
]  # fmt: skip
CASES += _KERNELS
CASES += [c.with_dtype(torch.bfloat16) for c in _KERNELS]
CASES += [replace(c.with_dtype(torch.float16), tol=1e-2) for c in _KERNELS]


def fold(name: str, x: tuple[int, ...], size: tuple[int, int], kernel: Any, **kwargs: Any) -> Case:
    return Case(f"fold_{name}", lambda x: F.fold(x, size, kernel, **kwargs), (T(x),))


_FOLDS = [
    fold("overlapping", (2, 12, 12), (5, 4), 2),
    fold("side_by_side", (2, 12, 9), (6, 6), 2, stride=2),
    fold("padded", (1, 18, 20), (5, 4), 3, padding=1),
    fold("surplus", (1, 8, 9), (7, 7), 2, stride=2),
    fold("stride_padding", (1, 9, 12), (7, 6), 3, stride=2, padding=1),
    fold("dilation", (1, 8, 12), (5, 6), (2, 2), dilation=2, padding=(0, 0)),
    fold("unbatched", (12, 12), (5, 4), 2),
    fold("stride_dilation", (1, 8, 4), (6, 6), 2, stride=2, dilation=2),
    fold("of_one_patch", (1, 81, 1), (9, 9), 9),
    fold("uneven", (2, 12, 16), (7, 9), (3, 2), stride=(2, 3), padding=(1, 2), dilation=(1, 2)),
    Case("fold_not_finite", lambda x: F.fold(x, (5, 4), 2), (T((1, 12, 12), kind="nan"),)),
]
CASES += _FOLDS
CASES += [c.with_dtype(d) for d in (torch.bfloat16, torch.float16) for c in _FOLDS]
CASES += [
    replace(fold("large", (1, 1 * 70, 2), (1, 71), (1, 70)), rejected="1 × 70"),
    Case("fold_of_unfold", lambda x: F.fold(F.unfold(x, 3, padding=1), (6, 7), 3, padding=1), (T((2, 2, 6, 7)),)),
]
