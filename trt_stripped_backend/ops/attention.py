"""Scaled dot-product attention from primitives, in the order that TensorRT fuses: scaled query, product with the keys,
added mask, softmax, product with the values."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch

from ..flavour import trt
from .net import BOOL, FLOAT, ITensor, Net
from .registry import op

aten = torch.ops.aten


@op(aten.scaled_dot_product_attention.default, dtypes=FLOAT | BOOL)
def scaled_dot_product_attention(
    net: Net, query: ITensor, key: ITensor, value: ITensor, attn_mask: ITensor | None = None, dropout_p: float = 0.0,
    is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False,
) -> ITensor:  # fmt: skip
    """scaled_dot_product_attention(Tensor query, Tensor key, Tensor value, Tensor? attn_mask=None, float dropout_p=0., bool is_causal=False, *, float? scale=None, bool enable_gqa=False) -> Tensor"""  # noqa: E501
    return _attend(net, query, key, value, attn_mask, is_causal, scale)


@op(aten._scaled_dot_product_flash_attention_for_cpu.default, dtypes=FLOAT | BOOL)
def _scaled_dot_product_flash_attention_for_cpu(
    net: Net, query: ITensor, key: ITensor, value: ITensor, dropout_p: float = 0.0, is_causal: bool = False,
    attn_mask: ITensor | None = None, scale: float | None = None,
) -> tuple[Any, ...]:  # fmt: skip
    """_scaled_dot_product_flash_attention_for_cpu(Tensor query, Tensor key, Tensor value, float dropout_p=0., bool is_causal=False, *, Tensor? attn_mask=None, float? scale=None) -> (Tensor output, Tensor logsumexp)"""  # noqa: E501
    return _attend(net, query, key, value, attn_mask, is_causal, scale), None


@op(aten._scaled_dot_product_efficient_attention.default, dtypes=FLOAT | {torch.int64})
def _scaled_dot_product_efficient_attention(
    net: Net, query: ITensor, key: ITensor, value: ITensor, attn_bias: ITensor | None, compute_log_sumexp: bool,
    dropout_p: float = 0.0, is_causal: bool = False, scale: float | None = None,
) -> tuple[Any, ...]:  # fmt: skip
    """_scaled_dot_product_efficient_attention(Tensor query, Tensor key, Tensor value, Tensor? attn_bias, bool compute_log_sumexp, float dropout_p=0., bool is_causal=False, *, float? scale=None) -> (Tensor output, Tensor log_sumexp, Tensor philox_seed, Tensor philox_offset)"""  # noqa: E501
    return _attend(net, query, key, value, attn_bias, is_causal, scale), None, None, None


def _deterministic(query: torch.Tensor, key: torch.Tensor, dropout_p: float, **_: Any) -> Iterator[str]:
    if dropout_p > 0:
        yield "attention with dropout: an engine would repeat the same numbers"
    if query.ndim < 2:
        yield "attention of vectors"
    if query.ndim > 3 and query.shape[-3] % key.shape[-3]:
        yield "query heads are not a multiple of key heads"


for _one in (
    scaled_dot_product_attention, _scaled_dot_product_flash_attention_for_cpu, _scaled_dot_product_efficient_attention,
):  # fmt: skip
    _one.unless(Net.not_empty)
    _one.unless(_deterministic)


def _attend(
    net: Net, query: ITensor, key: ITensor, value: ITensor, mask: ITensor | None, causal: bool, scale: float | None
) -> ITensor:
    dtype = net.dtype(query)
    # Scaled before the product, whose float16 result could overflow.
    scores = _grouped(net, net.mul(query, 1 / math.sqrt(query.shape[-1]) if scale is None else scale), key, True)
    if causal:
        rows, columns = scores.shape[-2:]
        scores = net.add(scores, _causal(net, rows, columns, dtype))
    if mask is None:
        return _grouped(net, net.softmax(scores, -1), value, False)
    if net.dtype(mask) == torch.bool:
        mask = net.select(mask, 0.0, -math.inf, dtype)
    # A float32 mask may hold what float16 cannot, so it is added in float32; of equal types nothing is cast.
    weights = net.cast(net.softmax(net.add(scores, mask), -1), dtype)
    out = _grouped(net, weights, value, False)
    # A row that may see nothing is NaN after the softmax; in PyTorch it is zero (``aten._safe_softmax``).
    best = net.reduce(trt.ReduceOperation.MAX, mask, [-1], keepdim=True)
    return net.select(net.greater(best, -math.inf), out, 0.0, dtype)


def _grouped(net: Net, a: ITensor, b: ITensor, transpose_b: bool) -> ITensor:
    """A product in which several heads of ``a`` share one of ``b``: those become more rows of one matrix."""
    if len(a.shape) < 3 or len(b.shape) < 3 or a.shape[-3] == b.shape[-3]:
        return net.matmul(a, b, transpose_b=transpose_b)
    *batch, heads, rows, inner = a.shape
    shared = b.shape[-3]
    y = net.matmul(net.reshape(a, [*batch, shared, heads // shared * rows, inner]), b, transpose_b=transpose_b)
    return net.reshape(y, [*y.shape[:-3], heads, rows, y.shape[-1]])


def _causal(net: Net, rows: int, columns: int, dtype: torch.dtype) -> ITensor:
    """0 where a column is not after its row, else -inf: from two vectors, because a literal matrix fills the plan."""
    after = net.less(net.constant(torch.arange(rows)[:, None]), net.constant(torch.arange(columns)[None, :]))
    return net.select(after, -math.inf, 0.0, dtype)
