"""Element by element, and over dimensions."""

from __future__ import annotations

from functools import partial

import torch

from .builder import DTYPES, FLOATS, INTS, Builder
from .graph import Ref
from .registry import EXACT, of

_UNARY_EXACT = ("torch.abs", "torch.neg", "torch.relu", "torch.floor", "torch.ceil", "torch.trunc", "torch.round",
                "torch.sign", "torch.isnan", "torch.isinf", "torch.logical_not", "F.relu6", "F.hardtanh")  # fmt: skip
_UNARY = (
    "torch.exp", "torch.sin", "torch.cos", "torch.tanh", "torch.sigmoid", "torch.erf", "torch.atan", "torch.asinh",
    "torch.expm1", "torch.square", "own.root", "own.logarithm", "F.gelu", "F.silu", "F.elu", "F.selu", "F.softplus",
    "F.mish", "F.hardswish", "F.hardsigmoid", "F.leaky_relu", "F.softsign", "F.logsigmoid", "F.tanhshrink", "F.celu",
)  # fmt: skip
_BINARY_EXACT = ("torch.maximum", "torch.minimum", "torch.eq", "torch.ne", "torch.lt", "torch.le", "torch.gt",
                 "torch.ge", "torch.logical_and", "torch.logical_or", "torch.logical_xor")  # fmt: skip
_BINARY = ("torch.add", "torch.sub", "torch.mul", "own.ratio", "torch.fmod", "torch.remainder", "torch.floor_divide",
           "torch.atan2")  # fmt: skip
_DIVISIONS = ("torch.fmod", "torch.remainder", "torch.floor_divide")
_BITS = ("torch.bitwise_and", "torch.bitwise_or", "torch.bitwise_xor")
_SUMS = ("torch.sum", "torch.mean", "torch.prod", "torch.logsumexp", "torch.var", "torch.std")
_EXTREMES = (
    "torch.amax", "torch.amin", "torch.all", "torch.any", "torch.argmax", "torch.argmin", "torch.count_nonzero",
)  # fmt: skip
EXACT.update(_UNARY_EXACT, _BINARY_EXACT, _BITS, _EXTREMES)
EXACT.update(("own.extreme", "torch.where", "torch.masked_fill", "torch.clamp"))


def _unary(name: str, b: Builder) -> None:
    b.add(name, b.pick(FLOATS if name in _UNARY and b.whole(0, 3) else DTYPES))


def _binary(name: str, b: Builder) -> None:
    x = b.pick((*INTS, torch.bool) if name in _BITS else DTYPES)
    if name in _DIVISIONS and b.of(x).dtype not in FLOATS:  # by zero, integers have no result
        b.add(name, x, b.one_of(3, -2))
        return
    any_type = FLOATS if name in _DIVISIONS else (*INTS, torch.bool) if name in _BITS else DTYPES
    kinds = any_type if name in _DIVISIONS or b.maybe() else (b.of(x).dtype,)
    other = b.number() if name not in (*_BITS, "own.ratio", "torch.atan2") and b.one_of(False, False, True) else None
    scalar_first = other is None or name in ("torch.maximum", "torch.minimum", *_BINARY_EXACT[-3:])
    b.add(name, x, b.beside(x, kinds) if scalar_first else other)


for _name in (*_UNARY_EXACT, *_UNARY):
    of("pointwise")(partial(_unary, _name))
for _name in (*_BINARY_EXACT, *_BINARY, *_BITS):
    of("pointwise")(partial(_binary, _name))


@of("pointwise")
def cast(b: Builder) -> None:
    x = b.pick()
    b.add("own.cast", x, b.one_of(*DTYPES))


@of("pointwise")
def where(b: Builder) -> None:
    x = b.pick()
    b.add("torch.where", b.beside(x, (torch.bool,)), x, b.number() if b.maybe() else b.beside(x, DTYPES))


@of("pointwise")
def clamp(b: Builder) -> None:
    low = b.one_of(None, -1, -0.5)
    b.add("torch.clamp", b.pick((*FLOATS, *INTS)), low, b.one_of(1, 2.5, None) if low is not None else 1)


@of("pointwise")
def masked_fill(b: Builder) -> None:
    x = b.pick()
    b.add("torch.masked_fill", x, b.beside(x, (torch.bool,)), b.number())


@of("pointwise")
def addcmul(b: Builder) -> None:
    x = b.pick(FLOATS)
    same = (b.of(x).dtype,)
    b.add(b.one_of("torch.addcmul", "torch.lerp"), x, b.beside(x, same), b.beside(x, same))


@of("pointwise")
def scaled_add(b: Builder) -> None:
    x = b.pick((*FLOATS, *INTS))
    b.add(b.one_of("torch.add", "torch.sub"), x, b.beside(x, (b.of(x).dtype,)), alpha=b.one_of(2, 3))


@of("pointwise")
def power(b: Builder) -> None:
    b.add("torch.pow", b.pick(FLOATS), b.one_of(2, 3, 1, 0, 2.0))


# -------------------------------------------------------------------------------------------------- reductions


def _reduction(name: str, b: Builder) -> None:
    x = b.pick(FLOATS if name in _SUMS and b.whole(0, 2) else DTYPES)
    if name in ("torch.argmax", "torch.argmin", "torch.prod", "torch.all", "torch.any"):
        if b.maybe():
            b.add(name, x, b.dim(x), keepdim=b.maybe())
        else:
            b.add(name, x)
        return
    if name == "torch.count_nonzero":
        b.add(name, x, b.dims(x))
        return
    b.add(name, x, b.dims(x) or b.dim(x), keepdim=b.maybe())


for _name in (*_SUMS, *_EXTREMES):
    of("reductions")(partial(_reduction, _name))


@of("reductions")
def extreme(b: Builder) -> None:
    x = b.pick((*FLOATS, *INTS))
    b.add("own.extreme", x, b.dim(x), b.maybe(), b.maybe())


@of("reductions")
def chosen(b: Builder) -> None:
    x = b.pick(FLOATS, low=1, numel=1)
    b.add(b.one_of("own.largest", "own.rank"), x, b.dim(x))


@of("reductions")
def across(b: Builder) -> None:
    """Over some dimensions, and what is made with that over others."""
    x, began = b.pick(FLOATS, low=2), b.made
    b.add(b.one_of("own.centered", "own.shares"), x, b.dims(x) or [0])
    if b.made > began:
        y = Ref(f"v{began}")
        b.add(b.one_of("torch.mean", "torch.amax", "torch.var"), y, b.dims(y) or b.dim(y), keepdim=b.maybe())


@of("reductions")
def beside(b: Builder) -> None:
    """One element beside all, and what is made of that."""
    x, began = b.pick(FLOATS, low=1, numel=1), b.made
    dim = b.dim(x)
    b.add("own.beside", x, dim, b.one_of(0, -1, b.of(x).shape[dim] // 2))
    if b.made > began:
        y = Ref(f"v{began}")
        b.add(b.one_of("torch.sum", "torch.amax", "torch.mean"), y, b.dims(y) or b.dim(y), keepdim=b.maybe())


@of("reductions")
def softmax(b: Builder) -> None:
    x = b.pick(FLOATS)
    b.add(b.one_of("F.softmax", "F.log_softmax", "F.softmin"), x, dim=b.dim(x))


@of("reductions")
def normalized(b: Builder) -> None:
    x = b.pick(FLOATS, low=1)
    b.add("F.normalize", x, dim=b.dim(x))


@of("reductions")
def layer_norm(b: Builder) -> None:
    x = b.pick(FLOATS, low=1, high=5)
    shape = list(b.of(x).shape)[-b.whole(1, min(2, b.of(x).ndim)) :]
    weights = [b.input(shape, b.of(x).dtype, weight=True) for _ in range(b.one_of(2, 1, 0))]
    b.add(b.one_of("F.layer_norm", "F.rms_norm") if len(weights) < 2 else "F.layer_norm", x, shape, *weights)


@of("reductions")
def topk(b: Builder) -> None:
    x = b.pick((*FLOATS, *INTS), low=1, numel=1)
    dim = b.dim(x)
    b.add("own.topk", x, b.whole(1, b.of(x).shape[dim]), dim, b.maybe())


@of("reductions")
def sort(b: Builder) -> None:
    x = b.pick(low=1)
    b.add("own.sort", x, b.dim(x), b.maybe())
