"""Scaled dot-product attention from primitives, in the order that TensorRT fuses: scaled query, product with the keys,
added mask, softmax, product with the values."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch.fx.experimental.symbolic_shapes import statically_known_true

from ..flavour import trt
from ..sizes import dynamic
from .create import iota
from .matmul import evaluated
from .net import BOOL, FLOAT, AnySize, ITensor, Net
from .registry import op

aten = torch.ops.aten


@op(aten.scaled_dot_product_attention.default, dtypes=FLOAT | BOOL)
def scaled_dot_product_attention(
    net: Net, query: ITensor, key: ITensor, value: ITensor, attn_mask: ITensor | None = None, dropout_p: float = 0.0,
    is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False,
) -> ITensor:  # fmt: skip
    """scaled_dot_product_attention(Tensor query, Tensor key, Tensor value, Tensor? attn_mask=None, float dropout_p=0., bool is_causal=False, *, float? scale=None, bool enable_gqa=False) -> Tensor"""  # noqa: E501
    return _attend(net, query, key, value, attn_mask, is_causal, scale)


@scaled_dot_product_attention.unless
def _(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0, is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False,
) -> Iterator[str]:  # fmt: skip
    if dropout_p > 0:
        yield "attention with dropout: an engine would repeat the same numbers"
    if scale is None and dynamic(query.shape[-1]):
        yield "a dynamic head size"
    for other in (key, value):
        if query.ndim > 2 and other.ndim > 2 and _sizes_differ(query.shape[-3], other.shape[-3]):
            yield "dynamic numbers of heads that may differ"


def _sizes_differ(one: int | torch.SymInt, other: int | torch.SymInt) -> bool:
    return (dynamic(one) or dynamic(other)) and not statically_known_true(one == other)


scaled_dot_product_attention.unless(Net.not_empty)


def _attend(
    net: Net, query: ITensor, key: ITensor, value: ITensor, mask: ITensor | None, causal: bool, scale: float | None
) -> ITensor:
    dtype = net.dtype(query)
    query, key = evaluated(net, query, key)
    if dtype != torch.float32 and net.few_products(query, key, transpose_b=True):
        query, key, value = map(net.wide, (query, key, value))
        return net.cast(_attend_with(net.written_out, net, query, key, value, mask, causal, scale), dtype)
    # Half types as they are: with casts between its parts TensorRT does not fuse attention (3.5 times slower on RTX).
    multiply = net.product if dtype == torch.float32 else net.matmul
    return _attend_with(multiply, net, query, key, value, mask, causal, scale)


def _attend_with(
    multiply: Callable[..., ITensor], net: Net, query: ITensor, key: ITensor, value: ITensor, mask: ITensor | None,
    causal: bool, scale: float | None,
) -> ITensor:  # fmt: skip
    dtype = net.dtype(query)
    # Scaled before the product, whose float16 result could overflow.
    query = net.mul(query, 1 / math.sqrt(net.shape(query)[-1]) if scale is None else scale)
    scores = _grouped(multiply, net, query, key, transpose_b=True)
    if causal:
        rows, columns = net.shape(scores)[-2:]
        scores = net.add(scores, _causal(net, rows, columns, dtype))
    if mask is None:
        return _grouped(multiply, net, net.softmax(scores, -1), value)
    if net.dtype(mask) == torch.bool:
        mask = net.select(mask, 0.0, -math.inf, dtype)
    # A float32 mask may hold what float16 cannot, so it is added in float32; of equal types nothing is cast.
    weights = net.cast(net.softmax(net.add(scores, mask), -1), dtype)
    out = _grouped(multiply, net, weights, value)
    # A row that may see nothing is NaN after the softmax; in PyTorch it is zero (``aten._safe_softmax``).
    best = net.reduce(trt.ReduceOperation.MAX, mask, [-1], keepdim=True)
    return net.select(net.greater(best, -math.inf), out, 0.0, dtype)


def _grouped(
    multiply: Callable[..., ITensor], net: Net, a: ITensor, b: ITensor, *, transpose_b: bool = False
) -> ITensor:
    """A product in which several heads of ``a`` share one of ``b``: those become more rows of one matrix."""
    if len(a.shape) < 3 or len(b.shape) < 3 or net.shape(a)[-3] <= net.shape(b)[-3]:
        return multiply(a, b, transpose_b=transpose_b)
    *batch, heads, rows, inner = net.shape(a)
    shared = net.shape(b)[-3]
    y = multiply(net.reshape(a, [*batch, shared, heads // shared * rows, inner]), b, transpose_b=transpose_b)
    return net.reshape(y, [*net.shape(y)[:-3], heads, rows, net.shape(y)[-1]])


def _causal(net: Net, rows: AnySize, columns: AnySize, dtype: torch.dtype) -> ITensor:
    """0 where a column is not after its row, else -inf: from two vectors, because a literal matrix fills the plan."""
    down = net.reshape(iota(net, rows, torch.int64), [rows, 1])
    after = net.less(down, net.reshape(iota(net, columns, torch.int64), [1, columns]))
    return net.select(after, -math.inf, 0.0, dtype)
