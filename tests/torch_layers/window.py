"""Layers that slide a window: convolution, deconvolution, pooling."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.nn import functional as F

from trt_stripped_backend.ops.network import FLOAT

from .base import Layer, expect, ints, read_weights, require


class _Window(Layer):
    """Strides and padding of convolutions and pooling; ``padding_nd`` sets both sides."""

    num_output_maps = 0
    kernel_size_nd: Any = None
    kernel: Any = None
    bias: Any = None
    num_groups = 1
    stride_nd: Any = None
    dilation_nd: Any = None
    pre_padding: Any = None
    post_padding: Any = None
    padding_nd: Any = None
    padding_mode: Any = None

    def __setattr__(self, key: str, value: Any) -> None:
        super().__setattr__(key, value)
        if key == "padding_nd":
            self.pre_padding = self.post_padding = value

    def _padding(self, rank: int) -> tuple[list[int], list[int]]:
        pre, post = ([0] * rank if p is None else ints(p) for p in (self.pre_padding, self.post_padding))
        require(len(pre) == len(post) == rank, f"padding {pre} {post} of {rank} dimensions")
        require(min(*pre, *post) >= 0, f"negative padding {pre} {post}")
        return pre, post

    def _mode(self) -> str:
        return "EXPLICIT_ROUND_DOWN" if self.padding_mode is None else str(self.padding_mode.name)

    def _each(self, value: Any, rank: int) -> list[int]:
        values = [1] * rank if value is None else ints(value)
        require(len(values) == rank and min(values) >= 1, f"{values} for {rank} dimensions")
        return values

    def _operands(self, x: torch.Tensor, kernel: Any, bias: Any) -> tuple[torch.Tensor, torch.Tensor, Any]:
        size = ints(self.kernel_size_nd)
        require(len(size) in (2, 3), f"a kernel of {len(size)} dimensions")
        require(x.ndim == len(size) + 2, f"an input of rank {x.ndim} for a kernel of {len(size)} dimensions")
        maps = self._kernel_maps(x)
        if kernel is None:
            kernel = read_weights(self.kernel).reshape([*maps, *size])
        require(list(kernel.shape) == [*maps, *size], f"a kernel of shape {tuple(kernel.shape)}, not {[*maps, *size]}")
        if bias is None:
            bias = read_weights(self.bias)
        operands = [x, kernel] + ([] if bias is None else [bias])
        require(len({t.dtype for t in operands}) == 1, "input, kernel and bias need one type")
        expect(x, FLOAT, "the input of a convolution")
        if bias is not None:
            require(tuple(bias.shape) == (self.num_output_maps,), f"a bias of shape {tuple(bias.shape)}")
        return x.float(), kernel.float(), None if bias is None else bias.float()

    def _kernel_maps(self, x: torch.Tensor) -> list[int]:
        raise NotImplementedError


def _pad(x: torch.Tensor, pre: list[int], post: list[int], value: float = 0.0) -> torch.Tensor:
    return F.pad(x, [p for d in reversed(range(len(pre))) for p in (pre[d], post[d])], value=value)


class Convolution(_Window):
    def _kernel_maps(self, x: torch.Tensor) -> list[int]:
        require(x.shape[1] % self.num_groups == 0, f"{x.shape[1]} channels in {self.num_groups} groups")
        return [self.num_output_maps, x.shape[1] // self.num_groups]

    def compute(self, x: torch.Tensor, kernel: Any = None, bias: Any = None) -> torch.Tensor:
        wide, kernel, bias = self._operands(x, kernel, bias)
        rank = x.ndim - 2
        stride, dilation = self._each(self.stride_nd, rank), self._each(self.dilation_nd, rank)
        pre, post = self._padding(rank)
        if self._mode().startswith("SAME"):
            reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel.shape[2:], strict=True)]
            pre, post = same_padding(x.shape[2:], reach, stride, self._mode())
        function = F.conv2d if rank == 2 else F.conv3d
        out = function(_pad(wide, pre, post), kernel, bias, stride, 0, dilation, self.num_groups)
        return out.to(x.dtype)


class Deconvolution(_Window):
    def _kernel_maps(self, x: torch.Tensor) -> list[int]:
        require(self.num_output_maps % self.num_groups == 0, f"{self.num_output_maps} maps in {self.num_groups} groups")
        return [x.shape[1], self.num_output_maps // self.num_groups]

    def compute(self, x: torch.Tensor, kernel: Any = None, bias: Any = None) -> torch.Tensor:
        require(x.dtype != torch.bfloat16, "no deconvolution of bfloat16")
        wide, kernel, bias = self._operands(x, kernel, bias)
        rank = x.ndim - 2
        stride, dilation = self._each(self.stride_nd, rank), self._each(self.dilation_nd, rank)
        require(max(stride) == 1 or max(dilation) == 1, "no deconvolution with stride and dilation")
        pre, post = self._padding(rank)
        function = F.conv_transpose2d if rank == 2 else F.conv_transpose3d
        out = function(wide, kernel, bias, stride, 0, 0, self.num_groups, dilation)
        for dim in range(rank):
            length = out.shape[dim + 2] - pre[dim] - post[dim]
            require(length > 0, f"padding {pre} {post} leaves nothing")
            out = out.narrow(dim + 2, pre[dim], length)
        return out.to(x.dtype)


class Pooling(_Window):
    type: Any = None
    window_size_nd: Any = None
    blend_factor = 0.0
    average_count_excludes_padding = True

    def compute(self, x: torch.Tensor) -> torch.Tensor:
        expect(x, FLOAT, "the input of a pooling")
        window = ints(self.window_size_nd)
        rank = len(window)
        require(rank in (2, 3) and x.ndim == rank + 2, f"a pooling window {window} on rank {x.ndim}")
        stride = self._each(self.stride_nd, rank)
        pre, post = self._padding(rank)
        if self._mode().startswith("SAME"):
            pre, post = same_padding(x.shape[2:], window, stride, self._mode())
        extra = [0] * rank
        if self._mode() == "EXPLICIT_ROUND_UP":
            spans = [s + a + b - w for s, a, b, w in zip(x.shape[2:], pre, post, window, strict=True)]
            extra = [-span % step for span, step in zip(spans, stride, strict=True)]
        kind, blend = self.type.name, self.blend_factor
        if kind == "MAX":
            return self._maximum(x, window, stride, pre, post, extra)
        counts = not self.average_count_excludes_padding
        require(not (counts and self._mode() == "EXPLICIT_ROUND_UP"), "an average that rounds up and counts padding")
        mean = self._average(x.float(), window, stride, pre, post, extra)
        if kind == "MAX_AVERAGE_BLEND":
            mean = (1 - blend) * self._maximum(x, window, stride, pre, post, extra).float() + blend * mean
        return mean.to(x.dtype)

    @staticmethod
    def _maximum(x: torch.Tensor, window: Any, stride: Any, pre: Any, post: Any, extra: Any) -> torch.Tensor:
        padded = _pad(x, pre, [a + b for a, b in zip(post, extra, strict=True)], -math.inf)
        return (F.max_pool2d if len(window) == 2 else F.max_pool3d)(padded, window, stride)

    def _average(self, x: torch.Tensor, window: Any, stride: Any, pre: Any, post: Any, extra: Any) -> torch.Tensor:
        def total(t: torch.Tensor) -> torch.Tensor:
            function = F.avg_pool2d if len(window) == 2 else F.avg_pool3d
            return function(t, window, stride, divisor_override=1)

        none = [0] * len(window)
        counted = _pad(torch.ones_like(x), pre, post, 0.0 if self.average_count_excludes_padding else 1.0)
        return total(_pad(_pad(x, pre, post), none, extra)) / total(_pad(counted, none, extra))


def same_padding(sizes: Any, reach: Any, stride: Any, mode: str) -> tuple[list[int], list[int]]:
    needs = [
        max((math.ceil(size / step) - 1) * step + span - size, 0)
        for size, span, step in zip(sizes, reach, stride, strict=True)
    ]
    small, large = [n // 2 for n in needs], [n - n // 2 for n in needs]
    return (small, large) if mode == "SAME_UPPER" else (large, small)
