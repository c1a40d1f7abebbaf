"""The fingerprint of values: every bit, the order and the shapes count; the memory and the layout do not."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trt_stripped_backend.fingerprint import _coefficients, fingerprint


def splitmix64(state: int) -> int:
    """The generator's definition, on Python's integers."""
    mask = (1 << 64) - 1
    z = state * 0x9E3779B97F4A7C15 & mask
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & mask
    z = (z ^ z >> 27) * 0x94D049BB133111EB & mask
    return z ^ z >> 31


def test_coefficients_are_splitmix64() -> None:
    have = _coefficients(torch.device("cpu"))[0, :100].tolist()
    assert [value % (1 << 64) for value in have] == [splitmix64(i) for i in range(1, 101)]


def test_equal_values_agree_wherever_they_lie() -> None:
    x, y = torch.randn(300, 1000), torch.randn(7).half()
    first = fingerprint([x, y, torch.empty(0), torch.tensor(3)])
    assert len(first) == 32
    assert first == fingerprint([x.t().contiguous().t(), torch.cat([y, y])[7:], torch.empty(0), torch.tensor(3)])


@settings(deadline=None)
@given(st.integers(0, 299_999), st.integers(0, 31))
def test_one_flipped_bit_shows(position: int, bit: int) -> None:
    x = torch.arange(300_000, dtype=torch.int32)  # more than one block
    before = fingerprint([x])
    x[position] ^= -(1 << 31) if bit == 31 else 1 << bit
    assert fingerprint([x]) != before


def test_order_shape_and_dtype_show() -> None:
    a, b = torch.zeros(4), torch.ones(4)
    seen = [
        fingerprint(tensors)
        for tensors in (
            [a, b], [b, a], [torch.cat([a, b])], [a.view(2, 2), b], [a.int(), b], [a], [], [a.half(), b], [a, b, a],
            *([torch.zeros(n)] for n in (1, 2, 3, 5)),
        )
    ]  # fmt: skip
    assert len(set(seen)) == len(seen)
    x = torch.randn(1000)
    assert fingerprint([x]) != fingerprint([x.flip(0)])
