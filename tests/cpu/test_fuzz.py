"""Random graphs without a GPU, and the judge that compares them."""

from __future__ import annotations

import json
import time
from collections import Counter
from unittest import mock

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.fuzz import check, layers, run
from tests.fuzz.blocks import LONGEST
from tests.fuzz.draw import graphs
from tests.fuzz.graph import Graph, Input, Ref, Step
from tests.fuzz.judge import Judge
from tests.fuzz.registry import OPERATORS
from tests.fuzz.shrink import shrink
from trt_stripped_backend.ops.net import Net

SMALL = Graph(
    inputs=(Input((3, 4), weight=True), Input((2, 3), torch.float16, "transposed"), Input((2, 1), torch.int64)),
    steps=(
        Step("own.cast", (Ref("x1"), torch.float32)),
        Step("torch.matmul", (Ref("v0"), Ref("x0"))),
        Step("torch.add", (Ref("v1"), Ref("x2")), {"alpha": 2}),
        Step("torch.split", (Ref("v2"), 3, -1)),
    ),
    outputs=("v3", "v4"),
)


@pytest.mark.parametrize(("order", "built"), [(0, False), (1, True)])
def test_random_graphs(order: int, built: bool) -> None:
    totals = run.Totals()
    run.chunk(order, 8 if not built else 4, base=2, device="cpu", built=built, totals=totals)
    assert not totals.failures, "\n".join(totals.failures)
    assert totals.engines > 0
    assert totals.inside > 0.7 * totals.nodes
    assert totals.checked > 20 * totals.open


def test_rows_of_layers() -> None:
    totals = run.Totals()
    run.chunk(1, 24, base=0, device="cpu", built=False, totals=totals, layers=3)
    run.chunk(0, 4, base=100, device="cpu", built=True, totals=totals, layers=3)
    run.chunk(2, 4, base=100, device="cpu", built=True, totals=totals, layers=3, large=True)
    assert not totals.failures, "\n".join(totals.failures)
    assert totals.graphs > 24
    assert totals.inside == totals.nodes
    assert totals.checked > 20 * totals.open


def test_each_row_of_layers_comes_once_and_again_the_same() -> None:
    count = len(layers.LAYERS) ** 2
    assert len({tuple(layers.names(number, 2)) for number in range(count)}) == count
    rows = [layers.row(number, 3) for number in range(50)]
    assert rows == [layers.row(number, 3) for number in range(50)]
    assert rows.count(None) < 10


def test_every_operator_is_drawn_and_reaches_the_backend() -> None:
    names: set[str] = set()

    @seed(0)
    @settings(
        max_examples=25, database=None, deadline=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(graphs(3))
    def draw(graph: Graph) -> None:
        assert 3 <= len(graph.steps) <= 14 + LONGEST
        assert len({type(one) for one in graph.make()}) == 1
        names.update(step.fn for step in graph.steps)

    draw()
    assert len(names) > sum(map(len, OPERATORS.values())) / 5


def test_a_small_graph_is_right() -> None:
    found = check.check(SMALL, built=True, mode="general")
    assert (found.engines, found.inside, found.nodes) == (1, 3, 3)
    assert (found.checked, found.open) == (8, 0)


def test_a_converter_that_is_off_is_found_and_the_code_shows_it() -> None:
    matmul = Net.matmul
    wrong = mock.patch.object(Net, "matmul", lambda net, a, b, **k: net.mul(matmul(net, a, b, **k), 1.5))
    with wrong, pytest.raises(AssertionError, match=r"output 0: .* elements: at .* there is") as raised:
        check.check(SMALL)
    with wrong, pytest.raises(AssertionError, match=r"output 0: .* elements: at .* there is"):
        exec(str(raised.value).partition("\n\n")[2], {})


def test_a_failure_is_made_smaller() -> None:
    def fails(graph: Graph) -> bool:
        return any(step.fn == "torch.add" for step in graph.steps)

    small = shrink(SMALL, fails, 60)
    assert [step.fn for step in small.steps] == ["torch.add", "torch.split"]
    assert small.inputs == (Input((2, 1), torch.int64), Input((2, 4)))
    assert len(small.outputs) == 1
    assert small(*small.make())[0].ndim == 2
    assert shrink(SMALL, fails, 0) == SMALL


def test_a_build_that_fails_and_an_operator_that_raises_are_wrong() -> None:
    from trt_stripped_backend.errors import BuildFailed

    with mock.patch.object(check, "build", side_effect=BuildFailed("no tactic")):
        assert check.found_in(SMALL, built=True).wrong == "is not built: no tactic"
    with mock.patch.object(Net, "matmul", side_effect=ValueError("rank")):
        assert check.found_in(SMALL).wrong == "raises ValueError: rank"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_judge_knows_roundings_from_errors(dtype: torch.dtype) -> None:
    steps = (Step("torch.exp", (Ref("x0"),)), Step("torch.sum", (Ref("v0"), -1)), Step("torch.floor", (Ref("v1"),)))
    graph = Graph((Input((50, 8), dtype),), steps, ("v1", "v2"))
    inputs = graph.make()
    judge = Judge(graph, inputs)
    total, whole = graph(*inputs)
    eps = torch.finfo(dtype).eps
    assert not judge([total, whole]).wrong
    assert not judge([total * (1 + 2 * eps), whole]).wrong
    assert "output 0: 50 of 50" in judge([total * (1 + 200 * eps), whole]).wrong
    assert "output 1" in judge([total, whole + 1]).wrong
    assert "in PyTorch" in judge([total.double(), whole]).wrong
    assert "in PyTorch" in judge([total[1:], whole]).wrong
    assert "1 outputs" in judge([total]).wrong
    assert "1 of 50" in judge([total.index_fill(0, torch.tensor(3), float("nan")), whole]).wrong


def test_what_roundings_decide_is_not_compared() -> None:
    same = Step("torch.mul", (Ref("x0"), 1 / 3)), Step("torch.div", (Ref("x0"), 3))
    graph = Graph((Input((64,)),), (*same, Step("torch.lt", (Ref("v0"), Ref("v1")))), ("v2",))
    judge = Judge(graph, graph.make())
    verdict = judge([~graph(*graph.make())[0]])
    assert verdict.open > 50
    assert verdict.checked + verdict.open == 64


def test_a_run_stops_in_time_and_counts_add_up() -> None:
    assert run.run(100, base=0, device="cpu", built=False, until=time.monotonic() - 1).graphs == 0
    one, other = run.Totals(), run.Totals()
    one.add(SMALL, check.Found(engines=2, inside=3, nodes=4, checked=5, open=6, reasons=("a",)))
    other.merge(vars(one))
    other.merge(vars(one))
    assert (other.graphs, other.engines, other.nodes, other.reasons["a"]) == (2, 4, 8, 2)
    assert other.steps["torch.matmul"] == 2
    assert "2 graphs, 4 engines, 6 of 8 operators inside (75.0%)" in str(other)


def test_what_a_process_found_is_added_by_another() -> None:
    mine, sums = run.Totals(), run.Totals()
    run.chunk(0, 2, base=5, device="cpu", built=False, totals=mine)
    mine.failures.append("WRONG, as an example")
    for _ in range(2):
        sums.merge(json.loads(mine.line()))
    assert (sums.graphs, sums.engines, sums.nodes) == (2 * mine.graphs, 2 * mine.engines, 2 * mine.nodes)
    assert sums.steps == Counter({name: 2 * times for name, times in mine.steps.items()})
    assert sums.steps and sums.failures == 2 * mine.failures
