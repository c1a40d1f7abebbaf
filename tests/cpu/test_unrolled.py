"""Reductions of two to four elements, each of what others make: engines end before TensorRT-RTX builds for minutes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

import trt_stripped_backend as ts
from tests.conformance import engines
from tests.conformance.samples import Sample
from tests.emulated import World
from tests.rounds import STEPS, layer, layer_of, products, rounds


def engines_of(fn: Callable[..., torch.Tensor], *inputs: torch.Tensor, build: bool = False) -> int:
    """How many engines these are, and that what they compute is right."""

    def outputs(*tensors: torch.Tensor) -> tuple[torch.Tensor]:
        return (fn(*tensors),)

    ran = engines.on_cpu(Sample(0, outputs, lambda _, *tensors: outputs(*tensors), inputs, ""), 0, build)
    assert not ran.rejections
    torch.testing.assert_close(ran.outputs[0], fn(*inputs), rtol=2e-2, atol=2e-2)
    return ran.engines


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("name", STEPS)
def test_the_fourth_begins_another_engine(name: str, dtype: torch.dtype) -> None:
    step, passes = STEPS[name]
    x = torch.rand(2, 4, 4).to(dtype) + 0.5
    assert engines_of(rounds(step), x, build=True) == (2 if passes == 1 else 6)


@pytest.mark.parametrize("shape", [(2, 5, 5), (1, 1), (2, 4, 4, 1), (2, 5, 4)], ids=str)
def test_others_stay_together(shape: tuple[int, ...]) -> None:
    """Sums of five elements or of one are not unrolled, and three of four may be."""
    assert engines_of(rounds(STEPS["sum"][0]), torch.rand(shape) + 0.5) == 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("tokens", "width"), [(4, 4), (2, 2), (3, 4)])
def test_small_products_are_written_out_as_sums(tokens: int, width: int, dtype: torch.dtype) -> None:
    assert engines_of(layer, *layer_of(tokens, width, dtype), build=True) > 1


@pytest.mark.parametrize("shape", [(4,), (1, 4), (3, 1, 4)], ids=str)
def test_and_those_of_rows_in_float32(shape: tuple[int, ...]) -> None:
    assert engines_of(products, torch.rand(shape), torch.rand(4, 4) / 4, build=True) == 3
    assert engines_of(products, torch.rand(*shape[:-1], 5), torch.rand(5, 5) / 5) == 1
    assert engines_of(products, torch.rand(6, 4), torch.rand(4, 4) / 4, build=True) == 1


def test_and_attention_of_one_token() -> None:
    assert engines_of(layer, *layer_of(1, 4, torch.float32), build=True) == 3


@pytest.mark.parametrize(("tokens", "width", "dtype"), [(8, 8, torch.float16), (3, 16, torch.bfloat16)])
def test_usual_layers_are_one_engine(tokens: int, width: int, dtype: torch.dtype) -> None:
    assert engines_of(layer, *layer_of(tokens, width, dtype)) == 1


def test_a_product_ends_a_row() -> None:
    def fn(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        for _ in range(3):
            x = rounds(STEPS["sum"][0], 1)(x) @ w
        return x

    assert engines_of(fn, torch.rand(7, 3, 3, 8).transpose(1, 3) + 0.5, torch.rand(3, 3)) == 2
    assert engines_of(fn, torch.rand(2, 3, 8) + 0.5, torch.rand(8, 8)) == 1


def test_reductions_beside_each_other_stay_together() -> None:
    def fn(x: torch.Tensor) -> torch.Tensor:
        return torch.stack([x.sum(-1), x.mean(-1), x.amax(-1), x.prod(-1), x.var(-1)])

    assert engines_of(fn, torch.rand(3, 4)) == 1


def test_all_of_a_tensor() -> None:
    def fn(x: torch.Tensor) -> torch.Tensor:
        for _ in range(4):
            x = x / x.sum()
        return x

    assert engines_of(fn, torch.rand(2, 2) + 0.5) == 2
    assert engines_of(fn, torch.rand(3, 2) + 0.5) == 1
    assert engines_of(fn, torch.tensor(2.0)) == 1


@torch.no_grad()
def test_a_note_says_where_and_why(world: World) -> None:
    def fn(x: torch.Tensor) -> torch.Tensor:
        for _ in range(12):
            x = x / x.sum(-1, keepdim=True)
            x = x / x.sum(-2, keepdim=True)
        return x

    x, options = torch.rand(2, 4, 4) + 0.5, {"min_block_size": 1}
    (note,) = ts.explain(fn, x, options=options).notes[:1]
    assert note.startswith("another engine begins at ")
    assert note.count(f"({__file__}:") == 6
    assert " and 1 more: TensorRT builds the two as one for minutes" in note
    for _ in range(2):  # the second finds the trace of the first
        torch.compiler.reset()
        torch.compile(fn, backend="trt_stripped", options=options)(x)
        assert ts.reports()[-1].notes == [note]
    assert ts.stats()["traces"] == 1


def test_sorting_ends_a_row() -> None:
    """As where a mixture of experts weighs the two best of four."""

    def fn(x: torch.Tensor) -> torch.Tensor:
        best, place = x.softmax(-1).topk(2)
        return (best / best.sum(-1, keepdim=True) * place).sum(-1)

    assert engines_of(fn, torch.rand(5, 4), build=True) == 1
