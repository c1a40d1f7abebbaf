"""Every operator that Torch-TensorRT converts or reaches by decomposition, each in a call of its own.

The list is what its converter registry and its decomposition groups hold (2.14.0a0). A row is a packet's name and a
function of :class:`Inputs`.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from .cases import Case, T

a = torch.ops.aten
prims = torch.ops.prims


class Inputs(NamedTuple):
    """What the rows are called with."""

    x: torch.Tensor  # 2 × 3 × 4
    y: torch.Tensor  # 2 × 3 × 4
    m: torch.Tensor  # 4 × 4
    v: torch.Tensor  # 4
    w: torch.Tensor  # 3, positive
    p: torch.Tensor  # 2 × 3 × 4, from 0 to 1
    image: torch.Tensor  # 2 × 3 × 6 × 6
    volume: torch.Tensor  # 1 × 2 × 4 × 4 × 4
    kernel: torch.Tensor  # 5 × 3 × 3 × 3
    n: torch.Tensor  # 2 × 3 × 4, int64, from 0 to 3
    i: torch.Tensor  # 4, int64, from 0 to 2
    c: torch.Tensor  # 2 × 3 × 4, bool
    u: torch.Tensor  # 12, all different


SPECS = (
    T((2, 3, 4)), T((2, 3, 4)), T((4, 4)), T((4,)), T((3,), kind="pos"), T((2, 3, 4), kind="rand"), T((2, 3, 6, 6)),
    T((1, 2, 4, 4, 4)), T((5, 3, 3, 3)), T((2, 3, 4), torch.int64, "int:0:4"), T((4,), torch.int64, "int:0:3"),
    T((2, 3, 4), torch.bool, "bool"), T((12,), kind="unique"),
)  # fmt: skip

Row = Callable[[Any], Any]
F32 = torch.float32


def q(t: torch.Tensor) -> torch.Tensor:
    """Queries, keys or values: batch, heads, length, width."""
    return t.unsqueeze(0)


def whatever(t: torch.Tensor) -> torch.Tensor:
    """True, whatever the values: memory that nobody has written may hold NaN."""
    return t.isnan() | True


def case(name: str, row: Row) -> Case:
    return Case(name, lambda *args: row(Inputs(*args)), SPECS, tol=1e-4)


NORM: dict[str, Row] = {
    "native_batch_norm": lambda t: a.native_batch_norm(t.x, t.w, t.w, t.w, t.w, False, 0.1, 1e-5)[0],
    "batch_norm": lambda t: a.batch_norm(t.x, t.w, t.w, t.w, t.w, False, 0.1, 1e-5, False),
    "_native_batch_norm_legit_no_training":
        lambda t: a._native_batch_norm_legit_no_training(t.x, t.w, t.w, t.w, t.w, 0.1, 1e-5)[0],
    "_native_batch_norm_legit.no_stats":
        lambda t: a._native_batch_norm_legit.no_stats(t.x, t.w, t.w, True, 0.1, 1e-5)[0],
    "native_layer_norm": lambda t: a.native_layer_norm(t.x, [4], t.v, t.v, 1e-5)[0],
    "native_group_norm": lambda t: a.native_group_norm(t.x, t.w, t.w, 2, 3, 4, 3, 1e-5)[0],
}  # fmt: skip
LINEAR: dict[str, Row] = {
    "linear": lambda t: a.linear(t.x, t.m, t.v),
    "addmm": lambda t: a.addmm(t.v, t.m, t.m),
    "matmul": lambda t: a.matmul(t.x, t.m),
    "mm": lambda t: a.mm(t.m, t.m),
    "bmm": lambda t: a.bmm(t.x, t.y.transpose(1, 2)),
    "mv": lambda t: a.mv(t.m, t.v),
    "dot": lambda t: a.dot(t.v, t.m[0]),
    "linalg_cross": lambda t: a.linalg_cross(t.x, t.y, dim=1),
    "_cdist_forward": lambda t: a._cdist_forward(t.x, t.y, 2.0, None),
    "_pdist_forward": lambda t: a._pdist_forward(t.m, 2.0),
    "convolution": lambda t: a.convolution(t.image, t.kernel, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1),
    "scaled_dot_product_attention": lambda t: a.scaled_dot_product_attention(q(t.x), q(t.y), q(t.y)),
    "_scaled_dot_product_flash_attention": lambda t: a._scaled_dot_product_flash_attention(q(t.x), q(t.y), q(t.y))[0],
    "_scaled_dot_product_efficient_attention":
        lambda t: a._scaled_dot_product_efficient_attention(q(t.x), q(t.y), q(t.y), None, False)[0],
    "_scaled_dot_product_cudnn_attention":
        lambda t: a._scaled_dot_product_cudnn_attention(q(t.x), q(t.y), q(t.y), None, False)[0],
    "_scaled_dot_product_flash_attention_for_cpu":
        lambda t: a._scaled_dot_product_flash_attention_for_cpu(q(t.x), q(t.y), q(t.y))[0],
}  # fmt: skip
INDEX: dict[str, Row] = {
    "embedding": lambda t: a.embedding(t.m, t.n),
    "embedding_bag": lambda t: a.embedding_bag(t.m, t.i, torch.tensor([0, 2]))[0],
    "_embedding_bag": lambda t: a._embedding_bag(t.m, t.i, torch.tensor([0, 2]))[0],
    "index.Tensor": lambda t: a.index(t.x, [None, t.i]),
    "index_select": lambda t: a.index_select(t.x, 1, t.i),
    "gather": lambda t: a.gather(t.x, 2, t.n),
    "index_copy": lambda t: a.index_copy(t.m, 0, t.i[:1], t.m[:1]),
    "index_put": lambda t: a.index_put(t.m, [t.i[:1]], t.v),
    "scatter.src": lambda t: a.scatter(t.x, 2, t.n[:, :, :1], t.y),
    "scatter.value": lambda t: a.scatter(t.x, 2, t.n, 1.0),
    "slice_scatter": lambda t: a.slice_scatter(t.x, t.y[:, :1], 1, 1, 2),
    "select.int": lambda t: a.select(t.x, 1, 2).relu(),
    "slice.Tensor": lambda t: a.slice(t.x, 2, 1, 3).relu(),
    "nonzero": lambda t: a.nonzero(t.c),
    "masked_scatter": lambda t: a.masked_scatter(t.x, t.c, t.y),
    "_unsafe_index": lambda t: a._unsafe_index(t.x, [None, t.i]),
    "index_add": lambda t: a.index_add(t.m, 0, t.i, t.m),
    "index_fill": lambda t: a.index_fill(t.m, 0, t.i, 2.0),
    "select_scatter": lambda t: a.select_scatter(t.x, t.y[:, 0], 1, 2),
    "scatter_add": lambda t: a.scatter_add(t.x, 2, t.n, t.y),
    "scatter_reduce.two": lambda t: a.scatter_reduce(t.x, 2, t.n, t.y, "amax"),
}
SHAPE: dict[str, Row] = {
    "cat": lambda t: a.cat([t.x, t.y], 1),
    "split.Tensor": lambda t: [one.relu() for one in a.split(t.x, 2, 2)],
    "split.sizes": lambda t: [one.relu() for one in a.split.sizes(t.x, [1, 3], 2)],
    "split_with_sizes": lambda t: [one.relu() for one in a.split_with_sizes(t.x, [1, 3], 2)],
    "squeeze.dim": lambda t: a.squeeze(t.x[:, :1].relu(), 1).relu(),
    "squeeze.dims": lambda t: a.squeeze.dims(t.x[:, :1].relu(), [1]).relu(),
    "squeeze": lambda t: a.squeeze(t.x[:, :1].relu()).relu(),
    "unsqueeze": lambda t: a.unsqueeze(t.x, 1).relu(),
    "reshape": lambda t: a.reshape(t.x, [6, 4]).relu(),
    "_reshape_copy": lambda t: a._reshape_copy(t.x, [6, 4]),
    "view": lambda t: a.view(t.x, [6, 4]).relu(),
    "permute": lambda t: a.permute(t.x, [2, 0, 1]).relu(),
    "expand": lambda t: a.expand(t.x[:, :1], [2, 5, 4]).relu(),
    "repeat": lambda t: a.repeat(t.x, [1, 2, 1]),
    "tile": lambda t: a.tile(t.x, [2, 1]),
    "as_strided": lambda t: a.as_strided(t.x, [3, 2], [4, 1], 1).relu(),
    "flip": lambda t: a.flip(t.x, [1]),
    "roll": lambda t: a.roll(t.x, [1], [2]),
    "diagonal": lambda t: a.diagonal(t.m).relu(),
    "pixel_shuffle": lambda t: a.pixel_shuffle(t.x.reshape(1, 4, 3, 2), 2),
    "pixel_unshuffle": lambda t: a.pixel_unshuffle(t.image, 2),
    "resize_": lambda t: a.resize_(t.x.relu(), [2, 2]),
    "clone": lambda t: a.clone(t.x.relu()),
    "_to_copy": lambda t: a._to_copy(t.x, dtype=torch.float16).relu(),
    "copy": lambda t: a.copy(t.x, t.v),
    "detach": lambda t: a.detach(t.x).relu(),
    "operator.getitem": lambda t: operator.getitem(torch.ops.aten.topk(t.x, 2), 0),
    "prims.broadcast_in_dim": lambda t: prims.broadcast_in_dim(t.v, [2, 4], [1]).relu(),
    "diag_embed": lambda t: a.diag_embed(t.x),
    "expand_as": lambda t: a.expand_as(t.v, t.x).relu(),
    "narrow": lambda t: a.narrow(t.x, 2, 1, 2).relu(),
    "rot90": lambda t: a.rot90(t.m),
    "stack": lambda t: a.stack([t.x, t.y], 1),
    "t": lambda t: a.t(t.m).relu(),
    "transpose": lambda t: a.transpose(t.x, 0, 1).relu(),
    "unbind": lambda t: [one.relu() for one in a.unbind(t.x, 1)],
    "unfold": lambda t: a.unfold(t.x, 2, 2, 1).relu(),
    "alias": lambda t: a.alias(t.x).relu(),
    "lift_fresh_copy": lambda t: a.lift_fresh_copy(t.x).relu(),
    "_unsafe_view": lambda t: a._unsafe_view(t.x.relu(), [6, 4]),
    "col2im": lambda t: a.col2im(t.image.reshape(1, 12, 18)[:, :, :16], [5, 5], [2, 2], [1, 1], [0, 0], [1, 1]),
    "im2col": lambda t: a.im2col(t.image, [2, 2], [1, 1], [0, 0], [1, 1]),
    "tril": lambda t: a.tril(t.m),
    "triu": lambda t: a.triu(t.m, 1),
}
PAD: dict[str, Row] = {
    "constant_pad_nd": lambda t: a.constant_pad_nd(t.x, [1, 2], 0.5),
    "reflection_pad1d": lambda t: a.reflection_pad1d(t.x, [1, 2]),
    "reflection_pad2d": lambda t: a.reflection_pad2d(t.image, [1, 2, 0, 1]),
    "reflection_pad3d": lambda t: a.reflection_pad3d(t.volume, [1, 2, 0, 1, 1, 1]),
    "replication_pad1d": lambda t: a.replication_pad1d(t.x, [1, 2]),
    "replication_pad2d": lambda t: a.replication_pad2d(t.image, [1, 2, 0, 1]),
    "replication_pad3d": lambda t: a.replication_pad3d(t.volume, [1, 2, 0, 1, 1, 1]),
    "_pad_circular": lambda t: a._pad_circular(t.x, [1, 1]),
    "pad": lambda t: a.pad(t.x, [1, 1], "reflect"),
    "avg_pool1d": lambda t: a.avg_pool1d(t.x, [2]),
    "avg_pool2d": lambda t: a.avg_pool2d(t.image, [2, 2]),
    "avg_pool3d": lambda t: a.avg_pool3d(t.volume, [2, 2, 2]),
    "adaptive_avg_pool1d": lambda t: a.adaptive_avg_pool1d(t.x, [2]),
    "adaptive_avg_pool2d": lambda t: a.adaptive_avg_pool2d(t.image, [3, 2]),
    "_adaptive_avg_pool2d": lambda t: a._adaptive_avg_pool2d(t.image, [3, 2]),
    "adaptive_avg_pool3d": lambda t: a.adaptive_avg_pool3d(t.volume, [2, 2, 1]),
    "_adaptive_avg_pool3d": lambda t: a._adaptive_avg_pool3d(t.volume, [2, 2, 1]),
    "max_pool1d": lambda t: a.max_pool1d(t.x, [2]),
    "max_pool2d": lambda t: a.max_pool2d(t.image, [2, 2]),
    "max_pool3d": lambda t: a.max_pool3d(t.volume, [2, 2, 2]),
    "max_pool2d_with_indices": lambda t: a.max_pool2d_with_indices(t.image, [2, 2]),
    "upsample_nearest1d.vec": lambda t: a.upsample_nearest1d.vec(t.x, [7], None),
    "upsample_nearest2d.vec": lambda t: a.upsample_nearest2d.vec(t.image, None, [2.0, 2.0]),
    "upsample_nearest3d.vec": lambda t: a.upsample_nearest3d.vec(t.volume, [5, 5, 5], None),
    "upsample_linear1d.vec": lambda t: a.upsample_linear1d.vec(t.x, [7], True, None),
    "upsample_bilinear2d.vec": lambda t: a.upsample_bilinear2d.vec(t.image, [7, 8], False, None),
    "upsample_trilinear3d.vec": lambda t: a.upsample_trilinear3d.vec(t.volume, [5, 5, 5], False, None),
    "upsample_bicubic2d.vec": lambda t: a.upsample_bicubic2d.vec(t.image, [7, 8], False, None),
    "grid_sampler": lambda t: a.grid_sampler(t.image, t.m.reshape(2, 2, 2, 2).tanh(), 0, 0, False),
    "grid_sampler_2d": lambda t: a.grid_sampler_2d(t.image, t.m.reshape(2, 2, 2, 2).tanh(), 0, 0, True),
}
ACTIVATION: dict[str, Row] = {
    "relu": lambda t: a.relu(t.x),
    "hardtanh": lambda t: a.hardtanh(t.x),
    "sigmoid": lambda t: a.sigmoid(t.x),
    "hardsigmoid": lambda t: a.hardsigmoid(t.x),
    "tanh": lambda t: a.tanh(t.x),
    "leaky_relu": lambda t: a.leaky_relu(t.x, 0.2),
    "elu": lambda t: a.elu(t.x),
    "softplus": lambda t: a.softplus(t.x),
    "gelu": lambda t: a.gelu(t.x),
    "_softmax": lambda t: a._softmax(t.x, 1, False),
    "_prelu_kernel": lambda t: a._prelu_kernel(t.x, t.v),
    "clamp": lambda t: a.clamp(t.x, -0.5, 0.5),
    "clamp.Tensor": lambda t: a.clamp(t.x, t.y, t.y + 1),
    "clip": lambda t: a.clip(t.x, -0.5, 0.5),
    "clip.Tensor": lambda t: a.clip(t.x, t.y, t.y + 1),
    "native_dropout": lambda t: a.native_dropout(t.x, 0.5, False)[0] + 1,
    "bce": lambda t: a.binary_cross_entropy(t.p, (t.y > 0).float()),
    "bce_with_logits": lambda t: a.binary_cross_entropy_with_logits(t.x, (t.y > 0).float()),
    "celu": lambda t: a.celu(t.x, 1.5),
    "glu": lambda t: a.glu(t.x),
    "hardshrink": lambda t: a.hardshrink(t.x),
    "hardswish": lambda t: a.hardswish(t.x),
    "huber_loss": lambda t: a.huber_loss(t.x, t.y),
    "l1_loss": lambda t: a.l1_loss(t.x, t.y),
    "log_sigmoid": lambda t: a.log_sigmoid(t.x),
    "mish": lambda t: a.mish(t.x),
    "mse_loss": lambda t: a.mse_loss(t.x, t.y),
    "nll_loss": lambda t: a.nll_loss(t.m, t.i),
    "smooth_l1": lambda t: a.smooth_l1_loss(t.x, t.y),
    "soft_margin": lambda t: a.soft_margin_loss(t.x, t.y.sign()),
    "softshrink": lambda t: a.softshrink(t.x),
    "threshold": lambda t: a.threshold(t.x, 0.1, 2.0),
    "silu": lambda t: a.silu(t.x),
    "_log_softmax": lambda t: a._log_softmax(t.x, 1, False),
    "instance_norm": lambda t: a.instance_norm(t.image, t.w, t.w, None, None, True, 0.1, 1e-5, False),
    "renorm": lambda t: a.renorm(t.x, 2, 1, 1.0),
}
UNARY: dict[str, Row] = {
    **{
        name: lambda t, name=name: getattr(a, name)(t.x)  # type: ignore[misc]
        for name in (
            "exp", "expm1", "reciprocal", "abs", "sin", "cos", "tan", "sinh", "cosh", "asinh", "atan", "ceil",
            "floor", "round", "trunc", "sign", "neg", "erf", "isinf", "isnan", "logical_not", "deg2rad", "rad2deg",
            "frac", "isneginf", "isposinf", "sgn", "sinc", "nan_to_num", "special_log_ndtr",
        )
    },
    **{
        name: lambda t, name=name: getattr(a, name)(t.p * 0.9 + 0.05)  # type: ignore[misc]
        for name in ("log", "log2", "log10", "log1p", "sqrt", "rsqrt", "asin", "acos", "atanh", "logit", "special_entr")
    },
    "acosh": lambda t: a.acosh(t.p + 1),
    "mvlgamma": lambda t: a.mvlgamma(t.p + 3, 2),
    "bitwise_not": lambda t: a.bitwise_not(t.n),
    "fill": lambda t: a.fill(t.x, 2.0) + t.y,
    "zero": lambda t: a.zero(t.x) + t.y,
    "clamp_min": lambda t: a.clamp_min(t.x, 0.1),
    "clamp_max": lambda t: a.clamp_max(t.x, 0.1),
}  # fmt: skip
BINARY: dict[str, Row] = {
    **{
        name: lambda t, name=name: getattr(a, name)(t.x, t.y)  # type: ignore[misc]
        for name in (
            "add", "sub", "mul", "div", "atan2", "maximum", "minimum", "logical_and", "logical_or", "logical_xor",
            "rsub", "heaviside", "logaddexp", "logaddexp2", "floor_divide", "fmod", "remainder", "eq", "ne", "gt", "ge",
            "lt", "le",
        )
    },
    **{
        f"{name}.Scalar": lambda t, name=name: getattr(a, name).Scalar(t.x, 0.7)  # type: ignore[misc]
        for name in ("add", "sub", "mul", "div", "fmod", "remainder", "eq", "ne", "gt", "ge", "lt", "le")
    },
    **{
        f"{name}.Scalar": lambda t, name=name: getattr(a, name).Scalar(t.n, 3)  # type: ignore[misc]
        for name in ("floor_divide",)
    },
    **{
        f"{name}.Scalar": lambda t, name=name: getattr(a, name).Scalar(t.c, True)  # type: ignore[misc]
        for name in ("bitwise_and", "bitwise_or", "bitwise_xor")
    },
    **{
        f"{name}.Scalar_Tensor": lambda t, name=name: getattr(a, name).Scalar_Tensor(True, t.c)  # type: ignore[misc]
        for name in ("bitwise_and", "bitwise_or", "bitwise_xor")
    },
    **{
        name: lambda t, name=name: getattr(a, name)(t.c, t.x > 0)  # type: ignore[misc]
        for name in ("bitwise_and", "bitwise_or", "bitwise_xor")
    },
    "div.Tensor_mode": lambda t: a.div(t.x, t.y, rounding_mode="floor"),
    "div.Scalar_mode": lambda t: a.div.Scalar_mode(t.x, 0.7, rounding_mode="trunc"),
    "prims.div": lambda t: prims.div(t.x, t.y),
    "atan2.out": lambda t: torch.atan2(t.x, t.y, out=torch.empty(2, 3, 4)),
    "pow.Tensor_Tensor": lambda t: a.pow(t.p + 1, t.y),
    "pow.Scalar": lambda t: a.pow(2.0, t.x),
    "pow.Tensor_Scalar": lambda t: a.pow(t.x, 3),
    "where.self": lambda t: a.where(t.c, t.x, t.y),
    "addcdiv": lambda t: a.addcdiv(t.x, t.y, t.p + 1),
    "addcmul": lambda t: a.addcmul(t.x, t.y, t.p),
    "addr": lambda t: a.addr(t.m, t.v, t.v),
    "baddbmm": lambda t: a.baddbmm(t.x[:, :, :3], t.x, t.y.transpose(1, 2)),
    "lerp": lambda t: a.lerp(t.x, t.y, 0.3),
    "masked_fill": lambda t: a.masked_fill(t.x, t.c, 2.0),
    "special_xlog1py": lambda t: a.special_xlog1py(t.x, t.p),
    "xlogy": lambda t: a.xlogy(t.x, t.p + 0.1),
    "add_": lambda t: t.x.clone().add_(t.y),
    "addmm_": lambda t: t.m.clone().addmm_(t.m, t.m),
    "baddbmm_": lambda t: t.x[:, :, :3].clone().baddbmm_(t.x, t.y.transpose(1, 2)),
    "relu_": lambda t: t.x.clone().relu_(),
    "scatter_": lambda t: t.x.clone().scatter_(2, t.n, 1.0),
}  # fmt: skip
REDUCE: dict[str, Row] = {
    "sum": lambda t: a.sum(t.x),
    "sum.dim_IntList": lambda t: a.sum(t.x, [1]),
    "prims.sum": lambda t: prims.sum(t.x, [1]),
    "prod": lambda t: a.prod(t.x),
    "prod.dim_int": lambda t: a.prod(t.x, 1),
    "mean": lambda t: a.mean(t.x),
    "mean.dim": lambda t: a.mean(t.x, [1]),
    "max": lambda t: a.max(t.x),
    "max.dim": lambda t: a.max(t.u.reshape(3, 4), 1),
    "min": lambda t: a.min(t.x),
    "min.dim": lambda t: a.min(t.u.reshape(3, 4), 1),
    "amax": lambda t: a.amax(t.x, [1]),
    "amin": lambda t: a.amin(t.x, [1]),
    "any": lambda t: a.any(t.c),
    "any.dim": lambda t: a.any(t.c, 1),
    "any.dims": lambda t: a.any.dims(t.c, [1, 2]),
    "argmax": lambda t: a.argmax(t.x, 1),
    "argmin": lambda t: a.argmin(t.x, 1),
    "cumsum": lambda t: a.cumsum(t.x, 1),
    "topk": lambda t: a.topk(t.u, 3),
    "sort": lambda t: a.sort(t.u),
    "aminmax": lambda t: a.aminmax(t.x, dim=1),
    "count_nonzero": lambda t: a.count_nonzero(t.n),
    "logsumexp": lambda t: a.logsumexp(t.x, [1]),
    "nansum": lambda t: a.nansum(t.x),
    "norm": lambda t: a.norm(t.x),
    "std": lambda t: a.std(t.x, [1]),
    "trace": lambda t: a.trace(t.m),
    "var": lambda t: a.var(t.x, [1]),
    "var_mean": lambda t: a.var_mean(t.x, [1]),
    "linalg_vector_norm": lambda t: a.linalg_vector_norm(t.x, 2, [1]),
    "all": lambda t: a.all(t.c, 1),
}
CREATE: dict[str, Row] = {
    "arange.start_step": lambda t: a.arange.start_step(1, 9, 2) + t.v,
    "arange.start": lambda t: a.arange.start(1, 5) + t.v,
    "arange": lambda t: a.arange(4) + t.v,
    "full": lambda t: a.full([4], 2.0) + t.v,
    "scalar_tensor": lambda t: a.scalar_tensor(2.0) + t.v,
    "rand": lambda t: a.rand([4]) + t.v,
    "randn": lambda t: a.randn([4]) + t.v,
    "randperm": lambda t: a.randperm(4) + t.v,
    "empty.memory_format": lambda t: a.empty.memory_format([0]).new_zeros(4) + t.v,
    "empty_like": lambda t: whatever(a.empty_like(t.v)) + t.v,
    "eye": lambda t: a.eye(4) + t.m,
    "linspace": lambda t: a.linspace(0, 1, 4) + t.v,
    "logspace": lambda t: a.logspace(0, 1, 4) + t.v,
    "new_empty": lambda t: whatever(a.new_empty(t.v, [4])) + t.v,
    "new_full": lambda t: a.new_full(t.v, [4], 3.0) + t.v,
    "new_ones": lambda t: a.new_ones(t.v, [4]) + t.v,
    "new_zeros": lambda t: a.new_zeros(t.v, [4]) + t.v,
    "ones": lambda t: a.ones([4]) + t.v,
    "ones_like": lambda t: a.ones_like(t.v) + t.v,
    "zeros": lambda t: a.zeros([4]) + t.v,
    "zeros_like": lambda t: a.zeros_like(t.v) + t.v,
    "full_like": lambda t: a.full_like(t.v, 3.0) + t.v,
    "empty_permuted": lambda t: whatever(a.empty_permuted([4, 4], [1, 0])) + t.m,
    "empty_strided": lambda t: whatever(a.empty_strided([4], [1])) + t.v,
}
#: All that Torch-TensorRT has, but for arithmetic on sizes, quantization and collectives.
PEER: dict[str, Row] = {
    **NORM, **LINEAR, **INDEX, **SHAPE, **PAD, **ACTIVATION, **UNARY, **BINARY, **REDUCE, **CREATE,
}  # fmt: skip
