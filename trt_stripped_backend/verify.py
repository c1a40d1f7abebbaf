"""Compares an engine's outputs with PyTorch's, all of them, by value."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .types import dtype_name

#: Largest relative L2 error of an output, and largest error of one element relative to the output's RMS plus the
#: element itself. Measured on whole models: an engine and eager differ by 2e-3 in float16, 1.6e-2 in bfloat16.
_BOUNDS = {torch.float32: (1e-4, 2e-3), torch.float16: (1e-2, 1e-1), torch.bfloat16: (6e-2, 5e-1)}
_TF32 = (5e-3, 5e-2)


def difference(outputs: Sequence[torch.Tensor], reference: Sequence[torch.Tensor], *, tf32: bool) -> str:
    """What differs, in one sentence; empty if nothing does."""
    for index, (have, want) in enumerate(zip(outputs, reference, strict=True)):
        if (have.shape, have.dtype) != (want.shape, want.dtype):
            return f"output {index} is {have.dtype}{list(have.shape)}, in PyTorch {want.dtype}{list(want.shape)}"
        if not want.is_floating_point():
            wrong = int((have != want).sum())
            if wrong:
                return f"output {index}: {wrong} of {want.numel()} elements differ from PyTorch"
            continue
        overall, single = _TF32 if tf32 and want.dtype == torch.float32 else _BOUNDS[want.dtype]
        a, b = have.double(), want.double()
        if not all(torch.equal(test(a), test(b)) for test in (torch.isnan, torch.isposinf, torch.isneginf)):
            return f"output {index}: NaN or infinity in other places than in PyTorch"
        a, b = (t.nan_to_num(0.0, 0.0, 0.0) for t in (a, b))
        rms = b.square().mean().sqrt() if b.numel() else b.new_zeros(())
        error = (a - b).abs()
        relative = float(error.square().mean().sqrt() / rms.clamp_min(1e-30)) if b.numel() else 0.0
        worst = float((error / (rms + b.abs()).clamp_min(1e-30)).max()) if b.numel() else 0.0
        if relative > overall or worst > single:
            return (
                f"output {index} ({dtype_name(want.dtype)}) differs from PyTorch: relative error {relative:.2e} "
                f"(bound {overall:.0e}), worst element {worst:.2e} (bound {single:.0e})"
            )
    return ""
