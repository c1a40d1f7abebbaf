"""Weight sets: layout, identity, lifetime, threads, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from tests.graphs import Engines, aligned, live_weights, memory, trace
from trt_stripped_backend import live, placement
from trt_stripped_backend.errors import RefitFailed
from trt_stripped_backend.live import Bundle
from trt_stripped_backend.placement import fits, laid_out
from trt_stripped_backend.types import TensorSpec


def plain(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return x @ w


def derived(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return x @ (w * 2)


def lora(*given: torch.Tensor) -> torch.Tensor:
    w, a, b, x = given
    return x @ (w + a @ b)


X = torch.randn(3, 4)


def held(bundle: Bundle, slot: int = 0) -> torch.Tensor:
    """What an engine would read for a slot of the first partition."""
    spec = bundle.live.slots[0][slot][1].spec
    return memory(bundle.set.pointers[0][slot], spec).clone()


# ------------------------------------------------------------------------------------------------ layout

BASE = torch.randn(4, 6, 1, 2)
LAYOUTS: list[tuple[str, torch.Tensor, bool]] = [
    ("contiguous", aligned(BASE), True),
    ("other_alignment", aligned(BASE, 512, 256), True),
    ("misaligned", aligned(BASE, 256, 64), False),
    ("one_element_off", aligned(torch.randn(4 * 12 + 1))[1:].view(4, 6, 1, 2), False),
    ("transposed", aligned(torch.randn(6, 4, 1, 2)).transpose(0, 1), False),
    ("sliced", aligned(torch.randn(8, 6, 1, 2))[::2], False),
    ("expanded", aligned(torch.randn(1, 6, 1, 2)).expand(4, 6, 1, 2), False),
    ("odd_stride_of_1", aligned(BASE).as_strided((4, 6, 1, 2), (12, 2, 77, 1)), True),
]


@pytest.mark.parametrize(("value", "fitting"), [pytest.param(v, f, id=name) for name, v, f in LAYOUTS])
def test_layouts(value: torch.Tensor, fitting: bool) -> None:
    spec = TensorSpec.of(BASE)
    assert fits(value, spec) is fitting
    bound = laid_out(value, spec)
    assert (bound is value) is fitting
    torch.testing.assert_close(bound, value, check_stride=False)
    own = laid_out(bound if fitting else aligned(bound), spec)
    assert torch.equal(memory(own.data_ptr(), spec), value)


def test_channels_last_fits_its_own_spec() -> None:
    image = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    flat = aligned(image.permute(0, 2, 3, 1))
    value = flat.permute(0, 3, 1, 2)
    assert fits(value, TensorSpec.of(image))
    assert not fits(value, TensorSpec.of(image.contiguous()))
    assert torch.equal(laid_out(value, TensorSpec.of(image.contiguous())), image)


def test_empty_and_zero_dimensional_weights() -> None:
    staged = trace(lambda e, s, x: torch.cat([x * s, e]), 2, torch.empty(0, 4), torch.tensor(2.0), X)
    found = live_weights(staged, copies=False).current([torch.empty(0, 4), torch.tensor(3.0), X])
    pointers, slots = found.set.pointers[0], found.live.slots[0]
    by_shape = {slot.spec.shape: pointer for pointer, (_, slot) in zip(pointers, slots, strict=True)}
    assert memory(by_shape[()], TensorSpec.of(torch.tensor(1.0))) == 3


# ------------------------------------------------------------------------------------------------ refusals

BAD: list[tuple[str, Callable[[], torch.Tensor], str]] = [
    ("dtype", lambda: torch.randn(4, 4).half(), r"float16\[4, 4\] on cpu"),
    ("shape", lambda: torch.randn(4, 5), r"float32\[4, 5\]"),
    ("broadcast", lambda: torch.randn(4, 1), r"float32\[4, 1\]"),
    ("meta", lambda: torch.randn(4, 4, device="meta"), "on meta"),
    ("freed", lambda: freed(torch.randn(4, 4)), "freed"),
]


def freed(value: torch.Tensor) -> torch.Tensor:
    value.untyped_storage().resize_(0)
    return value


@pytest.mark.parametrize("copies", [False, True])
@pytest.mark.parametrize("fn", [plain, derived])
@pytest.mark.parametrize(("make", "message"), [pytest.param(make, m, id=name) for name, make, m in BAD])
def test_a_weight_that_was_not_traced_is_refused(
    fn: Callable[..., Any], make: Callable[[], torch.Tensor], message: str, copies: bool
) -> None:
    w = torch.randn(4, 4)
    found = live_weights(trace(fn, 1, w, X), copies=copies)
    good = found.current([w, X])
    with pytest.raises(RefitFailed, match=f"weight p0 .*{message}"):
        found.current([make(), X])
    assert found.current([w, X]).set is good.set, "nothing of the good one is lost"


@pytest.mark.parametrize("copies", [False, True])
@pytest.mark.parametrize("fn", [plain, derived])
def test_another_layout_at_the_same_address(
    fn: Callable[..., Any], copies: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What PyTorch 2.11 lets through: its guards do not look at a parameter again after ``p.data = …``."""
    monkeypatch.setattr(live, "_UNGUARDED", True)
    monkeypatch.setattr(placement, "ALIGNMENT", 1)
    w = nn.Parameter(torch.randn(4, 4))
    found = live_weights(trace(fn, 1, w.detach(), X), copies=copies)
    scale = 1 if fn is plain else 2
    for _ in range(2):
        torch.testing.assert_close(held(found.current([w, X])), w.detach() * scale)
        w.data = w.data.t()
        torch.testing.assert_close(held(found.current([w, X])), w.detach() * scale)
        torch.testing.assert_close(found.current([w, X]).slots(0)[0], w.detach() * scale, check_stride=False)
    whole = w.data
    for other in (whole[:2], whole.view(torch.int32)):
        w = nn.Parameter(whole)
        found.current([w, X])
        with pytest.raises(RefitFailed, match="weight p0"):
            found.current([other, X])


# ------------------------------------------------------------------------------------------------ sets


def test_only_what_changed_is_computed() -> None:
    def fn(a: torch.Tensor, b: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return x @ a.exp() @ b.exp()

    a, b = torch.randn(4, 4), torch.randn(4, 4)
    found = live_weights(trace(fn, 2, a, b, X), copies=False)
    before = found.current([a, b, X])
    written = [value._version for value in before.set.values]
    b.add_(1)
    after = found.current([a, b, X])
    assert [value._version for value in after.set.values] == [written[0], written[1] + 1]
    torch.testing.assert_close(after.set.values[1], b.exp())


@pytest.mark.parametrize("inference", [False, True])
def test_a_written_weight_is_made_anew_in_the_same_memory(inference: bool) -> None:
    """What holds the address, a recorded CUDA graph too, reads the new values; after a refresh as well."""
    w, odd = torch.randn(4, 4), torch.randn(4, 9)[:, 1:5]
    found = live_weights(trace(lambda w, odd, x: x @ (w * 2) @ odd, 2, w, odd, X), copies=False)
    with torch.inference_mode(inference):
        first = found.current([w, odd, X])
    pointers = first.set.pointers
    for seen in (True, False):
        for source in (w, odd):
            (source if seen else source.data).add_(1)
        if not seen:
            live.refresh_all()
        now = found.current([w, odd, X])
        assert (now.set.pointers, now.set.token is first.set.token) == (pointers, False)
        torch.testing.assert_close(held(first, 0), w * 2)
        torch.testing.assert_close(held(first, 1), odd)


def test_a_running_call_keeps_its_weights() -> None:
    w = torch.randn(4, 4)
    found = live_weights(trace(derived, 1, w, X), copies=False)
    running, before = found.current([w, X]), w * 2
    pointers = running.set.pointers
    w.data = w + 1
    torch.testing.assert_close(held(found.current([w, X])), w * 2)
    assert running.set.pointers is pointers
    torch.testing.assert_close(held(running), before)
    torch.testing.assert_close(running.slots(0)[0], before)


@pytest.mark.parametrize("copies", [False, True])
def test_adapters_back_and_forth(copies: bool) -> None:
    w, x = torch.randn(4, 4), X
    first, second = ([torch.randn(4, 2), torch.randn(2, 4)] for _ in range(2))
    engines = Engines(copies=copies)
    staged = trace(lora, 3, w, *first, x)
    results = [engines(staged, [w, *adapter, x]) for adapter in (first, second, first, second, first)]
    assert torch.equal(results[0], results[2])
    assert torch.equal(results[0], results[4])
    assert torch.equal(results[1], results[3])
    torch.testing.assert_close(results[0], lora(w, *first, x))
    torch.testing.assert_close(results[1], lora(w, *second, x))
    assert engines.refits == (2 if copies else 0)
    saved = [t.clone() for t in first]
    for mine, other in zip(first, second, strict=True):
        mine.copy_(other)
    assert torch.equal(engines(staged, [w, *first, x]), results[1])
    for mine, other in zip(first, saved, strict=True):
        mine.copy_(other)
    assert torch.equal(engines(staged, [w, *first, x]), results[0])


def test_graphs_of_one_model_share_derived_weights() -> None:
    w = torch.randn(4, 4)
    one, two = (live_weights(trace(derived, 1, w, X), copies=False) for _ in range(2))
    assert one.current([w, X]).set.values[0] is two.current([w, X]).set.values[0]
    w.add_(1)
    torch.testing.assert_close(two.current([w, X]).set.values[0], w * 2)
    torch.testing.assert_close(one.current([w, X]).set.values[0], w * 2)
    other = live_weights(trace(lambda w, x: x @ (w * 3), 1, w, X), copies=False)
    torch.testing.assert_close(other.current([w, X]).set.values[0], w * 3)
    literal = [live_weights(trace(_with_literal(c), 1, w, X), copies=False) for c in (1.0, 5.0)]
    for found, c in zip(literal, (1.0, 5.0), strict=True):
        torch.testing.assert_close(found.current([w, X]).set.values[0], w * torch.full((4,), c))


def _with_literal(value: float) -> Callable[..., torch.Tensor]:
    return lambda w, x: x @ (w * torch.tensor([value] * 4))


def test_refresh_reads_everything_anew() -> None:
    w = torch.randn(4, 4)
    one, two = (live_weights(trace(fn, 1, w, X), copies=True) for fn in (plain, derived))
    before = [found.current([w, X]) for found in (one, two)]
    w.data.add_(1)
    assert [found.current([w, X]).set for found in (one, two)] == [b.set for b in before]
    live.refresh_all()
    after = [found.current([w, X]) for found in (one, two)]
    for old, new in zip(before, after, strict=True):
        assert new.set.token is not old.set.token
        assert new.set.stamps != old.set.stamps
    torch.testing.assert_close(after[1].set.values[0], w * 2)
