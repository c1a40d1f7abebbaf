"""Which operators graphs are made of: each draws its operands and arguments, and adds a step."""

from __future__ import annotations

from collections.abc import Callable

from .builder import Builder

Operator = Callable[[Builder], None]
#: By family: each family is drawn as often as another, however many operators it has.
OPERATORS: dict[str, list[Operator]] = {}
#: Steps without roundings of their own. A cast rounds.
EXACT: set[str] = set()


def of(family: str) -> Callable[[Operator], Operator]:
    def register(make: Operator) -> Operator:
        OPERATORS.setdefault(family, []).append(make)
        return make

    return register
