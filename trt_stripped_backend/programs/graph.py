"""A function of plain tensors, as :mod:`.flat` makes it, as bytes, and as the graph that the other stages take."""

from __future__ import annotations

import io
import json
import operator
import re
import warnings
import zipfile
from collections.abc import Mapping
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind
from torch.utils import _pytree as pytree

from ..errors import BadEntry
from ..inplace import update_in_place
from ..lowering import Lowered
from .calling import Calling

aten = torch.ops.aten

#: Members of PyTorch's archive that hold no pickle, code or library: the graph, bytes of tensors, marks of the format.
_PLAIN = re.compile(r"models/model\.json|data/(weights/weight|constants/tensor)_\d+|(?!models/|data/|extra/).+")


def dump(program: ExportedProgram) -> bytes:
    """A program without state as bytes, in PyTorch's own format."""
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    return buffer.getvalue()


def parse(data: bytes) -> ExportedProgram:
    """The program that :func:`dump` wrote; give it only bytes that were verified.

    Raises:
        BadEntry: this version of PyTorch cannot read it, or it would unpickle something.
    """
    try:
        _refuse_pickle(data)
        with warnings.catch_warnings():
            # torch 2.11 says so of constants that it reads, to which nobody writes.
            warnings.filterwarnings("ignore", "The given buffer is not writable", UserWarning)
            return torch.export.load(io.BytesIO(data))
    except BadEntry:
        raise
    except Exception as error:
        raise BadEntry(
            f"torch {torch.__version__} cannot read the PyTorch part of the program ({error}): export again with it"
        ) from error


def _refuse_pickle(data: bytes) -> None:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for member in archive.infolist():
            name = member.filename.partition("/")[2]
            if re.fullmatch(r"data/\w+/\w+_config\.json", name):
                tensors = json.loads(archive.read(member))["config"].values()
                # Whatever has another name is unpickled, whether it says so or not.
                plain = not any(t["use_pickle"] or not re.match(r"weight_|tensor_", t["path_name"]) for t in tensors)
            else:
                plain = bool(_PLAIN.fullmatch(name)) or not member.file_size
            if not plain:
                raise BadEntry(f"the PyTorch part of the program holds a pickle ({member.filename}): export again")


def restored(
    program: ExportedProgram, calling: Calling, device: torch.device | None, traces: Mapping[str, str] | None = None, *,
    in_place: bool = True,
) -> Lowered:  # fmt: skip
    """The lowered graph of a stored program.

    Args:
        program: what :func:`parse` returned; it is left as it is.
        calling: its arguments.
        device: where it shall run; None leaves it where it was exported.
        traces: for nodes by name, where in the user's code they come from.
        in_place: only what changes of a buffer is written to it, by PyTorch; else all of it, from an engine's output.
    """
    move = _Move(calling.device, device)
    constants = {spec.arg.name: program.constants[str(spec.target)] for spec in program.graph_signature.input_specs
                 if spec.kind == InputKind.CONSTANT_TENSOR}  # fmt: skip
    module = move.module(program.graph_module, constants)
    graph = module.graph
    for node in graph.nodes:
        if traces and node.name in traces:
            node.meta["stack_trace"] = traces[node.name]
    placeholders = {node.name: node for node in graph.find_nodes(op="placeholder")}
    output = graph.output_node()
    results: list[Any] = []
    with graph.inserting_before(output):
        for spec, value in zip(program.graph_signature.output_specs, output.args[0], strict=True):  # type: ignore[arg-type]
            if spec.kind != OutputKind.USER_INPUT_MUTATION:
                results.append(value)
                continue
            target = placeholders[str(spec.target)]
            write = graph.call_function(aten.copy_.default, (target, value))
            write.meta["val"] = target.meta["val"]
    output.args = (tuple(results),)
    graph.eliminate_dead_code()
    if in_place:
        update_in_place(module, set())
    graph.lint()
    module.recompile()
    live = tuple(i for i, source in enumerate(calling.sources) if not source.written)
    return Lowered(module, live, {i: calling.sources[i].name for i in live})


class _Move:
    """Copies graphs, and puts what stands for the program's own device on another one."""

    def __init__(self, origin: str, device: torch.device | None) -> None:
        self.origin, self.device = origin, device

    def module(self, module: fx.GraphModule, constants: Mapping[str, torch.Tensor]) -> fx.GraphModule:
        graph, copies, attributes = fx.Graph(), {}, {}
        nodes = sorted(module.graph.nodes, key=lambda n: n.op != "placeholder" or n.name in constants)
        for node in nodes:
            if node.op == "placeholder" and node.name in constants:
                copies[node] = made = graph.create_node("get_attr", node.name, name=node.name)
                attributes[node.name] = constants[node.name].to(self._device(node.meta["val"].device))
            else:
                copies[node] = made = graph.node_copy(node, copies.__getitem__)
                made.args, made.kwargs = fx.node.map_aggregate((made.args, made.kwargs), self._moved)
                if node.op == "get_attr":
                    attributes[str(node.target)] = self._attribute(operator.attrgetter(str(node.target))(module))
            made.meta = dict(node.meta)
            if "val" in node.meta:
                made.meta["val"] = pytree.tree_map(self._moved, node.meta["val"])
        return fx.GraphModule(attributes, graph)

    def _attribute(self, value: Any) -> Any:
        """A branch or body of a higher-order operator, or a tensor of it."""
        if isinstance(value, fx.GraphModule):
            return self.module(value, {})
        return self._moved(value)

    def _device(self, device: torch.device) -> torch.device:
        return self.device if self.device is not None and device.type == self.origin else device

    def _moved(self, value: Any) -> Any:
        if isinstance(value, torch.device):
            return self._device(value)
        if not isinstance(value, torch.Tensor) or self._device(value.device) == value.device:
            return value
        mode = getattr(value, "fake_mode", None)
        if mode is None:
            return value.to(self._device(value.device))
        with mode:
            return torch.empty_strided(
                value.shape, value.stride(), dtype=value.dtype, device=self._device(value.device)
            )
