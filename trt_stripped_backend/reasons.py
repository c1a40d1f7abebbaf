"""Why a node of a lowered graph cannot run in an engine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import sympy
import torch
from torch import fx

from .errors import Unsupported
from .inplace import is_written, writes
from .ops.network import DTYPES
from .ops.registry import Op, bind
from .options import Options
from .sizes import depends_on_data, size, symbols
from .types import dtype_name

Lookup = Callable[[Any], Op | None]


def reasons(
    node: fx.Node,
    options: Options,
    lookup: Lookup,
    refit: bool,
    constant: set[fx.Node],
    sizes: dict[fx.Node, None],
    told: dict[sympy.Symbol, fx.Node],
    device: torch.device | None,
) -> Iterator[tuple[str, str]]:
    """(kind, reason) pairs against running a node in an engine; none means that it can."""
    target = node.target
    if not isinstance(target, torch._ops.OpOverload):
        yield "op", "not an ATen operator"
        return
    if writes(node):
        yield "mutation", "writes to its argument"
    elif is_written(node):
        yield "mutation", "a view of memory that is written to"
    op = lookup(target)
    if op is None and torch.Tag.nondeterministic_seeded in target.tags:
        yield "random", "a random operator: an engine would repeat the same numbers"
    if op is None and torch.Tag.dynamic_output_shape in target.tags:
        yield "data", "the output's shape depends on data"
    if _named(target, options.torch_executed_ops):
        yield "option", "named in torch_executed_ops"
    if op is None:
        yield "op", "no converter"
        return
    if refit and not op.refittable and not _named(target, options.allow_ops):
        yield "refit", "not refittable: TensorRT's layers for it hold constants that a refit cannot set (see allow_ops)"
    for one in (*node.all_input_nodes, node):
        value = one.meta.get("val")
        if one in sizes:
            yield from _size_reasons([value], told)
            continue
        # What TensorRT takes as an engine's input alone is neither computed in one nor a literal of it.
        dtypes = op.dtypes or DTYPES
        dtypes = dtypes & DTYPES if one is node or one in constant else dtypes
        for each in value if isinstance(value, (tuple, list)) else (value,):
            # A literal is part of the engine, wherever it was traced.
            yield from _value_reasons(each, dtypes, None if one in constant else device)
            if isinstance(each, torch.Tensor):
                yield from _size_reasons(each.shape, told)
    yield from _argument_reasons([*node.args, *node.kwargs.values()])
    try:
        arguments = bind(target, _fake(node.args), _fake(node.kwargs))
        yield from (("limit", reason) for reason in op.reasons(arguments))
    except Unsupported as error:
        yield "limit", str(error)


def _value_reasons(
    value: Any, dtypes: frozenset[torch.dtype], device: torch.device | None
) -> Iterator[tuple[str, str]]:
    if isinstance(value, (torch.SymInt, torch.SymFloat, torch.SymBool)):
        yield "limit", "a symbolic number"
    if not isinstance(value, torch.Tensor):
        return
    if value.layout is not torch.strided or value.is_nested:
        yield "limit", f"a {value.layout} tensor"
    elif value.ndim > 8:
        yield "limit", f"a tensor of rank {value.ndim}: TensorRT holds 8"
    if value.dtype not in DTYPES | dtypes:
        yield "dtype", f"{dtype_name(value.dtype)} stays in PyTorch"
    elif value.dtype not in dtypes:
        yield "dtype", f"no {dtype_name(value.dtype)} in TensorRT for this operator"
    if device is not None and value.device != device:
        yield "device", f"a tensor on {value.device} in a graph on {device}"


def _size_reasons(sizes: Iterable[Any], told: dict[sympy.Symbol, fx.Node]) -> Iterator[tuple[str, str]]:
    found = symbols(sizes)
    if any(map(depends_on_data, found)):
        yield "data", "a size that depends on data"
    elif any(symbol not in told for symbol in found):
        yield "limit", "a dynamic size that no argument of the graph tells"
    elif found:
        try:
            for one in sizes:
                size(one, {symbol: symbol.name for symbol in found})
        except Unsupported as error:
            yield "limit", str(error)


def _argument_reasons(arguments: Iterable[Any]) -> Iterator[tuple[str, str]]:
    """Arguments that no key can hold."""
    for value in arguments:
        if isinstance(value, (list, tuple)):
            yield from _argument_reasons(value)
        elif not (value is None or isinstance(value, _ARGUMENTS)):
            yield "limit", f"an argument of type {type(value).__name__}"


_ARGUMENTS = (fx.Node, bool, int, float, str, torch.dtype, torch.device, torch.layout, torch.memory_format)


def _named(target: torch._ops.OpOverload, names: frozenset[str]) -> bool:
    name = str(target)
    return name in names or name.rpartition(".")[0] in names


def _fake(argument: Any) -> Any:
    return fx.node.map_arg(argument, lambda n: n.meta.get("val"))
