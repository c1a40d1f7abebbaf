"""What an exported program takes: names, shapes, dtypes and limits, as data, checked all at once.

``torch.compile`` has Dynamo's guards before each call; an exported program has these.
"""

from __future__ import annotations

import difflib
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sympy
import torch
from torch.utils import _pytree as pytree

from ..errors import InputError, RefitFailed, TRTStrippedError, Unsupported
from ..sizes import Size, evaluate, from_json, size, text
from ..types import Json, TensorSpec, dense_order, dtype_name

_RELATIONS: tuple[tuple[Any, str, Callable[[int, int], bool]], ...] = (
    (sympy.Eq, "==", operator.eq), (sympy.Ne, "!=", operator.ne), (sympy.Lt, "<", operator.lt),
    (sympy.Le, "<=", operator.le), (sympy.Gt, ">", operator.gt), (sympy.Ge, ">=", operator.ge),
)  # fmt: skip
_OPERATORS = {name: test for _, name, test in _RELATIONS}

#: A condition on sizes: (relation, size, size), or ("and" | "or" | "not", condition, …).
Condition = Any


@dataclass(frozen=True)
class Source:
    """A parameter or buffer that a program uses.

    Attributes:
        names: where the model keeps it (``h.0.weight``), and other names of the same tensor.
        spec: its shape and dtype; the order is that of the exported model.
        parameter: a parameter, not a buffer.
        persistent: a ``state_dict`` has it.
        written: the program writes to it, as to a key-value cache.
        elsewhere: the device that it stays on, if that is not the program's.
    """

    names: tuple[str, ...]
    spec: TensorSpec
    parameter: bool
    persistent: bool
    written: bool
    elsewhere: str | None = None

    @property
    def name(self) -> str:
        return self.names[0]

    def to_json(self) -> Json:
        return {**vars(self), "names": list(self.names), "spec": self.spec.to_json()}

    @classmethod
    def from_json(cls, data: Json) -> Source:
        return cls(**{**data, "names": tuple(data["names"]), "spec": TensorSpec.from_json(data["spec"])})


@dataclass(frozen=True)
class Input:
    """One leaf of a program's arguments: a tensor, a number that may vary, or a value that it was exported for.

    Attributes:
        where: ``args[0]['mask']``.
        spec: of a tensor.
        size: of a number that may vary.
        value: of anything else: what the program was exported for.
        written: the program writes to it.
        elsewhere: the device that it stays on, if that is not the program's.
    """

    where: str
    spec: TensorSpec | None = None
    size: Size = None
    value: Json = None
    written: bool = False
    elsewhere: str | None = None

    @property
    def passed(self) -> bool:
        """The program's graph takes it as an argument."""
        return self.spec is not None or self.size is not None

    def to_json(self) -> Json:
        return {**vars(self), "spec": None if self.spec is None else self.spec.to_json()}

    @classmethod
    def from_json(cls, data: Json) -> Input:
        spec = None if data["spec"] is None else TensorSpec.from_json(data["spec"])
        return cls(**{**data, "spec": spec, "size": from_json(data["size"])})


@dataclass(frozen=True)
class Calling:
    """A program's arguments and results.

    Attributes:
        device: type of the device that it was exported on: where that stands, the program's own device is meant.
        sources: what its graph takes first, in order.
        inputs: the leaves of ``(args, kwargs)``; those that are passed are what its graph takes next, in order.
        unused: names in the model's ``state_dict`` that it has no use for.
        limits: smallest and largest value of each size; None where there is no largest.
        conditions: what else must hold between sizes.
        takes: the tree of ``(args, kwargs)``, by ``treespec_dumps``.
        gives: the tree of the results.
    """

    device: str
    sources: tuple[Source, ...]
    inputs: tuple[Input, ...]
    unused: tuple[str, ...]
    limits: Mapping[str, tuple[int, int | None]]
    conditions: tuple[Condition, ...]
    takes: str
    gives: str

    def to_json(self) -> Json:
        own = {"sources": [s.to_json() for s in self.sources], "inputs": [i.to_json() for i in self.inputs]}
        return {**vars(self), **own}

    @classmethod
    def from_json(cls, data: Json) -> Calling:
        return cls(
            data["device"], tuple(map(Source.from_json, data["sources"])), tuple(map(Input.from_json, data["inputs"])),
            tuple(data["unused"]), {name: (low, high) for name, (low, high) in data["limits"].items()},
            tuple(map(from_json, data["conditions"])), data["takes"], data["gives"],
        )  # fmt: skip


# ------------------------------------------------------------------------------------------------ trees


def dumped(spec: Any) -> str:
    """A tree as text.

    Raises:
        TRTStrippedError: it has a node that PyTorch cannot write down.
    """
    try:
        return pytree.treespec_dumps(spec)
    except Exception as error:
        raise TRTStrippedError(
            f"the program's arguments or results have a type that cannot be stored ({error}): give it a "
            "serialized_type_name with torch.utils._pytree.register_pytree_node, or return a dict"
        ) from error


def loaded(text: str) -> Any:
    """The tree that :func:`dumped` wrote.

    Raises:
        TRTStrippedError: a type in it is not registered in this process.
    """
    try:
        return pytree.treespec_loads(text)
    except Exception as error:
        raise TRTStrippedError(
            f"the program's arguments or results have a type that this process does not know ({error}): import the "
            "library that defines it first"
        ) from error


def places(spec: Any) -> list[str]:
    """Where each leaf of a tree stands: ``[0]['mask']``."""
    tree = pytree.tree_unflatten(range(spec.num_leaves), spec)
    return [pytree.keystr(path) for path, _ in pytree.tree_flatten_with_path(tree)[0]]


# ------------------------------------------------------------------------------------------------ conditions


def condition(expression: Any, names: Mapping[sympy.Symbol, str]) -> Condition:
    """A SymPy condition on sizes as data.

    Raises:
        Unsupported: it has a term that sizes do not have.
    """
    for kind, name in ((sympy.And, "and"), (sympy.Or, "or"), (sympy.Not, "not")):
        if isinstance(expression, kind):
            return (name, *(condition(one, names) for one in expression.args))
    for kind, name, _ in _RELATIONS:
        if isinstance(expression, kind):
            return (name, *(size(one, names) for one in expression.args))
    raise Unsupported(f"no condition on sizes: {expression}")


def holds(found: Condition, known: Mapping[str, int]) -> bool:
    """Whether a condition is true, given the sizes."""
    name, *parts = found
    if name == "not":
        return not holds(parts[0], known)
    if name in ("and", "or"):
        return (all if name == "and" else any)(holds(part, known) for part in parts)
    try:
        return _OPERATORS[name](*(evaluate(part, known) for part in parts))
    except ZeroDivisionError:  # sizes that the trace divides by
        return False


def told(found: Condition) -> str:
    """A condition for people."""
    name, *parts = found
    if name == "not":
        return f"not {told(parts[0])}"
    shown = [told(p) if name in ("and", "or") else text(p) for p in parts]
    return f" {name} ".join(shown)


# ------------------------------------------------------------------------------------------------ calls


class Inputs:
    """Takes a call's arguments apart, and refuses what the program was not exported for.

    Args:
        calling: the program's.
        device: where it runs.
    """

    def __init__(self, calling: Calling, device: torch.device) -> None:
        self.calling, self.device = calling, device
        self.spec = loaded(calling.takes)
        example = pytree.tree_unflatten(range(self.spec.num_leaves), self.spec)
        self.keywords = list(example[1])
        written = [source for source in calling.sources if source.written]
        self.written = [Input(one.name, one.spec, written=True, elsewhere=one.elsewhere) for one in written]

    def flat(self, args: tuple[Any, ...], kwargs: dict[str, Any], state: Sequence[torch.Tensor]) -> list[Any]:
        """The arguments that the graph takes after its sources.

        Args:
            args: of the call.
            kwargs: of the call, in any order.
            state: the buffers that the program writes to.

        Raises:
            InputError: names all that is wrong.
        """
        if kwargs.keys() == set(self.keywords):
            kwargs = {name: kwargs[name] for name in self.keywords}
        leaves, spec = pytree.tree_flatten((args, kwargs))
        if spec != self.spec:
            raise InputError(f"the program takes {_signature(self.spec)}; it was given {_signature(spec)}")
        inputs = [*self.calling.inputs, *self.written]
        given = [*leaves, *state]
        known = self._sizes(inputs, given)
        wrong = [
            f"{one.where} is {self._shown(value)}; the program takes {self._wanted(one)}"
            for one, value in zip(inputs, given, strict=True)
            if not self._fits(one, value, known)
        ]
        limits = self.calling.limits
        for name, value in known.items():
            low, high = limits[name]
            if value < low or (high is not None and value > high):
                may = f"at least {low}" if high is None else f"{low} to {high}"
                wrong.append(f"{name} is {value}; it may be {may}: export with another range")
        if not wrong and len(known) == len(limits):
            broken = [told(one) for one in self.calling.conditions if not holds(one, known)]
            wrong += [f"the program holds for {one} alone, where {_listed(known)}" for one in broken]
        if wrong:
            raise InputError("these arguments are not what the program was exported for:\n  " + "\n  ".join(wrong))
        return [
            value if one.written else as_exported(value, one.spec)
            for one, value in zip(self.calling.inputs, leaves, strict=True)
            if one.passed
        ]

    def _sizes(self, inputs: Sequence[Input], given: Sequence[Any]) -> dict[str, int]:
        """The values of sizes, each from the first argument that tells it."""
        known: dict[str, int] = {}
        for one, value in zip(inputs, given, strict=True):
            pairs: list[tuple[Size, int]] = []
            if one.spec is not None and isinstance(value, torch.Tensor) and value.ndim == len(one.spec.shape):
                pairs = list(zip(one.spec.shape, value.shape, strict=True))
            elif type(value) is int:
                pairs = [(one.size, value)]
            for name, length in pairs:
                if isinstance(name, str):
                    known.setdefault(name, length)
        return known

    def _fits(self, one: Input, value: Any, known: Mapping[str, int]) -> bool:
        if one.spec is None:
            if one.size is None:
                return type(value) is type(one.value) and bool(value == one.value)
            return type(value) is int and self._is(one.size, value, known)
        if not isinstance(value, torch.Tensor) or value.layout is not torch.strided:
            return False
        if value.dtype != one.spec.dtype or value.ndim != len(one.spec.shape):
            return False
        device = self.device if one.elsewhere is None else torch.device(one.elsewhere)
        if value.device != device:
            return False
        return all(self._is(want, have, known) for want, have in zip(one.spec.shape, value.shape, strict=True))

    def _is(self, want: Size, have: int, known: Mapping[str, int]) -> bool:
        if isinstance(want, int):
            return want == have
        try:
            return evaluate(want, known) == have
        except KeyError:  # no argument tells one of its symbols
            return True

    def _wanted(self, one: Input) -> str:
        if one.spec is None:
            return f"an int {text(one.size)}" if one.size is not None else repr(one.value)
        return f"{tensor_text(one.spec)} on {one.elsewhere or self.device}"

    def _shown(self, value: Any) -> str:
        if not isinstance(value, torch.Tensor):
            return repr(value)
        return f"{dtype_name(value.dtype)}{list(value.shape)} on {value.device}"


def _signature(spec: Any) -> str:
    """A tree for people: ``(t, {'mask': t})``."""
    args, kwargs = pytree.tree_unflatten(["…"] * spec.num_leaves, spec)
    shown = [str(one) for one in args] + [f"{name}={value}" for name, value in kwargs.items()]
    return f"({', '.join(shown)})"


def _listed(known: Mapping[str, int]) -> str:
    return ", ".join(f"{name} = {value}" for name, value in known.items())


def as_exported(value: Any, spec: TensorSpec | None) -> Any:
    """A tensor in the layout that the program was exported for, which its views rely on."""
    if spec is None or dense_order(tuple(value.shape), value.stride()) == spec.order:
        return value
    back = [spec.order.index(d) for d in range(value.ndim)]
    return value.permute(spec.order).contiguous().permute(back)


def tensor_text(spec: TensorSpec) -> str:
    """``float32[d0, 64]``"""
    return f"{dtype_name(spec.dtype)}[{', '.join(map(text, spec.shape))}]"


# ------------------------------------------------------------------------------------------------ weights


def matched(calling: Calling, given: Mapping[str, Any], held: Mapping[str, Any], *, strict: bool) -> list[Any]:
    """A tensor for each of a program's sources.

    Args:
        calling: the program's.
        given: shapes and dtypes by name: tensors, or what stands for them.
        held: values that the program brings along, of buffers that no ``state_dict`` has.
        strict: a name that the model does not have is an error.

    Raises:
        RefitFailed: names all that is missing, unexpected, or of another shape or dtype.
    """
    found, wrong, known = [], [], set(calling.unused)
    for source in calling.sources:
        known.update(source.names)
        names = [name for name in source.names if name in given]
        value = given[names[0]] if names else held.get(source.name)
        untold = next((name for name in names if not hasattr(given[name], "shape") and given[name] is not None), None)
        if untold is not None:
            wrong.append(f"{untold} is of type {type(given[untold]).__name__}; the program takes a tensor")
            continue
        if value is None:
            other = "" if source.persistent else ", a buffer that is in no state_dict and had no value at export"
            wrong.append(f"missing: {source.name} ({tensor_text(source.spec)}){other}")
        elif (tuple(value.shape), value.dtype) != (source.spec.shape, source.spec.dtype):
            have = f"{dtype_name(value.dtype)}{list(value.shape)}"
            wrong.append(f"{names[0]} is {have}; the program takes {tensor_text(source.spec)}")
        for name in names[1:]:
            if not _same(value, given[name]):
                wrong.append(f"{name} differs from {names[0]}, and the program was exported with one tensor for both")
        found.append(value)
    unexpected = [name for name in given if name not in known] if strict else []
    for name in unexpected:
        near = difflib.get_close_matches(name, known - given.keys(), 1)
        wrong.append(f"unexpected: {name}" + (f"; did you mean {near[0]}?" if near else ""))
    if wrong:
        raise RefitFailed("these weights are not the exported model's:\n  " + "\n  ".join(wrong))
    return found


def _same(one: Any, other: Any) -> bool:
    """Whether two tensors are equal; False if they cannot be compared."""
    if one is other:
        return True
    if (one.shape, one.dtype) != (other.shape, other.dtype):
        return False
    return one.data_ptr() == other.data_ptr() or torch.equal(one, other.to(one.device))
