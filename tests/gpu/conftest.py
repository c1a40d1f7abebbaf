"""The GPU tier: every test here is marked ``gpu`` (or ``gpus``) and starts from a clean compiler."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import trt_stripped_backend

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents and item.get_closest_marker("gpus") is None:
            item.add_marker(pytest.mark.gpu)


@pytest.fixture(autouse=True, scope="session")
def exact() -> None:
    """The first engine of a process decides on TF32 for all of it (``precision.py``); these tests come in any order."""
    os.environ["NVIDIA_TF32_OVERRIDE"] = "0"


@pytest.fixture(autouse=True)
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No compiled code, an empty cache, counters at zero, exact float32 products."""
    monkeypatch.setenv("TRT_STRIPPED_CACHE_DIR", str(tmp_path / "cache"))
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    torch.compiler.reset()
    trt_stripped_backend.clear_stats()
    yield
    torch.compiler.reset()
