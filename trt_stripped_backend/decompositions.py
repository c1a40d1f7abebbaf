"""Which operators reach the converters whole, and how the others are taken apart."""

from __future__ import annotations

import contextlib
import functools
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch._decomp import _core_aten_decompositions_post_autograd, core_aten_decompositions, get_decompositions
from torch.fx.experimental.symbolic_shapes import has_free_symbols, statically_known_true

aten = torch.ops.aten

#: CompositeImplicit operators kept whole; names that a torch version lacks are left out.
_KEPT_COMPOSITES = (
    "scaled_dot_product_attention", "linear", "layer_norm", "group_norm", "instance_norm", "rms_norm", "matmul",
    "upsample_nearest1d.vec", "upsample_nearest2d.vec", "upsample_nearest3d.vec", "_upsample_nearest_exact1d.vec",
    "_upsample_nearest_exact2d.vec", "_upsample_nearest_exact3d.vec", "upsample_linear1d.vec",
    "upsample_bilinear2d.vec", "upsample_trilinear3d.vec", "upsample_bicubic2d.vec", "max_pool1d", "max_pool2d",
    "max_pool3d", "avg_pool1d", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d",
)  # fmt: skip
#: Operators with a converter that the core ATen table would take apart.
_KEPT_FROM_TABLE = (
    "silu", "hardswish", "hardsigmoid", "mish", "softplus", "glu", "pixel_shuffle", "pixel_unshuffle",
    "masked_fill.Scalar", "masked_fill.Tensor", "t", "transpose.int", "_fused_rms_norm", "roll", "std.correction",
    "leaky_relu", "elu", "hardtanh", "baddbmm", "mv", "dot", "reflection_pad1d", "reflection_pad2d", "reflection_pad3d",
    "replication_pad1d", "replication_pad2d", "replication_pad3d", "stack", "split.Tensor", "unbind.int",
    "select_scatter", "diag_embed", "tril", "triu", "take", "col2im",
    "max_unpool2d", "max_unpool3d", "linalg_vector_norm",
)  # fmt: skip

_ENDS = ("", ".Tensor_Tensor", ".Tensor_Scalar", ".Scalar_Tensor")  # which ends of a range are tensors

_override_lock = threading.RLock()  # the composite override patches torch's dispatcher for the whole process


def _overloads(names: Sequence[str]) -> list[torch._ops.OpOverload]:
    found = []
    for name in names:
        packet, _, overload = name.partition(".")
        with contextlib.suppress(AttributeError):
            found.append(getattr(getattr(aten, packet), overload or "default"))
    return found


def _kept() -> set[torch._ops.OpOverload]:
    """A table that holds a kept operator undoes the override, so these are filtered out."""
    return {*_overloads(_KEPT_COMPOSITES), *_overloads(_KEPT_FROM_TABLE)}


@functools.cache
def decompositions() -> dict[Any, Callable[..., Any]]:
    kept = _kept()
    nearest = [f"{kind}{rank}d" for kind in ("upsample_nearest", "_upsample_nearest_exact") for rank in (1, 2, 3)]
    # Not core_aten_decompositions(): it searches all of PyTorch for composites, which AOTAutograd takes apart anyway.
    core: Any = {**_core_aten_decompositions_post_autograd(), **get_decompositions(_overloads(nearest))}
    table = {target: rule for target, rule in core.items() if target not in kept}
    table.setdefault(aten.cudnn_batch_norm.default, _cudnn_batch_norm)
    for target in (aten.nll_loss_forward.default, aten.nll_loss2d_forward.default):
        table[target] = _summed_in_float32(table[target])
    for target in _overloads([name + ends for name in ("linspace", "logspace") for ends in _ENDS]):
        table[target] = _not_to_integers(table[target])
    table[aten._transformer_encoder_layer_fwd.default] = _transformer_encoder_layer
    table[aten.full_like.default] = _full_like
    for target in (aten.argmax.default, aten.argmin.default):
        table[target] = _first_of_one
    for target in (aten.isnan.default, aten.isinf.default):
        table[target] = _no_integer
    return table


@functools.cache
def decompositions_of_export() -> dict[Any, Callable[..., Any]]:
    """The same for ``run_decompositions``, which leaves a composite whole unless the table has it."""
    core: Any = core_aten_decompositions()
    kept = _kept()
    return {**{target: rule for target, rule in core.items() if target not in kept}, **decompositions()}


def _cudnn_batch_norm(
    input: torch.Tensor, weight: torch.Tensor, bias: Any, mean: Any, var: Any, training: bool, factor: float, eps: float
) -> Any:
    if training:
        return NotImplemented
    out, save_mean, save_var = aten._native_batch_norm_legit_no_training(input, weight, bias, mean, var, factor, eps)
    return out, save_mean, save_var, input.new_empty(0, dtype=torch.uint8)


def _summed_in_float32(rule: Callable[..., Any]) -> Callable[..., Any]:
    """PyTorch's decomposition of a loss, which rounds half types at each step, where its kernel rounds once."""

    def loss(self: torch.Tensor, target: torch.Tensor, weight: torch.Tensor | None, *rest: Any) -> Any:
        if self.dtype not in (torch.float16, torch.bfloat16):
            return rule(self, target, weight, *rest)
        made = rule(self.float(), target, None if weight is None else weight.float(), *rest)
        return tuple(one.to(self.dtype) for one in made)

    return loss


def _not_to_integers(rule: Callable[..., Any]) -> Callable[..., Any]:
    """PyTorch's decomposition of evenly spaced numbers, which truncates to integers elsewhere than its kernel does."""

    def spaced(*args: Any, dtype: torch.dtype | None = None, **named: Any) -> Any:
        if dtype is not None and not (dtype.is_floating_point or dtype.is_complex):
            return NotImplemented
        return rule(*args, dtype=dtype, **named)

    return spaced


# What needs a tensor's shape alone must not hold on to its elements: a refittable engine would lack the weight.


def _full_like(self: torch.Tensor, fill_value: float, dtype: torch.dtype | None = None, **named: Any) -> Any:
    usual = (None, False, torch.strided, torch.preserve_format)
    if has_free_symbols(self) or not self.is_contiguous() or any(value not in usual for value in named.values()):
        return NotImplemented
    return aten.full(self.shape, fill_value, dtype=dtype or self.dtype, device=self.device)


def _first_of_one(self: torch.Tensor, dim: int | None = None, keepdim: bool = False) -> Any:
    if dim is None or not self.ndim or not statically_known_true(self.shape[dim] == 1):
        return NotImplemented
    shape = [*self.shape]
    shape[dim : dim % self.ndim + 1] = [1] * keepdim
    return aten.full(shape, 0, dtype=torch.int64, device=self.device)


def _no_integer(self: torch.Tensor) -> Any:
    if has_free_symbols(self) or not self.is_contiguous() or self.is_floating_point() or self.is_complex():
        return NotImplemented
    return aten.full(self.shape, False, dtype=torch.bool, device=self.device)


def _transformer_encoder_layer(
    src: torch.Tensor, embed_dim: int, num_heads: int,
    qkv_weight: torch.Tensor, qkv_bias: torch.Tensor, proj_weight: torch.Tensor, proj_bias: torch.Tensor,
    use_gelu: bool, norm_first: bool, eps: float,
    norm_weight_1: torch.Tensor, norm_bias_1: torch.Tensor, norm_weight_2: torch.Tensor, norm_bias_2: torch.Tensor,
    ffn_weight_1: torch.Tensor, ffn_bias_1: torch.Tensor, ffn_weight_2: torch.Tensor, ffn_bias_2: torch.Tensor,
    mask: torch.Tensor | None = None, mask_type: int | None = None,
) -> Any:  # fmt: skip
    """The eval fast path of ``nn.TransformerEncoderLayer``, one opaque operator otherwise.

    Source: aten/src/ATen/native/transformers/transformer.cpp.
    """
    if src.is_nested:
        return NotImplemented
    batch, length, _ = src.shape
    if mask is not None and mask_type == 1:  # of keys
        mask = mask[:, None, None, :]

    def attended(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> Any:
        if mask is None:
            return aten.scaled_dot_product_attention(q, k, v)
        # As the kernel has it: whatever is not zero hides, and what sees nothing is NaN.
        scores = aten.matmul(q * q.shape[-1] ** -0.5, k.transpose(-1, -2)).masked_fill(mask != 0, -math.inf)
        return aten.matmul(scores.softmax(-1), v)

    def attention(x: torch.Tensor) -> Any:
        qkv = aten.linear(x, qkv_weight, qkv_bias).view(batch, length, 3, num_heads, embed_dim // num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        out = attended(q, k, v).transpose(1, 2).reshape(batch, length, embed_dim)
        return aten.linear(out, proj_weight, proj_bias)

    def feed_forward(x: torch.Tensor) -> Any:
        hidden = aten.linear(x, ffn_weight_1, ffn_bias_1)
        hidden = aten.gelu(hidden) if use_gelu else aten.relu(hidden)
        return aten.linear(hidden, ffn_weight_2, ffn_bias_2)

    def norm1(x: torch.Tensor) -> Any:
        return aten.layer_norm(x, [embed_dim], norm_weight_1, norm_bias_1, eps)

    def norm2(x: torch.Tensor) -> Any:
        return aten.layer_norm(x, [embed_dim], norm_weight_2, norm_bias_2, eps)

    if norm_first:
        src = src + attention(norm1(src))
        return src + feed_forward(norm2(src))
    src = norm1(src + attention(src))
    return norm2(src + feed_forward(src))


@contextlib.contextmanager
def keep_composites() -> Iterator[None]:
    """While open, the kept composites are leaves for every tracer of this process."""
    from torch._export.utils import _special_op_to_preserve_cia
    from torch.export.exported_program import _override_composite_implicit_decomp

    with _override_lock, _override_composite_implicit_decomp(
        {target: _special_op_to_preserve_cia for target in _overloads(_KEPT_COMPOSITES)}
    ):
        yield
