"""What is prebuilt is what a run looks for: over shapes, dtypes, dynamic sizes, devices and ways to call."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.export import Dim

import trt_stripped_backend as ts
from tests.graphs import perturb
from trt_stripped_backend import compilation, lowering, precision, tracing
from trt_stripped_backend.errors import OptionError
from trt_stripped_backend.flavour import load
from trt_stripped_backend.layouts import as_on_cuda, cudnn_format
from trt_stripped_backend.options import Options
from trt_stripped_backend.profile import neighbours

OPTIONS = {"min_block_size": 1}
HALF, SINGLE = torch.float16, torch.float32


class Attention(nn.Module):
    """Queries in both layouts that projections leave them in."""

    def __init__(self, width: int = 16, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.qkv, self.out = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(self.norm(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        x = x + F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
        x = x + F.scaled_dot_product_attention(q.contiguous(), k, v).transpose(1, 2).flatten(2)
        return self.out(x)  # type: ignore[no-any-return]


class Convolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.deep = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, groups=8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.deep(self.norm(self.conv(x)).relu())  # type: ignore[no-any-return]


class Perceptron(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(16, 32), nn.Linear(32, 4)

    def forward(self, x: torch.Tensor, *, scale: float = 1.0, more: Any = None) -> torch.Tensor:
        y = self.down(F.gelu(self.up(x))) * scale
        return y if more is None else y + more["y"][0].sum()  # type: ignore[no-any-return]


TEXT, IMAGE, ROWS = torch.randn(2, 6, 16), torch.randn(2, 3, 8, 8), torch.randn(6, 16)
LAST = torch.channels_last
MODELS: dict[str, tuple[Callable[[], nn.Module], torch.Tensor]] = {
    "attention": (Attention, TEXT),
    "convolution": (Convolution, IMAGE),
    "channels_last": (lambda: Convolution().to(memory_format=LAST), IMAGE.to(memory_format=LAST)),
    "perceptron": (Perceptron, ROWS),
    "encoder": (lambda: nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), TEXT),
}


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A process that has compiled nothing, and no GPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(compilation, "settlement", precision.Settlement())
    torch._dynamo.reset()
    ts.clear_stats()
    yield
    torch._dynamo.reset()


def looked_for(
    model: Callable[..., Any], *calls: Any, dynamic: bool | None = None, mode: Any = None
) -> list[list[str]]:
    """The keys that a process computes for each graph that these calls make it compile, without building."""
    found: list[list[str]] = []
    options = Options.of({**OPTIONS, "build": "background"})

    def plan(lowered: lowering.Lowered) -> Callable[..., Any]:
        one = compilation.Compilation.of(options, load(), torch.device("cpu"))
        one.plan(lowered)
        found.append([p.key for p in one.report.partitions])
        return lowering.boxed(lowered.module)

    def backend(gm: fx.GraphModule, inputs: Any) -> Callable[..., Any]:
        return lowering.trace(gm, inputs, plan)

    backend.compiler_name = "eager"  # type: ignore[attr-defined]
    compiled = torch.compile(model, backend=backend, dynamic=dynamic)
    with as_on_cuda(), mode or torch.no_grad():
        for call in calls:
            compiled(*(call if isinstance(call, tuple) else (call,)))
    return found


def planned(model: Callable[..., Any], *args: Any, **variant: Any) -> list[str]:
    """The keys that prebuild would build for."""
    report = tracing._plan(model, ts.Variant(args, **variant), Options.of(OPTIONS), look_only=True)
    assert not report.rejections
    return [p.key for p in report.partitions]


@contextlib.contextmanager
def traced_on(device: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setattr(tracing, "_traced_on", lambda: torch.device(device))
        yield


# ------------------------------------------------------------------------------------------------ keys


@pytest.mark.parametrize(
    ("name", "dtype"), [*((name, dtype) for name in MODELS for dtype in (SINGLE, HALF)), ("attention", torch.bfloat16)]
)
def test_keys_are_those_of_a_run(name: str, dtype: torch.dtype) -> None:
    make, x = MODELS[name]
    keys = planned(make().eval().to("meta"), x.to("meta"), dtype=dtype)
    model = make().eval().to(dtype)
    assert keys == planned(model, x.to(dtype))
    runs = [looked_for(model, x.to(dtype), mode=mode) for mode in (torch.no_grad(), torch.inference_mode())]
    assert runs == [[keys], [keys]]


@pytest.mark.parametrize("name", ["perceptron", "convolution", "channels_last"])
def test_keys_do_not_depend_on_the_device(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As far as a PyTorch without CUDA can trace on fake CUDA tensors."""
    make, x = MODELS[name]
    for shapes in (None, ({0: Dim.DYNAMIC},)):
        keys = planned(make().eval(), x, dynamic_shapes=shapes)
        with traced_on("cuda:0", monkeypatch):
            assert planned(make().eval(), x, dynamic_shapes=shapes) == keys


def test_sizes_that_pytorch_saw_change() -> None:
    """It makes them dynamic at the second size, whose power of two the engine is best at."""
    model = Attention().eval()
    static, first, second = looked_for(model, TEXT, torch.randn(2, 12, 16), torch.randn(5, 12, 16))
    assert static == planned(model, TEXT)
    assert first == planned(model, torch.randn(2, 12, 16), dynamic_shapes={"x": {1: Dim.DYNAMIC}})
    assert second == planned(model, torch.randn(5, 12, 16), dynamic_shapes={"x": (Dim("b"), Dim("s"), None)})


def test_every_way_to_say_which_sizes_vary() -> None:
    model, keys = Perceptron().eval(), []
    marked, strict = torch.randn(6, 16), torch.randn(6, 16)
    torch._dynamo.mark_dynamic(marked, 0)
    torch._dynamo.mark_dynamic(strict, 0, min=2, max=64)
    collection = torch.export.ShapesCollection()
    collection[ROWS] = {0: Dim.DYNAMIC}
    for shapes in ({"x": {0: Dim.DYNAMIC}}, [(Dim("b"), 16)], ({-2: Dim.AUTO},), collection):
        keys.append(planned(model, ROWS, dynamic_shapes=shapes))
    keys += [planned(model, marked), *looked_for(model, marked)]
    assert all(key == keys[0] for key in keys)
    bounded = planned(model, strict)
    assert [bounded] == looked_for(model, strict)
    for dim in (Dim("b", min=2, max=64), Dim.DYNAMIC(max=64), Dim("b", max=64)):
        assert planned(model, ROWS, dynamic_shapes=({0: dim},)) == bounded
    plain = nn.Sequential(nn.Linear(16, 4), nn.ReLU())
    assert [planned(plain, ROWS, dynamic_shapes=True)] == looked_for(plain, ROWS, dynamic=True)
    assert bounded != keys[0] != planned(model, ROWS)
    low = planned(model, ROWS, dynamic_shapes=({0: Dim("b", min=4)},))
    assert low not in (keys[0], bounded)


def test_an_engine_for_a_range_serves_whatever_size_comes_first() -> None:
    model = Perceptron().eval()
    assert ts.prebuild(model, (ROWS,), dynamic_shapes=({0: Dim.DYNAMIC},), options=OPTIONS).builds == 1
    for size in (2, 300, 1000):
        x = torch.randn(size, 16)
        torch._dynamo.mark_dynamic(x, 0)
        assert ts.explain(model, x, options=OPTIONS).hits == 1
    assert ts.explain(model, torch.randn(300, 16), options=OPTIONS).hits == 0
    assert neighbours(((2, 8, 32),)) == [((2, 4, 32),), ((2, 16, 32),), ((2, 2, 32),), ((2, 32, 32),)]
    assert neighbours(((3, 5, 5),)) == [((3, 4, 5),)]
    assert neighbours(()) == []
    several = neighbours(((2, 8, 4096),) * 6)
    assert len(several) == 16
    assert all(len(one) == 6 and one != ((2, 8, 4096),) * 6 for one in several)


def test_float32_and_float16_in_one_process() -> None:
    """Which of them comes first decides on TF32; each variant is built for as the first of a process."""
    model = Perceptron().eval()
    single, half = planned(model, ROWS), planned(model, ROWS, dtype=HALF)
    assert looked_for(model, ROWS) == [single]
    assert looked_for(Perceptron().eval().half(), ROWS.half()) != [half], "a float32 engine was first"
    compilation.settlement = precision.Settlement()
    assert looked_for(Perceptron().eval().half(), ROWS.half()) == [half]


def test_the_precision_of_the_process_is_in_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Perceptron().eval()
    exact = planned(model, ROWS), planned(model, ROWS, dtype=HALF)
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    off = planned(model, ROWS), planned(model, ROWS, dtype=HALF)
    assert off[0] == exact[0]
    assert off[1] != exact[1]
    assert looked_for(model, ROWS) == [off[0]]
    assert looked_for(Perceptron().eval().half(), ROWS.half()) == [off[1]], "in any order"


# ------------------------------------------------------------------------------------------------ variants


def test_variants_give_one_report() -> None:
    model = perturb(Perceptron())
    variants = [ts.Variant((ROWS,), dtype=HALF), ts.Variant((ROWS[:3],)), ts.Variant((ROWS,), {"scale": 1.0})]
    report = ts.prebuild(model, (ROWS,), variants=variants, options=OPTIONS)
    assert [(p.graph, p.name) for p in report.partitions] == [(n, "engine_0") for n in range(4)]
    assert [p.status for p in report.partitions] == ["built", "built", "built", "hit"]
    assert "graph 3, engine_0" in str(report)
    assert len(report.drawings) == 4
    assert (report.graphs, report.builds, report.hits, len(report.to_dict()["partitions"])) == (4, 3, 1, 4)
    assert report.mode == "bound"
    assert ts.explain(model.half(), ROWS.half(), options=OPTIONS).hits == 1
    again = ts.prebuild(perturb(Perceptron()), variants=variants, options=OPTIONS)
    assert (again.builds, again.hits) == (0, 3)
    assert all(p.dtype == HALF for p in model.parameters()), "only the user's own .half() changed the model"


def test_a_model_without_arguments() -> None:
    assert ts.prebuild(lambda: torch.ones(3).relu(), options=OPTIONS).graphs == 1


def test_70_gb_of_weights_in_the_memory_of_their_description() -> None:
    def used() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    with torch.device("meta"):
        layers = [nn.Linear(1 << 15, 1 << 15, bias=False, dtype=HALF) for _ in range(33)]
        x = torch.empty(1, 1 << 15, dtype=HALF)
    ts.prebuild(Perceptron(), (ROWS,), options=OPTIONS)  # loads what any build needs
    before = used()
    report = ts.prebuild(nn.Sequential(*layers), (x,), options={**OPTIONS, "refit_mode": "bound"})
    assert (report.builds, report.partitions[0].weight_bytes) == (1, 33 << 31)
    assert used() - before < 100 << 20
    assert report.partitions[0].plan_bytes < 1 << 20


WRONG: list[tuple[Any, str]] = [
    ({"y": {0: Dim.DYNAMIC}}, "there is no argument 'y'; there are 'x', 'more'"),
    ({"x": {2: Dim.DYNAMIC}}, r"dynamic_shapes\['x'\]: a tensor of 2 dimensions has no dimension 2"),
    ({"x": (Dim.DYNAMIC,)}, "1 entries for a tensor of 2 dimensions"),
    ({"x": {1: 8}}, r"dynamic_shapes\['x'\]\[1\]: a torch.export.Dim, None or the size, which is 16; not 8"),
    ({"x": Dim.DYNAMIC}, "takes {dimension: Dim} or one entry a dimension"),
    ({"x": {0: Dim("b", min=10, max=20)}}, "the example's size 6 is outside of"),
    ({"more": {"y": [{0: Dim.DYNAMIC}]}}, r"\['more'\]\['y'\]\[0\]\[0\]: PyTorch makes a graph of its own for size 1"),
    ({"more": {"y": [None, None]}}, "2 entries for 1 arguments"),
    ({"more": {"n": {0: Dim.DYNAMIC}}}, "only tensors have dynamic sizes, and int is none"),
    ([None], "1 entries for 2 arguments"),
]


@pytest.mark.parametrize(("shapes", "message"), WRONG)
def test_dynamic_shapes_that_do_not_fit(shapes: Any, message: str) -> None:
    arguments = {"more": {"y": [torch.randn(1)], "n": 3}}
    with pytest.raises(OptionError, match=message):
        ts.prebuild(Perceptron(), (ROWS,), arguments, dynamic_shapes=shapes, options=OPTIONS)


def test_a_size_that_the_model_fixes_is_said_by_pytorch() -> None:
    with pytest.raises(Exception, match="specialized it to be a constant"):
        ts.prebuild(Perceptron(), (ROWS,), dynamic_shapes=({1: Dim.DYNAMIC},), options=OPTIONS)


# ------------------------------------------------------------------------------------------------ layouts


@pytest.mark.parametrize("dtype", [SINGLE, HALF, torch.float64])
def test_convolutions_are_laid_out_as_by_cudnn(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    image, kernel = torch.randn(2, 3, 8, 8, dtype=dtype), torch.randn(4, 3, 3, 3, dtype=dtype)
    last = LAST if dtype != torch.float64 else torch.contiguous_format
    assert cudnn_format(image, kernel) == torch.contiguous_format
    for a, b in ((image.to(memory_format=LAST), kernel), (image, kernel.to(memory_format=LAST))):
        assert cudnn_format(a, b) == last
    volume = torch.randn(2, 3, 4, 4, 4).to(memory_format=torch.channels_last_3d)
    assert cudnn_format(volume, torch.randn(4, 3, 2, 2, 2)) == torch.channels_last_3d
    monkeypatch.setattr(torch.backends.cudnn, "enabled", False)
    assert cudnn_format(image.to(memory_format=LAST), kernel) == torch.contiguous_format


def test_the_cpus_own_layouts_come_back() -> None:
    before = torch._C._select_conv_backend, torch._C._conv_determine_backend_memory_format
    with pytest.raises(RuntimeError, match="stop"), as_on_cuda():
        raise RuntimeError("stop")
    assert (torch._C._select_conv_backend, torch._C._conv_determine_backend_memory_format) == before


def test_arguments_are_a_tuple() -> None:
    for make in (ts.prebuild, ts.export, ts.strip_engine):
        with pytest.raises(OptionError, match=r"a tuple, such as \(x,\), not a Tensor"):
            make(torch.nn.Linear(4, 4), torch.randn(2, 4))  # type: ignore[operator]
