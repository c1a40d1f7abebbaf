"""How convolutions on a GPU lay out their results, for traces on a machine that has none.

PyTorch asks the kernel library of the device, also for fake tensors, and what oneDNN says on the CPU is another thing:
other strides, and bounds on dynamic sizes that no GPU has. Both would show in the key.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch
from torch._prims_common import suggest_memory_format

_local = threading.local()
_FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}


def cudnn_format(input: torch.Tensor, weight: torch.Tensor) -> torch.memory_format:
    """The layout of a convolution's result on CUDA.

    Source: ``cudnn_conv_suggest_memory_format`` in aten/src/ATen/native/ConvUtils.h. What cuDNN is not used for is
    contiguous, as it is here: depthwise kernels of PyTorch's own, which take no channels_last.
    """
    last = _FORMATS.get(weight.ndim)
    double = torch.float64 in (input.dtype, weight.dtype)
    if last is None or double or not torch.backends.cudnn.enabled:
        return torch.contiguous_format
    return last if last in map(suggest_memory_format, (input, weight)) else torch.contiguous_format


@contextlib.contextmanager
def as_on_cuda() -> Iterator[None]:
    """While open, fake convolutions of this thread are laid out as on CUDA."""
    select, determine = torch._C._select_conv_backend, torch._C._conv_determine_backend_memory_format

    def chosen(*args: Any, **kwargs: Any) -> Any:
        return None if getattr(_local, "on", False) else select(*args, **kwargs)

    def laid_out(input: torch.Tensor, weight: torch.Tensor, backend: Any) -> torch.memory_format:
        return cudnn_format(input, weight) if getattr(_local, "on", False) else determine(input, weight, backend)

    before, _local.on = getattr(_local, "on", False), True
    try:
        with (
            mock.patch.object(torch._C, "_select_conv_backend", chosen),
            mock.patch.object(torch._C, "_conv_determine_backend_memory_format", laid_out),
        ):
            yield
    finally:
        _local.on = before
