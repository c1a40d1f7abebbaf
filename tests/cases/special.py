"""Special functions: their usual range, tails, poles, integers, 0-d, half types."""

from __future__ import annotations

from collections.abc import Callable

import torch

from tests.cases import Case, T

aten = torch.ops.aten
X, UNIT, SPECIAL = T((6, 40)), T((6, 40), kind="rand"), T((8, 9), kind="nan")
INTS, ZERO_D = T((5, 6), torch.int64, "int:-3:9"), T((), kind="pos")


def scaled(fn: Callable[[torch.Tensor], torch.Tensor], by: float, plus: float = 0.0) -> Callable[..., torch.Tensor]:
    return lambda x: fn(x * by + plus)


CASES = [
    Case("erfc", torch.erfc, (X,)),
    Case("erfc_tail", lambda x: torch.erfc(x * 3 + 4) * torch.exp((x * 3 + 4) ** 2), (UNIT,)),
    Case("erfc_int", torch.erfc, (INTS,)),
    Case("erfcx", torch.special.erfcx, (X,), tol=1e-4),
    Case("erfcx_far", scaled(torch.special.erfcx, 50), (UNIT,)),
    Case("log_ndtr", torch.special.log_ndtr, (X,), tol=1e-4),
    Case("erfinv", scaled(torch.erfinv, 1.9, -0.95), (UNIT,)),
    Case("erfinv_edges", lambda x: torch.erfinv(x.round()), (UNIT,)),
    Case("erfinv_beyond", lambda x: torch.erfinv(x + 1.5), (UNIT,)),
    Case("lgamma", scaled(torch.lgamma, 20, 0.01), (UNIT,)),
    Case("lgamma_near_1_and_2", scaled(torch.lgamma, 2, 0.5), (UNIT,)),
    Case("lgamma_negative", scaled(torch.lgamma, 0.8, -6.9), (UNIT,), tol=1e-4),
    Case("lgamma_below_0", scaled(torch.lgamma, -1e-12), (UNIT,)),
    Case("lgamma_large", scaled(torch.lgamma, 1e6, 1), (UNIT,)),
    Case("lgamma_poles", lambda x: torch.lgamma(x.round()), (T((6, 40)),)),
    Case("lgamma_int", torch.lgamma, (INTS,)),
    Case("mvlgamma", lambda x: torch.mvlgamma(x + 3, 3), (UNIT,)),
    Case("digamma", scaled(torch.digamma, 20, 0.05), (UNIT,), tol=5e-5),
    Case("digamma_above_1", scaled(torch.digamma, 20, 1), (UNIT,)),
    Case("digamma_negative", scaled(torch.digamma, 0.8, -6.9), (UNIT,), tol=2e-4),
    Case("digamma_below_0", lambda x: torch.digamma(x * -1e-6) * 1e-6, (T((6, 40), kind="pos"),)),
    Case("digamma_poles", lambda x: torch.digamma(x.round()), (T((6, 40)),)),
    Case("0d", lambda x: (torch.erfc(x), torch.erfinv(x / 2), torch.lgamma(x), torch.digamma(x)), (ZERO_D,)),
    Case("erfc_nan", torch.erfc, (SPECIAL,)),
    Case("lgamma_nan", torch.lgamma, (SPECIAL,), tol=1e-4),
    Case("erfinv_nan", torch.erfinv, (SPECIAL,)),
]
_BOTH = {"erfc", "erfinv", "lgamma", "digamma_above_1"}
CASES += [c.with_dtype(d) for d in (torch.float16, torch.bfloat16) for c in CASES if c.name in _BOTH]
