"""What the logger ``trt_stripped_backend`` tells, also through ``TORCH_LOGS``."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import trt_stripped_backend as ts

MODEL = nn.Sequential(nn.Linear(4, 5), nn.ReLU()).eval()
SCRIPT = """
import sys, torch
import_of_torch = [name for name in sys.modules if name.startswith("tensorrt")]
import trt_stripped_backend as ts
ts.prebuild(torch.nn.Linear(4, 5).eval(), (torch.randn(2, 4),), options={"min_block_size": 1})
assert not import_of_torch
"""


def lines(caplog: pytest.LogCaptureFixture, level: int) -> list[str]:
    caplog.clear()
    with caplog.at_level(level, "trt_stripped_backend"):
        ts.prebuild(MODEL, (torch.randn(2, 4),), options={"min_block_size": 1})
    return [f"{r.levelname} {r.getMessage()}" for r in caplog.records if r.name.startswith("trt_stripped_backend")]


def test_info_is_one_line_for_each_engine(caplog: pytest.LogCaptureFixture) -> None:
    (built,) = lines(caplog, logging.INFO)
    (hit,) = lines(caplog, logging.INFO)
    assert built.startswith("INFO engine_0 [") and "]: 2 operators, built in " in built
    assert "]: 2 operators, hit in " in hit and " s, saved " in hit
    for line in (built, hit):
        assert line.endswith("B plan for 0.1 kB of weights")


def test_debug_has_the_parts_of_the_key_and_what_tensorrt_says(caplog: pytest.LogCaptureFixture) -> None:
    found = lines(caplog, logging.DEBUG)
    assert any(line.startswith("DEBUG key ") and "'graph': " in line for line in found)
    assert any(line.startswith("DEBUG TensorRT: ") for line in found)
    assert any(line.startswith("INFO TensorRT: ") for line in found)


@pytest.mark.parametrize(("setting", "chatter"), [("trt_stripped_backend", False), ("+trt_stripped_backend", True)])
def test_torch_logs(setting: str, chatter: bool, own_cache: Path) -> None:
    environment = {**os.environ, "TORCH_LOGS": setting, "TRT_STRIPPED_CACHE_DIR": str(own_cache)}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, env=environment, check=False,
        cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = [line for line in done.stderr.splitlines() if "engine_0 [" in line and " built in " in line]
    assert len(told) == 1 and told[0].startswith("I")
    assert ("TensorRT: " in done.stderr) == chatter
