"""What TensorRT did not build is not asked for again at each start."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import trt_stripped_backend as ts
from tests import emulated as emulation
from tests.emulated import World
from tests.graphs import perturb, trace
from trt_stripped_backend import backend, build, compilation, flavour, unbuilt
from trt_stripped_backend.errors import BuildFailed, NotBuilt
from trt_stripped_backend.key import canonical, make_key
from trt_stripped_backend.options import Options
from trt_stripped_backend.types import Entry, Partition

X = torch.randn(4, 8)
WHY = "TensorRT built no engine: no such kernel"


@pytest.fixture
def tries(world: World, monkeypatch: pytest.MonkeyPatch) -> Callable[[type[BuildFailed]], list[str]]:
    """Sets how a build of a tanh ends; gives the operators of each build that is tried."""
    tried: list[str] = []

    def ends(error: type[BuildFailed]) -> list[str]:
        def build(part: Partition, *args: Any, **kwargs: Any) -> Entry:
            names = [n.name for n in part.module.graph.nodes if n.op == "call_function"]
            tried.append(" ".join(names))
            if "tanh" in names:
                raise error(f"{part.name}: {WHY}")
            return emulation.build(part, *args, **kwargs)

        monkeypatch.setattr(compilation, "build", build)
        return tried

    return ends


def started(tried: list[str], **options: Any) -> list[str]:
    """What a start asks TensorRT for; its result is right."""
    torch.compiler.reset()
    tried.clear()
    model = perturb(nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8), nn.Sigmoid()))
    options = {"min_block_size": 1, "cache_traces": False, **options}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        have = torch.compile(model, backend=backend.trt_stripped, options=options)(X)
        torch.testing.assert_close(have, model(X))
    return sorted(tried)  # several are built at once


def reasons() -> list[str]:
    return [r.reason for r in ts.reports()[-1].rejections if r.kind == "build"]


def test_the_next_start_does_not_ask_again(tries: Any) -> None:
    tried = tries(NotBuilt)
    assert started(tried) and reasons() == [f"engine_1: {WHY}"]
    assert started(tried) == []
    assert reasons() == [f"engine_1: {WHY} (0 min ago; asked again after a day, or once the cache is cleared)"]


def test_it_asks_again_after_a_day(tries: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = tries(NotBuilt)
    first, now = started(tried), unbuilt.time.time()
    monkeypatch.setattr(unbuilt.time, "time", lambda: now + 5 * 3600)
    assert started(tried) == [] and "(5 h ago;" in reasons()[0]
    monkeypatch.setattr(unbuilt.time, "time", lambda: now + unbuilt.DAY + 60)
    assert started(tried) == [one for one in first if "tanh" in one]
    monkeypatch.setattr(unbuilt.time, "time", lambda: now)  # a clock that was set back
    assert started(tried) == [one for one in first if "tanh" in one]


def test_a_passing_failure_is_not_remembered(tries: Any) -> None:
    tried = tries(BuildFailed)
    first = started(tried)
    assert started(tried) == [one for one in first if "tanh" in one]


@pytest.mark.parametrize(("said", "kind"), [("no such kernel", NotBuilt), ("OutOfMemory: 4 GiB", BuildFailed)])
def test_want_of_memory_passes(said: str, kind: type[BuildFailed], monkeypatch: pytest.MonkeyPatch) -> None:
    class Builder:
        def __init__(self, logger: Any) -> None:
            self.real = flavour.trt.Builder(logger)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.real, name)

        def build_serialized_network(self, network: Any, config: Any) -> None:
            flavour.messages.errors.append(said)

    class Trt:
        def __getattr__(self, name: str) -> Any:
            return Builder if name == "Builder" else getattr(flavour.trt, name)

    monkeypatch.setattr(build, "trt", Trt())
    (piece,) = trace(torch.tanh, 0, X).cut.partitions
    with pytest.raises(BuildFailed, match=said) as raised:
        build.build(
            piece, canonical(piece)[1], make_key({}), flavour=flavour.load(), mode="bound", options=Options.of({}),
            tf32=False,
        )  # fmt: skip
    assert raised.type is kind


class Blobs:
    def __init__(self) -> None:
        self.kept: dict[tuple[str, str], bytes] = {}

    def get_blob(self, kind: str, name: str) -> bytes | None:
        return self.kept.get((kind, name))

    def put_blob(self, kind: str, name: str, data: bytes) -> None:
        self.kept[kind, name] = data


def test_it_is_asked_again_beside_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    blobs, key, asked = Blobs(), make_key({"graph": 1}), []
    with pytest.raises(NotBuilt), unbuilt.remembered(blobs, key, "engine_0"):
        raise NotBuilt("engine_0: no such kernel")
    with pytest.raises(BuildFailed, match="engine_4: no such kernel"), unbuilt.remembered(blobs, key, "engine_4"):
        asked.append("the same")
    with unbuilt.remembered(blobs, make_key({"graph": 2}), "engine_0"):
        asked.append("another engine")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with unbuilt.remembered(blobs, key, "engine_0"):
        asked.append("beside a GPU")
    assert asked == ["another engine", "beside a GPU"]


def test_a_look_tells_what_the_next_start_does(tries: Any) -> None:
    tries(NotBuilt)
    started([])
    model = perturb(nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8), nn.Sigmoid()))
    with torch.no_grad():
        report = ts.explain(model, X, options={"min_block_size": 1})
    assert [p.status for p in report.partitions] == ["hit", "failed", "hit"]
    assert [r.target for r in report.rejections if "min ago; asked again" in r.reason] == ["engine_1"]


def test_a_worker_builds_the_halves_at_the_next_start(tries: Any) -> None:
    tried = tries(NotBuilt)
    for statuses in (["failed"], ["failed", "built"], ["built", "failed", "hit"]):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # in the worker too
            started(tried, build="background")
            assert ts.wait(timeout=60)
        assert [p.status for p in ts.reports()[-1].partitions] == statuses


def test_without_a_cache_it_asks_each_time(tries: Any) -> None:
    tried = tries(NotBuilt)
    assert started(tried, cache=False) == started(tried, cache=False) != []


def test_a_cleared_cache_forgets(tries: Any) -> None:
    tried = tries(NotBuilt)
    first = started(tried)
    ts.open_cache().clear()
    assert started(tried) == first
