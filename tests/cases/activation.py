"""Activations and softmaxes: corners of each parameter, 0-d tensors, half types, what the core table takes apart."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F

from tests.cases import Case, T

HALF, BF16, INT64, INT32, BOOL = torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.bool
X = T((2, 5, 7))


def on(name: str, fn: Callable[..., Any], *inputs: T, tol: float | None = None, **kwargs: Any) -> Case:
    return Case(name, functools.partial(fn, **kwargs) if kwargs else fn, inputs or (X,), tol=tol)


def wide_range(fn: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[torch.Tensor], torch.Tensor]:
    """The same function on values from about -90 to 90."""
    return lambda x: fn(x * 30)


def dropout(train: bool | None) -> Callable[..., Any]:
    return lambda x: torch.ops.aten.native_dropout(x, 0.5, train)


_PRELU = Case("prelu", F.prelu, (T((2, 5, 4, 3)), T((5,))), (1,))
_PLAIN = [
    on("relu", torch.relu),
    on("sigmoid", torch.sigmoid),
    on("tanh", torch.tanh),
    on("silu", F.silu),
    on("gelu", F.gelu),
    on("gelu_tanh", F.gelu, approximate="tanh"),
    on("leaky_relu", F.leaky_relu),
    on("elu", F.elu),
    on("hardtanh", F.hardtanh),
    on("hardsigmoid", wide_range(F.hardsigmoid)),
    on("hardswish", wide_range(F.hardswish)),
    on("softplus", F.softplus),
    on("mish", F.mish),
    on("logsigmoid", F.logsigmoid),
    on("celu", F.celu, alpha=0.7),
    on("selu", F.selu),
    on("softmax", F.softmax, dim=-1),
    on("log_softmax", F.log_softmax, dim=1),
    on("glu", lambda x: F.glu(x[..., :6], 2)),
    on("clamp", torch.clamp, min=-0.3, max=0.7),
    _PRELU,
]
#: One plan for all that take one tensor of one shape.
_ALL = Case("all", lambda x: tuple(case.fn(x) for case in _PLAIN if case.inputs == (X,)), (X,))
CASES = [
    *_PLAIN,
    *(_ALL.with_dtype(dtype) for dtype in (HALF, BF16)),
    *(_PRELU.with_dtype(dtype) for dtype in (HALF, BF16)),
    on("native_dropout", dropout(False)),
    Case("native_dropout_in_training", dropout(True), (X,), rejected="dropout in training"),
    on("relu_0d", torch.relu, T(())),
    on("relu_int", torch.relu, T((4, 5), INT64, "int:-4:5")),
    on("relu6", F.relu6, T((3, 4, 8, 8))),
    on("sigmoid_0d", torch.sigmoid, T(())),
    on("sigmoid_int", torch.sigmoid, T((4, 5), INT64, "int:-4:5")),
    on("tanh_int", torch.tanh, T((4, 5), INT32, "int:-4:5")),
    on("tanh_bool", torch.tanh, T((4, 5), BOOL, "bool")),
    on("sigmoid_rank8", torch.sigmoid, T((1, 2, 1, 2, 1, 2, 1, 3))),
    on("silu_wide", wide_range(F.silu)),
    on("mish_wide", wide_range(F.mish)),
    on("leaky_relu_slope", F.leaky_relu, negative_slope=0.3),
    on("leaky_relu_int_slope", F.leaky_relu, negative_slope=2),
    on("elu_alpha", wide_range(functools.partial(F.elu, alpha=1.7))),
    on("elu_scales", lambda x: torch.ops.aten.elu(x, 1.3, 0.8, 0.4)),
    on("hardtanh_range", F.hardtanh, min_val=-0.2, max_val=1.5),
    on("hardtanh_int", F.hardtanh, T((4, 5), INT64, "int:-9:9"), min_val=-3, max_val=4),
    on("softplus_beta", F.softplus, beta=2.5, threshold=3),
    on("softplus_wide", wide_range(F.softplus), tol=1e-6),
    on("softplus_small", lambda x: F.softplus(x - 15) * 1e6),
    on("logsigmoid_wide", wide_range(F.logsigmoid)),
    on("glu_last", F.glu, T((3, 8))),
    on("softmax_0d", F.softmax, T(()), dim=0),
    on("softmax_1d", F.softmax, T((7,)), dim=0),
    on("softmax_first", F.softmax, dim=0),
    # RTX 1.6.1 reduced narrow rows, which had been reduced before, wrongly over other dimensions.
    on("softmax_narrow_summed", lambda x: F.softmax(x, -1).sum(2), T((4, 5, 7, 3))),
    on("softmax_narrow_normalized", lambda x: F.normalize(F.softmax(x, -1), dim=3), T((4, 5, 1, 7, 3))),
    on("softmax_narrow_shares", lambda x: (p := F.softmax(x, 1)) / p.sum(-2, True), T((2, 7, 3), HALF)),
    on("log_softmax_narrow_normalized", lambda x: F.normalize(F.log_softmax(x, -1), dim=1), T((2, 7, 3), BF16)),
    on("softmax_masked", lambda x, m: F.softmax(x.masked_fill(m, -torch.inf), -1), T((4, 9)), T((9,), BOOL, "bool")),
    on("softmax_wide", wide_range(functools.partial(F.softmax, dim=-1))),
    on("softmax_to_float", lambda x: F.softmax(x, -1, dtype=torch.float32), T((3, 8), HALF)),
    on("log_softmax_0d", F.log_softmax, T(()), dim=-1),
    Case("log_softmax_0d_infinite", lambda x: F.log_softmax(x / 0, -1), (T(()),)),
    Case("clamp_min_bools", torch.clamp_min, (T((4, 6), BOOL, "bool"), T((6,), BOOL, "bool"))),
    Case("clamp_max_bools", torch.clamp_max, (T((4, 6), BOOL, "bool"), T((4, 1), BOOL, "bool"))),
    Case("log_softmax_empty", lambda x: F.log_softmax(x, 2), (T((3, 0, 0)),), rejected="empty"),
    on("log_softmax_1d", F.log_softmax, T((7,)), dim=0),
    on("log_softmax_wide", wide_range(functools.partial(F.log_softmax, dim=-1))),
    Case("prelu_one_slope", F.prelu, (T((2, 5, 4)), T((1,))), (1,)),
    Case("prelu_vector", F.prelu, (T((6, 5)), T((5,))), (1,)),
    on("prelu_slopes_are_data", F.prelu, T((2, 5, 4)), T((5,))),
    on("clamp_min", torch.clamp, min=0.1),
    on("clamp_max", torch.clamp, max=0.1),
    on("clamp_crossed", torch.clamp, min=0.5, max=-0.5),
    on("clamp_0d", torch.clamp, T(()), min=0.0),
    on("clamp_int", torch.clamp, T((4, 5), INT64, "int:-9:9"), min=-2, max=3),
    on("clamp_int32", torch.clamp, T((4, 5), INT32, "int:-9:9"), max=3),
    on("clamp_int_by_float", torch.clamp, T((4, 5), INT64, "int:-9:9"), min=-2.5, max=3.5),
    on("clamp_nan", torch.clamp, T((8, 9), kind="nan"), min=-0.5, max=0.5),
    on("clamp_tensor", torch.clamp, X, T((5, 1)), T((7,))),
    on("clamp_tensor_min", lambda x, low: torch.clamp(x, min=low), X, T(())),
    on("clamp_tensor_promotes", torch.clamp, T((4, 5), INT64, "int:-9:9"), T((5,))),
    on("threshold", F.threshold, threshold=0.2, value=-1.0),
    on("hardshrink", F.hardshrink),
    on("softshrink", F.softshrink),
    on("tanhshrink", F.tanhshrink),
    on("softsign", F.softsign),
]  # fmt: skip


def _then_reduced(
    softmax: Callable[[torch.Tensor, int], torch.Tensor], dim: int, reduce: str, over: int
) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda x: getattr(softmax(x, dim), reduce)(over)


#: Over one dimension, and then over another.
CASES += [
    Case(f"{name}_{'x'.join(map(str, shape))}_{dim}_{reduce}_{over}", _then_reduced(fn, dim, reduce, over), (T(shape),))
    for name, fn in (("softmax", F.softmax), ("log_softmax", F.log_softmax))
    for shape, dim, over in (
        ((2, 6, 7), 0, 2), ((2, 3, 4, 5), 1, 3), ((2, 3, 4, 5), 2, 3), ((2, 1, 6, 7), 0, 3), ((4, 1, 33), 0, 2),
        ((2, 1, 6, 64), 0, 2), ((2, 1, 6, 64), 0, 3), ((2, 1, 6, 64), 2, 3), ((2, 7, 1, 3), 0, 3),
    )
    for reduce in ("prod", "sum", "amax", "mean")
]  # fmt: skip
_HALVES = ("softmax_2x1x6x7_0_prod_3", "softmax_2x3x4x5_1_sum_3", "log_softmax_2x1x6x64_0_mean_2")
CASES += [case.with_dtype(BF16) for case in CASES if case.name in _HALVES]
