"""A benchmark's process: its last line of JSON, or why there is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks.process import fresh


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("print('{}'); print('{\"x\": 1}'); print('done')", {"x": 1}),
        ("print('{\"x\": 1}'); raise SystemExit(3)", {"model": "m", "failed": "exit code 3: "}),
        ("print('nothing')", {"model": "m", "failed": "exit code 0: "}),
        ("import time; time.sleep(600)", {"model": "m", "failed": "took more than 1 s"}),
        ("import os, json; print(json.dumps({'mine': os.environ['MINE']}))", {"mine": "yes"}),
    ],
)
def test_what_a_process_says(tmp_path: Path, code: str, expected: dict[str, Any]) -> None:
    (tmp_path / "measured.py").write_text(code)
    environment = {"PYTHONPATH": str(tmp_path), "MINE": "yes"}
    assert fresh("measured", timeout=1 if "sleep" in code else 60, environment=environment, model="m") == expected
