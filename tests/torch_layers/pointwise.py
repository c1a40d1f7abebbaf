"""Layers that compute each element by itself, and constants."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F

from trt_stripped_backend.ops.network import BOOL, FLOAT, INT, from_trt

from .base import ANY, NUMERIC, Layer, broadcastable, expect, ints, require, same

Function = Callable[..., torch.Tensor]


def _float_only(function: Function) -> tuple[Function, frozenset[torch.dtype]]:
    return function, FLOAT


UNARY: dict[str, tuple[Function, frozenset[torch.dtype]]] = {
    "EXP": _float_only(torch.exp),
    "LOG": _float_only(torch.log),
    "SQRT": _float_only(torch.sqrt),
    "RECIP": _float_only(torch.reciprocal),
    "SIN": _float_only(torch.sin),
    "COS": _float_only(torch.cos),
    "TAN": _float_only(torch.tan),
    "SINH": _float_only(torch.sinh),
    "COSH": _float_only(torch.cosh),
    "ASIN": _float_only(torch.asin),
    "ACOS": _float_only(torch.acos),
    "ATAN": _float_only(torch.atan),
    "ASINH": _float_only(torch.asinh),
    "ACOSH": _float_only(torch.acosh),
    "ATANH": _float_only(torch.atanh),
    "CEIL": _float_only(torch.ceil),
    "FLOOR": _float_only(torch.floor),
    "ERF": _float_only(torch.erf),
    "ROUND": _float_only(torch.round),
    "ISINF": _float_only(torch.isinf),
    "ISNAN": _float_only(torch.isnan),
    "ABS": (torch.abs, NUMERIC),
    "NEG": (torch.neg, NUMERIC),
    "SIGN": (torch.sign, NUMERIC),
    "NOT": (torch.logical_not, BOOL),
}


class Unary(Layer):
    op: Any = None

    def compute(self, x: torch.Tensor) -> torch.Tensor:
        function, dtypes = UNARY[self.op.name]
        expect(x, dtypes, f"the input of {self.op.name}")
        require(x.ndim > 0, f"{self.op.name} of a 0-d tensor")
        return function(x)


def _div(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return a / b if a.dtype in FLOAT else torch.div(a, b, rounding_mode="trunc")


def _floor_div(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.floor(a / b) if a.dtype in FLOAT else torch.div(a, b, rounding_mode="floor")


ELEMENTWISE: dict[str, tuple[Function, frozenset[torch.dtype]]] = {
    "SUM": (torch.add, NUMERIC),
    "PROD": (torch.mul, NUMERIC),
    # As CUDA's fmax and fmin: a NaN loses against a number. A converter that must keep it has to say so.
    "MAX": (torch.fmax, NUMERIC),
    "MIN": (torch.fmin, NUMERIC),
    "SUB": (torch.sub, NUMERIC),
    "DIV": (_div, NUMERIC),
    "POW": (torch.pow, NUMERIC),
    "FLOOR_DIV": (_floor_div, NUMERIC),
    "AND": (torch.logical_and, BOOL),
    "OR": (torch.logical_or, BOOL),
    "XOR": (torch.logical_xor, BOOL),
    "EQUAL": (torch.eq, ANY),
    "GREATER": (torch.gt, NUMERIC),
    "LESS": (torch.lt, NUMERIC),
}


class Elementwise(Layer):
    op: Any = None

    def compute(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        function, dtypes = ELEMENTWISE[self.op.name]
        same((a, b), f"the inputs of {self.op.name}")
        expect(a, dtypes, f"an input of {self.op.name}")
        broadcastable((a, b), f"the inputs of {self.op.name}")
        return function(a, b)


ACTIVATION: dict[str, Function] = {
    "RELU": lambda x, a, b: torch.relu(x),
    "SIGMOID": lambda x, a, b: torch.sigmoid(x),
    "TANH": lambda x, a, b: torch.tanh(x),
    "LEAKY_RELU": lambda x, a, b: torch.where(x >= 0, x, a * x),
    "ELU": lambda x, a, b: torch.where(x >= 0, x, a * torch.expm1(x)),
    "SELU": lambda x, a, b: torch.where(x > 0, b * x, b * a * torch.expm1(x)),
    "SOFTSIGN": lambda x, a, b: x / (1 + x.abs()),
    "SOFTPLUS": lambda x, a, b: a * torch.log(torch.exp(b * x) + 1),
    "CLIP": lambda x, a, b: torch.clamp(torch.clamp(x, max=b), min=a),
    "HARD_SIGMOID": lambda x, a, b: torch.clamp(a * x + b, 0, 1),
    "SCALED_TANH": lambda x, a, b: a * torch.tanh(b * x),
    "THRESHOLDED_RELU": lambda x, a, b: torch.where(x > a, x, 0),
    "GELU_ERF": lambda x, a, b: F.gelu(x),
    "GELU_TANH": lambda x, a, b: F.gelu(x, approximate="tanh"),
}


class Activation(Layer):
    type: Any = None
    alpha = 0.0
    beta = 0.0

    def compute(self, x: torch.Tensor) -> torch.Tensor:
        kind = self.type.name
        expect(x, NUMERIC if kind == "RELU" else FLOAT, f"the input of {kind}")
        require(x.ndim > 0, f"{kind} of a 0-d tensor")
        wide = x if x.dtype in INT else x.float()
        return ACTIVATION[kind](wide, self.alpha, self.beta).to(x.dtype)


class ParametricRelu(Layer):
    def compute(self, x: torch.Tensor, slopes: torch.Tensor) -> torch.Tensor:
        same((x, slopes), "the inputs of a parametric ReLU")
        expect(x, FLOAT, "the input of a parametric ReLU")
        broadcastable((x, slopes), "the inputs of a parametric ReLU")
        require((x * slopes).shape == x.shape, "slopes must broadcast to the input")
        return torch.where(x < 0, x * slopes, x)


class Cast(Layer):
    to_type: Any = None

    def compute(self, x: torch.Tensor) -> torch.Tensor:
        return x.to(from_trt(self.to_type))


class Identity(Layer):
    def compute(self, x: torch.Tensor) -> torch.Tensor:
        return x.clone()


class Select(Layer):
    def compute(self, condition: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        expect(condition, BOOL, "the condition of a select")
        same((a, b), "the inputs of a select")
        require(condition.ndim == a.ndim, "the inputs of a select need one rank")
        broadcastable((condition, a, b), "the inputs of a select")
        return torch.where(condition, a, b)


class Constant(Layer):
    weights: Any = None
    shape: Any = None
    value: Any = None

    def compute(self) -> torch.Tensor:
        return self.value


class Fill(Layer):
    """``LINSPACE``: ``alpha`` plus, along each dimension, ``beta`` times the index. Random fills are not emulated."""

    shape: Any = None
    operation: Any = None
    to_type: Any = None
    alpha: Any = None
    beta: Any = None

    def compute(self, dims: Any = None, alpha: Any = None, beta: Any = None) -> torch.Tensor:
        require(self.operation.name == "LINSPACE", f"{self.operation.name} fills have no value to compare")
        dtype = from_trt(self.to_type)
        require(dtype in (torch.float32, torch.int32, torch.int64), f"LINSPACE of {dtype}")
        shape = ints(self.shape if dims is None else dims)
        if alpha is None or beta is None:
            require(len(shape) == 1, "LINSPACE of rank other than 1 needs alpha and beta as inputs")
            alpha = torch.tensor(0.0 if self.alpha is None else self.alpha)
            beta = torch.tensor([1.0 if self.beta is None else self.beta])
        else:
            require(alpha.ndim == 0 and tuple(beta.shape) == (len(shape),), "alpha is 0-d, beta 1-d")
            require(alpha.dtype == beta.dtype == dtype, "alpha and beta have the output's type")
        out = alpha.to(dtype).expand(shape).clone()
        for dim, size in enumerate(shape):
            steps = torch.arange(size) * beta[dim]
            out += steps.to(dtype).reshape([-1] + [1] * (len(shape) - dim - 1))
        return out
