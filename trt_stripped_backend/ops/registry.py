"""Which operator has which converter, and how a node's arguments reach it: by schema name, defaults filled in."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from ..errors import Unsupported

Converter = Callable[..., Any]
Reasons = Callable[..., Iterator[str]]


@dataclass
class Op:
    """One registered overload.

    Attributes:
        target: the overload.
        convert: ``convert(net, **schema arguments)`` → an ``ITensor`` or a tuple of them (None for unused outputs).
        reasons: ``reasons(**schema arguments)``, fake tensors in; yields why TensorRT cannot take this call.
        refittable: False keeps the op in PyTorch unless the mode is ``immutable`` or ``allow_ops`` names it.
        dtypes: what the tensor arguments may be; None for all that TensorRT holds.
    """

    target: torch._ops.OpOverload
    convert: Converter
    refittable: bool = True
    dtypes: frozenset[torch.dtype] | None = None
    checks: list[Reasons] = field(default_factory=list)

    def unless(self, check: Reasons) -> Reasons:
        """Decorator: adds a generator of reasons against a call; same parameters as the converter, without ``net``."""
        self.checks.append(check)
        return check

    def reasons(self, arguments: dict[str, Any]) -> Iterator[str]:
        for check in self.checks:
            yield from check(**arguments)


class Ops:
    """A handle on the ops that one ``@op(...)`` line registered, so that ``@name.unless`` reaches all of them."""

    def __init__(self, ops: list[Op]) -> None:
        self.ops = ops

    def unless(self, check: Reasons) -> Ops:
        for one in self.ops:
            one.unless(check)
        return self


registry: dict[torch._ops.OpOverload, Op] = {}


def op(
    *targets: torch._ops.OpOverload, refittable: bool = True, dtypes: frozenset[torch.dtype] | None = None
) -> Callable[[Converter], Ops]:
    """Registers a converter for overloads; a second registration of an overload raises at import."""

    def register(convert: Converter) -> Ops:
        made = []
        for target in targets:
            if not isinstance(target, torch._ops.OpOverload):
                raise TypeError(f"{target} is not an overload: name one, such as aten.relu.default")
            if target in registry:
                raise ValueError(f"{target} has a converter already: {registry[target].convert}")
            registry[target] = Op(target, convert, refittable, dtypes)
            made.append(registry[target])
        return Ops(made)

    return register


def bind(target: torch._ops.OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments by schema name, with the schema's defaults. ``out``, layout and device arguments are dropped."""
    bound: dict[str, Any] = {}
    for index, argument in enumerate(target._schema.arguments):
        if argument.name in _IGNORED:
            continue
        if index < len(args):
            value = args[index]
        elif argument.name in kwargs:
            value = kwargs[argument.name]
        elif argument.has_default_value():
            value = argument.default_value
        else:
            raise Unsupported(f"{target} was called without its argument {argument.name!r}")
        bound[argument.name] = value
    return bound


#: Arguments that say where a tensor lives, not what it holds: an engine's tensors live where the engine runs.
_IGNORED = frozenset({"device", "layout", "pin_memory", "memory_format", "non_blocking", "out"})


def is_getitem(node: fx.Node) -> bool:
    return node.op == "call_function" and node.target is operator.getitem
