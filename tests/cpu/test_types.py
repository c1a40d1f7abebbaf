"""Memory layouts: what PyTorch calls strides and an engine calls a physical shape."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trt_stripped_backend.types import Rejection, TensorSpec, dense_order, dtype_name, flat_bytes

shapes = st.lists(st.integers(0, 4), max_size=6)


@st.composite
def dense_tensors(draw: st.DrawFn) -> torch.Tensor:
    """A tensor that fills its memory, with its dimensions in any order."""
    shape = draw(shapes)
    order = draw(st.permutations(range(len(shape))))
    physical = torch.arange(torch.Size(shape).numel()).reshape([shape[d] for d in order])
    return physical.permute([order.index(d) for d in range(len(shape))])


@st.composite
def tensors(draw: st.DrawFn) -> torch.Tensor:
    """Any strided tensor: with gaps, overlaps, stride 0."""
    shape, strides = draw(shapes), draw(st.lists(st.integers(0, 30), min_size=6, max_size=6))
    return torch.empty(1000).as_strided(shape, strides[: len(shape)])


@given(dense_tensors())
def test_a_dense_tensor_is_contiguous_in_its_order(tensor: torch.Tensor) -> None:
    spec = TensorSpec.of(tensor)
    flat = tensor.permute(spec.order)
    assert flat.is_contiguous()
    assert tuple(flat.shape) == spec.physical
    assert spec.numel == tensor.numel()
    assert spec.nbytes == tensor.numel() * tensor.element_size()


@given(dense_tensors())
def test_strides_come_back(tensor: torch.Tensor) -> None:
    spec = TensorSpec.of(tensor)
    copy = torch.empty_strided(spec.shape, spec.stride, dtype=spec.dtype).copy_(tensor)
    assert torch.equal(copy, tensor)
    assert TensorSpec.of(copy) == spec
    if tensor.numel():
        real = [s for s, n in zip(tensor.stride(), tensor.shape, strict=True) if n > 1]
        assert [s for s, n in zip(spec.stride, spec.shape, strict=True) if n > 1] == real


@given(tensors())
def test_gaps_and_overlaps_have_no_order(tensor: torch.Tensor) -> None:
    order = dense_order(tuple(tensor.shape), tensor.stride())
    if order is None:
        assert TensorSpec.of(tensor).order == tuple(range(tensor.ndim))
    else:
        assert sorted(order) == list(range(tensor.ndim))
        assert tensor.permute(order).is_contiguous()


@given(shapes)
def test_a_contiguous_tensor_gives_the_identity(shape: list[int]) -> None:
    assert TensorSpec.of(torch.empty(shape)).order == tuple(range(len(shape)))


@pytest.mark.parametrize(
    ("shape", "order"),
    [
        ((2, 3, 4, 5), (0, 2, 3, 1)),
        ((2, 1, 4, 5), (0, 1, 2, 3)),
        ((1, 3, 4, 5), (0, 2, 3, 1)),
        ((2, 3, 1, 1), (0, 1, 2, 3)),
    ],
)
def test_channels_last(shape: tuple[int, ...], order: tuple[int, ...]) -> None:
    tensor = torch.empty(shape).to(memory_format=torch.channels_last)
    assert dense_order(shape, tensor.stride()) == order


def test_a_gap_is_seen() -> None:
    assert dense_order((4,), (2,)) is None
    assert dense_order((2, 2), (1, 1)) is None
    assert dense_order((3, 2), (0, 1)) is None


@given(dense_tensors(), st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.bool]))
def test_specs_go_through_json(tensor: torch.Tensor, dtype: torch.dtype) -> None:
    spec = TensorSpec.of(tensor.to(dtype))
    assert TensorSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


def test_dtype_names() -> None:
    assert dtype_name(torch.bfloat16) == "bfloat16"
    assert getattr(torch, dtype_name(torch.int64)) is torch.int64


def test_a_rejection_reads_as_a_sentence() -> None:
    one = Rejection("cumsum", "aten.cumsum.default", "refit", "not refittable", "model.py:3")
    assert str(one) == "aten.cumsum.default: not refittable (model.py:3)"


@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(3)[1:2], torch.arange(6).view(2, 3)[:1, 1], torch.arange(9.0)[::3], torch.tensor(2.5),
        torch.empty(0, 3), torch.arange(6).view(2, 3).t(), torch.tensor([True, False])[::2], torch.ones(2).half()[1],
        torch.as_strided(torch.arange(4), (1,), (3,)),
    ],
)  # fmt: skip
def test_bytes_of_odd_strides(tensor: torch.Tensor) -> None:
    raw = flat_bytes(tensor)
    assert (raw.dtype, raw.shape) == (torch.uint8, (tensor.nbytes,))
    assert raw.numpy().tobytes() == tensor.numpy().tobytes()
