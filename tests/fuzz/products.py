"""Sums of products, windows and norms."""

from __future__ import annotations

from typing import Any

import torch

from .builder import FLOATS, Builder
from .graph import Ref
from .registry import of


def _dtype(b: Builder, x: Ref) -> torch.dtype:
    return b.of(x).dtype


@of("products")
def linear(b: Builder) -> None:
    x = b.pick(FLOATS, low=1, high=4)
    out, dtype = b.whole(1, 6), _dtype(b, x)
    weights = [b.input((out, b.of(x).shape[-1]), dtype, weight=True)]
    weights += [b.input((out,), dtype, weight=True)] if b.maybe() else []
    b.add("F.linear", x, *weights)


@of("products")
def gated(b: Builder) -> None:
    """What an activation makes of a layer, times a layer of the same matrix, itself or a number."""
    x = b.pick(FLOATS, low=1, high=4)
    out, dtype, layers = b.whole(1, 6), _dtype(b, x), []
    for _ in range(b.one_of(1, 2)):
        weights = [b.input(shape, dtype, weight=True) for shape in ((out, b.of(x).shape[-1]), (out,))]
        layers.append(Ref(f"v{b.made}"))
        b.add("F.linear", x, *weights)
    gate = Ref(f"v{b.made}")
    if all(layer.name in b.values for layer in layers):
        b.add(b.one_of("F.gelu", "torch.relu", "F.silu"), layers[-1])
    if gate.name in b.values:
        b.add("torch.mul", gate, b.one_of(layers[0], gate, 0.75))


@of("products")
def matmul(b: Builder) -> None:
    x = b.pick(FLOATS, low=1, high=4)
    shape = b.of(x).shape
    inner, batch = shape[-1], shape[:-2]
    other = [(inner,), (inner, b.whole(1, 5)), (*batch, inner, b.whole(1, 5)), (*(1 for _ in batch), inner, 2)]
    b.add("torch.matmul", x, b.input(b.one_of(*other), _dtype(b, x)))


@of("products")
def gram(b: Builder) -> None:
    """A tensor with itself."""
    x = b.pick(FLOATS, low=2, high=4)
    n = b.of(x).ndim
    equation = {2: ("ij,kj->ik", "ij,kj->ki", "ij,ij->"), 3: ("bij,bkj->bik", "bij,bij->b", "bij,cij->bc")}
    b.add("torch.einsum", b.one_of(*equation.get(n, ("abij,abkj->abik", "abij,abij->ai"))), x, x)


@of("products")
def addmm(b: Builder) -> None:
    x = b.pick(FLOATS, low=2, high=2)
    (rows, inner), dtype, columns = b.of(x).shape, _dtype(b, x), b.whole(1, 4)
    bias = b.input(b.one_of((rows, columns), (columns,), (rows, 1)), dtype)
    b.add("torch.addmm", bias, x, b.input((inner, columns), dtype), beta=b.one_of(1, 0.5), alpha=b.one_of(1, 2))


@of("products")
def attention(b: Builder) -> None:
    q = b.pick(FLOATS, low=3, high=4, numel=1)
    if not b.of(q).isfinite().all():  # what comes of an infinite score differs between PyTorch's own kernels
        return
    *lead, length, width = b.of(q).shape
    keys, dtype = b.whole(1, 5), _dtype(b, q)
    k, v = (b.input((*lead, keys, w), dtype) for w in (width, b.whole(1, 4)))
    kind = b.one_of("none", "causal", "bool", "float")
    mask = {"bool": torch.bool, "float": dtype}.get(kind)
    given: dict[str, Any] = {"is_causal": True} if kind == "causal" else {}
    if mask is not None:
        given["attn_mask"] = b.input(b.one_of((length, keys), (*(1 for _ in lead), 1, keys)), mask)
    b.add("F.scaled_dot_product_attention", q, k, v, **given)


# -------------------------------------------------------------------------------------------------- windows


def _image(b: Builder, spatial: int) -> Ref:
    def shape() -> tuple[int, ...]:
        return (b.whole(1, 2), b.one_of(2, 4, 1, 3), *(b.whole(3, 7) for _ in range(spatial)))

    return b.pick(FLOATS, spatial + 2, spatial + 2, 1, shape)


@of("windows")
def conv(b: Builder) -> None:
    n = b.one_of(2, 1, 3)
    x = _image(b, n)
    channels, dtype = b.of(x).shape[1], _dtype(b, x)
    groups = b.one_of(1, channels) if channels else 1
    transposed = b.one_of(False, False, True)
    out = groups * b.whole(1, 2)
    kernel = tuple(b.whole(1, 3) for _ in range(n))
    sizes = (channels, out // groups, *kernel) if transposed else (out, channels // groups, *kernel)
    weight = b.input(sizes, dtype, weight=True)
    bias = b.input((out,), dtype, weight=True) if b.maybe() else None
    stride, padding, dilation = b.whole(1, 3), b.whole(0, 1), b.whole(1, 2)
    name = f"conv_transpose{n}d" if transposed else f"conv{n}d"
    extra = {"output_padding": b.whole(0, 1)} if transposed else {}
    b.add(f"F.{name}", x, weight, bias, stride=stride, padding=padding, dilation=dilation, groups=groups, **extra)


@of("windows")
def pool(b: Builder) -> None:
    n = b.one_of(2, 1)
    x, size = _image(b, n), b.whole(1, 3)
    given = {"stride": b.one_of(None, 1, 2), "padding": b.whole(0, size // 2), "ceil_mode": b.maybe()}
    if b.maybe():
        b.add(f"F.max_pool{n}d", x, size, dilation=b.whole(1, 2), **given)
    else:
        b.add(f"F.avg_pool{n}d", x, size, count_include_pad=b.maybe(), **given)


@of("windows")
def adaptive_pool(b: Builder) -> None:
    n = b.one_of(2, 1)
    b.add(f"F.adaptive_avg_pool{n}d", _image(b, n), b.one_of(1, 2, 3))


@of("windows")
def resize(b: Builder) -> None:
    x, mode = _image(b, 2), b.one_of("nearest", "bilinear", "bicubic", "nearest-exact")
    sized = {"size": (b.whole(1, 8), b.whole(1, 8))}
    given: dict[str, Any] = sized if b.maybe() else {"scale_factor": b.one_of(2, 1.5)}
    corners = {"align_corners": b.maybe()} if mode.startswith("bi") else {}
    b.add("F.interpolate", x, mode=mode, **given, **corners)


@of("windows")
def batch_norm(b: Builder) -> None:
    x = _image(b, b.one_of(2, 1, 3))
    weights = [b.input((b.of(x).shape[1],), _dtype(b, x), weight=True) for _ in range(b.one_of(4, 2))]
    b.add("own.batch_norm", x, *weights)


@of("windows")
def group_norm(b: Builder) -> None:
    x = _image(b, b.one_of(2, 1))
    channels = b.of(x).shape[1]
    weights = [b.input((channels,), _dtype(b, x), weight=True) for _ in range(b.one_of(2, 0))]
    b.add("F.group_norm", x, b.one_of(1, max(channels, 1)), *weights)


@of("windows")
def fold(b: Builder) -> None:
    x, began = _image(b, 2), b.made
    sizes = {"kernel_size": (b.whole(1, 3), b.whole(1, 3)), "dilation": b.whole(1, 2), "padding": b.whole(0, 1)}
    b.add("F.unfold", x, **sizes, stride=b.whole(1, 3))
    if b.made > began:
        b.add("F.fold", Ref(f"v{began}"), tuple(b.of(x).shape[2:]), **b.steps[-1].kwargs)
