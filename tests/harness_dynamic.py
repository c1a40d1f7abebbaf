"""Runs a case with dynamic shapes without a GPU: one conversion, checked for the sizes of its trace and for others.

Dimensions of at least 2 of inputs that are not weights are symbolic, so a converter that reads a number where it should
compute one is wrong for the second set of inputs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import sympy
import torch
from torch import fx
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

from trt_stripped_backend import flavour, lowering
from trt_stripped_backend.build import convert
from trt_stripped_backend.key import canonical
from trt_stripped_backend.ops.library import lookup
from trt_stripped_backend.ops.net import Net
from trt_stripped_backend.options import Options
from trt_stripped_backend.partition import partition
from trt_stripped_backend.profile import as_intervals, ranges, symbol_names
from trt_stripped_backend.types import Partition, Rejection, Signature
from trt_stripped_backend.weights import Split

from .cases import Case
from .harness import TOLERANCE, decomposed, flat
from .torch_network import TorchNetwork

#: Other sizes to try, in place of a traced one: guards may ask for multiples, and must not be broken.
_OTHERS: tuple[Callable[[int], int], ...] = (lambda s: s + 1, lambda s: s + 3, lambda s: 2 * s, lambda s: 4 * s)
#: Which dimensions are dynamic: all, the batch, the length of a sequence.
_DIMS = (range(8), (0,), (-2,))


def lower(case: Case, dims: Sequence[int]) -> tuple[list[Partition], list[Rejection], ShapeEnv]:
    """A case's engines and rejections, with symbolic sizes of these dimensions."""
    environment = ShapeEnv()
    mode = FakeTensorMode(shape_env=environment)
    inputs = case.make()
    dynamic = _dynamic(case, inputs, dims)
    found: list[Any] = []

    def symbolic(index: int, tensor: torch.Tensor) -> torch.Tensor:
        kinds = (DimDynamic.STATIC, DimDynamic.DYNAMIC)
        sizes = [kinds[(index, d) in dynamic] for d in range(tensor.ndim)]
        return mode.from_tensor(tensor, symbolic_context=StatelessSymbolicContext(dynamic_sizes=sizes))

    def compile(lowered: lowering.Lowered) -> Callable[..., Any]:
        names = [n.name for n in lowered.module.graph.find_nodes(op="placeholder")]
        split = Split(lowered.module, len(names), (), frozenset(names[i] for i in case.weights), ())
        found.append(partition(split, Options.of({"min_block_size": 1}), lookup))
        return lowering.boxed(lowered.module)

    graph = fx.Graph()
    placeholders = tuple(graph.placeholder(f"arg{i}") for i in range(len(inputs)))
    graph.output(graph.call_function(flat(case.fn), placeholders))
    with decomposed(case):
        lowering.trace(fx.GraphModule({}, graph), [symbolic(i, t) for i, t in enumerate(inputs)], compile)
    return list(found[0].partitions), list(found[0].rejections), environment


def _dynamic(case: Case, inputs: Sequence[torch.Tensor], dims: Sequence[int]) -> frozenset[tuple[int, int]]:
    """(input, dimension) of each size that is symbolic."""
    return frozenset(
        (index, d % tensor.ndim)
        for index, tensor in enumerate(inputs)
        for d in dims
        if index not in case.weights and -tensor.ndim <= d < tensor.ndim and tensor.shape[d] > 1
    )


def emulate(case: Case) -> int:
    """Compares each engine of a case with PyTorch, for the traced sizes and for others: every output, by value.

    Returns:
        How many sets of sizes were compared; 0 if everything stays in PyTorch, or nothing is dynamic.

    Raises:
        AssertionError: a value, shape or dtype differs.
        Unsupported: a converter gave up, which it should have said as a reason against.
        Refused: TensorRT would not build a layer.
    """
    compared, inputs = 0, case.make()
    # Of a small tensor, two choices may be the same dimensions: a trace takes most of a second.
    for dims in {_dynamic(case, inputs, dims): dims for dims in reversed(_DIMS)}.values():
        pieces, _, environment = lower(case, dims)
        for piece in pieces:
            signature = canonical(piece)[1]
            if signature.symbols:
                compared += _compare(case, piece, signature, environment)
    return compared


def _compare(case: Case, piece: Partition, signature: Signature, environment: ShapeEnv) -> int:
    names = symbol_names(piece, signature)
    traced = {s.name: s.example for s in signature.symbols}
    choices = [traced, *({name: other(value) for name, value in traced.items()} for other in _OTHERS)]
    order = [n.name for n in piece.module.graph.find_nodes(op="placeholder")]
    allowed, sets, wanted = [], [], []
    for sizes in choices:
        if len(sets) < 2 and _holds(environment, names, sizes):
            values = _arguments(case, piece, names, sizes)
            with contextlib.suppress(RuntimeError, IndexError):  # sizes that do not go together, and no guard says so
                wanted.append(piece.module(*(values[name] for name in order)))
                allowed.append(sizes)
                sets.append(values)
    specs = [(f"x{i}", name, spec) for i, (name, spec) in enumerate(signature.inputs)]
    specs += [(slot.name, name, slot.spec) for name, slot in signature.slots]
    given = [{name: values[source].permute(spec.order) for name, source, spec in specs} for values in sets]
    for values, sizes in zip(given, allowed, strict=True):
        values |= {s.name: torch.empty(sizes[s.name], dtype=torch.bool) for s in signature.symbols if s.dim is None}
    network = TorchNetwork(*given)
    bounds = as_intervals(signature, ranges(piece, signature, None))
    net = Net(network, flavour.load(), bound=True, ranges=bounds)
    convert(piece, signature, net)
    network.check()
    leaving: Any = piece.module.graph.output_node().args[0]
    for index, outputs in enumerate(wanted):
        for position, (node, want, spec) in enumerate(zip(leaving, outputs, signature.outputs, strict=True)):
            if "empty" in str(node.target):  # whatever was there
                continue
            every = network.outputs[f"y{position}"].values
            back = [spec.order.index(d) for d in range(len(spec.order))]
            have = every[index if len(every) > 1 else 0].permute(back)
            tol = 0.0 if not want.dtype.is_floating_point else case.tol or 4 * TOLERANCE[want.dtype]
            torch.testing.assert_close(have, want, rtol=tol, atol=tol, equal_nan=True, check_stride=False)
    return len(sets)


def _holds(environment: ShapeEnv, names: Mapping[Any, str], sizes: Mapping[str, int]) -> bool:
    """Whether PyTorch would run the traced graph for these sizes."""
    numbers = {symbol: sympy.Integer(sizes[name]) for symbol, name in names.items()}
    return all(guard.expr.xreplace(numbers) != sympy.false for guard in environment.guards)


def _arguments(case: Case, piece: Partition, names: Mapping[Any, str], sizes: Mapping[str, int]) -> dict[str, Any]:
    """Arguments of a piece with these sizes: the case's inputs, repeated or cut.

    Numbers that were drawn repeat nearly: of equal ones, roundings would say which is the largest.
    """
    numbers = {symbol: sympy.Integer(sizes[name]) for symbol, name in names.items()}
    inputs = {f"arg{i}_1": tensor for i, tensor in enumerate(case.make())}
    drawn = {f"arg{i}_1" for i, spec in enumerate(case.inputs) if spec.kind == "randn"}
    generator = torch.Generator().manual_seed(0)
    made: dict[str, Any] = {}
    for node in piece.module.graph.find_nodes(op="placeholder"):
        value = node.meta["val"]
        if isinstance(value, torch.SymInt):
            made[node.name] = int(value.node.expr.xreplace(numbers))
            continue
        shape = [int(s.node.expr.xreplace(numbers)) if isinstance(s, torch.SymInt) else s for s in value.shape]
        given = inputs.get(node.name)
        if given is None:  # another piece's output
            given = torch.rand(shape, generator=generator).to(value.dtype)
        for dim, length in enumerate(shape):
            given = given.index_select(dim, torch.arange(length) % max(given.shape[dim], 1))
        if node.name in drawn and given.shape != inputs[node.name].shape:
            given = (given + 0.05 * torch.randn(shape, generator=generator)).to(given.dtype)
        made[node.name] = given
    return made
