"""Samples that are known to differ, each with its reason. One that comes out right fails the report."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .samples import DTYPES


@dataclass(frozen=True)
class Expected:
    """Some samples of an operator are not as PyTorch's.

    Attributes:
        op: name in the database.
        reason: why that is not the backend's fault, or cannot be mended.
        dtypes: with which element types.
        devices: where.
    """

    op: str
    reason: str
    dtypes: tuple[torch.dtype, ...] = DTYPES
    devices: tuple[str, ...] = ("cpu", "cuda")


_STEPS = "each step rounds to the half type, in PyTorch too but not always alike, and what follows subtracts"
_SUMS = "TensorRT-RTX's kernels for few channels sum in the half type"
_SCORES = "scores of hundreds: of 200 draws of such values PyTorch's own float32 is as far from float64 in 7"
_HALF, _BF16 = (torch.float16,), (torch.bfloat16,)
EXPECTED: tuple[Expected, ...] = (
    Expected("nn.functional.poisson_nll_loss", _STEPS, _HALF + _BF16, ("cuda",)),
    Expected("gradient", _STEPS, _BF16, ("cuda",)),
    Expected("nn.functional.conv1d", _SUMS, _BF16, ("cuda",)),
    Expected("nn.functional.conv2d", _SUMS, _BF16, ("cuda",)),
    Expected("nn.functional.multi_head_attention_forward", _SCORES, (torch.float32,), ("cuda",)),
)

#: Parts of messages of engines that are not built and need not be: the samples are right in PyTorch.
NOT_BUILT = {
    "gives no output": "the sample asks for an output that the converter does not make",
    "not DataType.FLOAT": "PyTorch's batch norms return other types on a CPU than their shape functions say",
}


def may_fail_to_build(why: str) -> bool:
    """Whether a reason for staying in PyTorch is a failed build that is known."""
    return any(part in why for part in NOT_BUILT)


def reason(op: str, dtype: torch.dtype, device: str) -> str:
    """Why samples of an operator may differ; empty if they may not."""
    found = (e.reason for e in EXPECTED if e.op == op and dtype in e.dtypes and device in e.devices)
    return next(found, "")
