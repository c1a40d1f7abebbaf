"""Random graphs on a GPU, by value: each with two sets of weights and inputs."""

from __future__ import annotations

import pytest

from tests.fuzz import run

GRAPHS, PARTS = 60, 6


@pytest.mark.parametrize("large", [False, True], ids=["small", "large"])
@pytest.mark.parametrize("part", range(PARTS))
def test_rows_of_layers(part: int, large: bool) -> None:
    totals = run.Totals()
    run.chunk(part, run.CHUNK, base=1000, device="cuda", built=False, totals=totals, layers=3, large=large)
    assert not totals.failures, "\n".join(totals.failures)
    assert totals.inside == totals.nodes
    assert totals.checked > 4 * totals.open


@pytest.mark.parametrize("part", range(PARTS))
def test_random_graphs(part: int) -> None:
    totals = run.Totals()
    run.chunk(part, GRAPHS // PARTS, base=7, device="cuda", built=False, totals=totals)
    assert not totals.failures, "\n".join(totals.failures)
    assert totals.engines >= GRAPHS // PARTS / 2
    assert totals.inside > 0.7 * totals.nodes
    assert totals.checked > 4 * totals.open
