"""A ``torch.export`` program → a function of plain tensors.

It is decomposed as Dynamo's graphs are. Parameters, buffers and inputs become its arguments, what it writes to becomes
results, constants are its own. So it holds no weight, and PyTorch's own format stores it.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import sympy
import torch
from torch import fx
from torch._export.verifier import Verifier
from torch.export import ExportedProgram
from torch.export.exported_program import ModuleCallEntry, ModuleCallSignature
from torch.export.graph_signature import (
    ConstantArgument,
    ExportGraphSignature,
    InputKind,
    InputSpec,
    OutputKind,
    OutputSpec,
    SymIntArgument,
    TensorArgument,
)
from torch.utils import _pytree as pytree
from torch.utils._sympy.numbers import int_oo
from torch.utils._sympy.value_ranges import ValueRanges

from .. import lowering
from ..decompositions import decompositions_of_export, keep_composites
from ..errors import TRTStrippedError, Unsupported
from ..sizes import UNBOUNDED, depends_on_data, size, symbols
from ..types import TensorSpec
from .calling import Calling, Condition, Input, Source, condition, dumped, places

aten = torch.ops.aten
log = logging.getLogger("trt_stripped_backend")

_WRITES = (OutputKind.BUFFER_MUTATION, OutputKind.USER_INPUT_MUTATION, OutputKind.PARAMETER_MUTATION)
_WEIGHTS = (InputKind.PARAMETER, InputKind.BUFFER)


@dataclass(frozen=True)
class Flat:
    """A program as a function of plain tensors.

    Attributes:
        program: without state: sources and inputs are its arguments.
        calling: what those are.
        values: buffers that no ``state_dict`` has.
        traces: for nodes by name, where in the user's code they come from.
    """

    program: ExportedProgram
    calling: Calling
    values: dict[str, torch.Tensor]
    traces: dict[str, str]


def flat(program: ExportedProgram) -> Flat:
    """A program, decomposed and written down as a function of plain tensors.

    Raises:
        TRTStrippedError: it takes or returns what such a function cannot.
    """
    # PyTorch copies trees of its own in a way that it warns of itself.
    with torch.no_grad(), keep_composites(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        program = program.run_decompositions(decompositions_of_export())
    _refuse(program)
    return _Flattening(program).run()


def _refuse(program: ExportedProgram) -> None:
    for one in program.graph_signature.input_specs:
        if one.kind not in (*_WEIGHTS, InputKind.CONSTANT_TENSOR, InputKind.USER_INPUT) or not isinstance(
            one.arg, (TensorArgument, SymIntArgument, ConstantArgument)
        ):
            what = f"{one.target or getattr(one.arg, 'name', '')} ({one.kind.name}, {type(one.arg).__name__})"
            raise TRTStrippedError(f"the program's input {what} is neither a tensor, a number nor None")
    for result in program.graph_signature.output_specs:
        if result.kind not in (*_WRITES, OutputKind.USER_OUTPUT):
            raise TRTStrippedError(f"the program has an output of kind {result.kind.name}: export it for inference")
    devices = {
        node.meta["val"].device
        for node in program.graph.nodes
        if isinstance(node.meta.get("val"), torch.Tensor) and node.meta["val"].device.type == "cuda"
    }
    if len(devices) > 1:
        raise TRTStrippedError(f"the program runs on {', '.join(map(str, devices))}: export it on one GPU")


class _Flattening:
    def __init__(self, program: ExportedProgram) -> None:
        self.program, self.signature = program, program.graph_signature
        self.graph = program.graph
        self.nodes: list[fx.Node] = list(self.graph.find_nodes(op="placeholder"))
        self.specs = dict(zip(self.nodes, self.signature.input_specs, strict=True))
        self.device = _device(self.nodes)
        #: What the program writes to, in the order of its results.
        self.written = [self._target(spec) for spec in self.signature.output_specs if spec.kind in _WRITES]
        self.names: dict[sympy.Symbol, str] = {}

    def _target(self, result: OutputSpec) -> fx.Node:
        kinds = (InputKind.USER_INPUT,) if result.kind == OutputKind.USER_INPUT_MUTATION else _WEIGHTS
        named = {s.target or n.name: n for n, s in self.specs.items() if s.kind in kinds}
        return named[str(result.target)]

    def run(self) -> Flat:
        conditions = self._assertions()
        sources = {n for n, s in self.specs.items() if s.kind in _WEIGHTS and n not in self.written}
        for one_pass in lowering.PASSES:
            one_pass(self.program.graph_module, sources)
            self.graph.lint()
        used = {node for node in self.nodes if node.users or node in self.written}
        weights = [node for node, spec in self.specs.items() if spec.kind in _WEIGHTS and node in used]
        calling = Calling(
            self.device.type, tuple(map(self._source, weights)), tuple(self._inputs()), self._unused(weights),
            self._limits(), (*conditions, *self._conditions()),
            dumped(self.program.call_spec.in_spec), dumped(self.program.call_spec.out_spec),
        )  # fmt: skip
        held = {
            self.specs[n].target: self.program.constants[self.specs[n].target]
            for n in weights if self.specs[n].persistent is False
        }  # fmt: skip
        values = {name: value.detach().cpu().contiguous() for name, value in held.items() if not value.is_meta}
        traces = {n.name: n.meta["stack_trace"] for n in self.graph.nodes if n.meta.get("stack_trace")}
        return Flat(self._plain(weights), calling, values, traces)

    # ------------------------------------------------------------------------------------------------ what it takes

    def _spec(self, node: fx.Node) -> TensorSpec:
        value = node.meta["val"]
        self._name(value.shape)
        return TensorSpec.of(value, self.names)

    def _name(self, sizes: Iterable[Any]) -> None:
        for symbol in symbols(sizes):
            self.names.setdefault(symbol, f"d{len(self.names)}")

    def _elsewhere(self, node: fx.Node) -> str | None:
        device = node.meta["val"].device
        return None if device.type == self.device.type else str(device)

    def _source(self, node: fx.Node) -> Source:
        spec = self.specs[node]
        own = self.program.state_dict.get(spec.target)
        same = [] if own is None else [n for n, t in self.program.state_dict.items() if _one(t, own)]
        names = dict.fromkeys([str(spec.target), *same])
        return Source(
            tuple(names), self._spec(node), spec.kind == InputKind.PARAMETER, spec.persistent is not False,
            node in self.written, self._elsewhere(node),
        )  # fmt: skip

    def _unused(self, weights: Iterable[fx.Node]) -> tuple[str, ...]:
        used = {self.specs[node].target for node in weights}
        buffers = [str(spec.target) for spec in self.specs.values() if spec.kind in _WEIGHTS]
        return tuple(name for name in dict.fromkeys([*self.program.state_dict, *buffers]) if name not in used)

    def _inputs(self) -> Iterable[Input]:
        leaves = [node for node, spec in self.specs.items() if spec.kind == InputKind.USER_INPUT]
        for node, place in zip(leaves, places(self.program.call_spec.in_spec), strict=True):
            where = f"{'kwargs' if place.startswith('[1]') else 'args'}{place[3:]}"
            argument = self.specs[node].arg
            if isinstance(argument, TensorArgument):
                yield Input(where, self._spec(node), written=node in self.written, elsewhere=self._elsewhere(node))
            elif isinstance(argument, SymIntArgument):
                self._name([node.meta["val"]])
                yield Input(where, size=size(node.meta["val"], self.names))
            elif isinstance(argument, ConstantArgument):
                if not isinstance(argument.value, (bool, int, float, str, type(None))):
                    raise TRTStrippedError(f"{where} is {argument.value!r}, which cannot be stored: leave it out")
                yield Input(where, value=argument.value)

    def _limits(self) -> dict[str, tuple[int, int | None]]:
        found = {}
        for symbol, name in self.names.items():
            bounds = self.program.range_constraints.get(symbol)
            low = int(bounds.lower) if bounds is not None else 0
            high = None if bounds is None or _open(bounds.upper) else int(bounds.upper)
            # 0 and 1 are allowed where only PyTorch's own way of tracing excluded them, as in torch.export.
            found[name] = (low if low > 2 else 0, high)
        return found

    # ------------------------------------------------------------------------------------------------ conditions

    def _conditions(self) -> list[Condition]:
        """The guards of the trace."""
        value = next((n.meta["val"] for n in self.nodes if isinstance(n.meta["val"], torch.Tensor)), None)
        environment = value.fake_mode.shape_env if value is not None else None  # type: ignore[attr-defined]
        guards = environment.guards if environment is not None else []
        return [one for guard in guards for one in self._condition(guard.expr)]

    def _condition(self, expression: Any) -> list[Condition]:
        if expression == sympy.true or not expression.free_symbols <= self.names.keys():
            return []
        try:
            return [condition(expression, self.names)]
        except Unsupported as error:
            log.warning("export: calls are not checked for %s: %s", expression, error)
            return []

    def _assertions(self) -> list[Condition]:
        """Takes assertions out of the graph: on sizes these become conditions, on dtypes and devices they are ours."""
        for node in self.nodes:
            if isinstance(node.meta["val"], torch.Tensor):
                self._name(node.meta["val"].shape)
            elif isinstance(node.meta["val"], torch.SymInt):
                self._name([node.meta["val"]])
        found: list[Condition] = []
        for node in list(self.graph.nodes):
            if node.target is aten._assert_tensor_metadata.default:
                self.graph.erase_node(node)
            elif node.target is aten._assert_scalar.default:
                test = node.args[0].meta.get("val") if isinstance(node.args[0], fx.Node) else None
                if isinstance(test, torch.SymBool) and not any(map(depends_on_data, test.node.expr.free_symbols)):
                    found += self._condition(test.node.expr)
                    self.graph.erase_node(node)
        return found

    # ------------------------------------------------------------------------------------------------ what is stored

    def _plain(self, weights: list[fx.Node]) -> ExportedProgram:
        """The same graph as a program without state."""
        inputs: list[InputSpec] = []
        constants: dict[str, Any] = {}
        for node, spec in self.specs.items():
            if spec.kind == InputKind.CONSTANT_TENSOR:
                if not node.users:
                    self.graph.erase_node(node)
                    continue
                name = f"c{len(constants)}"
                constants[name] = self._constant(str(spec.target))
                inputs.append(InputSpec(spec.kind, TensorArgument(node.name), name))
            elif isinstance(spec.arg, ConstantArgument) or (spec.kind in _WEIGHTS and node not in weights):
                self.graph.erase_node(node)
            else:
                inputs.append(InputSpec(InputKind.USER_INPUT, type(spec.arg)(node.name), None))
        results: Any = self.graph.output_node().args[0]
        outputs = [
            OutputSpec(OutputKind.USER_INPUT_MUTATION, TensorArgument(value.name), target.name)
            for value, target in zip(results, self.written, strict=False)
        ]
        outputs += [OutputSpec(OutputKind.USER_OUTPUT, _argument(value), None) for value in results[len(outputs) :]]
        for node in self.graph.nodes:
            # What names the source of the model, its lines and its folders is nobody else's business.
            node.meta = {"val": node.meta["val"]} if "val" in node.meta else {}
        taken = sum(one.kind == InputKind.USER_INPUT for one in inputs)
        given = sum(one.kind == OutputKind.USER_OUTPUT for one in outputs)
        call = ModuleCallSignature([], [], _leaves(((0,) * taken, {})), _leaves((0,) * given))
        module = self.program.graph_module
        module.recompile()
        return ExportedProgram(
            root=module, graph=module.graph, graph_signature=ExportGraphSignature(inputs, outputs), state_dict={},
            range_constraints=self._ranges(),
            module_call_graph=[ModuleCallEntry("", call)], constants=constants, verifiers=[Verifier],
        )  # fmt: skip

    def _ranges(self) -> dict[sympy.Symbol, Any]:
        """Limits of the symbols that the graph still has, wide enough for size 1 wherever a call may have it."""
        values = pytree.tree_leaves([node.meta.get("val") for node in self.graph.nodes])
        shapes = [one.shape for one in values if isinstance(one, torch.Tensor)]
        found = symbols([*values, *(size for shape in shapes for size in shape)])
        limits = self.program.range_constraints
        return {one: _wide(one, limits[one]) for one in found if one in limits}

    def _constant(self, name: str) -> torch.Tensor:
        value = self.program.constants[name]
        if not isinstance(value, torch.Tensor) or value.is_meta:
            raise TRTStrippedError(f"the constant {name} has no value (meta device): make it a buffer, or give it one")
        return value.detach().cpu().contiguous()


def _one(tensor: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors are one weight."""
    if tensor is other:
        return True
    if (tensor.shape, tensor.dtype, tensor.stride()) != (other.shape, other.dtype, other.stride()) or tensor.is_meta:
        return False
    return tensor.device == other.device and tensor.numel() > 0 and tensor.data_ptr() == other.data_ptr()


def _leaves(tree: Any) -> Any:
    return pytree.tree_structure(tree)


def _open(upper: Any) -> bool:
    return upper in (int_oo, sympy.oo) or upper > UNBOUNDED


def _wide(symbol: sympy.Symbol, bounds: Any) -> Any:
    """Bounds that do not exclude 1 only because PyTorch traces no size of 1."""
    if depends_on_data(symbol) or bounds.lower > 2 or bounds.upper < 1:
        return bounds
    return ValueRanges(1, bounds.upper)


def _argument(value: Any) -> TensorArgument | SymIntArgument | ConstantArgument:
    if not isinstance(value, fx.Node):
        return ConstantArgument("", value)
    if isinstance(value.meta["val"], torch.Tensor):
        return TensorArgument(value.name)
    if isinstance(value.meta["val"], torch.SymInt):
        return SymIntArgument(value.name)
    raise TRTStrippedError(f"the program returns {value.meta['val']!r}, which is neither a tensor nor an int")


def _device(nodes: Iterable[fx.Node]) -> torch.device:
    """Where a program runs: on the GPU if one of its arguments does, else where the first is."""
    found = [n.meta["val"].device for n in nodes if isinstance(n.meta["val"], torch.Tensor)]
    return next((d for d in found if d.type == "cuda"), found[0] if found else torch.device("cpu"))
