"""Dynamic shapes without a GPU: converters on other sizes than the traced ones, real plans, and keys."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import trt_stripped_backend as ts
from tests import harness_dynamic
from tests.cases import Case, T, all_cases
from tests.graphs import perturb
from tests.torch_network import TorchNetwork
from trt_stripped_backend import lowering
from trt_stripped_backend.build import build
from trt_stripped_backend.compilation import Compilation
from trt_stripped_backend.flavour import load
from trt_stripped_backend.key import canonical, make_key
from trt_stripped_backend.ops.net import Net
from trt_stripped_backend.options import Options
from trt_stripped_backend.profile import ranges
from trt_stripped_backend.sizes import dim as size_of


def drawn(share: int) -> list[Any]:
    """Every so many of the cases."""
    rows = [(f"{family}/{case.name}", case) for family, case in all_cases() if case.rejected is None]
    return [pytest.param(case, id=name) for name, case in rows if zlib.crc32(name.encode()) % share == 0]


@pytest.mark.parametrize("case", drawn(14))
def test_values_for_other_sizes(case: Case) -> None:
    harness_dynamic.emulate(case)


@pytest.mark.parametrize("case", drawn(24))
def test_other_sizes_are_built(case: Case) -> None:
    for dims in ((0,), range(8)):
        for piece in harness_dynamic.lower(case, dims)[0]:
            signature = canonical(piece)[1]
            sizes = ranges(piece, signature, None)
            given = {"flavour": load(), "mode": "bound", "options": Options.of({}), "tf32": False, "ranges": sizes}
            assert build(piece, signature, make_key({}), **given).plan


def test_numbers_made_of_sizes() -> None:
    """A padding whose size, or a fill whose value, is a size that only a call tells."""

    def fn(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return nn.functional.pad(x, (0, 0, 0, 16 - x.shape[1])) * 2, x.new_full((4,), x.shape[1])

    assert harness_dynamic.emulate(Case("", fn, (T((2, 5, 4)),))) > 0


class Decoder(nn.Module):
    """A causal layer over a sequence of any length, with learned positions and literals that depend on the length."""

    def __init__(self) -> None:
        super().__init__()
        self.places, self.qkv, self.out = nn.Embedding(64, 16), nn.Linear(16, 48), nn.Linear(16, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, _ = x.shape
        x = x + self.places(torch.arange(length, device=x.device))
        q, k, v = self.qkv(x).view(batch, length, 3, 2, 8).permute(2, 0, 3, 1, 4)
        y = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return torch.relu(self.out(y.transpose(1, 2).reshape(batch, length, 16))) + x


class Pyramid(nn.Module):
    """Images of any size: halved, enlarged, rolled along a fixed dimension, and the best channels."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(16, 6, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.first(x))
        small = nn.functional.max_pool2d(x, 2)
        large = nn.functional.interpolate(small, scale_factor=2.0, mode="nearest")
        smooth = nn.functional.interpolate(nn.functional.avg_pool2d(small, 3, 1, 1), scale_factor=2, mode="bilinear")
        return self.second(torch.cat([large, smooth.roll(1, 1)], 1)).topk(2, 1).values


def planned(model: nn.Module, *shapes: tuple[int, ...], bounds: tuple[int, int] | None = None, **options: Any) -> Any:
    """The compilations of calls with inputs of these shapes, up to the plans; the last dimension but one is dynamic."""
    found: list[Compilation] = []

    def capture(gm: Any, inputs: Any, **_: Any) -> Any:
        def compile(lowered: lowering.Lowered) -> Any:
            found.append(Compilation.of(Options.of({"min_block_size": 1, **options}), load(), None))
            found[-1].plan(lowered)
            return lowering.boxed(lowered.module)

        return lowering.trace(gm, inputs, compile)

    torch._dynamo.reset()
    fast = torch.compile(model, backend=capture, dynamic=None if bounds else True)
    with torch.no_grad():
        for shape in shapes:
            x = torch.randn(shape)
            if bounds:
                torch._dynamo.mark_dynamic(x, len(shape) - 2, min=bounds[0], max=bounds[1])
            torch.testing.assert_close(fast(x), model(x))
    return found


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRT_STRIPPED_CACHE_DIR", str(tmp_path / "cache"))
    torch._dynamo.reset()


@pytest.mark.parametrize("mode", ["bound", "general"])
def test_one_plan_for_all_lengths(mode: str) -> None:
    (one,) = planned(perturb(Decoder()), (2, 5, 16), (2, 9, 16), (3, 33, 16), refit_mode=mode)
    assert one.report.rejections == []
    assert [p.status for p in one.report.partitions] == ["built"]
    (record,) = ts.open_cache().entries()
    assert record.header["ranges"] == [[2, 2, 4096], [2, 8, 4096]]


def test_one_plan_for_images_of_all_heights() -> None:
    found = planned(perturb(Pyramid()), (2, 3, 8, 12), (2, 3, 12, 12), (2, 3, 6, 12))
    assert all(one.report.rejections == [] for one in found)
    assert [[p.status for p in one.report.partitions] for one in found] == [["built"]] * len(found)
    assert found[-1].report.partitions[0].nodes > 9


def test_other_examples_find_the_same_plan() -> None:
    first = planned(perturb(Decoder()), (2, 5, 16))
    other = planned(perturb(Decoder(), seed=1), (2, 7, 16))
    assert [c.report.partitions[0].status for c in (*first, *other)] == ["built", "hit"]


def _keys(position: int, dims: tuple[int, int]) -> list[str]:
    """Of the engines for a view whose sizes are a product, where the tensor is the argument at ``position``."""

    def fn(*given: torch.Tensor) -> torch.Tensor:
        x = given[position]
        whole = x.relu().reshape(-1).cumsum(0)
        return (whole.exp() + 1).view(x.shape[dims[0]], x.shape[dims[1]]).softmax(1).sin()

    x = torch.randn(6, 10)
    for dim in (0, 1):
        torch._dynamo.mark_dynamic(x, dim)
    report = ts.explain(fn, *[torch.randn(1)] * position, x, options={"min_block_size": 1})
    return [one.key for one in report.partitions]


def test_names_of_pytorchs_symbols_do_not_matter() -> None:
    """Which depend on the argument that a size is of, and on how many there are."""
    assert _keys(0, (1, 0)) == _keys(3, (1, 0))
    assert _keys(0, (1, 0))[1] != _keys(0, (0, 1))[1]


def test_ranges_are_a_part_of_the_key() -> None:
    model = perturb(nn.Sequential(nn.Linear(16, 16), nn.GELU()))
    found = [planned(model, (2, 5, 16), bounds=(2, high))[0].report.partitions[0] for high in (16, 32, 16)]
    assert [p.status for p in found] == ["built", "built", "hit"]
    assert found[0].key != found[1].key
    assert found[1].differs == ("ranges.0",)


def test_static_and_dynamic_are_two_plans() -> None:
    model = perturb(nn.Sequential(nn.Linear(16, 16), nn.GELU()))
    keys = [planned(model, (2, 5, 16), bounds=b)[0].report.partitions[0].key for b in ((2, 16), None)]
    assert keys[0] != keys[1]


def test_what_the_range_option_says() -> None:
    planned(perturb(nn.Linear(16, 16)), (5, 16), dynamic_range=(4, 100))
    (record,) = ts.open_cache().entries()
    assert record.header["ranges"] == [[4, 8, 100]]


def test_sizes_that_must_be_multiples() -> None:
    """TensorRT tries the smallest, the largest and the best size of a range."""

    class Windows(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = x.view(x.shape[0] // 7, 7, 16).relu()
            return (y @ y.transpose(1, 2)).softmax(-1).view(-1, 7) * 2

    (one,) = planned(Windows(), (14, 16), (77, 16))
    assert [p.status for p in one.report.partitions] == ["built"]
    (record,) = ts.open_cache().entries()
    assert record.header["ranges"] == [[14, 21, 4095]]


def test_a_view_of_an_argument_is_pytorchs() -> None:
    """AOTAutograd makes it anew, with the strides and the offset of ours: those of the size in the call."""

    class Half(nn.Module):
        def forward(self, x: torch.Tensor) -> Any:
            return x.relu(), x[:, x.shape[1] // 2 :]

    (one,) = planned(Half(), (2, 6, 16), (2, 9, 16))
    assert [p.nodes for p in one.report.partitions] == [1]


def test_sizes_that_depend_on_data_stay_in_pytorch() -> None:
    class Chosen(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.relu()[x.sum(-1) > 0] * 2

    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        (one,) = planned(Chosen(), (4, 16))
    assert {r.kind for r in one.report.rejections} >= {"data"}
    assert one.report.nodes_in_engines >= 1


#: Of shape [2, 6, 16], and how many tensors RTX is kept from computing together with what follows.
APART: dict[str, tuple[Any, int]] = {
    "columns": (lambda x: x - x.amax(1, keepdim=True), 1),
    "without their dimension": (lambda x: x.amin(1), 1),
    "of all sizes": (lambda x: x / x.abs().amax((1, 2), keepdim=True), 0),
    "rows": (lambda x: x - x.amax(2, keepdim=True), 0),
    "one column": (lambda x: x[..., :1].amax(1, keepdim=True), 0),
    "sums": (lambda x: x / x.sum(1, keepdim=True), 0),
    "rows and back": (lambda x: x.mT.flatten(0, 1).softmax(-1).view(-1, 16, x.shape[1]), 1),
    "rows alone": (lambda x: x.mT.flatten(0, 1).softmax(-1), 0),
    "back alone": (lambda x: x.mT.softmax(-1).flatten(0, 1), 0),
    "a reduction between": (lambda x: x.mT.flatten(0, 1).softmax(-1).amax(-1).view(-1, 16), 0),
    "fixed rows": (lambda x: x.flatten(0, 1).softmax(-1).view(x.shape), 0),
}


@pytest.mark.parametrize(("fn", "count"), APART.values(), ids=APART.keys())
def test_what_rtx_gets_wrong_of_dynamic_sizes(fn: Any, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    copies, real = [], TorchNetwork.add_scatter
    monkeypatch.setattr(TorchNetwork, "add_scatter", lambda *args: copies.append(args) or real(*args))
    monkeypatch.setattr(harness_dynamic, "_DIMS", ((1,),))
    assert harness_dynamic.emulate(Case("", fn, (T((2, 6, 16)),))) > 0
    assert len(copies) == count


def test_enough_rows_are_as_they_are() -> None:
    for low, few in ((2, True), (64, False)):
        rows = size_of("s", {"s": (low, 4096)})
        assert Net._may_be_few([2, rows, 16], {1}, [0, 2]) is few
        assert not Net._may_be_few([2, rows, 1], {1}, [0, 2])


def test_products_of_one_matrix_are_of_two_dimensions(monkeypatch: pytest.MonkeyPatch) -> None:
    ranks: list[int] = []
    real = TorchNetwork.add_matrix_multiply
    monkeypatch.setattr(
        TorchNetwork, "add_matrix_multiply", lambda net, a, *args: ranks.append(len(a.shape)) or real(net, a, *args)
    )
    attention = nn.functional.scaled_dot_product_attention
    for fn, shape, rank in (
        (lambda x: (x @ x.mT).softmax(-1) @ x, (1, 5, 8), 2),
        (lambda x: attention(x, x, x), (1, 1, 5, 8), 2),
        (lambda x: (x @ x.mT).softmax(-1) @ x, (2, 5, 8), 3),
        (lambda x: x @ x.new_ones(8, 3), (1, 5, 8), 3),
    ):
        ranks.clear()
        assert harness_dynamic.emulate(Case("", fn, (T(shape),))) > 0
        assert set(ranks) == {rank}


def test_norms_of_dynamic_sizes() -> None:
    class Norms(nn.Module):
        def forward(self, x: torch.Tensor) -> Any:
            groups = nn.functional.group_norm(x.mT, 4), nn.functional.instance_norm(x.mT)
            rows = nn.functional.layer_norm(x.mT, x.shape[1:2]), nn.functional.layer_norm(x[0], x.shape[1:])
            return *groups, *rows, nn.functional.batch_norm(x.mT, None, None, training=True)

    (one,) = planned(Norms(), (3, 5, 16), (3, 9, 16), bounds=(2, 9))
    assert one.report.rejections == []
