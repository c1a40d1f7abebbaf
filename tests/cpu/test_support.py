"""All that Torch-TensorRT converts or decomposes runs in an engine here with the right values, or has a reason."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from tests import beyond, harness, peer
from tests.cases import Case
from tests.graphs import perturb, stage
from trt_stripped_backend.ops import library
from trt_stripped_backend.ops.support import LEFT, limits_of, short, supported
from trt_stripped_backend.sizes import OPERATORS

REASONS = {name: left for left in LEFT for name in left.operators}
ROWS = {**peer.PEER, **beyond.BEYOND}
#: What a rejection says of a kind of :data:`LEFT`.
TOLD = {"random": "a random operator", "dtype": "float64 stays in PyTorch"}
#: Functions whose names differ from the operators that they call.
CALLED = {"_fft_r2c": "no converter", "bernoulli": "aten.rand"}


#: By row.
OF_TORCH = {"quantile": [harness.of_torch_2_11("a trace of quantile looks at values")]}


def each(names: list[str]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("name", [pytest.param(n, marks=OF_TORCH.get(n, [])) for n in sorted(names)])


@each([name for name in ROWS if name not in REASONS])
def test_converts_or_decomposes(name: str) -> None:
    harness.emulate(peer.case(name, ROWS[name]))


@each([name for name in ROWS if name in REASONS and REASONS[name].kind not in ("data", "attention", "prims")])
def test_stays_in_pytorch(name: str) -> None:
    case = peer.case(name, ROWS[name])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "index_reduce")  # in beta
        told = CALLED.get(name, TOLD.get(REASONS[name].kind, "no converter"))
        harness.reject(Case(name, case.fn, case.inputs, rejected=told))


@each([name for name, left in REASONS.items() if left.kind == "data"])
def test_data_decides_the_shape(name: str) -> None:
    packet = getattr(torch.ops.aten, name)
    tags = [getattr(packet, one).tags for one in packet.overloads() if one != "out" and not one.endswith("_out")]
    assert name == "argwhere" or all(torch.Tag.dynamic_output_shape in each for each in tags)


@each(["prims.div", "prims.sum"])
def test_prims(name: str) -> None:
    case = peer.case(name, ROWS[name])
    harness.reject(Case(name, case.fn, case.inputs, rejected="no converter"))


def test_what_is_left_has_no_converter() -> None:
    converted = {str(target).split(".")[1] for target in library.all_ops()}
    assert not converted & REASONS.keys()
    for name, left in REASONS.items():
        namespace, _, packet = name.rpartition(".")
        known = hasattr(getattr(torch.ops, namespace or "aten"), packet)
        assert known or left.kind == "extension", f"{name} ({left.kind}) is no operator of PyTorch"


def test_the_same_reason_is_given_once() -> None:
    names = [name for left in LEFT for name in left.operators]
    assert len(names) == len(set(names)) and len({left.reason for left in LEFT}) == len(LEFT)


@pytest.mark.parametrize("rule", [operator.add, operator.sub, operator.mul, operator.floordiv, operator.mod])
def test_arithmetic_on_sizes(rule: Callable[..., Any]) -> None:
    """``operator.add`` and its like of symbolic sizes are computed, outside or inside engines."""
    assert rule in OPERATORS.values() or rule is operator.sub


RECURRENT: list[tuple[str, Callable[[], nn.Module]]] = [
    ("rnn", lambda: nn.RNN(4, 5, 2)),
    ("gru", lambda: nn.GRU(4, 5)),
    ("gru_2", lambda: nn.GRU(4, 5, 2, bidirectional=True)),
    ("lstm_projected", lambda: nn.LSTM(4, 5, proj_size=3)),
    ("lstm_projected_2", lambda: nn.LSTM(4, 5, 2, proj_size=3)),
]
WRONG = harness.of_torch_2_11("a projected LSTM's states have a dimension too many")


@pytest.mark.filterwarnings("ignore:LSTM with projections")  # oneDNN, in PyTorch's own result
@pytest.mark.parametrize("make", [
    pytest.param(make, id=name, marks=[WRONG] * name.startswith("lstm")) for name, make in RECURRENT
])
def test_recurrent_layers_are_one_engine(make: Callable[[], nn.Module]) -> None:
    model, x = perturb(make()), torch.randn(3, 2, 4)
    with torch._dynamo.config.patch(allow_rnn=True):  # without, Dynamo leaves them to PyTorch
        staged = stage(model, x)
    assert not staged.cut.rejections and len(staged.cut.partitions) == 1
    names = [name for name, _ in model.named_parameters()]
    weights = [value.detach() for value in model.parameters()]

    def call(x: torch.Tensor, *values: torch.Tensor) -> Any:
        out = torch.func.functional_call(model, dict(zip(names, values, strict=True)), (x,))
        return [out[0], *(out[1] if isinstance(out[1], tuple) else [out[1]])]

    inputs = [x, *weights]

    class Recurrent(Case):
        def make(self, device: torch.device | str = "cpu", seed: int = 0) -> list[torch.Tensor]:
            return [one.clone() for one in inputs]

    harness.emulate(Recurrent("recurrent", call, (), tuple(range(1, len(inputs))), tol=1e-5))


# ------------------------------------------------------------------------------------------------ the table


def test_each_overload_has_a_row() -> None:
    rows = {one.operator: one for one in supported()}
    assert rows.keys() == {str(target) for target in library.all_ops()}
    assert rows["aten.relu.default"].family == "activation" and "relu of bool" in rows["aten.relu.default"].limits
    assert not rows["aten.cumsum.default"].refittable and rows["aten.add.Tensor"].refittable
    assert rows["aten.linear.default"].dtypes and rows["aten.topk.default"].schema.startswith("topk(")
    assert "topk with k = …: TensorRT takes up to …" in rows["aten.topk.default"].limits


def test_limits_are_found_in_helpers() -> None:
    limits = [text for one in supported() if "bucketize" in one.operator for text in one.limits]
    assert any("comparing them all" in text for text in limits)
    assert list(limits_of(test_the_same_reason_is_given_once)) == []


def test_dtypes_are_told_shortly() -> None:
    everything = ("bfloat16", "bool", "float16", "float32", "int32", "int64")
    assert short(everything) == "float, int, bool"
    assert short(("float32", "int64")) == "float32, int64"
