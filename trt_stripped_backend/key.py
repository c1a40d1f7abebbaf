"""What decides a plan, as named parts, and the digest over them. Pure: reads no weight's value.

The graph is written down in canonical form: nodes in post-order from the outputs, numbered by position, so that FX
names, module paths and the order in which Python met the nodes do not matter; arguments by schema name with defaults
filled in; floats by their bits; constants by the SHA-256 of their bytes. Copies are left out: PyTorch makes them to
change the layout, where its kernels for one device want it and those for another do not, and a network has none. An
argument of unknown type raises: a key never guesses.
"""

from __future__ import annotations

import functools
import hashlib
import json
import operator
import platform
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import sympy
import torch
from torch import fx
from torch._subclasses.fake_tensor import unset_fake_temporarily

from .errors import Unsupported
from .kernel_layout import CHANNELS_LAST, is_kernel, is_laid_out
from .ops.registry import bind, is_getitem
from .sizes import bounds, expression, hint, is_symbol, size, symbols
from .types import Json, Key, Partition, Signature, Slot, Symbol, TensorSpec, dtype_name, flat_bytes

FORMAT = 1


def canonical_json(value: Json) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(value: Json) -> str:
    """SHA-256 of a JSON value in canonical form, hexadecimal."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def make_key(parts: dict[str, Json]) -> Key:
    """The key over named parts; each part is a JSON tree."""
    parts = {"format": FORMAT, **parts}
    return Key(digest(parts), parts)


def canonical(partition: Partition) -> tuple[Json, Signature]:
    """The canonical graph of a partition and its tensors in canonical order.

    Raises:
        Unsupported: an argument has a type that the canonical form does not know.
    """
    return _Canonical(partition).run()


class _Canonical:
    def __init__(self, partition: Partition) -> None:
        self.partition = partition
        self.number: dict[fx.Node, int] = {}
        self.nodes: list[Json] = []
        self.inputs: list[tuple[str, TensorSpec]] = []
        self.slots: list[tuple[str, Slot]] = []
        self.names: dict[sympy.Symbol, str] = {}

    def run(self) -> tuple[Json, Signature]:
        output = self.partition.module.graph.output_node()
        leaving = list(output.args[0])  # type: ignore[arg-type]
        order = self._ordered(leaving)
        # An expression lists its symbols by PyTorch's names, which differ from trace to trace: by then they have ours.
        for node in order:
            value = node.meta["val"] if node.op == "placeholder" else None
            self._name(filter(is_symbol, value.shape if isinstance(value, torch.Tensor) else [value]))
        for node in order:
            if _is_copy(node):
                self.number[node] = self.number[node.args[0]]  # type: ignore[index]
                continue
            record = self._record(node)
            self.number[node] = len(self.nodes)
            self.nodes.append(record)
        specs = tuple(self._spec(node) for node in leaving)
        found = tuple(map(self._symbol, self.names))
        graph = {
            "nodes": self.nodes,
            "outputs": [[self.number[node], spec.to_json()] for node, spec in zip(leaving, specs, strict=True)],
        }
        if found:
            places = {name: index for index, (name, _) in enumerate(self.inputs)}
            graph["symbols"] = [[one.name, places.get(one.argument), one.dim] for one in found]
        return graph, Signature(tuple(self.inputs), tuple(self.slots), specs, found)

    def _spec(self, node: fx.Node) -> TensorSpec:
        value = node.meta["val"]
        self._name(value.shape)
        return TensorSpec.of(value, self.names)

    def _name(self, sizes: Iterable[Any]) -> None:
        for found in symbols(sizes):
            self.names.setdefault(found, f"d{len(self.names)}")

    def _symbol(self, symbol: sympy.Symbol) -> Symbol:
        """A symbol with the argument that tells its value: a tensor that the engine has anyway, else an int."""
        name = self.names[symbol]
        placeholders = {n.name: n.meta["val"] for n in self.partition.module.graph.find_nodes(op="placeholder")}
        given: list[tuple[str, int | None, Any]]
        given = [(argument, dim, placeholders[argument].shape[dim]) for argument, spec in self.inputs
                 for dim, one in enumerate(spec.shape) if one == name]  # fmt: skip
        given += [(argument, None, value) for argument, value in placeholders.items()
                  if is_symbol(value) and expression(value) == symbol]  # fmt: skip
        if not given:
            raise Unsupported(f"no argument tells the size {symbol}")
        argument, dim, value = given[0]
        return Symbol(name, *bounds(value), hint(value), argument, dim)

    def _ordered(self, roots: Iterable[fx.Node]) -> list[fx.Node]:
        """All nodes that these need, in post-order."""
        found: dict[fx.Node, None] = {}
        for root in roots:
            stack = [(root, False)]
            while stack:
                node, ready = stack.pop()
                if ready:
                    found.setdefault(node)
                elif node not in found:
                    stack.append((node, True))
                    stack.extend((i, False) for i in reversed(node.all_input_nodes) if i not in found)
        return list(found)

    def _record(self, node: fx.Node) -> Json:
        if node.op == "placeholder":
            if isinstance(node.meta["val"], torch.SymInt):
                return ["size", self._size(node.meta["val"])]
            spec = self._spec(node)
            if node.name in self.partition.weights:
                relaid = node.name in self.partition.kernels
                spec = replace(spec, order=CHANNELS_LAST) if relaid else spec
                kernel = is_kernel(node) and is_laid_out(spec.shape, spec.order)
                self.slots.append((node.name, Slot(f"w{len(self.slots)}", spec, kernel, relaid)))
                return ["slot", spec.to_json()]
            self.inputs.append((node.name, spec))
            return ["input", spec.to_json()]
        if node.op == "get_attr":
            return ["literal", _literal(operator.attrgetter(str(node.target))(self.partition.module))]
        if is_getitem(node):
            return ["getitem", self._argument(node.args[0]), node.args[1]]
        assert isinstance(node.target, torch._ops.OpOverload)
        arguments = bind(node.target, node.args, dict(node.kwargs))
        named = {name: self._argument(value) for name, value in arguments.items()}
        return [str(node.target), named, self._outputs(node.meta["val"])]

    def _size(self, value: int | torch.SymInt) -> Json:
        self._name([value])
        return value if isinstance(value, int) else size(value, self.names)

    def _outputs(self, value: Any) -> Json:
        if isinstance(value, torch.Tensor):
            return [dtype_name(value.dtype), [self._size(s) for s in value.shape]]
        if isinstance(value, (tuple, list)):
            return [self._outputs(one) for one in value]
        return None

    def _argument(self, value: Any) -> Json:
        if isinstance(value, fx.Node):
            return {"node": self.number[value]}
        if value is None or isinstance(value, (bool, int, str)):
            return value  # JSON keeps True, 1 and "1" apart
        if isinstance(value, float):
            return {"float": value.hex()}
        if isinstance(value, (list, tuple)):
            return [self._argument(one) for one in value]
        if isinstance(value, torch.dtype):
            return {"dtype": dtype_name(value)}
        raise Unsupported(f"an argument of type {type(value).__name__} ({value!r}) has no canonical form")


def _is_copy(node: fx.Node) -> bool:
    """Whether a node makes what it is given, in other memory."""
    if node.target not in _COPIES:
        return False
    given = node.args[0]
    return isinstance(given, fx.Node) and given.meta["val"].dtype == node.meta["val"].dtype


_COPIES = (torch.ops.aten.clone.default, torch.ops.aten._to_copy.default)


def _literal(value: torch.Tensor) -> Json:
    with unset_fake_temporarily():  # compiler callbacks run under an active FakeTensorMode
        raw = flat_bytes(value.cpu()).numpy().tobytes()
    return [dtype_name(value.dtype), list(value.shape), hashlib.sha256(raw).hexdigest()]


# ------------------------------------------------------------------------------------------------ environment


@functools.cache
def source_digest() -> str:
    """SHA-256 over the source of the converters and of the build: what turns a graph into a network."""
    here = Path(__file__).parent
    names = ("build.py", "flavour.py", "key.py", "precision.py", "profile.py", "sizes.py", "types.py")
    files = sorted([*here.glob("ops/*.py"), *(here / name for name in names)])
    total = hashlib.sha256()
    for file in files:
        content = file.read_bytes()
        total.update(f"{file.name}:{len(content)}:".encode())
        total.update(content)
    return total.hexdigest()


def host() -> Json:
    """Operating system and processor architecture: a plan holds code for both."""
    return [sys.platform, platform.machine()]


def environment(
    flavour: tuple[str, str], device: Json, mode: str, options: dict[str, Json], *, tf32: bool,
    half_sums: bool,
) -> dict[str, Json]:
    """The parts of a key that are the same for all partitions of one compilation.

    Args:
        flavour: name and exact version of the TensorRT library.
        device: what the plan is for: GPU name and compute capability (tensorrt), or the target set (tensorrt_rtx).
        mode: the refit mode that ``auto`` became.
        options: :meth:`.options.Options.in_key`.
        tf32: whether float32 products may round to TF32.
        half_sums: whether float16 products may be summed in float16.
    """
    return {
        "flavour": list(flavour),
        "device": device,
        "host": host(),
        "mode": mode,
        "options": {**options, "refit_mode": mode},
        "tf32": tf32,
        "half_sums": half_sums,
        "source": source_digest(),
    }

