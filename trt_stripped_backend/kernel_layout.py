"""Kernels of convolutions in the memory layout of TensorRT's own: output channel, row, column, input channel.

A kernel that is an engine input is brought into it at each call unless it lies so: RTX 1.6.1 ran stacks of ResNet's
blocks 1.3 to 1.4 times as long with contiguous kernels, and as fast as with kernels built in when they were declared
``HWC8`` (``HWC`` in float32) over such memory. Kernels of one pixel always lie so. Of the others those do that are
channels_last in the model, and those that are computed, as with a BatchNorm in them. What the model holds is not
copied for it: a bound engine reads a parameter's own memory, so that it sees every write.
"""

from __future__ import annotations

import math

import torch
from torch import fx

aten = torch.ops.aten

#: Dimensions of a kernel from outermost to innermost in that layout.
CHANNELS_LAST = (0, 2, 3, 1)
#: Input channels come in vectors of so many.
_VECTOR = {torch.float32: 1, torch.float16: 8, torch.bfloat16: 8}


def is_kernel(node: fx.Node) -> bool:
    """Whether a node's value is the kernel of plain convolutions of images: not transposed, without groups."""
    value = node.meta.get("val")
    if not isinstance(value, torch.Tensor) or value.ndim != 4 or not all(isinstance(s, int) for s in value.shape):
        return False
    vector = _VECTOR.get(value.dtype)
    if vector is None or not value.numel() or value.shape[1] % vector:
        return False
    return any(user.target is aten.convolution.default and user.args[1] is node
               and not user.args[6] and user.args[8] == 1 for user in node.users)  # fmt: skip


def to_be_laid_out(node: fx.Node) -> bool:
    """Whether a kernel that is computed does not have that layout yet, and would have gained by it."""
    return is_kernel(node) and node.meta["val"].is_contiguous() and math.prod(node.meta["val"].shape[2:]) > 1


def kernel_format(dtype: torch.dtype) -> str:
    """The ``trt.TensorFormat`` of that layout."""
    return "HWC" if _VECTOR[dtype] == 1 else "HWC8"


def is_laid_out(shape: tuple[int, ...], order: tuple[int, ...]) -> bool:
    """Whether memory of this order has that layout."""
    return order == CHANNELS_LAST or (order == (0, 1, 2, 3) and math.prod(shape[2:]) == 1)
