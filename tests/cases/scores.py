"""Products of half types that float32 arithmetic follows, and a sum: more of them than are written out."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional as F

from tests.cases import Case, T

Fn = Callable[..., torch.Tensor]

FORMS: dict[str, Fn] = {
    "attention": lambda q, k: (q @ k.mT * 0.1).softmax(-1) @ k,
    "divided": lambda q, k: (q @ k.mT / 5**0.5).softmax(-1),
    "moved": lambda q, k: (q @ k.mT + 0.3).log_softmax(-1),
    "exponentials": lambda q, k: (-(q @ k.mT).abs()).exp().logsumexp(-1),
    "sum": lambda q, k: (q @ k.mT * 0.1).sum(-1),
    "masked": lambda q, k: (q @ k.mT * 0.1 + q[..., :1]).softmax(-1),
    "viewed": lambda q, k: (q @ k.mT * 0.1).flatten(0, 1).softmax(-1),
    "turned": lambda q, k: (q @ k.mT * 0.1).mT.softmax(-1),
    "twice": lambda q, k: ((q @ k.mT * 0.1 - 0.7) * 0.3).sum(-1),
    "rounded": lambda q, k: ((q @ k.mT).float() * 0.1).to(q.dtype).softmax(-1),
    "widened": lambda q, k: (q @ k.mT * 0.1).float().softmax(-1),
    "baddbmm": lambda q, k: torch.baddbmm(q[..., :1], q, k.mT, beta=0.5, alpha=0.3).softmax(-1),
    "linear": lambda q, k: (F.linear(q, k[0]) / 3**0.5).logsumexp(-1),
    "of_gelu": lambda q, k: (F.gelu(F.linear(q, k[0])) @ k[0] * 0.1).softmax(-1),
}

CASES = [
    Case(f"{name}_{str(dtype)[6:]}", form, (T((4, 33, 32), dtype), T((4, 33, 32), dtype)), tol=tol)
    for name, form in FORMS.items()
    for dtype, tol in ((torch.float16, 1e-2), (torch.bfloat16, 8e-2))
]
CASES += [
    Case("long_rows", FORMS["attention"], (T((2, 197, 64), torch.float16),) * 2, tol=1e-2),
    Case("heads", FORMS["divided"], (T((2, 4, 33, 32), torch.float16),) * 2, tol=1e-2),
]
