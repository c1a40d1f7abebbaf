"""The GPUs of this process, as other processes are told of them."""

from __future__ import annotations

import os

import torch


def names() -> list[str]:
    """One value of ``CUDA_VISIBLE_DEVICES`` for each GPU that this process may use; none without a GPU."""
    given = [gpu for gpu in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu]
    return given or [str(gpu) for gpu in range(torch.cuda.device_count())]
