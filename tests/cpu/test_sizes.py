"""Sizes as data: the same expression whatever PyTorch called its symbols, exact values, and bounds never too narrow."""

from __future__ import annotations

from typing import Any

import pytest
import sympy
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext
from torch.utils._sympy.functions import FloorDiv, Mod

from trt_stripped_backend import sizes
from trt_stripped_backend.errors import Unsupported
from trt_stripped_backend.sizes import Dim, Size, dim, evaluate, from_json, interval, size, text

NAMES = ("d0", "d1")
RANGES = {"d0": (2, 9), "d1": (1, 6)}
S, T = sympy.symbols("s77 s3", integer=True, positive=True)
OF = {S: "d0", T: "d1"}

leaves: st.SearchStrategy[Size] = st.one_of(st.integers(-3, 9), st.sampled_from(NAMES))
expressions: st.SearchStrategy[Size] = st.recursive(
    leaves, lambda inner: st.tuples(st.sampled_from(sorted(sizes.OPERATORS)), inner, inner), max_leaves=6
)


def values() -> st.SearchStrategy[dict[str, int]]:
    return st.fixed_dictionaries({name: st.integers(*RANGES[name]) for name in NAMES})


@given(expressions, values())
def test_bounds_hold_every_value(expression: Size, known: dict[str, int]) -> None:
    try:
        value = evaluate(expression, known)
        low, high = interval(expression, RANGES)
    except ZeroDivisionError:
        return
    divisors = [e[2] for e in _all(expression) if isinstance(e, tuple) and e[0] in ("floordiv", "mod")]
    if all(interval(d, RANGES)[0] > 0 for d in divisors):  # the only divisors that shapes have
        assert low <= value <= high


def _all(expression: Size) -> list[Size]:
    inner = [one for e in expression[1:] for one in _all(e)] if isinstance(expression, tuple) else []
    return [expression, *inner]


@given(expressions)
def test_json_and_back(expression: Size) -> None:
    def as_json(value: Size) -> Any:
        return list(map(as_json, value)) if isinstance(value, tuple) else value

    assert from_json(as_json(expression)) == expression
    assert isinstance(hash(from_json(as_json(expression))), int)


@pytest.mark.parametrize(
    ("expression", "want"),
    [
        (sympy.Integer(3), 3),
        (S, "d0"),
        (S * T + 1, ("add", ("mul", "d0", "d1"), 1)),  # operands in the order of their text
        (S**3, ("mul", "d0", "d0", "d0")),
        (FloorDiv(S, 2), ("floordiv", "d0", 2)),
        (Mod(S, 2), ("mod", "d0", 2)),
        (sympy.Max(S, 7), None),
        (S - T, ("add", ("mul", -1, "d1"), "d0")),
    ],
)
def test_expressions_of_sympy(expression: sympy.Expr, want: Size) -> None:
    if want is None:
        with pytest.raises(Unsupported, match="cannot be computed in TensorRT"):
            size(expression, OF)
        return
    found = size(expression, OF)
    assert found == want
    for s, t in ((2, 5), (9, 1)):
        assert evaluate(found, {"d0": s, "d1": t}) == expression.subs({S: s, T: t})


def test_the_names_of_symbols_do_not_matter() -> None:
    other, another = sympy.symbols("s1 s99", integer=True, positive=True)
    assert size(S + 2 * T, OF) == size(other + 2 * another, {other: "d0", another: "d1"})


def test_arithmetic_of_dimensions() -> None:
    d, e = dim("d0", RANGES), dim("d1", RANGES)
    assert isinstance(d, Dim) and isinstance(e, Dim)
    known = {"d0": 7, "d1": 4}
    for made, want in (
        (d + 1, 8), (1 + d, 8), (d - e, 3), (10 - d, 3), (-d, -7), (d * e, 28), (3 * d, 21), (d // 2, 3), (20 // d, 2),
        (d % 4, 3), ((d + 1) * e, 32), (d * d - d, 42),
    ):  # fmt: skip
        assert isinstance(made, Dim)
        assert evaluate(made.size, known) == want, made
    assert d - d == 0
    assert type(d - d) is int


def test_what_bounds_decide_may_be_asked_and_nothing_else() -> None:
    d, e = dim("d0", RANGES), dim("d1", RANGES)  # 2…9 and 1…6
    assert d > 1 and d >= 2 and d < 10 and d <= 9 and d != 0 and bool(d) and d + 1 > d and d == d
    assert d != 1 and not d > 9 and not d < 2
    for ask in (lambda: d == 5, lambda: d > e, lambda: d < 4, lambda: d >= 3):
        with pytest.raises(Unsupported, match="depends on whether the dynamic size"):
            ask()
    with pytest.raises(Unsupported, match="needs the number"):
        range(d)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="is no size"):
        d + 1.5  # type: ignore[operator]


def test_known_to_be_equal_and_possibly_equal() -> None:
    d, e = dim("d0", RANGES), dim("d1", RANGES)
    assert sizes.alike([d, 3], [dim("d0", RANGES), 3])
    assert not sizes.alike([d, 3], [e, 3])
    assert not sizes.alike([d], [3])
    assert sizes.may_be([d, 3], [e, 3])
    assert not sizes.may_be([d, 3], [e, 4])
    assert not sizes.may_be([d], [d, 1])
    assert sizes.has_no_elements([d, 0])
    assert not sizes.has_no_elements([d, 1])


def test_text_for_people() -> None:
    assert text(("add", "d0", ("mul", 2, ("floordiv", "d1", 4)))) == "(d0 + (2*(d1//4)))"
    assert text(("max", "d0", 1)) == "max(d0, 1)"


def test_looking_at_strides_adds_no_guard() -> None:
    environment = ShapeEnv()
    chosen = StatelessSymbolicContext(dynamic_sizes=[DimDynamic.DYNAMIC] * 3)
    fake = FakeTensorMode(shape_env=environment).from_tensor(torch.empty(5, 7, 3), symbolic_context=chosen)
    before = len(environment.guards)
    one, other = sizes.sampled([*fake.shape, *fake.stride()])
    assert one != other
    assert one[3] == one[1] * one[2]
    assert len(environment.guards) == before
