"""The benchmark's table: what was measured, what failed, what there was no time for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks import bench_speed
from tests.benchmarks.bench_speed import Budget, measure, tables


def test_rows_failures_and_what_there_was_no_time_for(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    seen: list[tuple[str, str]] = []
    clock = [0.0]
    seconds = {"trace": 2.0, "start": 2.5, "inductor": 5.0}

    def fresh(task: str, row: str, environment: dict[str, str], limit: float) -> dict[str, Any]:
        seen.append((task, environment["TRT_STRIPPED_CACHE_DIR"]))
        clock[0] += 10
        if task == "steady":
            return {"failed": "out of memory"}
        return {"first_s": seconds[task] + 0.5 * (len(seen) % 2), "builds": 1, "error": 1e-3}

    monkeypatch.setattr(bench_speed, "fresh", fresh)
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    budget = Budget(minutes=1.6)
    row = measure("unet", ["start", "steady", "host", "layers"], 2, budget)
    assert [task for task, _ in seen] == ["trace"] * 2 + ["start"] * 3 + ["inductor"] * 3 + ["steady"] * 2
    assert len({folder for _, folder in seen}) == 1, "the warm run finds what the cold one left"
    assert budget.skipped == ["unet: host"], "layers are another row's"
    assert row["trace"]["all_first_s"] == [2.5, 2.0]
    printed = tables([row])
    assert "| unet | 2.50 | 3.00 (" in printed
    assert "a call, ms" not in printed
    assert "out of memory" in capsys.readouterr().out


def test_a_report_is_made_in_parts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A later run adds its columns to the rows of an earlier one, on every GPU, and finds what that one compiled."""
    seen: list[tuple[str, str, str]] = []

    def fresh(task: str, row: str, environment: dict[str, str], limit: float) -> dict[str, Any]:
        seen.append((row, environment["TRT_STRIPPED_CACHE_DIR"], environment["CUDA_VISIBLE_DEVICES"]))
        return {"first_s": 1.0, "us": {}}

    monkeypatch.setattr(bench_speed, "fresh", fresh)
    monkeypatch.setattr("tests.benchmarks.bench_models.environment", lambda: {"gpu": "none"})
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    out = tmp_path / "speed.json"
    for rows, column in (("unet,vit_8", "start"), ("vit_8", "host")):
        command = ["bench_speed", "--rows", rows, "--columns", column, "--jobs", "2", "--out", str(out)]
        monkeypatch.setattr("sys.argv", [*command, "--caches", str(tmp_path / "caches")])
        bench_speed.main()
    vit, unet = json.loads(out.read_text())["rows"]
    assert [vit["row"], unet["row"]] == ["vit_8", "unet"]
    assert {"trace", "warm", "host"} < set(vit)
    assert "host" not in unet
    assert len({folder for row, folder, _ in seen if row == "vit_8"}) == 1
    assert {gpu for _, _, gpu in seen[:10]} == {"2", "5"}


def test_all_tasks_exist() -> None:
    from tests.benchmarks.rows import ROWS
    from tests.benchmarks.speed import TASKS

    assert {task for tasks in bench_speed.COLUMNS.values() for _, task in tasks} == set(TASKS)
    assert set(bench_speed.ROWS) == set(ROWS)
