"""Which weight is behind each tensor of an engine, as JSON: for people, and for programs without Python."""

from __future__ import annotations

import base64
import operator
from typing import Any

import torch
from torch import fx

from ..kernel_layout import kernel_format
from ..partition import Partitioned
from ..types import Json, Ranges, Signature, TensorSpec, dtype_name
from ..weights import Derived, Split
from .calling import Calling, loaded, places


def slot_table(signature: Signature, split: Split, calling: Calling) -> list[Json]:
    """The slots of an engine, in order.

    Each is ``{"name", "dtype", "shape", "order", "binding", "source" | "derived"}``: ``shape`` is PyTorch's, and
    ``binding`` the same dimensions from outermost to innermost in memory, which is what the engine sees; ``order``
    leads from one to the other. ``source`` is the parameter or buffer by name, ``derived`` how to compute the weight.
    Of the kernel of a convolution, a bound engine of TensorRT-RTX sees ``shape``, over the same memory, which is in the
    ``trt.TensorFormat`` named ``format``.
    """
    sources = _sources(split, calling)
    pieces = {name: (piece, index) for piece in split.derived for index, name in enumerate(piece.names)}
    rows = []
    for placeholder, slot in signature.slots:
        row = tensor(slot.name, slot.spec)
        if slot.kernel:
            row["format"] = kernel_format(slot.spec.dtype)
        if placeholder in sources:
            row["source"] = sources[placeholder]
        else:
            row["derived"] = recipe(*pieces[placeholder], calling)
        rows.append(row)
    return rows


def _sources(split: Split, calling: Calling) -> dict[str, str]:
    """Names in the model by placeholder of the main graph."""
    placeholders = split.module.graph.find_nodes(op="placeholder")
    return {node.name: source.name for node, source in zip(placeholders, calling.sources, strict=False)}


def tensor(name: str, spec: TensorSpec) -> dict[str, Json]:
    """An engine's tensor."""
    binding = [_shown(one) for one in spec.physical]
    return {**spec.to_json(), "name": name, "binding": binding}


def _shown(size: Any) -> Json:
    return [_shown(one) for one in size] if isinstance(size, tuple) else size


def recipe(piece: Derived, output: int, calling: Calling) -> Json:
    """How to compute a derived weight: steps in order, each with a name that later ones refer to as ``{"step": name}``.

    A step is a ``source`` of the model, a ``literal`` (dtype, shape, base64 of its bytes), or an ATen operator with its
    arguments. The last step is the weight.
    """
    graph: Any = piece.module.graph
    wanted = graph.output_node().args[0][output]
    need, stack = set(), [wanted]
    while stack:
        node = stack.pop()
        if node not in need:
            need.add(node)
            stack.extend(node.all_input_nodes)
    positions = dict(zip(graph.find_nodes(op="placeholder"), piece.sources, strict=True))
    steps: list[Json] = []
    for node in graph.nodes:
        if node not in need:
            continue
        if node.op == "placeholder":
            steps.append({"name": node.name, "source": calling.sources[positions[node]].name})
        elif node.op == "get_attr":
            steps.append({"name": node.name, "literal": _literal(operator.attrgetter(node.target)(piece.module))})
        else:
            operands = {"args": _argument(node.args), "kwargs": _argument(node.kwargs)}
            target = "getitem" if node.target is operator.getitem else str(node.target)
            steps.append({"name": node.name, "operator": target, **operands})
    return steps


def _argument(value: Any) -> Json:
    if isinstance(value, fx.Node):
        return {"step": value.name}
    if isinstance(value, (list, tuple)):
        return [_argument(one) for one in value]
    if isinstance(value, dict):
        return {name: _argument(one) for name, one in value.items()}
    if isinstance(value, torch.dtype):
        return {"dtype": dtype_name(value)}
    if isinstance(value, torch.memory_format):
        return {"memory_format": str(value).removeprefix("torch.")}
    return value if isinstance(value, (bool, int, float, str, type(None))) else {"text": str(value)}


def _literal(value: torch.Tensor) -> Json:
    flat = value.detach().cpu().contiguous().reshape(-1)
    raw = flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""
    return [dtype_name(value.dtype), list(value.shape), base64.b64encode(raw).decode()]


def interface(signature: Signature, ranges: Ranges, split: Split, calling: Calling) -> dict[str, Json]:
    """Inputs, weights and sizes of an engine that is a whole program."""
    placeholders = [node.name for node in split.module.graph.find_nodes(op="placeholder")]
    passed = [one for one in calling.inputs if one.passed]
    where = dict(zip(placeholders[len(calling.sources) :], (one.where for one in passed), strict=False))
    inputs = [{**tensor(f"x{i}", spec), "argument": where[name]} for i, (name, spec) in enumerate(signature.inputs)]
    for symbol in signature.symbols:
        if symbol.dim is None:  # a number: the engine reads the shape of this input, and none of its elements
            inputs.append({
                "name": symbol.name, "dtype": "bool", "shape": [symbol.name], "order": [0], "binding": [symbol.name],
                "argument": where[symbol.argument], "elements": "any",
            })  # fmt: skip
    return {
        "inputs": inputs,
        "weights": slot_table(signature, split, calling),
        "sizes": {s.name: list(one) for s, one in zip(signature.symbols, ranges, strict=True)},
    }


def outputs(signature: Signature, cut: Partitioned, calling: Calling) -> tuple[list[Json], list[str]]:
    """For each result of a program with one engine, the engine's output; and those results that are none."""
    rows: list[Json] = []
    wrong: list[str] = []
    results: Any = cut.module.graph.output_node().args[0]
    for place, node in zip(places(loaded(calling.gives)), results, strict=True):
        where = f"result{place}"
        if not isinstance(node, fx.Node):
            rows.append({"result": where, "value": node})
            continue
        maker: Any = node.args[0] if node.target is operator.getitem else None
        if maker is not None and maker.op == "call_module":
            number: Any = node.args[1]
            rows.append({**tensor(f"y{number}", signature.outputs[number]), "result": where})
        else:
            wrong.append(f"{where} ({node.target}) is not computed by the engine")
    return rows, wrong
