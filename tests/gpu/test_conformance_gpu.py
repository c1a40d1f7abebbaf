"""A part of PyTorch's operator database in real engines; ``python -m tests.conformance run`` takes all of it."""

from __future__ import annotations

import pytest

SEED, SHARDS, DRAWN, SAMPLES = 0, 8, 96, 2


@pytest.mark.parametrize("shard", range(SHARDS))
def test_samples_are_right(shard: int) -> None:
    from tests.conformance.expected import reason  # the database takes seconds to import
    from tests.conformance.run import count, quiet
    from tests.conformance.samples import DTYPES, tasks

    drawn = sorted(tasks(DTYPES, "cuda"), key=lambda t: t.hash(SEED))[shard:DRAWN:SHARDS]
    bad: list[str] = []
    inside = 0
    for task in drawn:
        with quiet():
            counts = count(task, "cuda", seed=SEED, limit=SAMPLES)
        inside += counts.inside
        bad += [] if reason(task.op, task.dtype, "cuda") else [f"{task.name} {f}" for f in counts.failures]
    assert not bad, "\n".join(bad)
    assert inside > 0
