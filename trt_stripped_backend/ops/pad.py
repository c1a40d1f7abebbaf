"""Padding: slices that reach beyond the input, in a mode that says what lies there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from ..flavour import trt
from .net import AnySize, Dim, ITensor, Net, Scalar
from .registry import op

aten = torch.ops.aten


@op(aten.constant_pad_nd.default)
def constant_pad_nd(net: Net, self: ITensor, pad: Sequence[AnySize], value: Scalar = 0) -> ITensor:
    """constant_pad_nd(Tensor self, SymInt[] pad, Scalar value=0) -> Tensor"""
    if not any(isinstance(one, Dim) or one for one in pad):
        return self
    # A slice of bool has no fill value.
    x = net.cast(self, torch.int32) if net.out.dtype == torch.bool else self
    plain = value == 0 and math.copysign(1, value) > 0
    fill = None if plain else net.constant(bool(value) if x is not self else value, net.dtype(x))
    return net.cast(_slice(net, x, pad, trt.SampleMode.FILL, fill), net.out.dtype)


@op(aten.reflection_pad1d.default, aten.reflection_pad2d.default, aten.reflection_pad3d.default)
def reflection_pad(net: Net, self: ITensor, padding: Sequence[int]) -> ITensor:
    """reflection_pad2d(Tensor self, SymInt[4] padding) -> Tensor"""
    return _slice(net, self, padding, trt.SampleMode.REFLECT)


@op(aten.replication_pad1d.default, aten.replication_pad2d.default, aten.replication_pad3d.default)
def replication_pad(net: Net, self: ITensor, padding: Sequence[int]) -> ITensor:
    """replication_pad2d(Tensor self, SymInt[4] padding) -> Tensor"""
    return _slice(net, self, padding, trt.SampleMode.CLAMP)


for _one in (constant_pad_nd, reflection_pad, replication_pad):
    _one.unless(Net.not_empty)


def _slice(net: Net, x: ITensor, pad: Sequence[AnySize], mode: Any, fill: ITensor | None = None) -> ITensor:
    """``pad`` is (before, after) for the last dimension, then for the one before it; negative sizes crop."""
    rank = len(x.shape)
    before = [0] * (rank - len(pad) // 2) + list(pad[::2])[::-1]
    return net.slice(x, [-b for b in before], list(net.out.shape), [1] * rank, mode, fill)
