"""Layers that combine elements: reductions, products, normalization."""

from __future__ import annotations

import math
from typing import Any

import torch

from trt_stripped_backend.ops.network import FLOAT

from .base import NUMERIC, Layer, broadcastable, dims_of, expect, require, same


class Reduce(Layer):
    op: Any = None
    axes = 0
    keep_dims = False

    def compute(self, x: torch.Tensor) -> torch.Tensor:
        kind = self.op.name
        expect(x, NUMERIC, f"the input of a {kind} reduction")
        require(x.ndim > 0 and self.axes != 0, "a reduction needs a dimension to reduce")
        dims = dims_of(self.axes, x.ndim)
        wide = x.float() if x.dtype in FLOAT else x
        if kind == "SUM":
            out = wide.sum(dims, keepdim=True, dtype=wide.dtype)
        elif kind == "AVG":
            count = math.prod(x.shape[d] for d in dims)
            total = wide.sum(dims, keepdim=True, dtype=wide.dtype)
            out = total / count if x.dtype in FLOAT else torch.div(total, count, rounding_mode="trunc")
        elif kind in ("MAX", "MIN"):
            out = wide.amax(dims, keepdim=True) if kind == "MAX" else wide.amin(dims, keepdim=True)
        else:
            require(kind == "PROD", f"a {kind} reduction")
            out = wide
            for dim in dims:
                out = out.prod(dim, keepdim=True, dtype=wide.dtype)
        out = out.to(x.dtype)
        return out if self.keep_dims else out.reshape([s for d, s in enumerate(out.shape) if d not in dims])


class SoftMax(Layer):
    axes: Any = None

    def compute(self, x: torch.Tensor) -> torch.Tensor:
        expect(x, FLOAT, "the input of a softmax")
        require(x.ndim >= 2, f"a softmax of rank {x.ndim}")
        dims = dims_of(1 << max(x.ndim - 3, 0) if self.axes is None else self.axes, x.ndim)
        require(len(dims) == 1, f"a softmax over dimensions {dims}")
        return x.float().softmax(dims[0]).to(x.dtype)


class MatrixMultiply(Layer):
    op0: Any = None
    op1: Any = None

    def compute(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        require(a.dtype == b.dtype, f"a product of {a.dtype} and {b.dtype}")
        expect(a, FLOAT, "an input of a matrix product")
        a, b = self._matrices(a, self.op0, -2), self._matrices(b, self.op1, -1)
        require(a.ndim == b.ndim, f"a product of {tuple(a.shape)} and {tuple(b.shape)}")
        require(a.shape[-1] == b.shape[-2], f"a product of {tuple(a.shape)} and {tuple(b.shape)}")
        broadcastable([torch.empty(t.shape[:-2], device="meta") for t in (a, b)], "the batches of a product")
        out = torch.matmul(a.float(), b.float()).to(a.dtype)
        out = out.squeeze(-1) if self.op1.name == "VECTOR" else out
        return out.squeeze(-1 if self.op1.name == "VECTOR" else -2) if self.op0.name == "VECTOR" else out

    @staticmethod
    def _matrices(x: torch.Tensor, op: Any, vector_dim: int) -> torch.Tensor:
        if op.name == "VECTOR":
            require(x.ndim >= 1, "a 0-d vector")
            return x.unsqueeze(vector_dim)
        require(x.ndim >= 2, f"a matrix of rank {x.ndim}")
        return x.transpose(-1, -2) if op.name == "TRANSPOSE" else x


class Einsum(Layer):
    equation = ""

    def compute(self, *inputs: torch.Tensor) -> torch.Tensor:
        require(len({t.dtype for t in inputs}) == 1, "the inputs of an einsum need one type")
        expect(inputs[0], NUMERIC, "an input of an einsum")
        terms = self.equation.replace(" ", "").split("->")[0].split(",")
        for term in terms:
            require(all("a" <= letter <= "z" for letter in term), f"the subscripts {term!r}")
            require(len(set(term)) == len(term), f"a diagonal: {term!r}")
        wide = [t.float() if t.dtype in FLOAT else t for t in inputs]
        return torch.einsum(self.equation, *wide).to(inputs[0].dtype)


class Normalization(Layer):
    """``(x - mean) / sqrt(variance + epsilon) * scale + bias``; version 1 scales each group, version 2 each channel."""

    epsilon = 1e-5
    axes = 0
    num_groups = 1
    is_v2 = False

    def compute(self, x: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        same((x, scale, bias), "the inputs of a normalization")
        expect(x, FLOAT, "the input of a normalization")
        require(scale.shape == bias.shape, "scale and bias need one shape")
        dims, shape = dims_of(self.axes, x.ndim), x.shape
        wide, scale, bias = x.float(), scale.float(), bias.float()
        if self.num_groups > 1:
            require(shape[1] % self.num_groups == 0, f"{shape[1]} channels in {self.num_groups} groups")
            want = [1, shape[1] if self.is_v2 else self.num_groups] + [1] * (x.ndim - 2)
            require(list(scale.shape) == want, f"a scale of shape {tuple(scale.shape)}, not {want}")
            wide = wide.reshape(shape[0], self.num_groups, -1, *shape[2:])
            dims = [2] + [d + 1 for d in dims if d > 1]
            if not self.is_v2:
                each = shape[1] // self.num_groups
                scale, bias = scale.repeat_interleave(each, 1), bias.repeat_interleave(each, 1)
        else:
            broadcastable((x, scale), "the inputs of a normalization")
            require((x + scale).shape == shape, "scale and bias must broadcast to the input")
        mean = wide.mean(dims, keepdim=True)
        variance = (wide - mean).square().mean(dims, keepdim=True)
        out = ((wide - mean) / torch.sqrt(variance + self.epsilon)).reshape(shape)
        return (out * scale + bias).to(x.dtype)
