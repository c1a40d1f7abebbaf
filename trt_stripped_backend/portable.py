"""FX graphs and signatures as JSON, for a process that runs what another one lowered. No code, and no weights."""

from __future__ import annotations

import base64
import operator
import re
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.fx._lazy_graph_module import _LazyGraphModule

from .errors import BadEntry, Unsupported
from .sizes import OPERATORS
from .types import Json, Signature, Slot, Symbol, TensorSpec, dtype_name, flat_bytes

#: Functions that are no operators of PyTorch's, by the name that stands for them.
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "operator.getitem": operator.getitem, "torch.sym_max": torch.sym_max, "torch.sym_min": torch.sym_min,
    **{f"sizes.{name}": rule for name, rule in OPERATORS.items()},
}  # fmt: skip
#: What PyTorch's own attributes may be as arguments.
_CONSTANTS = (torch.dtype, torch.layout, torch.memory_format)
#: Kinds of nodes, of which only ``call_function`` names what runs. Their names become a part of code.
_KINDS = ("placeholder", "get_attr", "call_function", "call_module", "output")
_NAME = re.compile(r"[A-Za-z_]\w*(\.\w+)*")
_NAMES = {function: name for name, function in _FUNCTIONS.items()}


def dump_tensor(tensor: torch.Tensor) -> Json:
    """A literal by value."""
    with unset_fake_temporarily():  # compiler callbacks run under an active FakeTensorMode
        raw = flat_bytes(tensor.cpu()).numpy().tobytes()
    return [dtype_name(tensor.dtype), list(tensor.shape), str(tensor.device), base64.b64encode(raw).decode()]


def load_tensor(data: Json) -> torch.Tensor:
    dtype, shape, device, text = data
    raw = bytearray(base64.b64decode(text))
    flat = torch.frombuffer(raw, dtype=torch.uint8) if raw else torch.empty(0, dtype=torch.uint8)
    return flat.view(getattr(torch, dtype)).reshape(shape).to(device)


def _target(node: fx.Node) -> str:
    target: Any = node.target
    if node.op != "call_function":
        return str(target)
    if isinstance(target, torch._ops.OpOverload):
        return f"{target._schema.name}.{target._schema.overload_name or 'default'}"
    if target in _NAMES:
        return _NAMES[target]
    raise Unsupported(f"{node.name}: {target} cannot be saved; name it in no option, or keep it out of the model")


def _function(name: str) -> Callable[..., Any]:
    if name in _FUNCTIONS:
        return _FUNCTIONS[name]
    namespace, _, rest = name.partition("::")
    packet, _, overload = rest.rpartition(".")
    try:
        found: Any = getattr(getattr(getattr(torch.ops, namespace), packet), overload)
    except (AttributeError, RuntimeError):
        found = None
    if not isinstance(found, torch._ops.OpOverload):  # torch.ops has methods of its own, which import and load code
        raise BadEntry(f"the operator {name} is not known here: import what registers it before loading")
    return found


def _dump(value: Any) -> Json:
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return {"float": value.hex()}
    if isinstance(value, complex):
        return {"complex": [value.real.hex(), value.imag.hex()]}
    if isinstance(value, fx.Node):
        return {"node": value.name}
    if isinstance(value, tuple):
        return {"tuple": [_dump(one) for one in value]}
    if isinstance(value, list):
        return [_dump(one) for one in value]
    if isinstance(value, _CONSTANTS):
        return {"torch": str(value).removeprefix("torch.")}
    if isinstance(value, torch.device):
        return {"device": str(value)}
    if isinstance(value, slice):
        return {"slice": [_dump(value.start), _dump(value.stop), _dump(value.step)]}
    raise Unsupported(f"an argument of type {type(value).__name__} cannot be saved")


def _load(data: Json, nodes: dict[str, fx.Node]) -> Any:
    if isinstance(data, list):
        return [_load(one, nodes) for one in data]
    if not isinstance(data, dict):
        return data
    ((kind, value),) = data.items()
    if kind == "node":
        return nodes[value]
    if kind == "float":
        return float.fromhex(value)
    if kind == "complex":
        return complex(*map(float.fromhex, value))
    if kind == "tuple":
        return tuple(_load(one, nodes) for one in value)
    if kind == "torch" and isinstance(getattr(torch, value, None), _CONSTANTS):
        return getattr(torch, value)
    if kind == "device":
        return torch.device(value)
    if kind == "slice":
        return slice(*(_load(one, nodes) for one in value))
    raise BadEntry(f"a saved graph holds an unknown {kind!r}")


def dump_graph(module: fx.GraphModule) -> Json:
    """A graph of operators. Submodules are named and left out; tensors that it holds are literals.

    Raises:
        Unsupported: a node or argument has no form as JSON.
    """
    nodes, literals = [], {}
    for node in module.graph.nodes:
        value = node.meta.get("val") if node.op == "placeholder" else None
        static = isinstance(value, torch.Tensor) and all(isinstance(s, int) for s in value.shape)
        spec = [dtype_name(value.dtype), list(value.shape)] if static and value is not None else None
        kwargs = {name: _dump(one) for name, one in node.kwargs.items()}
        nodes.append([node.name, node.op, _target(node), _dump(tuple(node.args))["tuple"], kwargs, spec])
        if node.op == "get_attr":
            literals[str(node.target)] = dump_tensor(operator.attrgetter(str(node.target))(module))
    return {"nodes": nodes, "literals": literals}


def load_graph(data: Json, modules: dict[str, nn.Module] | None = None) -> fx.GraphModule:
    """The graph that :func:`dump_graph` saved, with these submodules.

    Raises:
        BadEntry: an operator is not known in this process, or a node is none that :func:`dump_graph` writes.
    """
    attributes: dict[str, Any] = dict(modules or {})
    attributes |= {name: load_tensor(one) for name, one in data["literals"].items()}
    graph = fx.Graph()
    nodes: dict[str, fx.Node] = {}
    for name, op, target, args, kwargs, spec in data["nodes"]:
        named_in_code = (name, *kwargs, *(() if op == "call_function" else (target,)))
        if op not in _KINDS or not all(map(_NAME.fullmatch, named_in_code)):
            raise BadEntry(f"a saved graph holds an unknown {op!r} {target!r}")
        given = tuple(_load(one, nodes) for one in args)
        named = {key: _load(one, nodes) for key, one in kwargs.items()}
        what = _function(target) if op == "call_function" else target
        nodes[name] = graph.create_node(op, what, given, named, name)
        if spec is not None:
            nodes[name].meta["val"] = torch.empty(spec[1], dtype=getattr(torch, spec[0]), device="meta")
    return _LazyGraphModule(attributes, graph)  # a graph that never runs in PyTorch needs no code


def dump_signature(signature: Signature) -> Json:
    return {
        "inputs": [[name, spec.to_json()] for name, spec in signature.inputs],
        "slots": [[name, slot.name, slot.spec.to_json(), slot.kernel, slot.relaid] for name, slot in signature.slots],
        "outputs": [spec.to_json() for spec in signature.outputs],
        "symbols": [[s.name, s.low, s.high, s.example, s.argument, s.dim] for s in signature.symbols],
    }


def load_signature(data: Json) -> Signature:
    return Signature(
        tuple((name, TensorSpec.from_json(spec)) for name, spec in data["inputs"]),
        tuple((name, Slot(slot, TensorSpec.from_json(spec), *kind)) for name, slot, spec, *kind in data["slots"]),
        tuple(TensorSpec.from_json(spec) for spec in data["outputs"]),
        tuple(Symbol(*one) for one in data["symbols"]),
    )
