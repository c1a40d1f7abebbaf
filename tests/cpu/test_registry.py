"""The registry, and the promise of every converter: its parameters and its docstring are ATen's own schema."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.cases import Case, all_cases
from trt_stripped_backend.errors import Unsupported
from trt_stripped_backend.ops import library
from trt_stripped_backend.ops import registry as registry_module
from trt_stripped_backend.ops.registry import Op, bind, op

aten = torch.ops.aten
OPS = library.all_ops()
#: The parts of an engine that a schema's arguments do not reach.
PLACE = {"device", "layout", "pin_memory", "memory_format", "non_blocking", "out"}


def each_op() -> pytest.MarkDecorator:
    return pytest.mark.parametrize("one", [pytest.param(o, id=str(t)) for t, o in sorted(OPS.items(), key=str)])


def schema_names(target: Any) -> list[str]:
    return [a.name for a in target._schema.arguments if a.name not in PLACE]


@each_op()
def test_parameters_are_the_schema(one: Op) -> None:
    names = list(inspect.signature(one.convert).parameters)
    assert names == ["net", *schema_names(one.target)]


@each_op()
def test_reasons_take_the_same_parameters(one: Op) -> None:
    for check in one.checks:
        signature = inspect.signature(check)
        if any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values()):
            continue  # a check of whatever tensors there are
        assert list(signature.parameters) == schema_names(one.target)


@each_op()
def test_the_docstring_is_the_schema(one: Op) -> None:
    """One schema, or one a line where overloads share a converter."""
    paragraph = (inspect.getdoc(one.convert) or "").split("\n\n")[0]
    told = re.sub(r"\n(?!\w+(\.\w+)?\()", " ", paragraph).splitlines()
    assert told
    for line in told:
        name, _, overload = line.partition("(")[0].partition(".")
        known = {str(s) for s in schemas(name, overload)}
        assert normal(line) in {normal(text) for text in known}, f"{line!r} is none of {sorted(known)}"


def schemas(name: str, overload: str) -> list[Any]:
    packet = getattr(aten, name, None)
    if packet is None or (overload and overload not in packet.overloads()):
        return []
    names = packet.overloads() if not overload else [overload]
    return [getattr(packet, one)._schema for one in names]


def normal(schema: str) -> str:
    """A schema without its namespace and overload, spaces, and the marks of aliasing."""
    text = schema.removeprefix("aten::").replace("'", '"')
    text = re.sub(r"^(\w+)\.\w+\(", r"\1(", text)
    text = re.sub(r"\(\w+!?( -> \*)?\)(?=[ ?\[]|$)", "", text)
    return re.sub(r"\s+", "", text).replace("SymInt", "int")


@each_op()
def test_bodies_are_short(one: Op) -> None:
    source = textwrap.dedent(inspect.getsource(one.convert))
    function = ast.parse(source).body[0]
    assert isinstance(function, ast.FunctionDef)
    body = function.body[1 if ast.get_docstring(function) else 0 :]
    length = (body[-1].end_lineno or 0) - body[0].lineno + 1
    assert length <= 20, f"{length} lines: a helper with a name reads better"


def test_most_bodies_are_a_few_lines() -> None:
    lengths = sorted(len(inspect.getsource(one.convert).splitlines()) for one in OPS.values())
    assert lengths[len(lengths) // 2] <= 14


#: No CPU tensor reaches these: PyTorch has them on CUDA alone, or takes them apart at once elsewhere.
ONLY_CUDA = {aten.cudnn_grid_sampler.default, aten._fused_rms_norm.default}
#: How many cases are lowered at once.
BATCH = 32


class Called(TorchDispatchMode):
    """Which operators PyTorch calls."""

    def __init__(self) -> None:
        super().__init__()
        self.targets: set[Any] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.targets.add(func)
        return func(*args, **(kwargs or {}))


def called(case: Case) -> set[Any]:
    inputs = case.make()
    with Called() as calls, torch.no_grad():
        case.fn(*inputs)
    return calls.targets


def reached(cases: Sequence[Case]) -> set[Any]:
    """The operators in engines for these cases, lowered as one graph: a lowering's time hardly depends on its size."""
    from tests.harness import flat, lower_case

    ends = list(accumulate(len(case.inputs) for case in cases))
    places = [range(end - len(case.inputs), end) for case, end in zip(cases, ends, strict=True)]

    def every(*args: torch.Tensor) -> list[torch.Tensor]:
        calls = zip(cases, places, strict=True)
        return [out for case, place in calls for out in flat(case.fn)(*args[place.start : place.stop])]

    inputs = tuple(spec for case in cases for spec in case.inputs)
    weights = tuple(place[i] for case, place in zip(cases, places, strict=True) for i in case.weights)
    together = Case("together", every, inputs, weights, whole=all(case.whole for case in cases))
    pieces = lower_case(together).partitioned.partitions
    return {node.target for piece in pieces for node in piece.module.graph.nodes}


def test_every_op_has_a_case() -> None:
    cases = [case for _, case in all_cases() if case.converted]
    missing = set(OPS) - ONLY_CUDA - reached([case for case in cases if case.whole])
    untried = [case for case in cases if not case.whole]
    calls = {case: {target.overloadpacket for target in called(case)} for case in untried}

    def unlikely(case: Case, target: Any) -> tuple[bool, bool]:
        """First those where eager PyTorch calls it too, then those that are named after it."""
        return target.overloadpacket not in calls[case], target.overloadpacket.__name__.strip("_") not in case.name

    while missing and untried:
        likely = {min(untried, key=lambda case: unlikely(case, target)): None for target in sorted(missing, key=str)}
        chosen = list(dict.fromkeys([*likely, *untried]))[: max(len(likely), BATCH)]
        untried = [case for case in untried if case not in chosen]
        for start in range(0, len(chosen), BATCH):
            missing -= reached(chosen[start : start + BATCH])
    assert not missing, "no row in tests/cases reaches these"


# ---------------------------------------------------------------- registration


@pytest.fixture
def empty(monkeypatch: pytest.MonkeyPatch) -> dict[Any, Op]:
    table: dict[Any, Op] = {}
    monkeypatch.setattr(registry_module, "registry", table)
    return table


def converter(net: Any, self: Any) -> Any:
    return self


def test_a_second_registration_raises(empty: dict[Any, Op]) -> None:
    op(aten.relu.default)(converter)
    with pytest.raises(ValueError, match=r"aten\.relu\.default has a converter already"):
        op(aten.relu.default)(converter)


@pytest.mark.parametrize("target", [aten.relu, torch.relu, "aten.relu"])
def test_only_overloads_are_registered(empty: dict[Any, Op], target: Any) -> None:
    with pytest.raises(TypeError, match="is not an overload"):
        op(target)(converter)


def test_reasons_reach_every_overload_of_a_line(empty: dict[Any, Op]) -> None:
    ops = op(aten.sin.default, aten.cos.default)(converter)

    @ops.unless
    def _(self: torch.Tensor) -> Any:
        if self.ndim == 0:
            yield "0-d"

    for one in empty.values():
        assert list(one.reasons({"self": torch.empty(())})) == ["0-d"]
        assert list(one.reasons({"self": torch.empty(1)})) == []


# ---------------------------------------------------------------- binding


def test_arguments_are_bound_by_name_with_defaults() -> None:
    x = object()
    assert bind(aten.gelu.default, (x,), {}) == {"self": x, "approximate": "none"}
    assert bind(aten.gelu.default, (x,), {"approximate": "tanh"}) == {"self": x, "approximate": "tanh"}
    assert bind(aten.sum.dim_IntList, (x, [1]), {}) == {"self": x, "dim": [1], "keepdim": False, "dtype": None}


def test_arguments_of_place_are_dropped() -> None:
    bound = bind(aten._to_copy.default, (1,), {"dtype": torch.half, "device": "cuda", "non_blocking": True})
    assert bound == {"self": 1, "dtype": torch.half}


def test_a_missing_argument_raises() -> None:
    with pytest.raises(Unsupported, match="called without its argument 'other'"):
        bind(aten.atan2.default, (1,), {})
