"""Activations: functions of one element, with or without parameters."""

from __future__ import annotations

from typing import Any

import torch

from ..flavour import trt
from .net import FLOAT, ITensor, Net
from .registry import op

aten = torch.ops.aten


@op(aten.relu.default)
def relu(net: Net, self: ITensor) -> ITensor:
    """relu(Tensor self) -> Tensor"""
    if net.dtype(self) in FLOAT:
        return net.activation(trt.ActivationType.RELU, self)
    return net.maximum(self, 0)


@relu.unless
def _(self: torch.Tensor) -> Any:
    if self.dtype == torch.bool:
        yield "relu of bool"


@op(aten.silu.default, dtypes=FLOAT)
def silu(net: Net, self: ITensor) -> ITensor:
    """silu(Tensor self) -> Tensor"""
    x = net.wide(self)
    return net.cast(net.mul(x, net.activation(trt.ActivationType.SIGMOID, x)), net.out.dtype)


@op(aten.gelu.default, dtypes=FLOAT)
def gelu(net: Net, self: ITensor, approximate: str = "none") -> ITensor:
    """gelu(Tensor self, *, str approximate='none') -> Tensor"""
    kind = trt.ActivationType.GELU_TANH if approximate == "tanh" else trt.ActivationType.GELU_ERF
    return net.activation(kind, self)
