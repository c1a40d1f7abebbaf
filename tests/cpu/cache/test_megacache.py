"""Entries travel in PyTorch's blob of compiler caches, and are verified before they enter another cache."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch.compiler._cache import CacheArtifactManager

import trt_stripped_backend as ts
from tests.graphs import TwoEngines, perturb
from trt_stripped_backend import compilation, megacache
from trt_stripped_backend.cache import store
from trt_stripped_backend.errors import CacheError
from trt_stripped_backend.options import Options

OPTIONS = {"min_block_size": 1}
X = torch.randn(2, 3, 6, 6)


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    with CacheArtifactManager.with_fresh_cache():
        yield


def saved() -> bytes:
    found = torch.compiler.save_cache_artifacts()
    assert found is not None
    return found[0]


def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ts.EngineCache:
    monkeypatch.setenv("TRT_STRIPPED_CACHE_DIR", str(tmp_path / "elsewhere"))
    return ts.open_cache()


def test_what_was_built_or_found_travels(
    own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = ts.prebuild(perturb(TwoEngines()), (X,), options=OPTIONS)
    assert report.builds == 2
    keys = {p.key for p in report.partitions}
    built = saved()
    with CacheArtifactManager.with_fresh_cache():
        assert ts.prebuild(perturb(TwoEngines()), (X,), options=OPTIONS).hits == 2
        assert {a.key for a in CacheArtifactManager._new_cache_artifacts["trt_stripped"]} == keys, "hits travel too"
    cache = elsewhere(monkeypatch, tmp_path)
    assert not cache.entries()
    info = torch.compiler.load_cache_artifacts(built)
    assert info is not None
    assert set(info.artifacts["trt_stripped"]) == keys
    assert {record.key for record in cache.entries()} == keys
    assert not cache.check()
    again = ts.prebuild(perturb(TwoEngines()), (X,), options=OPTIONS)
    assert (again.builds, again.hits) == (0, 2)


def test_blobs_travel(own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    used = compilation._cache(Options.of())
    assert used is not None
    used.put_blob("runtime", "a plan and a GPU", b"kernels")
    blob = saved()
    cache = elsewhere(monkeypatch, tmp_path)
    torch.compiler.load_cache_artifacts(blob)
    assert cache.get_blob("runtime", "a plan and a GPU") == b"kernels"


def test_what_a_blob_became_travels(own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    used = compilation._cache(Options.of())
    assert used is not None
    for data in (b"few", b"few", b"more kernels"):
        used.put_blob("runtime", "name", data)
    assert len(CacheArtifactManager._new_cache_artifacts["trt_stripped"]) == 2
    blob = saved()
    cache = elsewhere(monkeypatch, tmp_path)
    torch.compiler.load_cache_artifacts(blob)
    assert cache.get_blob("runtime", "name") == b"more kernels"


def test_a_damaged_entry_is_left_out(
    own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    used = compilation._cache(Options.of())
    assert used is not None
    used.put_blob("runtime", "name", b"kernels")
    (artifact,) = CacheArtifactManager._new_cache_artifacts["trt_stripped"]
    cache = elsewhere(monkeypatch, tmp_path)
    damaged = artifact.content.replace(b"kernels", b"kernel5")
    for key, content in ((artifact.key, damaged), ("0" * 64, artifact.content)):
        caplog.clear()
        with caplog.at_level(logging.WARNING, "trt_stripped_backend"):
            megacache.EngineArtifact(key, content).populate_cache()
        assert "cache artifacts: a cache entry" in caplog.text
        assert cache.size == 0
    megacache.EngineArtifact(artifact.key, artifact.content).populate_cache()
    assert cache.get_blob("runtime", "name") == b"kernels"


def test_without_a_home_directory_engines_are_built_and_not_kept(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda *_, **__: "~/.cache/trt_stripped")
    used = compilation._cache(Options.of())
    assert used is not None
    used.put_blob("runtime", "name", b"kernels")
    blob = saved()
    monkeypatch.delenv("TRT_STRIPPED_CACHE_DIR")
    store._do_without.cache_clear()
    with caplog.at_level(logging.WARNING, "trt_stripped_backend"):
        for _ in range(2):
            assert ts.prebuild(perturb(TwoEngines()), (X,), options=OPTIONS).builds == 2
    said = [one.getMessage() for one in caplog.records if one.name == "trt_stripped_backend"]
    assert [("TRT_STRIPPED_CACHE_DIR" in one, "going on without" in one) for one in said] == [(True, True)]
    torch.compiler.load_cache_artifacts(blob)
    with pytest.raises(CacheError, match="no home directory"):
        ts.prebuild(perturb(TwoEngines()), (X,), options={**OPTIONS, "cache_errors": "raise"})
    with pytest.raises(CacheError, match="no home directory"):
        ts.open_cache()


def test_a_fresh_process_knows_the_kind_once_the_backend_is_imported(own_cache: Path, tmp_path: Path) -> None:
    used = compilation._cache(Options.of())
    assert used is not None
    used.put_blob("runtime", "name", b"kernels")
    file = tmp_path / "artifacts"
    file.write_bytes(saved())
    code = (
        "import sys, pathlib, torch, trt_stripped_backend.backend, trt_stripped_backend as ts\n"
        "torch.compiler.load_cache_artifacts(pathlib.Path(sys.argv[1]).read_bytes())\n"
        "assert ts.open_cache(sys.argv[2]).get_blob('runtime', 'name') == b'kernels'"
    )
    target = str(tmp_path / "fresh")
    subprocess.run(
        [sys.executable, "-c", code, str(file), target], check=True, cwd=Path(__file__).parents[3],
        env={"TRT_STRIPPED_CACHE_DIR": target, "PATH": ""},
    )  # fmt: skip
