"""Names of traces: the same for other weights, and another for each other function or call of one."""

from __future__ import annotations

import functools
import itertools
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import fx, nn

from tests.graphs import perturb
from trt_stripped_backend import traces
from trt_stripped_backend.compilation import Compilation
from trt_stripped_backend.flavour import load
from trt_stripped_backend.key import digest
from trt_stripped_backend.options import Options

pytestmark = pytest.mark.usefixtures("world")
OPTIONS = {"min_block_size": 1}
X = torch.randn(4, 8)


def name(
    fn: Callable[..., Any], *args: Any, around: Callable[[], Any] = torch.no_grad, dynamic: bool | None = False,
    **options: Any,
) -> str | None:
    """The name of a function's one graph; nothing is compiled."""
    found: list[str | None] = []
    chosen = Options.of(OPTIONS | options)
    compilation = Compilation.of(chosen, load(), torch.device("cpu"))

    def look(gm: fx.GraphModule, inputs: Sequence[Any]) -> Callable[..., Any]:
        found.append(traces.name_of(gm, inputs, compilation))
        return gm

    torch._dynamo.reset()
    with around():
        torch.compile(fn, backend=look, dynamic=dynamic)(*args)
    (only,) = found
    return only


class Line(nn.Module):
    def __init__(self, width: int = 8, *, bias: bool = True) -> None:
        super().__init__()
        self.line = nn.Linear(8, width, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.line(x).relu()


def test_other_weights_have_the_same_name() -> None:
    names = {name(perturb(Line(), seed), torch.randn(4, 8)) for seed in range(3)}
    assert len(names) == 1
    assert None not in names


def test_where_things_are_kept_does_not_matter(tmp_path: Path) -> None:
    line, other = Line(), {"cache_dir": str(tmp_path), "verify": True, "cuda_graphs": True, "build": "background"}
    assert name(line, X, **other) == name(line, X)


def autocast() -> Any:
    return torch.autocast("cpu", torch.bfloat16)


def half() -> Any:
    return torch.autocast("cpu", torch.float16)


#: Each is another function, or another call of one.
OTHERS: dict[str, Callable[[], str | None]] = {
    "plain": lambda: name(Line(), X),
    "grad": lambda: name(Line(), X, around=torch.enable_grad),
    "inference": lambda: name(Line(), torch.inference_mode()(X.clone)()),
    "autocast": lambda: name(Line(), X, around=autocast),
    "half": lambda: name(Line(), X, around=half),
    "dtype": lambda: name(Line().double(), X.double()),
    "shape": lambda: name(Line(), X[:2]),
    "stride": lambda: name(Line(), torch.randn(8, 4).t()),
    "width": lambda: name(Line(9), X),
    "bias": lambda: name(Line(bias=False), X),
    "requires": lambda: name(Line(), X.clone().requires_grad_()),
    "parameter": lambda: name(Line(), nn.Parameter(X)),
    "option": lambda: name(Line(), X, torch_executed_ops="aten.relu"),
    "mode": lambda: name(Line(), X, refit_mode="general"),
    "blocks": lambda: name(Line(), X, min_block_size=2),
    "layers": lambda: name(Line(), X, dedupe_layers=True),
    "level": lambda: name(Line(), X, optimization_level=1),
    "minus": lambda: name(lambda x, y: x - y, X, X + 1),
    "turned": lambda: name(lambda x, y: y - x, X, X + 1),
    "twice": lambda: name(lambda x, y: x - x, X, X + 1),
    "scaled": lambda: name(lambda x, y: x.sub(y, alpha=2), X, X + 1),
    "scaled by 2.0": lambda: name(lambda x, y: x.sub(y, alpha=2.0), X, X + 1),
    "shared": lambda: name(lambda x, y: x - y, X[:2], X[2:]),
    "shared elsewhere": lambda: name(lambda x, y: x - y, X[:2], X[1:3]),
    "shared by more": lambda: name(lambda x, y: x - y, X[1:3], X[2:]),
    "infinite": lambda: name(lambda x: x.clamp(max=float("inf")), X),
    "to nan": lambda: name(lambda x: x.clamp(max=float("nan")), X),
}  # fmt: skip


def test_others_have_other_names() -> None:
    names = {kind: make() for kind, make in OTHERS.items()}
    assert [kind for kind, found in names.items() if found is None] == []
    same = [{a, b} for a, b in itertools.combinations(names, 2) if names[a] == names[b]]
    assert same == []


def test_another_version_of_the_package_has_another_name(monkeypatch: pytest.MonkeyPatch) -> None:
    before = name(Line(), X)
    monkeypatch.setattr(traces, "_source", lambda: digest("changed"))
    assert name(Line(), X) != before


def test_where_the_code_stands_is_part_of_the_name() -> None:
    """A report tells the line of what stays in PyTorch."""

    def fn(x: torch.Tensor) -> torch.Tensor:
        return x.cumsum(0)

    code = fn.__code__
    moved = types.FunctionType(code.replace(co_firstlineno=code.co_firstlineno + 1), globals())
    assert name(fn, X) != name(moved, X)


def patched(x: torch.Tensor, *_: Any) -> torch.Tensor:
    return x


def test_functions_that_are_not_pytorchs_have_none(monkeypatch: pytest.MonkeyPatch) -> None:
    compilation = Compilation.of(Options.of(OPTIONS), load(), torch.device("cpu"))
    for target in (patched, torch.ops.higher_order.cond, torch.ops.quantized.add.default):
        graph = fx.Graph()
        graph.output(graph.call_function(target, (graph.placeholder("x"),)))
        assert traces.name_of(fx.GraphModule({}, graph), [X], compilation) is None
    graph = fx.Graph()
    graph.output(graph.call_function(torch.sigmoid, (graph.placeholder("x"),)))
    module = fx.GraphModule({}, graph)
    assert traces.name_of(module, [X], compilation) is not None
    monkeypatch.setattr(torch, "sigmoid", patched)
    assert traces.name_of(module, [X], compilation) is None, "another function has its name now"
    graph = fx.Graph()
    wrapped = functools.wraps(torch.nn.functional.dropout)(lambda x: x)
    monkeypatch.setattr(torch.nn.functional, "dropout", wrapped)
    graph.output(graph.call_function(wrapped, (graph.placeholder("x"),)))
    assert traces.name_of(fx.GraphModule({}, graph), [X], compilation) is None, "another function under its name"


@pytest.mark.parametrize("given", [3, X.to_sparse(), torch.randn(3, dtype=torch.complex64).conj(), None])
def test_arguments_that_are_no_plain_tensors_have_none(given: Any) -> None:
    compilation = Compilation.of(Options.of(OPTIONS), load(), torch.device("cpu"))
    graph = fx.Graph()
    graph.output(graph.placeholder("x"))
    assert traces.name_of(fx.GraphModule({}, graph), [given], compilation) is None


def marked(*dims: int, shape: tuple[int, ...] = (4, 6), **limits: int) -> torch.Tensor:
    """A tensor with dynamic sizes."""
    x = torch.randn(shape)
    for dim in dims:
        torch._dynamo.mark_dynamic(x, dim, **limits)
    return x


def double(x: torch.Tensor) -> torch.Tensor:
    return x * 2


def halves(x: torch.Tensor) -> torch.Tensor:
    return x.view(2, x.shape[0] // 2, -1).sum(0)


def two(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return x * 2, y * 2


#: Each knows something else of sizes, or of how they hang together.
DYNAMIC: dict[str, Callable[[], str | None]] = {
    "none": lambda: name(double, marked(), dynamic=None),
    "first": lambda: name(double, marked(0), dynamic=None),
    "second": lambda: name(double, marked(1), dynamic=None),
    "both": lambda: name(double, marked(0, 1), dynamic=None),
    "limited": lambda: name(double, marked(0, min=2, max=64), dynamic=None),
    "from four": lambda: name(double, marked(0, min=4, max=64), dynamic=None),
    "turned": lambda: name(double, torch.randn(6, 4).t(), dynamic=True),
    "alike": lambda: name(double, torch.randn(6, 6), dynamic=True),
    "other rest": lambda: name(double, marked(0, shape=(4, 7)), dynamic=None),
    "halves": lambda: name(halves, marked(0), dynamic=None),
    "apart": lambda: name(two, torch.randn(4, 6), torch.randn(5, 7), dynamic=True),
    "together": lambda: name(two, torch.randn(4, 6), torch.randn(4, 7), dynamic=True),
    "a number": lambda: name(lambda x, n: x + n, torch.randn(4, 6), 3, dynamic=True),
}


def test_dynamic_sizes_are_a_part_of_the_name() -> None:
    names = {kind: make() for kind, make in DYNAMIC.items()}
    assert [kind for kind, found in names.items() if found is None] == []
    same = [{a, b} for a, b in itertools.combinations(names, 2) if names[a] == names[b]]
    assert same == []


def test_other_sizes_have_the_same_name() -> None:
    for fn, *shapes in (
        (double, [(4, 6)], [(9, 5)]), (halves, [(4, 6)], [(8, 3)]), (two, [(4, 6), (5, 7)], [(9, 3), (8, 2)]),
    ):  # fmt: skip
        assert len({name(fn, *map(torch.randn, given), dynamic=True) for given in shapes}) == 1


def test_arguments_of_a_transform_have_none() -> None:
    compilation = Compilation.of(Options.of(OPTIONS), load(), torch.device("cpu"))
    graph = fx.Graph()
    graph.output(graph.placeholder("x"))
    found: list[str | None] = []

    def look(x: torch.Tensor) -> torch.Tensor:
        found.append(traces.name_of(fx.GraphModule({}, graph), [x], compilation))
        return x

    torch.vmap(look)(X)
    look(X)
    assert found[0] is None
    assert found[1] is not None


def test_modes_of_values_have_none() -> None:
    assert name(Line(), X, refit_mode="identical") is None


def test_a_literal_has_none() -> None:
    class Held(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.constant = torch.ones(8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.constant

    module = fx.symbolic_trace(Held())
    compilation = Compilation.of(Options.of(OPTIONS), load(), torch.device("cpu"))
    assert traces.name_of(module, [X], compilation) is None
