"""Normalizations: layer, group, instance, RMS and batch norm, with and without scale and shift."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F

from tests.cases import Case, T

aten = torch.ops.aten
HALF = (torch.float16, torch.bfloat16)
#: Far from zero: float16 sums of squares overflow, and digits cancel.
FAR = "int:200:256"
Shape = tuple[int, ...]


def layer_norm(shape: Shape, eps: float = 1e-5) -> Callable[..., torch.Tensor]:
    return lambda x, *affine: F.layer_norm(x, shape, *affine, eps=eps)


def rms_norm(shape: Shape, eps: float | None = None) -> Callable[..., torch.Tensor]:
    return lambda x, *weight: F.rms_norm(x, shape, *weight, eps=eps)


def group_norm(groups: int, eps: float = 1e-5) -> Callable[..., torch.Tensor]:
    return lambda x, *affine: F.group_norm(x, groups, *affine, eps=eps)


def repeated_least(x: torch.Tensor, *affine: torch.Tensor) -> torch.Tensor:
    least = F.group_norm(x, 1, *affine).min(1, True).values
    return least.reshape(2, 1, -1).repeat(2, 1, 1)


def batch_norm(x: torch.Tensor, mean: torch.Tensor, var: torch.Tensor, *affine: torch.Tensor) -> torch.Tensor:
    return F.batch_norm(x, mean, var, *affine, eps=1e-3)


def affine(name: str, fn: Callable[..., Any], x: Shape, params: Shape, count: int = 2, kind: str = "randn") -> Case:
    return Case(name, fn, (T(x, kind=kind), *[T(params)] * count), tuple(range(1, count + 1)))


def batch(name: str, x: Shape, count: int = 2, fn: Callable[..., Any] = batch_norm) -> Case:
    channels = (x[1],)
    inputs = (T(x), T(channels), T(channels, kind="pos"), *[T(channels)] * count)
    return Case(name, fn, inputs, tuple(range(1, count + 3)))


CASES = [
    affine("layer", layer_norm((16,)), (3, 5, 16), (16,)),
    affine("layer_two_dims", layer_norm((5, 8), 1e-3), (3, 2, 5, 8), (5, 8)),
    affine("layer_all_dims", layer_norm((5, 8)), (5, 8), (5, 8)),
    affine("layer_vector", layer_norm((16,)), (16,), (16,)),
    affine("layer_weight_only", layer_norm((16,)), (3, 16), (16,), 1),
    Case("layer_bias_only", lambda x, b: F.layer_norm(x, (16,), None, b), (T((3, 16)), T((16,))), (1,)),
    Case("layer_plain", layer_norm((16,)), (T((2, 3, 16)),)),
    Case("layer_plain_two_dims", layer_norm((3, 16)), (T((2, 3, 16)),)),
    Case("layer_one_feature", layer_norm((1,)), (T((4, 1)),)),
    affine("group_of_one_element", group_norm(2), (2, 2, 1, 1), (2,)),
    # RTX 1.6.1 made wrong extremes and products of a group norm, over a dimension of one element.
    Case("group_prod_of_one", lambda x: F.group_norm(x, 1).prod(-1), (T((5, 2, 1)),)),
    affine("group_max_of_one", lambda *x: F.group_norm(x[0], 1, *x[1:]).amax(1).repeat(2, 1), (2, 1, 3), (1,)),
    Case("group_min_of_one", repeated_least, (T((2, 1, 3), HALF[1]), *[T((1,), HALF[1])] * 2)),
    Case("group_of_one_element_plain", group_norm(2), (T((3, 2, 1)),)),
    affine("layer_far_from_zero", layer_norm((64,)), (4, 64), (64,), kind=FAR),
    Case("layer_weights_are_data", layer_norm((16,)), (T((3, 16)), T((16,)), T((16,)))),
    Case("layer_mixed", layer_norm((16,)), (T((3, 16), torch.bfloat16), T((16,)), T((16,))), (1, 2)),
    Case(
        "native_layer",
        lambda x, w, b: aten.native_layer_norm(x, [16], w, b, 1e-5)[0],
        (T((3, 16)), T((16,)), T((16,))),
        (1, 2),
    ),
    affine("rms", rms_norm((16,), 1e-6), (3, 5, 16), (16,), 1),
    Case("rms_plain", rms_norm((16,)), (T((3, 5, 16)),)),
    Case("rms_default_eps_of_small", lambda x: F.rms_norm(x * 1e-3, (16,)), (T((3, 16)),)),
    affine("rms_two_dims", rms_norm((5, 8)), (3, 5, 8), (5, 8), 1),
    affine("rms_large", rms_norm((16,), 1e-5), (3, 16), (16,), 1, FAR),
    affine("group", group_norm(4), (2, 8, 5, 6), (8,)),
    affine("group_one", group_norm(1), (2, 8, 5, 6), (8,)),
    affine("group_each_channel", group_norm(8), (2, 8, 5, 6), (8,)),
    affine("group_1d", group_norm(2, 1e-3), (3, 6, 7), (6,)),
    affine("group_3d", group_norm(2), (1, 6, 3, 2, 4), (6,)),
    affine("group_no_places", group_norm(2), (3, 6), (6,)),
    affine("group_far_from_zero", group_norm(2), (2, 4, 8, 8), (4,), kind=FAR),
    affine(
        "instance_far_from_zero", lambda x, w, b: F.instance_norm(x, weight=w, bias=b), (2, 4, 8, 8), (4,), kind=FAR
    ),
    Case("group_plain", group_norm(3), (T((2, 6, 5)),)),
    affine("group_weight_only", group_norm(3), (2, 6, 5), (6,), 1),
    Case(
        "native_group",
        lambda x, w, b: aten.native_group_norm(x, w, b, 2, 6, 20, 3, 1e-5)[0],
        (T((2, 6, 4, 5)), T((6,)), T((6,))),
        (1, 2),
    ),
    affine("instance", lambda x, w, b: F.instance_norm(x, weight=w, bias=b), (2, 4, 6, 5), (4,)),
    Case("instance_plain", F.instance_norm, (T((2, 4, 9)),)),
    Case("instance_3d", lambda x: F.instance_norm(x, eps=1e-2), (T((2, 3, 4, 2, 3)),)),
    batch("instance_by_running_stats", (2, 4, 6, 5), 2, lambda x, m, v, w, b: F.instance_norm(x, m, v, w, b, False)),
    batch("batch", (3, 4, 6, 5)),
    batch("batch_plain", (3, 4, 6, 5), 0),
    batch("batch_weight_only", (3, 4, 6, 5), 1),
    batch("batch_1d", (3, 4, 7)),
    batch("batch_features", (3, 4)),
    batch("batch_3d", (2, 3, 2, 3, 4)),
    batch(
        "batch_native",
        (2, 3, 5),
        2,
        lambda x, m, v, w, b: aten._native_batch_norm_legit_no_training(x, w, b, m, v, 0.1, 1e-5)[0],
    ),
    Case(
        "batch_float32_stats",
        batch_norm,
        (T((2, 3, 5), torch.float16), T((3,)), T((3,), kind="pos"), T((3,)), T((3,))),
        (1, 2, 3, 4),
    ),
    affine("batch_own_stats", lambda x, w, b: F.batch_norm(x, None, None, w, b, training=True), (3, 4, 6, 5), (4,)),
    Case("batch_own_stats_plain", lambda x: F.batch_norm(x, None, None, training=True), (T((5, 4)),)),
    Case("layer_empty", layer_norm((16,)), (T((0, 16)),), rejected="empty"),
]
_BOTH = {
    "layer", "layer_plain", "layer_far_from_zero", "rms", "rms_large", "rms_plain", "group", "group_far_from_zero",
    "instance", "batch", "batch_own_stats",
}  # fmt: skip
CASES += [c.with_dtype(d) for d in HALF for c in CASES if c.name in _BOTH]
