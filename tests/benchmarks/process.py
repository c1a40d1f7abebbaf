"""A measurement in a process of its own: nothing is warm there, and a crash is a result."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def fresh(
    module: str, *arguments: str, timeout: float, environment: Mapping[str, str] | None = None, **head: Any
) -> dict[str, Any]:
    """The line of JSON that ``python -m module arguments`` prints last.

    Args:
        module: to run.
        arguments: its own.
        timeout: seconds that it may take.
        environment: variables beside those of this process.
        head: what the result of a process that fails holds, beside ``failed``, which says why.
    """
    command = [sys.executable, "-W", "ignore", "-m", module, *arguments]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, env=os.environ | dict(environment or {}), cwd=ROOT,
            timeout=max(timeout, 1), check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return head | {"failed": f"took more than {timeout:.0f} s"}
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        return head | {"failed": f"exit code {done.returncode}: {done.stderr[-2000:]}"}
    result: dict[str, Any] = json.loads(lines[-1])
    return result
