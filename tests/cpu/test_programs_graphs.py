"""``export`` of programs of all kinds: dynamic shapes, buffers, trees, what stays in PyTorch; engines are emulated."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn
from torch.export import Dim
from torch.nn import functional as F

import trt_stripped_backend as ts
from tests.cpu.test_programs import OPTIONS, close, no_gpu
from tests.emulated_programs import Pool, engines
from tests.graphs import TwoEngines, perturb
from trt_stripped_backend import report
from trt_stripped_backend.errors import InputError, RefitFailed

__all__ = ["engines", "no_gpu"]  # fixtures


def through_a_file(folder: Path, model: Any, *args: Any, options: Any = None, **how: Any) -> ts.StrippedProgram:
    ts.export(model, *args, options={**OPTIONS, **(options or {})}, **how).save(folder / "program")
    return ts.StrippedProgram.load(folder / "program")


class Positions(nn.Module):
    """A non-persistent buffer, tied weights, literals, arguments of all kinds, a tree of results, two engines."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(8, 8), nn.Linear(8, 8)
        self.two.weight = self.one.weight
        self.register_buffer("inverse", 1 / torch.arange(1.0, 5.0), persistent=False)
        self.plain = torch.arange(8.0)

    def forward(self, x: torch.Tensor, *, places: torch.Tensor, more: Any, scale: float = 1.0) -> Any:
        angles = places[:, :, None].float() * self.inverse
        y = self.one(x) * torch.cat([angles.cos(), angles.sin()], -1) + self.plain
        z = self.two(torch.cumsum(y, 1)) * scale + more["bias"][0] + torch.tensor([1.0, -1.0] * 4)
        return {"z": z, "row": (z[:, -1], x.shape[1] * 2), "none": None, "flat": z.view(-1)}


def rotary(seed: int = 0) -> Positions:
    """With weights of its own; a buffer that is in no state_dict is the same in all."""
    model = perturb(Positions(), seed=seed)
    model.inverse = 1 / torch.arange(1.0, 5.0)
    return model


def given(batch: int, length: int) -> tuple[torch.Tensor, dict[str, Any]]:
    more = {"bias": [torch.randn(8)]}
    return torch.randn(batch, length, 8), {"places": torch.arange(length)[None], "more": more, "scale": 0.5}


@pytest.fixture(scope="module")
def positions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program of any batch and of a length up to 32."""
    length = Dim("length", max=32)
    shapes = {"x": {0: Dim("batch"), 1: length}, "places": {1: length}, "more": {"bias": [None]}, "scale": None}
    x, kwargs = given(2, 5)
    with torch.no_grad():
        traced = torch.export.export(rotary(), (x,), kwargs, dynamic_shapes=shapes, strict=False)
    path = tmp_path_factory.mktemp("programs") / "positions"
    ts.export(traced, options={**OPTIONS, "cache": False}).save(path)
    return path


@torch.no_grad()
def test_dynamic_shapes_and_trees(positions: Path, engines: dict[str, Pool]) -> None:
    model = rotary(1)
    call = ts.StrippedProgram.load(positions).refit(model.state_dict())
    for batch, length in ((2, 5), (1, 7), (9, 32), (3, 1)):
        x, kwargs = given(batch, length)
        close(call(x, **kwargs), model(x, **kwargs))
        close(call(x, **dict(reversed(kwargs.items()))), model(x, **kwargs))
    assert len(engines) == 2, "one engine for all sizes"


@torch.no_grad()
def test_a_size_beyond_the_engine_leads_to_another(positions: Path, engines: dict[str, Pool]) -> None:
    model = rotary()
    call = ts.StrippedProgram.load(positions).refit(model)
    x, kwargs = given(5000, 1)
    close(call(x, **kwargs), model(x, **kwargs))
    assert len(engines) == 4
    assert ts.stats()["builds"] == 2
    assert ts.stats()["fallbacks"] == 0


@torch.no_grad()
def test_everything_wrong_with_the_arguments_is_told_at_once(positions: Path, engines: dict[str, Pool]) -> None:
    call = ts.StrippedProgram.load(positions).refit(rotary())
    x, kwargs = given(2, 40)
    bad = {**kwargs, "places": kwargs["places"][:, :39].int(), "scale": 1, "more": {"bias": [None]}}
    with pytest.raises(InputError) as raised:
        call(x.double(), **bad)
    assert str(raised.value).splitlines() == [
        "these arguments are not what the program was exported for:",
        "  args[0] is float64[2, 40, 8] on cpu; the program takes float32[d0, d1, 8] on cpu",
        "  kwargs['places'] is int32[1, 39] on cpu; the program takes int64[1, d1] on cpu",
        "  kwargs['more']['bias'][0] is None; the program takes float32[8] on cpu",
        "  kwargs['scale'] is 1; the program takes 0.5",
        "  d1 is 40; it may be 0 to 32: export with another range",
    ]
    del kwargs["scale"]
    with pytest.raises(InputError, match=r"the program takes .*scale=….*; it was given .*places"):
        call(x, **kwargs)
    with pytest.raises(InputError, match=r"args\[0\] is float32\[2, 8\]"):
        call(x[:, 0], **given(2, 3)[1])


@torch.no_grad()
def test_a_buffer_that_no_state_dict_has(positions: Path, engines: dict[str, Pool]) -> None:
    """It comes from the file, unless a module or a dict has another."""
    loaded, model = ts.StrippedProgram.load(positions), rotary()
    assert "inverse" not in model.state_dict()
    x, kwargs = given(2, 4)
    want = model(x, **kwargs)
    model.inverse.mul_(5)
    close(loaded.refit(model.state_dict())(x, **kwargs), want)
    close(loaded.refit(model)(x, **kwargs), model(x, **kwargs))
    close(loaded.refit({**model.state_dict(), "inverse": model.inverse})(x, **kwargs), model(x, **kwargs))
    assert not torch.allclose(want["z"], model(x, **kwargs)["z"], rtol=1e-2)


@torch.no_grad()
def test_a_buffer_without_a_value_is_required(engines: dict[str, Pool], tmp_path: Path) -> None:
    with torch.device("meta"):
        model, x = Scaled().eval(), torch.empty(2, 4)
    loaded = through_a_file(tmp_path, model, (x,))
    real, x = perturb(Scaled()), torch.randn(2, 4)
    with pytest.raises(RefitFailed, match=r"missing: scale .*in no state_dict and had no value at export"):
        loaded.refit(real.state_dict())
    close(loaded.refit({**real.state_dict(), "scale": real.scale})(x), real(x))


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.register_buffer("scale", torch.arange(4.0), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.layer(x) * self.scale).relu()


@torch.no_grad()
def test_tied_weights(positions: Path, engines: dict[str, Pool]) -> None:
    """Either name does, as in a file that holds each tensor once; two values are not one weight."""
    loaded, model = ts.StrippedProgram.load(positions), rotary()
    x, kwargs = given(2, 4)
    for left_out in ("one.weight", "two.weight"):
        state = {name: value for name, value in model.state_dict().items() if name != left_out}
        close(loaded.refit(state)(x, **kwargs), model(x, **kwargs))
    with pytest.raises(RefitFailed, match="was exported with one tensor for both"):
        loaded.refit({**model.state_dict(), "one.weight": torch.zeros(8, 8)})
    call = loaded.refit(model)
    model.one.weight = nn.Parameter(torch.zeros(8, 8))
    with pytest.raises(RefitFailed, match="was tied to another weight"):
        call(x, **kwargs)


class Cache(nn.Module):
    """Writes to buffers, and to an argument."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)
        self.register_buffer("cache", torch.zeros(1, 16, 8))
        self.register_buffer("step", torch.zeros((), dtype=torch.long), persistent=False)

    def forward(self, x: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
        self.cache.index_copy_(1, self.step[None], self.layer(x))
        self.step.add_(1)
        count.add_(1)
        return (self.cache * 2).sum(1).relu()


@torch.no_grad()
def test_buffers_that_are_written(engines: dict[str, Pool], tmp_path: Path) -> None:
    loaded = through_a_file(tmp_path, perturb(Cache()), (torch.randn(1, 1, 8), torch.zeros(2)))
    model, twin, third = (perturb(Cache(), seed=1) for _ in range(3))
    state = third.state_dict()
    before = copy.deepcopy(state)
    live, fixed, again = loaded.refit(model), loaded.refit(state), loaded.refit(state)
    count, want = torch.zeros(2), torch.zeros(2)
    for step in range(3):
        x = torch.randn(1, 1, 8)
        expected = twin(x, want)
        close(live(x, count), expected)
        close(fixed(x, torch.zeros(2)), expected)
        assert torch.equal(count, torch.full((2,), step + 1.0))
    torch.testing.assert_close(model.cache, twin.cache)
    assert int(model.step) == 3
    assert "aten.index_put_.default" in {row["target"] for row in loaded.report["rejections"]}, "only a row is written"
    close(again(x, count), perturb(Cache(), seed=1)(x, want))  # a state of its own
    assert all(torch.equal(state[name], before[name]) for name in state), "the dict is the caller's"
    model.cache = torch.zeros(1, 17, 8)
    with pytest.raises(InputError, match=r"cache is float32\[1, 17, 8\].* takes float32\[1, 16, 8\]"):
        live(x, count)


class Pair(NamedTuple):
    one: torch.Tensor
    two: torch.Tensor


class Pairs(nn.Module):
    def forward(self, x: torch.Tensor) -> Pair:
        return Pair(x + 1, x * 2)


def test_results_of_a_type_that_cannot_be_stored() -> None:
    with pytest.raises(ts.TRTStrippedError, match=r"have a type that cannot be stored .*Pair.*, or return a dict"):
        ts.export(Pairs(), (torch.randn(3),), options=OPTIONS)


class Branches(nn.Module):
    """A higher-order operator and a data-dependent shape, with engines around them."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = self.layer(x).relu()
        z = torch.cond(y.sum() > 100, lambda a: a.sin(), lambda a: a.cos(), (y,))
        return z.exp() * 2, (y > 0.1).nonzero()


class Sizes(nn.Module):
    def forward(self, x: torch.Tensor, n: int, kind: str = "a", flag: bool = True) -> Any:
        rows = x.shape[0]
        return x[:, :n].relu() * 2, torch.arange(n) + 1, rows * 2, n, x.view(rows // 2, 2, -1).sum(1)


class Image(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.norm(self.conv(x.permute(0, 3, 1, 2)))).mean((2, 3))
        return self.head(y.to(torch.float16).float())  # type: ignore[no-any-return]


AUTO = Dim.AUTO
KINDS: list[tuple[str, Callable[[], nn.Module], tuple[Any, ...], Any, list[tuple[Any, ...]]]] = [
    ("branches", Branches, (torch.randn(4, 3),), None, [(torch.randn(4, 3) * 100,)]),
    ("ints", Sizes, (torch.randn(4, 7), 5), ({0: AUTO, 1: AUTO}, Dim.DYNAMIC), [(torch.randn(6, 9), 8)]),
    ("images", Image, (torch.randn(2, 8, 8, 3),), ({0: AUTO, 1: AUTO},), [(torch.randn(1, 9, 8, 3),)]),
    ("strided", Image, (torch.randn(2, 8, 8, 3),), None, [(torch.randn(2, 3, 8, 8).permute(0, 2, 3, 1),)]),
]


@pytest.mark.parametrize(("make", "args", "shapes", "others"), [pytest.param(*row[1:], id=row[0]) for row in KINDS])
@torch.no_grad()
def test_kinds(
    make: Callable[[], nn.Module], args: tuple[Any, ...], shapes: Any, others: list[tuple[Any, ...]],
    engines: dict[str, Pool], tmp_path: Path,
) -> None:  # fmt: skip
    model = perturb(make(), seed=1)
    call = through_a_file(tmp_path, perturb(make()), args, dynamic_shapes=shapes).refit(model)
    for each in (args, *others):
        close(call(*each), model(*each))
    assert engines


@torch.no_grad()
def test_guards_of_the_trace_are_conditions(engines: dict[str, Pool], tmp_path: Path) -> None:
    call = through_a_file(
        tmp_path, Sizes(), (torch.randn(4, 7), 5), dynamic_shapes=({0: AUTO, 1: AUTO}, Dim.DYNAMIC)
    ).refit(Sizes())
    with pytest.raises(InputError, match=r"the program holds for .*d0.* alone, where d0 = 5"):
        call(torch.randn(5, 7), 5)
    with pytest.raises(InputError, match=r"the program holds for .* alone, where d0 = 1"):
        call(torch.randn(1, 7), 5)  # the trace divides by d0 // 2
    with pytest.raises(InputError, match=r"args\[1\] is 'five'; the program takes an int d2"):
        call(torch.randn(4, 7), "five")


@pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec")  # torch 2.13 warns of its own copy of a tree
@torch.no_grad()
def test_programs_that_torch_decomposed_or_stored(engines: dict[str, Pool], tmp_path: Path) -> None:
    model, x = perturb(TwoEngines()), torch.randn(2, 3, 6, 6)
    traced = torch.export.export(model, (x,), strict=False)
    torch.export.save(traced, tmp_path / "traced.pt2")
    for program in (traced, traced.run_decompositions(), torch.export.load(tmp_path / "traced.pt2"), traced):
        close(through_a_file(tmp_path, program).refit(model)(x), model(x))
    close(traced.module()(x), model(x))


@torch.no_grad()
def test_one_key_with_torch_compile() -> None:
    """Engines that a compilation built are found, and the other way round."""
    model, x = perturb(TwoEngines()), torch.randn(2, 3, 6, 6)
    built = ts.prebuild(model, (x,), options=OPTIONS)
    report = ts.export(model, (x,), options=OPTIONS).report
    assert [row["status"] for row in report["partitions"]] == ["hit", "hit"]
    assert [row["key"] for row in report["partitions"]] == [part.key for part in built.partitions]
    cumsum = next(row for row in report["rejections"] if row["target"] == "aten.cumsum.default")
    assert "graphs.py:" in cumsum["where"], "the user's line"


def test_gradients(
    engines: dict[str, Pool], tmp_path: Path, recwarn: pytest.WarningsRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where one is needed, PyTorch runs and says so once."""
    monkeypatch.setattr(report, "_warned", set())
    model, x = perturb(TwoEngines()), torch.randn(2, 3, 6, 6)
    call = through_a_file(tmp_path, model, (x,)).refit(model)
    for _ in range(2):
        model.zero_grad()
        call(x).sum().backward()
    have = [p.grad for p in model.parameters()]
    model.zero_grad()
    model(x).sum().backward()
    for mine, parameter in zip(have, model.parameters(), strict=True):
        torch.testing.assert_close(mine, parameter.grad)
    assert len([w for w in recwarn if "a gradient is needed" in str(w.message)]) == 1
    assert engines
