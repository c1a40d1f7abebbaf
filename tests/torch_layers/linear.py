"""Layers that combine elements: reductions, products, normalization, attention."""

from __future__ import annotations

import math
from typing import Any

import torch

from trt_stripped_backend.ops.net import BOOL, FLOAT

from .base import ANY, NUMERIC, Layer, broadcastable, dims_of, expect, require, same


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


class Attention(Layer):
    """``softmax(q kᵀ + mask) v``; scaling the query is the caller's. Fewer key heads than query heads are shared."""

    norm_op: Any = None
    mask: Any = None
    causal = False
    causal_kind: Any = None
    decomposable = False

    def compute(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        same((q, k, v), "the inputs of an attention")
        expect(q, FLOAT, "the input of an attention")
        require(q.ndim == 4 and q.shape[1] % k.shape[1] == 0, f"attention of {tuple(q.shape)} to {tuple(k.shape)}")
        require(self.decomposable or q.dtype != torch.float32, "attention of float32 needs decomposable")
        kind = "NONE" if self.causal_kind is None else self.causal_kind.name
        kind = "UPPER_LEFT" if self.causal and kind == "NONE" else kind
        require(self.mask is None or kind == "NONE", "an attention has a mask or is causal, not both")
        heads = q.shape[1] // k.shape[1]
        k, v = k.repeat_interleave(heads, 1), v.repeat_interleave(heads, 1)
        scores = q.float() @ k.float().transpose(-1, -2)
        if kind != "NONE":
            shift = 0 if kind == "UPPER_LEFT" else scores.shape[-1] - scores.shape[-2]
            seen = torch.ones(scores.shape[-2:], dtype=torch.bool).tril(shift)
            scores = scores.masked_fill(~seen, -math.inf)
        if self.mask is not None:
            mask = self.mask.value
            require(mask.ndim == 4, f"a mask of rank {mask.ndim}")
            expect(mask, ANY if mask.dtype in BOOL else {q.dtype}, "the mask of an attention")
            scores = scores.masked_fill(~mask, -math.inf) if mask.dtype in BOOL else scores + mask.float()
        return (scores.softmax(-1) @ v.float()).to(q.dtype)
