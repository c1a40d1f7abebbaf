"""Sizes that are not known before a call: expressions over symbols, as data.

A size is an int, the name of a symbol (``"d0"``), or ``(operator, operand, …)``, all of them hashable and JSON.
PyTorch's symbolic shapes are SymPy expressions whose names differ from trace to trace; these do not, so they may enter
a key, travel in an entry and become TensorRT's shape arithmetic.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import sympy
import torch
from torch.fx.experimental.symbolic_shapes import free_symbols
from torch.utils._sympy.functions import FloorDiv, Max, Min, Mod, PythonMod, ToFloat, TruncToInt
from torch.utils._sympy.numbers import int_oo
from torch.utils._sympy.symbol import SymT, symbol_is_type

from .errors import Unsupported

#: int, symbol name, or (operator, operand, …).
Size = Any
#: Smallest and largest value.
Interval = tuple[int, int]

OPERATORS: dict[str, Callable[[int, int], int]] = {
    "add": operator.add, "mul": operator.mul, "floordiv": operator.floordiv, "mod": operator.mod, "max": max,
    "min": min,
}  # fmt: skip
_OF_SYMPY: tuple[tuple[Any, str], ...] = (
    (sympy.Add, "add"), (sympy.Mul, "mul"), (FloorDiv, "floordiv"), (Mod, "mod"), (PythonMod, "mod"), (Max, "max"),
    (Min, "min"),
)  # fmt: skip
#: What stands for "no upper bound"; TensorRT's own sizes are 64-bit.
UNBOUNDED = 1 << 40


def expression(value: Any) -> sympy.Expr:
    """The SymPy expression of a size."""
    return value.node.expr if isinstance(value, torch.SymInt) else sympy.Integer(value)


def symbols(values: Iterable[Any]) -> list[sympy.Symbol]:
    """The symbols of sizes, in the order in which they appear first."""
    found: dict[sympy.Symbol, None] = {}
    for value in values:
        if isinstance(value, torch.SymInt):
            found.update(dict.fromkeys(sorted(free_symbols(value), key=str)))
    return list(found)


def dynamic(value: Any) -> bool:
    """A size, or a number made of sizes, that only a call tells."""
    return isinstance(value, torch.SymInt)


def is_symbol(value: Any) -> bool:
    """A size that is one symbol and nothing else, so that it tells the symbol's value."""
    return isinstance(value, torch.SymInt) and value.node.expr.is_Symbol


def depends_on_data(symbol: sympy.Symbol) -> bool:
    """A size that only a run on the device tells, such as that of ``nonzero``."""
    return symbol_is_type(symbol, (SymT.UNBACKED_INT, SymT.UNBACKED_FLOAT))


def size(value: Any, names: Mapping[sympy.Symbol, str]) -> Size:
    """A size (int, ``SymInt`` or SymPy expression) as data.

    Raises:
        Unsupported: the expression has an operator that TensorRT's shape arithmetic lacks.
    """
    expr: Any = value if isinstance(value, sympy.Expr) else expression(value)
    if expr.is_Integer:
        return int(expr)
    if expr.is_Symbol:
        return names[expr]
    if isinstance(expr, sympy.Pow) and expr.exp.is_Integer and expr.exp > 0:
        return ("mul", *[size(expr.base, names)] * int(expr.exp))
    if isinstance(expr, TruncToInt):
        expr = _scaled(expr)
    for kind, name in _OF_SYMPY:
        if isinstance(expr, kind):
            operands = [size(a, names) for a in expr.args]
            # SymPy orders the operands of a sum by the symbols' names, which differ from trace to trace.
            return (name, *(operands if name in ("floordiv", "mod") else sorted(operands, key=str)))
    raise Unsupported(f"the size {expr} cannot be computed in TensorRT")


def _scaled(expr: sympy.Expr) -> sympy.Expr:
    """``int(c * float(size))`` in whole numbers, where the product is exact: of a factor such as 2.0 or 0.75."""
    factor, *rest = expr.args[0].as_ordered_factors()
    if factor.is_Float and factor > 0 and len(rest) == 1 and isinstance(rest[0], ToFloat):
        above, below = float(factor).as_integer_ratio()
        if max(above, below) < 1 << 12:  # so that products of 40 bits are exact in float64
            return FloorDiv(above * rest[0].args[0], below)
    return expr


def evaluate(value: Size, known: Mapping[str, int]) -> int:
    """The value of a size, given its symbols'."""
    if isinstance(value, int):
        return value
    if isinstance(value, str):
        return known[value]
    return functools.reduce(OPERATORS[value[0]], (evaluate(one, known) for one in value[1:]))


def interval(value: Size, ranges: Mapping[str, Interval]) -> Interval:
    """Bounds of a size, given its symbols': never too narrow."""
    if isinstance(value, int):
        return value, value
    if isinstance(value, str):
        return ranges[value]
    return functools.reduce(
        functools.partial(_interval, value[0]), (interval(one, ranges) for one in value[1:])
    )


def _interval(name: str, a: Interval, b: Interval) -> Interval:
    if name == "mod":
        return 0, max(b[1] - 1, 0)
    if name == "floordiv" and b[0] <= 0:
        return min(a[0], -a[1]), max(a[1], -a[0])
    corners = [OPERATORS[name](x, y) for x in a for y in b]
    return min(corners), max(corners)


def from_json(value: Any) -> Size:
    """A size that came from JSON, where tuples are lists."""
    return tuple(map(from_json, value)) if isinstance(value, list) else value


def bounds(value: torch.SymInt) -> tuple[int, int | None]:
    """Smallest and largest value of a symbol that PyTorch knows of; None where it knows no largest.

    A number that is no size may be negative, without a limit; an engine takes none below zero.
    """
    found = value.node.shape_env.var_to_range[value.node.expr]
    upper = None if found.upper in (int_oo, sympy.oo) or found.upper > UNBOUNDED else int(found.upper)
    return 0 if found.lower < 0 else int(found.lower), upper


def hint(value: int | torch.SymInt) -> int:
    """The size in the call that was traced."""
    return int(value.node.hint) if isinstance(value, torch.SymInt) else value


def sampled(shape: Sequence[int | torch.SymInt]) -> list[tuple[int, ...]]:
    """Shapes or strides with numbers in place of symbols, for two choices of large and distinct numbers.

    Looking at these adds no guard, while a comparison of symbolic sizes would.
    """
    result = []
    for base in (1009, 2003):
        chosen = {s: base + 12 * k for k, s in enumerate(_everything(shape))}
        result.append(tuple(int(expression(v).xreplace(chosen)) if isinstance(v, torch.SymInt) else v for v in shape))
    return result


def _everything(shape: Sequence[int | torch.SymInt]) -> list[sympy.Symbol]:
    return sorted(symbols(shape), key=str)


class Dim:
    """A size inside a converter: arithmetic builds the expression, and what its bounds decide may be asked.

    Args:
        expr: the expression, over symbols named as in :data:`Size`.
        ranges: bounds of the symbols by name; all sizes of a network share one.
    """

    __slots__ = ("expr", "ranges")

    def __init__(self, expr: sympy.Expr, ranges: Mapping[str, Interval]) -> None:
        self.expr, self.ranges = expr, ranges

    @property
    def size(self) -> Size:
        return size(self.expr, {s: s.name for s in self.expr.free_symbols})

    @property
    def interval(self) -> Interval:
        return interval(self.size, self.ranges)

    def _made(self, expr: sympy.Expr) -> int | Dim:
        return int(expr) if expr.is_Integer else Dim(expr, self.ranges)

    def __add__(self, other: int | Dim) -> int | Dim:
        return self._made(self.expr + _expr(other))

    def __sub__(self, other: int | Dim) -> int | Dim:
        return self._made(self.expr - _expr(other))

    def __rsub__(self, other: int) -> int | Dim:
        return self._made(other - self.expr)

    def __neg__(self) -> int | Dim:
        return self._made(-self.expr)

    def __mul__(self, other: int | Dim) -> int | Dim:
        return self._made(sympy.expand(self.expr * _expr(other)))

    def __floordiv__(self, other: int | Dim) -> int | Dim:
        return self._made(FloorDiv(self.expr, _expr(other)))

    def __rfloordiv__(self, other: int) -> int | Dim:
        return self._made(FloorDiv(sympy.Integer(other), self.expr))

    def __mod__(self, other: int | Dim) -> int | Dim:
        return self._made(Mod(self.expr, _expr(other)))

    __radd__ = __add__
    __rmul__ = __mul__

    def _versus(self, other: int | Dim) -> Interval:
        """Bounds of ``self - other``."""
        difference = self - other
        return difference.interval if isinstance(difference, Dim) else (difference, difference)

    def _open(self, what: str, other: int | Dim) -> Unsupported:
        return Unsupported(f"a layer depends on whether the dynamic size {self} is {what} {other}")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, (int, Dim)):
            return NotImplemented
        low, high = self._versus(other)
        if low == high == 0 or low > 0 or high < 0:
            return low == high == 0
        raise self._open("equal to", other)

    def __lt__(self, other: int | Dim) -> bool:
        low, high = self._versus(other)
        if high < 0 or low >= 0:
            return high < 0
        raise self._open("below", other)

    def __gt__(self, other: int | Dim) -> bool:
        low, high = self._versus(other)
        if low > 0 or high <= 0:
            return low > 0
        raise self._open("above", other)

    def __le__(self, other: int | Dim) -> bool:
        return not self > other

    def __ge__(self, other: int | Dim) -> bool:
        return not self < other

    def __bool__(self) -> bool:
        return self != 0

    def __index__(self) -> int:
        raise Unsupported(f"a layer needs the number that the dynamic size {self} is")

    def __hash__(self) -> int:
        return hash(self.expr)

    def __repr__(self) -> str:
        return text(self.size)


def _expr(value: int | Dim) -> sympy.Expr:
    if not isinstance(value, (int, Dim)):
        raise TypeError(f"arithmetic of a dynamic size with {value!r}, which is no size")
    return value.expr if isinstance(value, Dim) else sympy.Integer(value)


def dim(value: Size, ranges: Mapping[str, Interval]) -> int | Dim:
    """A size for a converter."""
    expr = _sympy(value)
    return int(expr) if expr.is_Integer else Dim(expr, ranges)


def _sympy(value: Size) -> sympy.Expr:
    if isinstance(value, int):
        return sympy.Integer(value)
    if isinstance(value, str):
        return sympy.Symbol(value, integer=True, nonnegative=True)
    return functools.reduce(_SYMPY[value[0]], map(_sympy, value[1:]))


_SYMPY: dict[str, Callable[[sympy.Expr, sympy.Expr], sympy.Expr]] = {
    "add": operator.add, "mul": operator.mul, "floordiv": FloorDiv, "mod": Mod, "max": Max, "min": Min,
}  # fmt: skip


def alike(one: Sequence[int | Dim], other: Sequence[int | Dim]) -> bool:
    """Whether shapes are known to be equal; False where they may be."""
    return len(one) == len(other) and all(
        a.expr == b.expr if isinstance(a, Dim) and isinstance(b, Dim) else type(a) is type(b) and a == b
        for a, b in zip(one, other, strict=True)
    )


def may_be(one: Sequence[int | Dim], other: Sequence[int | Dim]) -> bool:
    """Whether shapes may be equal: False where numbers differ."""
    return len(one) == len(other) and all(
        isinstance(a, Dim) or isinstance(b, Dim) or a == b for a, b in zip(one, other, strict=True)
    )


def has_no_elements(shape: Iterable[int | Dim]) -> bool:
    """Whether a tensor of this shape is known to be empty."""
    return any(isinstance(s, int) and s == 0 for s in shape)


def text(value: Size) -> str:
    """A size for people."""
    if not isinstance(value, tuple):
        return str(value)
    signs = {"add": " + ", "mul": "*", "floordiv": "//", "mod": "%"}
    parts = [text(one) for one in value[1:]]
    return f"({signs[value[0]].join(parts)})" if value[0] in signs else f"{value[0]}({', '.join(parts)})"
