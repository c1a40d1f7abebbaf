"""Activations: functions of one element, with or without parameters, and the softmaxes."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from ..flavour import trt
from .elementwise import larger, smaller
from .net import BOOL, FLOAT, ITensor, Net, Scalar, Value
from .registry import op
from .unary import accurate_expm1, accurate_log1p, not_fused

aten = torch.ops.aten


@op(aten.native_dropout.default)
def native_dropout(net: Net, input: ITensor, p: float, train: bool | None) -> tuple[ITensor, ITensor]:
    """native_dropout(Tensor input, float p, bool? train) -> (Tensor, Tensor)"""
    return input, net.full(net.shape(input), True, torch.bool)


@native_dropout.unless
def _(input: torch.Tensor, p: float, train: bool | None) -> Iterator[str]:
    if train is not False:
        yield "dropout in training: an engine would repeat the same numbers"


@op(aten.relu.default)
def relu(net: Net, self: ITensor) -> ITensor:
    """relu(Tensor self) -> Tensor"""
    if net.dtype(self) in FLOAT:
        return not_fused(net, net.activation(trt.ActivationType.RELU, self))
    return net.maximum(self, 0)


@relu.unless
def _(self: torch.Tensor) -> Iterator[str]:
    if self.dtype in BOOL:
        yield "relu of bool"


@op(aten.sigmoid.default)
def sigmoid(net: Net, self: ITensor) -> ITensor:
    """sigmoid(Tensor self) -> Tensor"""
    return net.activation(trt.ActivationType.SIGMOID, net.cast(self, net.out.dtype))


@op(aten.tanh.default)
def tanh(net: Net, self: ITensor) -> ITensor:
    """tanh(Tensor self) -> Tensor"""
    return not_fused(net, net.activation(trt.ActivationType.TANH, net.cast(self, net.out.dtype)), tanh=True)


@op(aten.silu.default, dtypes=FLOAT)
def silu(net: Net, self: ITensor) -> ITensor:
    """silu(Tensor self) -> Tensor"""
    x = net.wide(self)
    return net.cast(net.mul(x, net.activation(trt.ActivationType.SIGMOID, x)), net.out.dtype)


@op(aten.gelu.default, dtypes=FLOAT)
def gelu(net: Net, self: ITensor, approximate: str = "none") -> ITensor:
    """gelu(Tensor self, *, str approximate='none') -> Tensor"""
    kind = trt.ActivationType.GELU_TANH if approximate == "tanh" else trt.ActivationType.GELU_ERF
    # RTX 1.6.1 rounds inside; in float32 after a product it gives wrong numbers (Whisper's encoder is off by 0.6).
    x = net.wide(self) if self.is_network_input else self
    return not_fused(net, net.cast(net.activation(kind, x), net.out.dtype), tanh=approximate == "tanh")


@op(aten.leaky_relu.default, dtypes=FLOAT)
def leaky_relu(net: Net, self: ITensor, negative_slope: Scalar = 0.01) -> ITensor:
    """leaky_relu(Tensor self, Scalar negative_slope=0.01) -> Tensor"""
    x = net.wide(self)
    return net.cast(net.select(net.greater(x, 0), x, net.mul(x, negative_slope)), net.out.dtype)


@op(aten.elu.default, dtypes=FLOAT)
def elu(net: Net, self: ITensor, alpha: Scalar = 1, scale: Scalar = 1, input_scale: Scalar = 1) -> ITensor:
    """elu(Tensor self, Scalar alpha=1, Scalar scale=1, Scalar input_scale=1) -> Tensor"""
    # Not the activation layer: RTX takes two of one input with different alphas for the same (seen on 1.6.1).
    x = net.wide(self)
    inner = accurate_expm1(net, x if input_scale == 1 else net.mul(x, input_scale))
    y = net.select(net.greater(x, 0), x, net.mul(inner, alpha))
    return net.cast(y if scale == 1 else net.mul(y, scale), net.out.dtype)


@op(aten.hardtanh.default)
def hardtanh(net: Net, self: ITensor, min_val: Scalar = -1, max_val: Scalar = 1) -> ITensor:
    """hardtanh(Tensor self, Scalar min_val=-1, Scalar max_val=1) -> Tensor"""
    if net.dtype(self) in FLOAT:
        return net.activation(trt.ActivationType.CLIP, self, float(min_val), float(max_val))
    return net.minimum(net.maximum(self, int(min_val)), int(max_val))


@op(aten.hardsigmoid.default, dtypes=FLOAT)
def hardsigmoid(net: Net, self: ITensor) -> ITensor:
    """hardsigmoid(Tensor self) -> Tensor"""
    return net.cast(_hard_sigmoid(net, net.wide(self)), net.out.dtype)


@op(aten.hardswish.default, dtypes=FLOAT)
def hardswish(net: Net, self: ITensor) -> ITensor:
    """hardswish(Tensor self) -> Tensor"""
    x = net.wide(self)
    return net.cast(net.mul(x, _hard_sigmoid(net, x)), net.out.dtype)


def _hard_sigmoid(net: Net, x: ITensor) -> ITensor:
    return net.activation(trt.ActivationType.HARD_SIGMOID, x, 1 / 6, 0.5)


@op(aten.softplus.default, dtypes=FLOAT)
def softplus(net: Net, self: ITensor, beta: Scalar = 1, threshold: Scalar = 20) -> ITensor:
    """softplus(Tensor self, Scalar beta=1, Scalar threshold=20) -> Tensor"""
    return net.cast(_softplus(net, net.wide(self), beta, threshold), net.out.dtype)


@op(aten.mish.default, dtypes=FLOAT)
def mish(net: Net, self: ITensor) -> ITensor:
    """mish(Tensor self) -> Tensor"""
    x = net.wide(self)
    return net.cast(net.mul(x, net.activation(trt.ActivationType.TANH, _softplus(net, x, 1, 20))), net.out.dtype)


def _softplus(net: Net, x: ITensor, beta: Scalar, threshold: Scalar) -> ITensor:
    # TensorRT's own layer has no threshold and overflows.
    scaled = x if beta == 1 else net.mul(x, beta)
    soft = accurate_log1p(net, net.unary(trt.UnaryOperation.EXP, scaled))
    return net.select(net.greater(scaled, threshold), x, soft if beta == 1 else net.div(soft, beta))


@op(aten.glu.default, dtypes=FLOAT)
def glu(net: Net, self: ITensor, dim: int = -1) -> ITensor:
    """glu(Tensor self, int dim=-1) -> Tensor"""
    half = net.shape(self)[dim] // 2
    value, gate = net.narrow(self, dim, 0, half), net.narrow(self, dim, half, half)
    gate = net.activation(trt.ActivationType.SIGMOID, net.wide(gate))
    return net.cast(net.mul(net.wide(value), gate), net.out.dtype)


@op(aten._prelu_kernel.default, dtypes=FLOAT)
def prelu_kernel(net: Net, self: ITensor, weight: ITensor) -> ITensor:
    """_prelu_kernel(Tensor self, Tensor weight) -> Tensor"""
    return net.select(net.greater(self, 0), self, net.mul(self, weight))


@op(aten.clamp.default, aten.clamp.Tensor)
def clamp(net: Net, self: ITensor, min: Value = None, max: Value = None) -> ITensor:
    """clamp(Tensor self, Scalar? min=None, Scalar? max=None) -> Tensor
    clamp.Tensor(Tensor self, Tensor? min=None, Tensor? max=None) -> Tensor"""
    x = net.cast(self, net.out.dtype)
    x = x if min is None else larger(net, x, min, net.out.dtype)
    return x if max is None else smaller(net, x, max, net.out.dtype)


@op(aten._softmax.default, dtypes=FLOAT)
def softmax(net: Net, self: ITensor, dim: int, half_to_float: bool) -> ITensor:
    """_softmax(Tensor self, int dim, bool half_to_float) -> Tensor"""
    x, shape = net.wide(self), tuple(net.shape(self))  # TensorRT's layer rounds exponentials to a half type
    line = len(shape) < 2  # and wants two dimensions
    y = net.softmax(net.reshape(x, [1, -1]) if line else x, 1 if line else dim)
    return net.cast(net.reshape(y, shape), net.out.dtype)


@op(aten._log_softmax.default, dtypes=FLOAT)
def log_softmax(net: Net, self: ITensor, dim: int, half_to_float: bool) -> ITensor:
    """_log_softmax(Tensor self, int dim, bool half_to_float) -> Tensor"""
    if not len(self.shape):
        return net.cast(net.sub(self, self), net.out.dtype)  # 0, but NaN of what is not finite
    # The logarithm of a softmax is -inf where that rounds to 0.
    x = net.wide(self)
    x = net.sub(x, net.reduce(trt.ReduceOperation.MAX, x, [dim], keepdim=True))
    total = net.reduce(trt.ReduceOperation.SUM, net.unary(trt.UnaryOperation.EXP, x), [dim], keepdim=True)
    return net.cast(net.sub(x, net.unary(trt.UnaryOperation.LOG, total)), net.out.dtype)


log_softmax.unless(Net.not_empty)
