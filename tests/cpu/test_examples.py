"""Every example runs as it stands; run again, it builds nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.py"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example(path: Path, own_cache: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "TRT_STRIPPED_CACHE_DIR": str(own_cache), "OMP_NUM_THREADS": "1"}

    def run() -> str:
        command = [sys.executable, str(path)]
        out = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False)
        assert out.returncode == 0, out.stderr
        return out.stdout

    assert "built in" in run()
    assert "0 engines built" in run()
