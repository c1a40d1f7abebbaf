"""Every case of every operator family in a real engine, compared with PyTorch by value."""

from __future__ import annotations

import warnings

import pytest
import torch
from packaging.version import Version

import trt_stripped_backend
from tests import harness
from tests.cases import Case, all_cases
from trt_stripped_backend import flavour

#: Cases that TensorRT-RTX before 1.7 does not build whole: they must be right all the same, in parts or in PyTorch.
NOT_BUILT_BEFORE_1_7 = {
    "create/empty",
    "create/empty_permuted",
    "create/empty_strided",
    "create/new_empty_strided",
    "slicing/diagonal_bool",
}
#: A GPU sums in another order, and its exp and tanh are approximations.
TOLERANCE = {torch.float32: 1e-4, torch.float16: 5e-3, torch.bfloat16: 4e-2}
CASES = [
    pytest.param(f"{family}/{case.name}", case, id=f"{family}/{case.name}")
    for family, case in all_cases()
    if case.converted
]


def counters() -> tuple[int, int]:
    """(engines made, fallbacks to PyTorch) in this process so far."""
    now = trt_stripped_backend.stats()
    return now["engines"], now["fallbacks"]


@pytest.mark.parametrize(("name", "case"), CASES)
@torch.no_grad()
def test_values(name: str, case: Case) -> None:
    inputs = case.make("cuda")
    model = CaseModule(case, inputs).cuda()
    mode = "immutable" if case.rejected else "auto"
    built = name not in NOT_BUILT_BEFORE_1_7 or not flavour.load().is_rtx or flavour.load().version >= Version("1.7")
    options = {"min_block_size": 1, "require_full": built, "refit_mode": mode}
    compiled = torch.compile(model, backend="trt_stripped", options=options)
    engines, fallbacks = counters()
    with harness.decomposed(case), warnings.catch_warnings():
        if not built:
            warnings.simplefilter("ignore", UserWarning)  # it says what runs in PyTorch
        outputs = compiled(*(t for i, t in enumerate(inputs) if i not in case.weights))
    # An engine that is made and fails at its first run counts as a fallback (and raises, under require_full).
    assert counters() == (engines + 1, fallbacks) or not built, "the operator did not run in one engine"
    harness.compare(case, outputs, TOLERANCE)


class CaseModule(torch.nn.Module):
    """A case whose weights are a module's buffers, so that they become slots."""

    def __init__(self, case: Case, inputs: list[torch.Tensor]) -> None:
        super().__init__()
        self.case = case
        for position in case.weights:
            self.register_buffer(f"weight{position}", inputs[position])

    def forward(self, *given: torch.Tensor) -> tuple[torch.Tensor, ...]:
        rest = iter(given)
        args = [
            getattr(self, f"weight{i}") if i in self.case.weights else next(rest) for i in range(len(self.case.inputs))
        ]
        return harness.flat(self.case.fn)(*args)
