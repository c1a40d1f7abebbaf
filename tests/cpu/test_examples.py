"""Every example runs as it stands, and its own checks pass."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cpu.warm import Run

FOLDER = Path(__file__).parents[2] / "examples"
EXAMPLES = sorted(path.stem for path in FOLDER.glob("*.py"))
ARGUMENTS = {"serve": ["--self-test"]}
#: What they say of the engines that were built.
SAID = {
    "checkpoints": "1 engines built for 10 checkpoints",
    "fleet": "1 engines built by 4 processes",
    "generate": "1 engines built for all steps",
    "lora_swap": "1 engines built for the base and 3 adapters",
    "prebuild_in_ci": "2 engines found, 0 engines built on the node",
    "quickstart": "2 engines built",
    "regional": "1 engines built for 24 layers",
    "rl_rollout": "40 updates, 1 engines built",
    "serve": "1 engines built",
}


def cold(script: Path, *arguments: str, **settings: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(script), *arguments], capture_output=True, text=True, check=False, **settings
    )


def run(name: str, cache: Path, folder: Path, start: Run) -> str:
    environment = {**os.environ, "TRT_STRIPPED_CACHE_DIR": str(cache), "OMP_NUM_THREADS": "1"}
    out = start(FOLDER / f"{name}.py", *ARGUMENTS.get(name, []), env=environment, cwd=folder)
    assert out.returncode == 0, out.stderr
    assert not list(folder.iterdir()), "an example leaves nothing behind"
    return out.stdout


@pytest.mark.parametrize("name", EXAMPLES)
def test_example(name: str, own_cache: Path, tmp_path: Path, run_warm: Run) -> None:
    first = cold if name == "quickstart" else run_warm
    assert SAID[name] in run(name, own_cache, tmp_path, first)
    if name == "quickstart":
        second = run(name, own_cache, tmp_path, run_warm)
        assert "0 engines built" in second, "the second run finds what the first one built"


@pytest.mark.parametrize("name", EXAMPLES)
def test_it_is_short(name: str) -> None:
    assert len((FOLDER / f"{name}.py").read_text(encoding="utf-8").splitlines()) <= 120
