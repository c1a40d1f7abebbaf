"""A part of PyTorch's operator database without a GPU: numbers on the emulated network, and real plans.

The database takes seconds to import, so each test imports it late.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

SEED, SHARDS, DRAWN, SAMPLES = 0, 12, 72, 2


@pytest.mark.parametrize("shard", range(SHARDS))
def test_samples_are_right_and_build(shard: int) -> None:
    from tests.conformance.expected import may_fail_to_build, reason
    from tests.conformance.run import count, quiet
    from tests.conformance.samples import DTYPES, tasks

    drawn = sorted(tasks(DTYPES, "cpu"), key=lambda t: t.hash(SEED))[shard:DRAWN:SHARDS]
    bad: list[str] = []
    inside = 0
    for task in drawn:
        with quiet():
            counts = count(task, "cpu", seed=SEED, limit=SAMPLES, build=True)
        inside += counts.inside
        bad += [] if reason(task.op, task.dtype, "cpu") else [f"{task.name} {f}" for f in counts.failures]
        bad += [f"{task.name} {r}" for r in counts.reasons if r.startswith("build") and not may_fail_to_build(r)]
    assert not bad, "\n".join(bad)
    assert inside > 0


def task_and_sample(op: str, dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    from tests.conformance.samples import tasks

    (task,) = tasks([dtype], "cpu", [op])
    return task, next(task.samples("cpu", SEED))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.int64])
def test_another_value_is_wrong(dtype: torch.dtype) -> None:
    from tests.conformance.judge import difference, eager

    task, sample = task_and_sample("add", dtype)
    want = eager(sample, SEED)
    assert difference(task, sample, [t.clone() for t in want], want, SEED) == ""
    changed = [t.clone() for t in want]
    changed[0].reshape(-1)[-1] += 1
    assert "1 of" in difference(task, sample, changed, want, SEED)
    assert "outputs" in difference(task, sample, [], want, SEED)
    assert "in PyTorch" in difference(task, sample, [t[None] for t in want], want, SEED)
    assert "in PyTorch" in difference(task, sample, [t.double() for t in want], want, SEED)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_counts(value: float) -> None:
    from tests.conformance.judge import difference, eager

    task, sample = task_and_sample("add")
    want = eager(sample, SEED)
    changed = want[0].clone()
    changed.reshape(-1)[0] = value
    assert difference(task, sample, [changed], want, SEED)
    assert not difference(task, sample, [changed], (changed.clone(),), SEED)


def test_a_half_may_err_twice_as_far_as_eager() -> None:
    from tests.conformance.judge import difference, eager

    task, sample = task_and_sample("exp", torch.bfloat16)
    want = eager(sample, SEED)
    exact = eager(sample, SEED, torch.float32)
    off = [(t * (1 + 2**-8)).bfloat16() for t in exact]
    assert not difference(task, sample, off, want, SEED)
    assert difference(task, sample, [(t * (1 + 2**-2)).bfloat16() for t in exact], want, SEED)


def test_a_crash_is_wrong_unless_pytorch_cannot_trace_either() -> None:
    from tests.conformance import engines
    from tests.conformance.run import classify, quiet

    crash = mock.patch.object(engines, "on_cpu", side_effect=ZeroDivisionError)
    with quiet(), crash:
        assert classify(*task_and_sample("add"), "cpu")[0] == "wrong"
        assert classify(*task_and_sample("nonzero"), "cpu")[0] == "rejected"


def test_a_run_goes_on_and_the_report_judges(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tests.conformance.report import report
    from tests.conformance.run import read, run
    from tests.conformance.samples import tasks

    out = tmp_path / "run.json"
    chosen = tasks([torch.float32], "cpu", ["abs", "nonzero", "sub"])
    out.write_text('{"begun": "sub:float32"}\n' * 2 + '{"begun": "add:float32"}\n')
    run(chosen, "cpu", out, seed=SEED, limit=2, build=False, minutes=None)
    found = read(out)
    assert found["abs:float32"].inside and not found["abs:float32"].wrong
    assert found["nonzero:float32"].rejected and not found["nonzero:float32"].registered
    assert found["sub:float32"].failures == ["the process died"]
    assert report(out, "cpu") == 1
    assert "WRONG sub:float32 the process died" in capsys.readouterr().out

    before = out.read_text()
    run(chosen, "cpu", out, seed=SEED, limit=2, build=False, minutes=None)
    assert out.read_text() == before, "finished tasks ran again"

    lines = [json.loads(line) for line in before.splitlines() if "sub" not in line]
    out.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert report(out, "cpu") == 0


def test_an_unexpected_pass_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tests.conformance import expected, report
    from tests.conformance.run import run
    from tests.conformance.samples import tasks

    out = tmp_path / "run.json"
    run(tasks([torch.float32], "cpu", ["abs"]), "cpu", out, seed=SEED, limit=None, build=False, minutes=None)
    row = expected.Expected("abs", "because", dtypes=(torch.float32,))
    with mock.patch.object(report, "EXPECTED", (row,)):
        assert report.report(out, "cpu") == 1
    assert "UNEXPECTED PASS abs: because" in capsys.readouterr().out


def test_what_ran_on_a_gpu_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    """No sample was wrong but those that are expected, and these are."""
    from tests.conformance.report import report
    from tests.conformance.run import read

    kept = Path(__file__).parents[1] / "benchmarks" / "results" / "h200-rtx-1.6.1-conformance.jsonl"
    assert report(kept, "cuda") == 0, capsys.readouterr().out[-2000:]
    assert sum(counts.inside for counts in read(kept).values()) > 30_000
