"""How a weight must lie in memory for an engine to read it there."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .errors import RefitFailed
from .types import TensorSpec, dtype_name

#: TensorRT wants device memory of inputs aligned so; PyTorch's allocator gives 512, a view into a flat buffer may not.
ALIGNMENT = 256


def checked(tensor: torch.Tensor, shape: Sequence[int], dtype: torch.dtype, device: torch.device, name: str) -> None:
    """Raises RefitFailed if a tensor cannot be the weight that was traced: its engine would read foreign memory."""
    have = (tuple(tensor.shape), tensor.dtype, tensor.device)
    if have != (tuple(shape), dtype, device):
        raise RefitFailed(
            f"weight {name} is {dtype_name(tensor.dtype)}{list(tensor.shape)} on {tensor.device}; its engine was built "
            f"for {dtype_name(dtype)}{list(shape)} on {device}: compile (torch.compiler.reset()) or export again"
        )
    if tensor.numel() and not tensor.data_ptr():
        raise RefitFailed(f"weight {name} has no memory (its storage was freed): restore it before the call")


def fits(tensor: torch.Tensor, spec: TensorSpec) -> bool:
    """Whether an engine can read this tensor's memory as it is."""
    if tensor.data_ptr() % ALIGNMENT:
        return False
    if tensor.stride() == spec.stride:
        return True
    pairs = zip(tensor.shape, tensor.stride(), spec.stride, strict=True)
    return all(have == want for size, have, want in pairs if size != 1)  # a size of 1 has no stride that matters


def laid_out(tensor: torch.Tensor, spec: TensorSpec, into: torch.Tensor | None = None) -> torch.Tensor:
    """The tensor itself if it fits, else a copy in the layout of ``spec``, in ``into`` if given."""
    if fits(tensor, spec):
        return tensor
    if into is None:
        into = torch.empty_strided(spec.shape, spec.stride, dtype=spec.dtype, device=tensor.device)
    return into.copy_(tensor)
