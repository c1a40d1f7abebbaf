"""Shared by all tiers: a cache and random numbers of their own, and property tests that do not race a clock."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import settings

settings.register_profile("local", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache directory for each test, so that no test reads or fills the user's."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("TRT_STRIPPED_CACHE_DIR", str(folder))
    return folder


def pytest_collectstart(collector: pytest.Collector) -> None:
    """What a module draws as it is imported, and how often its tests draw, does not depend on the modules before it."""
    torch.manual_seed(0)
    settings.load_profile(collector.config.getoption("--hypothesis-profile") or "local")  # PyTorch's tests load another


@pytest.fixture(autouse=True)
def own_seed() -> None:
    """What a test draws does not depend on the tests before it."""
    torch.manual_seed(0)
