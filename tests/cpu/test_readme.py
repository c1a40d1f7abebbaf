"""The README: its code runs, its generated tables are up to date, and a reader sees both early."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.tools import readme

TEXT = readme.README.read_text(encoding="utf-8")
LINES = TEXT.splitlines()
CODE = "\n".join(re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL))
#: What the blocks promise, checked after them.
CHECKS = """
assert not torch.equal(before, after)
with torch.no_grad():
    torch.testing.assert_close(after, model(x), rtol=1e-2, atol=1e-2)
again = trt_stripped_backend.prebuild(model, (x,), options={"min_block_size": 1})
assert (again.hits, again.builds) == (1, 0), again
"""


def test_the_code_runs(own_cache: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "TRT_STRIPPED_CACHE_DIR": str(own_cache), "PYTHONWARNINGS": "default"}
    out = subprocess.run(
        [sys.executable, "-c", CODE + CHECKS],
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path,
        check=False,
    )
    assert out.returncode == 0, out.stderr
    assert "1 engine(s)" in out.stdout
    if not torch.cuda.is_available():
        assert "UserWarning: trt_stripped: the model runs in PyTorch" in out.stderr


def test_tables_are_up_to_date() -> None:
    assert readme.rendered(TEXT) == TEXT, "run python -m tests.tools.readme"


def test_a_missing_marker_is_told() -> None:
    with pytest.raises(ValueError, match="no markers for operators"):
        readme.rendered(TEXT.replace("<!-- operators: generated -->", ""))


def test_a_reader_sees_how_to_install_and_a_whole_script_first() -> None:
    assert any("pip install" in line for line in LINES[:10])
    closing = [number for number, line in enumerate(LINES, 1) if line == "```"]
    opening = LINES.index("```python") + 1
    assert min(n for n in closing if n > opening) <= 20


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", TEXT):
        assert (readme.README.parent / target).exists(), target
