"""What converters keep out of kernels that TensorRT-RTX 1.6.1 gets wrong: only a GPU tells whether that helps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from tests.cases import Case, T
from tests.harness import emulate
from tests.torch_network import TorchNetwork
from trt_stripped_backend.ops.net import Net

Fn = Callable[..., torch.Tensor]


@pytest.fixture
def layers(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How many layers of a kind the converters added."""
    seen: Counter[str] = Counter()

    def watch(name: str) -> None:
        real = getattr(TorchNetwork, f"add_{name}")

        def add(self: TorchNetwork, *args: Any, **kwargs: Any) -> Any:
            seen[name] += 1
            return real(self, *args, **kwargs)

        monkeypatch.setattr(TorchNetwork, f"add_{name}", add)

    for name in ("select", "scatter", "gather", "cast"):
        watch(name)
    return seen


def check(fn: Fn, *inputs: T, weights: tuple[int, ...] = ()) -> None:
    emulate(Case("fusion", fn, inputs, weights, tol=2e-2))


X, W, B = T((5, 8), kind="pos"), T((6, 8)), T((6,))
HALF = torch.float16

MULTIPLIED: dict[str, Fn] = {
    "relu": lambda x, w, b: F.linear(x, w, b).relu() * 2,
    "gelu": lambda x, w, b: F.gelu(F.linear(x, w, b)).square(),
    "gate": lambda x, w, b: (lambda y: y * F.gelu(y, approximate="tanh"))(F.linear(x, w, b)),
    "written out": lambda x, w, b: (lambda y: y * (1 + torch.erf(y)))(F.linear(x, w, b)),
    "a scaled sum": lambda x, w, b: (lambda y: torch.add(y, y.relu(), alpha=2))(F.linear(x, w, b)),
    "the sum with a vector": lambda x, w, b: (F.linear(x, w, b).relu() + b) * 2,
    "another dimension": lambda x, w, b: F.linear(x, w, b).relu().unsqueeze(0) * 2,
}
NOT_MULTIPLIED: dict[str, Fn] = {
    "a product": lambda x, w, b: F.linear(x, w, b).relu() @ w,
    "another layer": lambda x, w, b: F.linear(F.gelu(F.linear(x, w, b)), w.t()),
    "a sum": lambda x, w, b: (lambda r: r.mean(-1) + (r + F.linear(x, w)).sum(-1))(F.linear(x, w, b).relu()),
    "joined": lambda x, w, b: torch.cat([F.linear(x, w, b).relu(), x], 1),
}


@pytest.mark.parametrize("fn", MULTIPLIED.values(), ids=MULTIPLIED.keys())
def test_a_multiplied_activation_is_chosen_from(fn: Fn, layers: Counter[str]) -> None:
    check(fn, X, W, B, weights=(1, 2))
    assert layers["select"] == 1


@pytest.mark.parametrize("fn", NOT_MULTIPLIED.values(), ids=NOT_MULTIPLIED.keys())
def test_another_is_not(fn: Fn, layers: Counter[str]) -> None:
    check(fn, X, W, B, weights=(1, 2))
    assert not layers["select"]


def test_nor_one_of_a_half_type(layers: Counter[str]) -> None:
    check(MULTIPLIED["relu"], *(T(t.shape, HALF) for t in (X, W, B)), weights=(1, 2))
    assert not layers["select"]


def test_what_is_no_number_stays_so_behind_an_activation(layers: Counter[str]) -> None:
    check(lambda x: x.relu() * 2, T((4, 9), kind="nan"))
    assert layers["select"] == 1


def test_nor_is_a_tanh_part_of_an_exact_product(layers: Counter[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def check_both() -> None:
        check(lambda x, w: F.linear(F.linear(x, w).tanh(), w.t()), X, W, weights=(1,))
        check(lambda x, w: F.linear(F.gelu(F.linear(x, w), approximate="tanh"), w.t()), X, W, weights=(1,))

    check_both()
    assert not layers["select"]
    monkeypatch.setattr(Net, "exact_float32", property(lambda net: True, lambda net, value: None), raising=False)
    check_both()
    assert layers["select"] == 2


ODD: dict[str, tuple[Fn, int]] = {  # and how many matrices are computed before
    "left": (lambda x, y: x.log() @ y, 1),
    "right": (lambda x, y: x @ y.log(), 1),
    "both": (lambda x, y: x.log() @ y.log(), 2),
    "added to": (lambda x, y: torch.addmm(x.sum(1, keepdim=True), x.exp(), y), 1),
    "given": (lambda x, y: x @ y, 0),
    "views of what is given": (lambda x, y: x.view(1, 5, 7) @ y.t().contiguous().t(), 0),
    "probabilities": (lambda x, y: x.log().softmax(-1) @ y.relu(), 0),
    "finite of zeros": (lambda x, y: F.layer_norm(x / 2 + 1, (7,)) @ torch.cat([y, y.sigmoid()], 1), 0),
    "normalized": (lambda x, y: F.layer_norm(x.log(), (7,)) @ y, 1),
}


@pytest.mark.parametrize("dtype", [torch.float32, HALF], ids=str)
@pytest.mark.parametrize(("fn", "count"), ODD.values(), ids=ODD.keys())
def test_odd_sums_are_of_what_lies_in_memory(fn: Fn, count: int, dtype: torch.dtype, layers: Counter[str]) -> None:
    check(fn, T((5, 7), dtype, "pos"), T((7, 6), dtype, "pos"))
    assert layers["scatter"] == count


def test_even_sums_need_not_be(layers: Counter[str]) -> None:
    check(ODD["both"][0], T((5, 8), kind="pos"), T((8, 6), kind="pos"))
    check(lambda x, w: F.linear(x, w), T((5, 7)), T((6, 7)), weights=(1,))
    assert not layers["scatter"]


def test_one_element_that_is_repeated_is_gathered(layers: Counter[str]) -> None:
    check(lambda x: (x[..., :1] * x.exp()).sum(-1), X)
    assert layers["gather"] == 1
    check(lambda x: x[:, 2].unsqueeze(1) - x.exp(), X)
    assert layers["gather"] == 2
    check(lambda x: x[:, :1].exp(), X)
    check(lambda x: x[..., :4] * x[..., 4:], X)
    assert layers["gather"] == 2


def test_what_begins_with_the_same_element_is_gathered(layers: Counter[str]) -> None:
    check(lambda x: x.flip(-1), X)
    assert layers["gather"] == 1
    check(lambda x: x.flip(0).flip(-1)[:1].flip(0), X)
    assert layers["gather"] == 3
    check(lambda x: (x[:, ::2] * x.exp()[:, 1:5]).sum(-1), X)
    check(lambda x: (x[:, ::2] * x.exp().split(4, 1)[0]).sum(-1), X)
    assert layers["gather"] == 5


def test_what_does_not_is_a_slice(layers: Counter[str]) -> None:
    check(lambda x: x[:, ::2] * 2 + x[:, 1::2].exp(), X)
    check(lambda x: torch.cat([x[::2, ::2], x[::2, 1::2]], -1).mean(-1), T((6, 8)))
    check(lambda x: (x[:, ::2], x[:, :4]), X)
    check(lambda x: (torch.stack([-x[:, 1::2], x[:, ::2]], -1).flatten(1) * x).sum(-1), X)
    assert not layers["gather"]


AGAIN: dict[str, tuple[Fn, int]] = {  # and how many operands are copied
    "beside": (lambda a, x: (a @ x * x).sum(-1), 1),
    "beside what is made of it": (lambda a, x: (a @ x.cos() - x.sin()).sum(-1), 1),
    "behind another": (lambda a, x: (a @ (a @ x)).sum(-1), 2),
    "squared": (lambda a, x: (a @ a).softmax(-1), 1),
    "not reduced": (lambda a, x: a @ x * x, 0),
    "alone": (lambda a, x: (a @ x).sum(-1), 0),
    "beside something else": (lambda a, x: (x.mT @ a).sum(-1), 0),
}


@pytest.mark.parametrize(("fn", "count"), AGAIN.values(), ids=AGAIN.keys())
def test_few_terms_that_are_read_again_are_copied(fn: Fn, count: int, layers: Counter[str]) -> None:
    check(fn, T((3, 3)), T((3, 8)))
    assert layers["scatter"] == count


def test_more_terms_are_not(layers: Counter[str]) -> None:
    check(AGAIN["beside"][0], T((6, 6)), T((6, 8)))
    check(AGAIN["squared"][0], T((6, 6)), T((6, 8)))
    assert not layers["scatter"]


Q = T((4, 33, 32), HALF)
#: And how many values are cast, written to memory.
SUMMED: dict[str, tuple[Fn, int, int]] = {
    "scaled": (lambda q: (q @ q.mT * 0.1).softmax(-1), 6, 0),
    "by what is exact": (lambda q: (q @ q.mT * 0.5).softmax(-1), 5, 0),
    "another shape": (lambda q: (q @ q.mT * 0.1).flatten(1).unflatten(1, (33, 33)).mT.softmax(-1), 6, 0),
    "rounded by the model": (lambda q: ((q @ q.mT).float() * 0.1).half().softmax(-1), 7, 1),
    "a part of it": (lambda q: ((q @ q.mT).float()[..., :16] * 0.1).half().softmax(-1), 7, 0),
    "widened by the model": (lambda q: (q @ q.mT * 0.1).float().softmax(-1), 5, 0),
    "a factor again": (lambda q: (q @ q.mT * 0.1) @ q, 8, 0),
    "no product": (lambda q: (q * 0.1).softmax(-1), 4, 0),
}


@pytest.mark.parametrize(("fn", "casts", "copies"), SUMMED.values(), ids=SUMMED.keys())
def test_products_are_not_rounded_before_their_sums(fn: Fn, casts: int, copies: int, layers: Counter[str]) -> None:
    check(fn, Q)
    assert (layers["cast"], layers["scatter"]) == (casts, copies)
