"""Every case of every operator family, without a GPU: numbers on PyTorch tensors, and the real plan."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from zlib import crc32

import pytest

from tests import harness
from tests.cases import Case, all_cases

CASES = all_cases()
CONVERTED = [(family, case) for family, case in CASES if case.converted]
#: In the families that have most of them every second one: with placeholders a build takes most of a second.
WITH_WEIGHTS = [
    (family, case) for family, case in CONVERTED
    if case.weights and case.rejected is None and (family not in ("chosen", "conv") or crc32(case.name.encode()) % 2)
]  # fmt: skip
REJECTED = [(family, case) for family, case in CASES if case.rejected is not None]


def each(cases: Sequence[tuple[str, Case]]) -> pytest.MarkDecorator:
    """All tests of a case in a row (that is what the scope does), so that it is lowered once."""
    params = [pytest.param(case, id=f"{family}/{case.name}") for family, case in cases]
    return pytest.mark.parametrize("case", params, scope="module")


def test_names_are_unique() -> None:
    counts = Counter((family, case.name) for family, case in CASES)
    assert [name for name, count in counts.items() if count > 1] == []


@each(CONVERTED)
def test_values(case: Case) -> None:
    harness.emulate(case)


@each(CONVERTED)
def test_builds_with_weights_as_inputs(case: Case) -> None:
    assert harness.build(case, bound=True).plan


@each(WITH_WEIGHTS)
def test_builds_from_placeholders(case: Case) -> None:
    # Without weights the plan would be the one of the test above.
    assert harness.build(case, bound=False).plan


@each(REJECTED)
def test_stays_in_pytorch(case: Case) -> None:
    harness.reject(case)
