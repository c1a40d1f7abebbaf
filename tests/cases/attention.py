"""Scaled dot-product attention: masks of all kinds, causality, scale, shared heads."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from tests.cases import Case, T

Q, K = (2, 4, 5, 8), (2, 4, 7, 8)
NONE = float("-inf")


def attend(name: str, q: tuple[int, ...], k: tuple[int, ...], v: tuple[int, ...] | None = None, **how: Any) -> Case:
    def fn(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return F.scaled_dot_product_attention(q, k, v, **how)

    return Case(name, fn, (T(q), T(k), T(k if v is None else v)))


def masked(name: str, mask: T, q: tuple[int, ...] = Q, k: tuple[int, ...] = K, **how: Any) -> Case:
    def fn(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return F.scaled_dot_product_attention(q, k, v, mask, **how)

    return Case(name, fn, (T(q), T(k), T(k), mask))


def _blind_row(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return F.scaled_dot_product_attention(q, k, v, mask & (torch.arange(5, device=q.device) != 2)[:, None])


def _blind_row_float(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    mask = torch.where((torch.arange(5, device=q.device) == 2)[:, None], NONE, mask)
    return F.scaled_dot_product_attention(q, k, v, mask)


def _self_attention(x: torch.Tensor, qkv: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    q, k, v = F.linear(x, qkv).view(2, 5, 3, 4, 4).permute(2, 0, 3, 1, 4).unbind(0)
    y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    return F.linear(y.transpose(1, 2).reshape(2, 5, 16), out)


def _windows(x: torch.Tensor, qkv: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """A linear layer of four dimensions behind attention within windows of 8 × 8."""
    q, k, v = F.linear(x, qkv).view(8, 64, 3, 4, 32).transpose(1, 3).unbind(2)
    y = F.scaled_dot_product_attention(q, k, v)
    return F.linear(y.transpose(1, 2).reshape(8, 8, 8, 128), up)


def _step(
    x: torch.Tensor, weight: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, k: torch.Tensor, v: torch.Tensor
) -> torch.Tensor:
    """One more token, whose query is rotated by its position, sees what a KV cache holds."""
    q = F.linear(x * 0.1, weight).view(2, 1, 4, 16).transpose(1, 2)
    q = q * cos + torch.cat([-q[..., 8:], q[..., :8]], -1) * sin
    return F.scaled_dot_product_attention(q, k, v)


BOOL = {"dtype": torch.bool, "kind": "bool"}
CASES = [
    Case(
        "unused", lambda q, k: torch.nn.functional.scaled_dot_product_attention(q, k, k).new_ones([2]) + k[0, 0, :2],
        (T((2, 3, 8)), T((2, 5, 8))),
    ),
    attend("plain", Q, K),
    attend("one_head", (2, 5, 8), (2, 7, 8)),
    attend("no_batch", (5, 8), (7, 8)),
    attend("rank_5", (2, 1, 4, 5, 8), (2, 1, 4, 7, 8)),
    attend("value_size", Q, K, (2, 4, 7, 6)),
    attend("one_query", (2, 4, 1, 8), K),
    attend("one_key", Q, (2, 4, 1, 8)),
    attend("one_key_causal", (5, 4, 1), (5, 1, 1), (5, 1, 4), is_causal=True),
    attend("scale", Q, K, scale=0.3),
    attend("scale_large", Q, K, scale=2.0),
    attend("causal", (2, 4, 6, 8), (2, 4, 6, 8), is_causal=True),
    attend("causal_wide", Q, K, is_causal=True),
    attend("causal_tall", (2, 4, 9, 8), K, is_causal=True),
    attend("shared_heads", (2, 6, 5, 8), (2, 2, 7, 8), enable_gqa=True),
    attend("shared_one_head", (2, 6, 5, 8), (2, 1, 7, 8), enable_gqa=True),
    attend("broadcast_query", (1, 1, 5, 8), K),
    attend("broadcast_keys", Q, (1, 1, 7, 8)),
    attend("shared_causal", (2, 6, 5, 8), (2, 3, 7, 8), is_causal=True, enable_gqa=True),
    masked("mask_bool", T((5, 7), **BOOL)),
    masked("mask_bool_full", T((2, 4, 5, 7), **BOOL)),
    masked("mask_bool_keys", T((2, 1, 1, 7), **BOOL)),
    masked("mask_float", T((5, 7))),
    masked("mask_float_heads", T((1, 4, 5, 7))),
    masked("mask_float_keys", T((2, 1, 1, 7)), scale=0.5),
    masked("mask_shared_heads", T((2, 6, 5, 7)), (2, 6, 5, 8), (2, 3, 7, 8), enable_gqa=True),
    Case("mask_blind_row", _blind_row, (T(Q), T(K), T(K), T((2, 4, 5, 7), **BOOL))),
    Case("mask_blind_row_float", _blind_row_float, (T(Q), T(K), T(K), T((2, 4, 5, 7)))),
    Case("self_attention", _self_attention, (T((2, 5, 16)), T((48, 16)), T((16, 16))), (1, 2)),
    Case(
        "windows", _windows, (T((8, 8, 8, 128)), *[T((n, 128), kind="tenths:-1:2") for n in (384, 512)]), (1, 2)
    ),
    Case("step", _step, (T((2, 1, 64)), T((64, 64)), *[T((2, 1, 1, 16))] * 2, *[T((2, 4, 32, 16))] * 2), (1,)),
    attend("dropout", Q, K, dropout_p=0.5),
]
CASES[-1] = Case("dropout", CASES[-1].fn, CASES[-1].inputs, rejected="dropout")
_BOTH = {
    "plain", "windows", "step", "causal", "shared_heads", "mask_bool", "mask_bool_keys", "mask_float", "mask_blind_row",
}  # fmt: skip
CASES += [c.with_dtype(d) for d in (torch.float16, torch.bfloat16) for c in CASES if c.name in _BOTH]
