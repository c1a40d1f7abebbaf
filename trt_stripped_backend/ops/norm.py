"""Normalizations. Statistics are taken in float32, as PyTorch's kernels do for every floating-point type.

``INormalizationLayer`` wants scale and bias of the input's type and is only documented to compute in float32 for some
versions, so half types are widened before it and the result is rounded once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch

from ..sizes import alike, dynamic
from .net import FLOAT, Dim, ITensor, Net
from .registry import op

aten = torch.ops.aten

#: What a missing epsilon of RMSNorm is: half types are computed in float32.
_RMS_EPSILON = torch.finfo(torch.float32).eps


@op(aten.layer_norm.default, dtypes=FLOAT)
def layer_norm(
    net: Net, input: ITensor, normalized_shape: Sequence[int], weight: ITensor | None = None,
    bias: ITensor | None = None, eps: float = 1e-5, cudnn_enable: bool = True,
) -> ITensor:  # fmt: skip
    """layer_norm(Tensor input, SymInt[] normalized_shape, Tensor? weight=None, Tensor? bias=None, float eps=1.0000000000000001e-05, bool cudnn_enable=True) -> Tensor"""  # noqa: E501
    return _layer_norm(net, input, normalized_shape, weight, bias, eps)


@op(aten.native_layer_norm.default, dtypes=FLOAT)
def native_layer_norm(
    net: Net, input: ITensor, normalized_shape: Sequence[int], weight: ITensor | None, bias: ITensor | None, eps: float
) -> tuple[Any, ...]:
    """native_layer_norm(Tensor input, SymInt[] normalized_shape, Tensor? weight, Tensor? bias, float eps) -> (Tensor, Tensor, Tensor)"""  # noqa: E501
    return _layer_norm(net, input, normalized_shape, weight, bias, eps), None, None


@op(aten.rms_norm.default, dtypes=FLOAT)
def rms_norm(
    net: Net, input: ITensor, normalized_shape: Sequence[int], weight: ITensor | None = None, eps: float | None = None
) -> ITensor:
    """rms_norm(Tensor input, SymInt[] normalized_shape, Tensor? weight=None, float? eps=None) -> Tensor"""
    return _rms_norm(net, input, normalized_shape, weight, eps)


@op(aten._fused_rms_norm.default, dtypes=FLOAT)
def _fused_rms_norm(
    net: Net, input: ITensor, normalized_shape: Sequence[int], weight: ITensor | None, eps: float | None
) -> tuple[Any, ...]:
    """_fused_rms_norm(Tensor input, int[] normalized_shape, Tensor? weight, float? eps) -> (Tensor, Tensor)"""
    return _rms_norm(net, input, normalized_shape, weight, eps), None


@op(aten.group_norm.default, dtypes=FLOAT)
def group_norm(
    net: Net, input: ITensor, num_groups: int, weight: ITensor | None = None, bias: ITensor | None = None,
    eps: float = 1e-5, cudnn_enabled: bool = True,
) -> ITensor:  # fmt: skip
    """group_norm(Tensor input, int num_groups, Tensor? weight=None, Tensor? bias=None, float eps=1.0000000000000001e-05, bool cudnn_enabled=True) -> Tensor"""  # noqa: E501
    return _group_norm(net, input, num_groups, weight, bias, eps)


@op(aten.native_group_norm.default, dtypes=FLOAT)
def native_group_norm(
    net: Net,
    input: ITensor,
    weight: ITensor | None,
    bias: ITensor | None,
    N: int,
    C: int,
    HxW: int,
    group: int,
    eps: float,
) -> tuple[Any, ...]:
    """native_group_norm(Tensor input, Tensor? weight, Tensor? bias, SymInt N, SymInt C, SymInt HxW, int group, float eps) -> (Tensor, Tensor, Tensor)"""  # noqa: E501
    return _group_norm(net, input, group, weight, bias, eps), None, None


@op(aten.instance_norm.default, dtypes=FLOAT)
def instance_norm(
    net: Net, input: ITensor, weight: ITensor | None, bias: ITensor | None, running_mean: ITensor | None,
    running_var: ITensor | None, use_input_stats: bool, momentum: float, eps: float, cudnn_enabled: bool,
) -> ITensor:  # fmt: skip
    """instance_norm(Tensor input, Tensor? weight, Tensor? bias, Tensor? running_mean, Tensor? running_var, bool use_input_stats, float momentum, float eps, bool cudnn_enabled) -> Tensor"""  # noqa: E501
    if not use_input_stats:
        return _by_running_stats(net, input, weight, bias, running_mean, running_var, eps)
    return _group_norm(net, input, net.shape(input)[1], weight, bias, eps)


@instance_norm.unless
def _(
    input: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None, running_mean: torch.Tensor | None,
    running_var: torch.Tensor | None, use_input_stats: bool, momentum: float, eps: float, cudnn_enabled: bool,
) -> Iterator[str]:  # fmt: skip
    if use_input_stats and (running_mean is not None or running_var is not None):
        yield "it updates its running statistics"


@op(aten._native_batch_norm_legit_no_training.default, dtypes=FLOAT)
def _native_batch_norm_legit_no_training(
    net: Net, input: ITensor, weight: ITensor | None, bias: ITensor | None, running_mean: ITensor, running_var: ITensor,
    momentum: float, eps: float,
) -> tuple[Any, ...]:  # fmt: skip
    """_native_batch_norm_legit_no_training(Tensor input, Tensor? weight, Tensor? bias, Tensor running_mean, Tensor running_var, float momentum, float eps) -> (Tensor, Tensor, Tensor)"""  # noqa: E501
    return _by_running_stats(net, input, weight, bias, running_mean, running_var, eps), None, None


@op(aten._native_batch_norm_legit.no_stats, dtypes=FLOAT)
def _native_batch_norm_legit_no_stats(
    net: Net, input: ITensor, weight: ITensor | None, bias: ITensor | None, training: bool, momentum: float, eps: float
) -> tuple[Any, ...]:
    """_native_batch_norm_legit.no_stats(Tensor input, Tensor? weight, Tensor? bias, bool training, float momentum, float eps) -> (Tensor, Tensor, Tensor)"""  # noqa: E501
    # A channel's batch and places become one dimension.
    x = net.wide(input)
    dims = [d for d in range(len(x.shape)) if d != 1]
    if any(isinstance(net.shape(x)[d], Dim) for d in dims):
        y = _by_means(net, x, dims, eps)
        y = _affine(net, y, _per_channel(net, weight, y), _per_channel(net, bias, y))
        return net.cast(y, net.dtype(input)), None, None
    order = [1, *dims]
    turned = net.permute(x, order)
    rows = net.reshape(turned, [1, net.shape(turned)[0], math.prod(net.shape(turned)[1:])])
    y = _standardize(net, rows, eps, weight, bias)
    return net.cast(net.permute(net.reshape(y, net.shape(turned)), order), net.dtype(input)), None, None


@_native_batch_norm_legit_no_stats.unless
def _(
    input: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
) -> Iterator[str]:
    if not training:
        yield "a batch norm in inference without running statistics"


def _fixed_channels(**arguments: Any) -> Iterator[str]:
    x = next(v for v in arguments.values() if isinstance(v, torch.Tensor))
    if dynamic(x.shape[1]):
        yield "a dynamic number of channels"


for _one in (
    layer_norm, native_layer_norm, rms_norm, _fused_rms_norm, group_norm, native_group_norm, instance_norm,
    _native_batch_norm_legit_no_training, _native_batch_norm_legit_no_stats,
):  # fmt: skip
    _one.unless(Net.not_empty)
for _one in (group_norm, native_group_norm, instance_norm, _native_batch_norm_legit_no_stats):
    _one.unless(_fixed_channels)


def _layer_norm(
    net: Net, input: ITensor, normalized_shape: Sequence[int], weight: ITensor | None, bias: ITensor | None, eps: float
) -> ITensor:
    x, features = net.wide(input), math.prod(normalized_shape)
    lead = net.shape(x)[: -len(normalized_shape)]
    if lead and any(isinstance(size, Dim) for size in net.shape(x)[len(lead) :]):
        y = _by_means(net, x, range(len(lead), len(x.shape)), eps)
        return net.cast(_affine(net, y, weight, bias), net.dtype(input))
    rest = math.prod(lead)
    if weight is not None and bias is not None:
        rows = net.reshape(x, [rest, features])
        y = _layer(net, rows, net.reshape(net.wide(weight), [1, -1]), net.reshape(net.wide(bias), [1, -1]), eps)
        return net.cast(net.reshape(y, net.shape(x)), net.dtype(input))
    y = net.reshape(_standardize(net, net.reshape(x, [rest, 1, features]), eps), net.shape(x))
    return net.cast(_affine(net, y, weight, bias), net.dtype(input))


def _rms_norm(
    net: Net, input: ITensor, normalized_shape: Sequence[int], weight: ITensor | None, eps: float | None
) -> ITensor:
    x = net.wide(input)
    dims = range(len(x.shape) - len(normalized_shape), len(x.shape))
    mean_square = net.mean(net.mul(x, x), dims, keepdim=True)
    scale = net.reciprocal(net.sqrt(net.add(mean_square, _RMS_EPSILON if eps is None else eps)))
    return net.cast(_affine(net, net.mul(x, scale), weight, None), net.dtype(input))


def _group_norm(
    net: Net, input: ITensor, groups: int, weight: ITensor | None, bias: ITensor | None, eps: float
) -> ITensor:
    x = net.wide(input)
    batch, channels, *places = net.shape(x)
    of_channels = alike([groups], [channels])
    if any(isinstance(size, Dim) for size in places):
        grouped = x if of_channels else net.reshape(x, [batch, groups, channels // groups, *places])
        y = _by_means(net, grouped, range(2, len(grouped.shape)), eps)
    else:
        # To the layer each group is one channel: versions differ on whether a scale belongs to groups or channels.
        rows = net.reshape(x, [batch, groups, math.prod([channels, *places]) // groups])
        if of_channels:
            y = net.reshape(_standardize(net, rows, eps, weight, bias), net.shape(x))
            return net.cast(y, net.dtype(input))
        y = _standardize(net, rows, eps)
    y = net.reshape(y, net.shape(x))
    return net.cast(_affine(net, y, _per_channel(net, weight, y), _per_channel(net, bias, y)), net.dtype(input))


def _by_running_stats(
    net: Net, input: ITensor, weight: ITensor | None, bias: ITensor | None, mean: ITensor, var: ITensor, eps: float
) -> ITensor:
    """One multiplication and one addition for each element: all else has a channel's size."""
    scale = net.reciprocal(net.sqrt(net.add(net.wide(var), eps)))
    if weight is not None:
        scale = net.mul(scale, net.wide(weight))
    shift = net.sub(0.0 if bias is None else net.wide(bias), net.mul(net.wide(mean), scale))
    x = net.wide(input)
    return net.cast(_affine(net, x, _per_channel(net, scale, x), _per_channel(net, shift, x)), net.dtype(input))


def _standardize(
    net: Net, rows: ITensor, eps: float, weight: ITensor | None = None, bias: ITensor | None = None
) -> ITensor:
    """``(x - mean) / sqrt(variance + eps) * weight + bias`` over the last of (batch, channels, places), in float32."""
    shape = [1, net.shape(rows)[1], 1]
    scale = net.constant(torch.ones(shape)) if weight is None else net.reshape(net.wide(weight), shape)
    shift = net.constant(torch.zeros(shape)) if bias is None else net.reshape(net.wide(bias), shape)
    return _layer(net, rows, scale, shift, eps)


def _layer(net: Net, x: ITensor, scale: ITensor, shift: ITensor, eps: float) -> ITensor:
    """A normalization over the last dimension."""
    if alike(net.shape(x)[-1:], [1]):  # an element is its own mean, and RTX builds no layer for it
        return net.add(net.mul(net.sub(x, x), scale), shift)
    if isinstance(net.shape(x)[-1], Dim):
        return net.add(net.mul(_by_means(net, x, [-1], eps), scale), shift)

    def layer(rows: ITensor) -> ITensor:
        made = net.network.add_normalization(rows, scale, shift, 1 << (len(rows.shape) - 1))
        if made is not None:
            made.epsilon = eps
        return net.keep(net.fused.only(net.take(made)), net.shape(rows))

    return net.with_more(int(net.beyond()), x, layer)


def _by_means(net: Net, x: ITensor, dims: Iterable[int], eps: float) -> ITensor:
    """``(x - mean) / sqrt(variance + eps)`` over dynamic dimensions, in float32.

    Over such, RTX 1.6.1 gets its own layer wrong, and means of a tensor that was reshaped into rows and is reshaped
    back: only the first rows are written (31 of 92, and 11 of 221 norms). In the tensor's own shape none of 480 was
    wrong; but of all of a tensor 8 of 77, and as one row none of 40.
    """
    distance = net.sub(x, net.mean(x, dims, keepdim=True))
    variance = net.mean(net.mul(distance, distance), dims, keepdim=True)
    return net.div(distance, net.sqrt(net.add(variance, eps)))


def _per_channel(net: Net, values: ITensor | None, like: ITensor) -> ITensor | None:
    return None if values is None else net.reshape(values, [1, -1] + [1] * (len(like.shape) - 2))


def _affine(net: Net, x: ITensor, scale: ITensor | None, shift: ITensor | None) -> ITensor:
    """``x * scale + shift`` in float32."""
    if scale is not None:
        x = net.mul(x, net.wide(scale))
    return x if shift is None else net.add(x, net.wide(shift))
