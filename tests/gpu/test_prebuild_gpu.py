"""Engines that another machine built, without a GPU and with another PyTorch, are found here, and are right.

``make prebuilt`` makes them; the variable PREBUILT_PACK says where they are, if not in .gpu/prebuilt.pack.xz.
"""

from __future__ import annotations

import json
import lzma
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import trt_stripped_backend as ts
from tests.gpu.prebuilt import BOUND, CASES
from trt_stripped_backend.flavour import load
from trt_stripped_backend.key import host, source_digest

ROOT = Path(__file__).parents[2]
PACK = Path(os.environ.get("PREBUILT_PACK") or ROOT / ".gpu" / "prebuilt.pack.xz")


def unpacked(folder: Path) -> ts.EngineCache:
    """A cache of the prebuilt engines, which must be of these sources and of the TensorRT at hand."""
    if not PACK.exists():
        pytest.fail(f"there is no {PACK}: run `make prebuilt` on any machine, or name the file in PREBUILT_PACK")
    cache = ts.open_cache(folder)
    packed = folder.with_suffix(".pack")
    packed.write_bytes(lzma.decompress(PACK.read_bytes()))
    assert cache.unpack(packed)
    here = {"source": source_digest(), "flavour": [load().name, str(load().version)], "host": host()}
    for record in cache.entries():
        for part, value in here.items():
            if record.parts[part] != value:
                pytest.fail(f"{PACK} is of another {part}, {record.parts[part]}, not {value}: run `make prebuilt` anew")
    return cache


@pytest.mark.parametrize("dtype", BOUND)
def test_nothing_is_built_for_what_was_prebuilt(dtype: str, tmp_path: Path) -> None:
    before = {record.key for record in unpacked(tmp_path).entries()}
    done = subprocess.run(
        [sys.executable, "-m", "tests.gpu.prebuilt", dtype],
        capture_output=True, text=True, cwd=ROOT, check=False, timeout=600,
        env={
            **{name: value for name, value in os.environ.items() if name != "NVIDIA_TF32_OVERRIDE"},  # a user's process
            "TRT_STRIPPED_CACHE_DIR": str(tmp_path),
            "PYTHONPATH": os.pathsep.join(sys.path),
        },
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    results: list[dict[str, Any]] = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one["case"] for one in results] == list(CASES)
    assert not {one["case"]: one["misses"] for one in results if one["misses"]}, "built, and how they differ"
    for one in results:
        assert (one["builds"], one["fallbacks"]) == (0, 0), one
        assert one["hits"] + one["shared"] == one["engines"] > 0, one
        assert one["error"] < BOUND[dtype], one
    assert {record.key for record in ts.open_cache(tmp_path).entries()} == before


@torch.no_grad()
def test_prebuilt_here_is_found_here() -> None:
    """The same, traced on this machine's GPU."""
    case = CASES["convolution"]
    model, x = case.model().eval().cuda(), case.argument(case.calls[0], torch.float32, "cuda")
    options = {"min_block_size": 1}
    assert ts.prebuild(model, (x,), options=options).builds == 1
    ts.clear_stats()
    torch.compile(model, backend="trt_stripped", options=options)(x)
    assert (ts.stats()["builds"], ts.stats()["hits"]) == (0, 1)
