"""Fixtures of the cache's tests."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from trt_stripped_backend.cache import EngineCache

from .support import open_at


@pytest.fixture(autouse=True)
def make(tmp_path: Path) -> Iterator[Callable[..., EngineCache]]:
    """Opens a cache in a directory of the test's (default: always the same); each is audited at the end."""
    made: dict[Path, EngineCache] = {}

    def open_one(name: str = "cache", **settings: Any) -> EngineCache:
        cache = open_at(tmp_path / name, **settings)
        made.setdefault(tmp_path / name, cache)
        return cache

    yield open_one
    for cache in made.values():
        assert cache.check() == []


@pytest.fixture
def cache(make: Callable[..., EngineCache]) -> EngineCache:
    return make()


@pytest.fixture
def warnings_said(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """The package's warnings so far."""

    def said() -> list[str]:
        found = [one for one in caplog.records if one.name == "trt_stripped_backend"]
        return [one.getMessage() for one in found if one.levelno >= logging.WARNING]

    return said


@pytest.fixture
def shared() -> Iterator[Path]:
    """A directory that other users may enter, as pytest's own may not be."""
    path = Path(tempfile.mkdtemp())
    path.chmod(0o755)
    try:
        yield path
    finally:
        for place, _, _ in os.walk(path):
            Path(place).chmod(0o755)
        shutil.rmtree(path)
