"""The comparison of an engine with PyTorch: every output, by value, and nothing that is right is refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from trt_stripped_backend.verify import difference

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
#: Relative errors that a type's own rounding explains, and ones that it does not.
FINE = {torch.float32: 1e-5, torch.float16: 3e-3, torch.bfloat16: 2e-2}
WRONG = {torch.float32: 1e-3, torch.float16: 5e-2, torch.bfloat16: 0.2}


def sample(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(64, 32, generator=torch.Generator().manual_seed(0)).to(dtype)


def noisy(value: torch.Tensor, size: float) -> torch.Tensor:
    noise = torch.randn(value.shape, generator=torch.Generator().manual_seed(1))
    return (value.float() * (1 + size * noise)).to(value.dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rounding_is_no_difference(dtype: torch.dtype) -> None:
    value = sample(dtype)
    assert difference([value.clone()], [value], tf32=False) == ""
    assert difference([noisy(value, FINE[dtype])], [value], tf32=False) == ""


@pytest.mark.parametrize("dtype", DTYPES)
def test_more_than_rounding_is_one(dtype: torch.dtype) -> None:
    value = sample(dtype)
    assert "relative error" in difference([noisy(value, WRONG[dtype])], [value], tf32=False)


def test_tf32_widens_the_bound_of_float32_alone() -> None:
    value = sample()
    assert difference([noisy(value, 1e-3)], [value], tf32=True) == ""
    assert difference([noisy(value, 1e-1)], [value], tf32=True)
    half = sample(torch.float16)
    assert difference([noisy(half, WRONG[torch.float16])], [half], tf32=True)


def edited(value: torch.Tensor, edit: Callable[[torch.Tensor], object]) -> torch.Tensor:
    value = value.clone()
    edit(value)
    return value


WRONGS: list[tuple[str, Callable[[torch.Tensor], torch.Tensor]]] = [
    ("one_element", lambda v: edited(v, lambda t: t[3, 4].add_(1))),
    ("scaled", lambda v: v * 1.01),
    ("shifted", lambda v: v + 0.01),
    ("rolled", lambda v: v.roll(1, 0)),
    ("negated", lambda v: -v),
    ("zeros", torch.zeros_like),
    ("nan", lambda v: edited(v, lambda t: t[0, 0].fill_(float("nan")))),
    ("infinite", lambda v: edited(v, lambda t: t[0, 0].fill_(float("inf")))),
    ("shape", lambda v: v.t()),
    ("dtype", lambda v: v.half()),
]


@pytest.mark.parametrize("change", [pytest.param(c, id=name) for name, c in WRONGS])
@pytest.mark.parametrize("position", [0, 1, 2])
def test_every_output_is_compared(change: Callable[[torch.Tensor], torch.Tensor], position: int) -> None:
    reference = [sample(), sample() * 3, sample() * 1e-6]
    outputs = [r.clone() for r in reference]
    assert difference(outputs, reference, tf32=False) == ""
    outputs[position] = change(outputs[position])
    found = difference(outputs, reference, tf32=False)
    assert found.startswith(f"output {position}")
    assert "\n" not in found


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_element_among_many(dtype: torch.dtype) -> None:
    """Too little for the error of the whole, and still wrong."""
    value = torch.ones(1 << 21, dtype=dtype)
    value[7] = 4
    assert "worst element" in difference([value], [torch.ones_like(value)], tf32=True)


def test_infinities_and_nans_in_the_same_places_are_equal() -> None:
    value = sample()
    value[0, 0], value[1, 1], value[2, 2] = float("inf"), float("-inf"), float("nan")
    assert difference([noisy(value, 1e-6)], [value], tf32=False) == ""
    swapped = value.clone()
    swapped[0, 0] = float("-inf")
    assert "infinity" in difference([swapped], [value], tf32=False)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.bool])
def test_whole_numbers_are_exact(dtype: torch.dtype) -> None:
    value = torch.arange(12).view(3, 4).to(dtype)
    assert difference([value.clone()], [value], tf32=False) == ""
    other = value.clone()
    other[1, 1] = 0
    assert difference([other], [value], tf32=False) == "output 0: 1 of 12 elements differ from PyTorch"


def test_corners() -> None:
    empty, scalar, zeros = torch.empty(0, 3), torch.tensor(2.0), torch.zeros(4)
    assert difference([empty, scalar, zeros], [empty.clone(), scalar.clone(), zeros.clone()], tf32=False) == ""
    assert difference([], [], tf32=False) == ""
    assert difference([torch.empty(0, 4)], [empty], tf32=False)
    assert difference([torch.tensor(2.1)], [scalar], tf32=False)
    assert difference([torch.full((4,), 1e-3)], [zeros], tf32=False)
    huge = torch.full((4,), 6e4, dtype=torch.float16)
    assert difference([huge.clone()], [huge], tf32=False) == ""
