"""Partition → plan, with the real TensorRT-RTX: plans without weights, and failures that say why."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.graphs import Staged, cut_up, lower, stage
from trt_stripped_backend import flavour
from trt_stripped_backend.build import _encode, build, decode_literal
from trt_stripped_backend.errors import BuildFailed
from trt_stripped_backend.key import canonical, make_key
from trt_stripped_backend.ops import conv
from trt_stripped_backend.ops.library import lookup
from trt_stripped_backend.ops.net import Net
from trt_stripped_backend.ops.registry import Op, registry
from trt_stripped_backend.options import Options
from trt_stripped_backend.types import Entry, TensorSpec

aten = torch.ops.aten


def mlp(w: torch.Tensor, b: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.gelu(torch.nn.functional.linear(x, w, b)) * torch.tensor([1.0, 2.0, 3.0, 4.0])


def staged_mlp(seed: int = 0) -> Staged:
    torch.manual_seed(seed)
    return cut_up(lower(mlp, torch.randn(4, 6), torch.randn(4), torch.randn(3, 6), sources=2))


def plan(staged: Staged, mode: str = "bound", values: Any = None, tf32: bool = False, **options: Any) -> Entry:
    (piece,) = staged.cut.partitions
    graph, signature = canonical(piece)
    return build(
        piece, signature, make_key({"graph": graph, "mode": mode}),
        flavour=flavour.load(), mode=mode, options=Options.of(options), tf32=tf32, values=values,
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------ entries


@pytest.mark.parametrize("mode", ["bound", "general"])
def test_entry(mode: str) -> None:
    entry = plan(staged_mlp(), mode)
    header = json.loads(json.dumps(entry.header))
    assert header["mode"] == mode
    assert header["flavour"] == [flavour.load().name, str(flavour.load().version)]
    assert [TensorSpec.from_json(spec).shape for spec in header["inputs"]] == [(3, 6)]
    assert [[name, TensorSpec.from_json(spec).shape] for name, spec in header["slots"]] == [
        ["w0", (4, 6)],
        ["w1", (4,)],
    ]
    assert [TensorSpec.from_json(spec).shape for spec in header["outputs"]] == [(3, 4)]
    assert header["literals"] == {}
    assert header["nodes"] == 3
    assert header["layers"] > 0
    assert header["build_seconds"] > 0
    assert entry.key == make_key(entry.header["parts"] | {"format": 1}).digest
    assert isinstance(entry.plan, bytes)


@pytest.mark.parametrize("mode", ["bound", "general"])
def test_two_builds_give_the_same_bytes(mode: str) -> None:
    """Whatever the weights hold, and however often the process has built before."""
    one, two = plan(staged_mlp(0), mode), plan(staged_mlp(1), mode)
    assert one.key == two.key
    assert one.plan == two.plan


def test_a_plan_does_not_grow_with_its_weights() -> None:
    def big(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return (x @ w).relu()

    w = torch.randn(1024, 1024)
    staged = cut_up(lower(big, w, torch.randn(2, 1024), sources=1))
    for mode in ("bound", "general"):
        assert len(plan(staged, mode).plan) < w.nbytes / 4, mode


def test_values_are_built_in_where_asked() -> None:
    weights = [{"w0": torch.full((4, 6), float(seed)), "w1": torch.ones(4)} for seed in (0, 1)]
    assert len({plan(staged_mlp(), "immutable", values).plan for values in weights}) == 2


def test_options_reach_the_builder() -> None:
    normal = plan(staged_mlp())
    assert plan(staged_mlp(), workspace_size="64MiB", optimization_level=0, max_aux_streams=0).plan
    assert plan(staged_mlp(), hardware_compatible=True, version_compatible=True).plan
    assert plan(staged_mlp(), tf32=True).header["tf32"] is True
    assert normal.header["tf32"] is False
    assert "NVIDIA_TF32_OVERRIDE" not in os.environ


def test_a_build_inside_a_fake_mode() -> None:
    """Where the compiler's callbacks run."""
    staged = staged_mlp()
    want = plan(staged)
    with FakeTensorMode():
        assert plan(staged).plan == want.plan


def test_threads_build_one_after_another() -> None:
    staged = [staged_mlp(seed) for seed in range(4)]
    plans: list[bytes] = []
    threads = [threading.Thread(target=lambda s=s: plans.append(plan(s).plan)) for s in staged]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(plans) == 4
    assert len(set(plans)) == 1


@pytest.mark.parametrize(
    "value",
    [
        torch.randn(2, 3),
        torch.tensor(True),
        torch.tensor([True, False]),
        torch.randn(3).half(),
        torch.randn(2, 2).bfloat16(),
        torch.tensor(7),
        torch.empty(0, 4),
        torch.tensor(float("nan")),
    ],
)
def test_literals_in_a_header(value: torch.Tensor) -> None:
    back = decode_literal(json.loads(json.dumps(_encode(value))))
    assert (back.shape, back.dtype) == (value.shape, value.dtype)
    torch.testing.assert_close(back, value, rtol=0, atol=0, equal_nan=True)


# ------------------------------------------------------------------------------------------------ failures


def failing(monkeypatch: pytest.MonkeyPatch, convert: Callable[..., Any], fn: Callable[..., Any] = torch.erfinv) -> str:
    """Builds an operator whose converter is wrong, and returns what is said."""
    target = {torch.erfinv: aten.erfinv.default, _topk: aten.topk.default}[fn]
    assert lookup(target) is not None  # all are registered before one is replaced
    monkeypatch.setitem(registry, target, Op(target, convert))
    staged = cut_up(lower(fn, torch.randn(3, 6)))
    assert not staged.cut.rejections
    with pytest.raises(BuildFailed) as raised:
        plan(staged)
    assert str(raised.value).startswith("engine_0: ")
    return str(raised.value)


def _topk(x: torch.Tensor) -> Any:
    return x.topk(2)


def test_another_shape_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    said = failing(monkeypatch, lambda net, self: net.reshape(self, [6, 3]))
    assert said == "engine_0: aten.erfinv.default gives float32[6, 3] in TensorRT, float32[3, 6] in PyTorch"


def test_another_dtype_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    said = failing(monkeypatch, lambda net, self: net.cast(self, torch.float16))
    assert "float16[3, 6] in TensorRT, float32[3, 6] in PyTorch" in said


def test_every_output_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    def second(net: Net, self: Any, k: int, dim: int, largest: bool, sorted: bool) -> Any:
        return net.slice(self, [0, 0], [3, 2], [1, 1]), net.slice(self, [0, 0], [3, 2], [1, 1])

    assert "float32[3, 2] in TensorRT, int64[3, 2] in PyTorch" in failing(monkeypatch, second, _topk)


def test_missing_outputs_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def first(net: Net, self: Any, **_: Any) -> Any:
        return (net.slice(self, [0, 0], [3, 2], [1, 1]),)

    failing(monkeypatch, first, _topk)

    def none(net: Net, self: Any, **_: Any) -> Any:
        return net.slice(self, [0, 0], [3, 2], [1, 1]), None

    assert "gives no output 1 in TensorRT" in failing(monkeypatch, none, _topk)


def mismatched(net: Net, self: Any) -> Any:
    kind = flavour.trt.MatrixOperation.NONE
    return net.take(net.network.add_matrix_multiply(self, kind, self, kind))


def test_tensorrts_own_message_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "last dimension of input0 = 6 and second to last dimension of input1 = 3" in failing(monkeypatch, mismatched)


@pytest.mark.parametrize(
    "error",
    [TypeError, ValueError, RuntimeError, KeyError, IndexError, AttributeError, OverflowError, ZeroDivisionError],
)
def test_a_converter_that_raises(error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def convert(net: Net, self: Any) -> Any:
        raise error("what went wrong")

    assert "what went wrong" in failing(monkeypatch, convert)


def test_a_failure_does_not_reach_the_next_build(monkeypatch: pytest.MonkeyPatch) -> None:
    want = plan(staged_mlp(), "general").plan
    with monkeypatch.context() as patch:
        assert "must match" in failing(patch, mismatched)
        assert "must match" not in failing(patch, lambda net, self: net.reshape(self, [7, 7]))
    assert plan(staged_mlp(), "general").plan == want


# ------------------------------------------------------------------------------------------------ whole models


class Small(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8)
        self.head = torch.nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> Any:
        return self.head(self.norm(self.conv(x)).relu().mean((2, 3))).softmax(-1)


@pytest.mark.parametrize("mode", ["bound", "general"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_small_model(mode: str, dtype: torch.dtype) -> None:
    model = Small().eval().to(dtype)
    x = torch.randn(2, 3, 8, 8, dtype=dtype).to(memory_format=torch.channels_last)
    entry = plan(stage(model, x, refit_mode=mode), mode)
    assert entry.header["inputs"][0]["order"] == [0, 2, 3, 1]
    assert [name for name, _ in entry.header["slots"]] == ["w0", "w1", "w2", "w3"]


def test_weights_in_channels_last() -> None:
    model = Small().eval()
    for p in model.parameters():
        p.data = p.data.contiguous(memory_format=torch.channels_last) if p.ndim == 4 else p.data
    x = torch.randn(2, 3, 8, 8).to(memory_format=torch.channels_last)
    assert plan(stage(model, x)).header["slots"][0][1]["order"] == [0, 2, 3, 1]


# ------------------------------------------------------------------------------------------------ what is written


def test_small_results_of_literals_are_literals() -> None:
    def computed(x: torch.Tensor) -> torch.Tensor:
        return x * torch.pow(torch.full((6,), 0.5), torch.arange(1, 7))

    def large(x: torch.Tensor) -> torch.Tensor:
        return x * torch.pow(torch.full((5000, 1), 0.5), torch.arange(1, 7))

    x = torch.randn(4, 6)
    layers = [plan(cut_up(lower(fn, x, sources=0))).header["layers"] for fn in (lambda x: x * torch.ones(6), computed)]
    assert layers[0] == layers[1]
    assert plan(cut_up(lower(large, torch.randn(5000, 6), sources=0))).header["layers"] > layers[1]


@pytest.fixture
def wide_sums(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For each convolution that is converted, whether its operands are cast."""
    told: list[bool] = []
    asked = conv._sums_in_half

    def ask(*args: Any, **named: Any) -> bool:
        told.append(asked(*args, **named))
        return told[-1]

    monkeypatch.setattr(conv, "_sums_in_half", ask)
    return told


@pytest.mark.parametrize(
    ("before", "after", "wide"),
    [
        (nn.ReLU(), nn.ReLU(), True),
        (nn.Identity(), nn.Identity(), True),
        (nn.ConstantPad2d(1, 0.0), nn.Identity(), True),
        (nn.SiLU(), nn.ReLU(), False),
        (nn.ReLU(), nn.SiLU(), False),
        (nn.ReLU(), nn.GELU(), False),
    ],
)
@pytest.mark.parametrize("mode", ["bound", "general"])
def test_where_convolutions_sum_in_float32(
    before: nn.Module, after: nn.Module, wide: bool, mode: str, wide_sums: list[bool]
) -> None:
    model = nn.Sequential(before, nn.Conv2d(8, 8, 3, bias=False), after).half().requires_grad_(False)
    for image in (torch.randn(1, 8, 6, 6).half(), torch.randn(8, 6, 6).half()):  # PyTorch adds and drops the batch
        plan(stage(model, image, refit_mode=mode), mode)
    assert wide_sums == 2 * [wide and mode == "bound"]


@pytest.mark.parametrize(("rank", "wide"), [(1, False), (2, False), (3, True)])
def test_where_groups_sum_in_float32(rank: int, wide: bool, wide_sums: list[bool]) -> None:
    layer = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[rank - 1]
    for kernel in (1, 3):  # a single pixel of several groups is no one matrix
        model = layer(8, 8, kernel, groups=4).half().requires_grad_(False)
        plan(stage(model, torch.randn(1, 8, *[4] * rank).half()))
    assert wide_sums == [wide, wide]


def test_convolutions_of_one_pixel_sum_as_tensorrt_does(wide_sums: list[bool]) -> None:
    class Squeeze(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.down, self.up = nn.Conv2d(8, 2, 1), nn.Conv2d(2, 8, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * self.up(nn.functional.silu(self.down(x.mean((2, 3), keepdim=True)))).sigmoid()

    plan(stage(Squeeze().half().requires_grad_(False), torch.randn(1, 8, 6, 6).half()))
    assert wide_sums == [False, False]
