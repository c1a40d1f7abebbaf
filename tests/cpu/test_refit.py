"""Empty → Ready: an engine runs only when our own record says that it has every weight that it lists."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from trt_stripped_backend import build, refit
from trt_stripped_backend.errors import RefitFailed
from trt_stripped_backend.types import Entry, TensorSpec

DEVICE = torch.device("cpu")
SHAPES = {"w0": (4, 3), "w1": (4,), "w2": (2, 4)}


class Stream:
    """In place of ``torch.cuda.Stream``: remembers what it waited for."""

    cuda_stream = 1

    def __init__(self) -> None:
        self.waited: list[Any] = []

    def wait_event(self, event: Any) -> None:
        self.waited.append(event)


class TensorRT:
    """In place of TensorRT: a refitter that reads floats from memory, as the real one does, when it refits.

    Attributes:
        listed: names that ``get_all_weights`` tells.
        refused: names that ``set_named_weights`` refuses.
        works: whether a refit succeeds.
        given: names that were set, in order, over all refits.
        held: what the engine holds.
    """

    def __init__(self) -> None:
        self.listed, self.refused, self.works = list(SHAPES), set[str](), True
        self.given: list[str] = []
        self.held: dict[str, torch.Tensor] = {}
        self._memory: dict[str, tuple[int, int]] = {}
        self.TensorLocation = SimpleNamespace(HOST=0, DEVICE=1)
        self.Runtime = self.Refitter = lambda *_: self

    def deserialize_cuda_engine(self, plan: bytes) -> Any:
        return self if plan else None

    def Weights(self, dtype: object, pointer: int, count: int) -> tuple[int, int]:
        return pointer, count

    def get_all_weights(self) -> list[str]:
        return self.listed

    def set_named_weights(self, name: str, weights: tuple[int, int], location: int) -> bool:
        self.given.append(name)
        self._memory[name] = weights
        return name not in self.refused

    def refit_cuda_engine_async(self, stream: int) -> bool:
        for name, (pointer, count) in self._memory.items():
            self.held[name] = torch.tensor((ctypes.c_float * count).from_address(pointer)[:])
        return self.works


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Iterator[TensorRT]:
    made = TensorRT()
    monkeypatch.setattr(refit, "trt", made)
    monkeypatch.setattr(refit, "logger", lambda: None)
    monkeypatch.setattr(refit, "to_trt", lambda dtype: dtype)
    monkeypatch.setattr(torch.cuda, "device", contextlib.nullcontext)
    monkeypatch.setattr(torch.cuda, "Event", lambda: SimpleNamespace(record=lambda stream: None))
    yield made
    refit.clear_pools()


def entry(mode: str = "general", literals: dict[str, torch.Tensor] | None = None, plan: bytes = b"plan") -> Entry:
    specs = {name: TensorSpec(shape, torch.float32, tuple(range(len(shape)))) for name, shape in SHAPES.items()}
    slots = [[name, spec.to_json()] for name, spec in specs.items()]
    encoded = {name: build._encode(value) for name, value in (literals or {}).items()}
    header = {"mode": mode, "tf32": False, "slots": slots, "literals": encoded, "ranges": []}
    return Entry("0" * 64, header, plan)


def weights(seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for shape in SHAPES.values()]


def holds(library: TensorRT, tensors: Sequence[torch.Tensor]) -> bool:
    return all(
        torch.equal(library.held[name], tensor.reshape(-1))
        for name, tensor in zip(SHAPES, tensors, strict=True)
        if name in library.listed
    )


def test_a_refit_makes_it_ready(library: TensorRT) -> None:
    engine, given = refit.Engine(entry(), DEVICE), weights()
    assert not engine.ready
    assert engine.refit(given, Stream()) == 4 * (12 + 4 + 8)
    assert holds(library, given)
    assert sorted(library.given) == list(SHAPES)
    assert not engine.ready, "its caller says for which set of weights"
    engine.token = object()
    assert engine.ready


def test_only_what_moved_is_set_anew(library: TensorRT) -> None:
    engine, given = refit.Engine(entry(), DEVICE), weights()
    engine.refit(given, Stream())
    library.given.clear()
    given[0].mul_(2)  # in place: the registered memory is read again
    engine.refit(given, Stream())
    assert library.given == []
    assert holds(library, given)
    given[1] = weights(1)[1]
    engine.refit(given, Stream())
    assert library.given == ["w1"]
    assert holds(library, given)


def test_only_names_that_the_engine_lists_are_set(library: TensorRT) -> None:
    library.listed = ["w0", "w2"]  # as under REFIT_IDENTICAL, which keeps vectors in the plan
    given = weights()
    engine = refit.Engine(entry("identical"), DEVICE)
    assert engine.refit(given, Stream()) == 4 * (12 + 8)
    assert sorted(library.given) == ["w0", "w2"]
    assert holds(library, given)


@pytest.mark.parametrize("trouble", ["refused", "unknown", "unlisted", "failed"])
def test_after_a_failed_refit_it_is_empty(library: TensorRT, trouble: str) -> None:
    engine, given = refit.Engine(entry(), DEVICE), weights()
    engine.refit(given, Stream())
    engine.token = engine.stamp = object()
    given = weights(1)
    if trouble == "refused":
        library.refused, message = {"w1"}, "refused weight w1"
    elif trouble == "unknown":
        engine._names.add("w9")
        message = "lists weights that nobody gives: w9"
    elif trouble == "unlisted":
        engine._names.discard("w1")
        message = "does not list weights that it needs: w1"
    else:
        library.works, message = False, "could not refit"
    with pytest.raises(RefitFailed, match=message):
        engine.refit(given, Stream())
    assert not engine.ready
    assert engine.stamp is None
    library.refused, library.works = set(), True
    engine._names = set(SHAPES)
    engine.refit(given, Stream())
    assert holds(library, given), "nothing is left of the half that was set"


def test_literals_that_the_plan_lost_are_given_back(library: TensorRT) -> None:
    scale = torch.tensor([0.25, 4.0])
    library.listed = [*SHAPES, "literal0"]
    engine, given = refit.Engine(entry(literals={"literal0": scale}), DEVICE), weights()
    engine.refit(given, Stream())
    assert holds(library, given)
    assert torch.equal(library.held["literal0"], scale)


def test_a_refit_waits_for_runs_on_every_stream(library: TensorRT) -> None:
    engine = refit.Engine(entry(), DEVICE)
    for stream in (1, 2, 1):
        engine.ran(SimpleNamespace(cuda_stream=stream))  # type: ignore[arg-type]
    stream = Stream()
    engine.refit(weights(), stream)
    assert len(stream.waited) == 2


def test_bound_engines_need_none(library: TensorRT) -> None:
    assert refit.Engine(entry("bound"), DEVICE).ready


def test_a_plan_that_cannot_be_loaded_says_so(library: TensorRT) -> None:
    with pytest.raises(RefitFailed, match="cannot load the engine of key 000000000000"):
        refit.Engine(entry(plan=b""), DEVICE)


@pytest.mark.parametrize(("sets", "budget", "limit"), [(4, 1 << 30, 4), (4, 200, 2), (4, 10, 1), (1, 1 << 30, 1)])
def test_sets_of_weights_are_limited_by_number_and_bytes(
    library: TensorRT, sets: int, budget: int, limit: int
) -> None:
    assert refit.pool(entry(), DEVICE, sets, budget).limit == limit
