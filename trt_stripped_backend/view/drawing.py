"""A lowered graph as plain data, to be drawn: nodes, what each takes, and the boxes that they stand in.

Made for ``explain`` and ``prebuild`` alone: a compilation does not pay for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import fx

from ..cut import WEIGHTS
from ..inplace import viewed
from ..ops.registry import is_getitem
from ..origin import origin
from ..partition import Partitioned
from ..types import Json, Partition, dtype_name
from ..weights import Derived, Split

_VIEW = "a view of what an engine gives: made in PyTorch, so that the two share their memory"


@dataclass(frozen=True)
class Drawn:
    """One node.

    Attributes:
        name: FX node name.
        op: the operator, or ``input`` or ``output``.
        value: dtype and shape of what it gives.
        inputs: places of the nodes whose values it takes.
        box: which box it stands in; None for the graph's own inputs and outputs.
        weights: the parameters, buffers and derived weights that it takes.
        where: the user's line, and ``code`` what stands there.
        reason: why it stays in PyTorch.
    """

    name: str
    op: str
    value: str
    inputs: tuple[int, ...] = ()
    box: int | None = None
    weights: tuple[str, ...] = ()
    where: str = ""
    code: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Drawing:
    """One of Dynamo's graphs.

    Attributes:
        nodes: in the order of execution.
        boxes: the name of each box: an engine's, or ``""`` for a connected piece that PyTorch runs.
    """

    nodes: tuple[Drawn, ...]
    boxes: tuple[str, ...]

    def to_json(self) -> Json:
        """What is empty is left out."""
        nodes = [{name: value for name, value in asdict(n).items() if value not in ("", (), None)} for n in self.nodes]
        return {"nodes": nodes, "boxes": list(self.boxes)}


@dataclass(frozen=True)
class DerivedWeight:
    """A weight that PyTorch computes from parameters, when one of these changed.

    Attributes:
        name: its placeholder in the lowered graph.
        value: dtype and shape.
        sources: the parameters and buffers that it is made from.
        ops: the operators that make it, and how many of each.
    """

    name: str
    value: str
    sources: tuple[str, ...]
    ops: dict[str, int]


def op_name(node: fx.Node) -> str:
    """``aten.linear`` for ``aten.linear.default``."""
    return str(node.target).removesuffix(".default")


def derived_weights(split: Split, names: dict[int, str]) -> list[DerivedWeight]:
    """What each derived weight is made from and of.

    Args:
        split: the lowered graph's.
        names: the user's name of the source at each position, as far as known.
    """
    return [one for piece in split.derived for one in _derived(piece, names)]


def _derived(piece: Derived, names: dict[int, str]) -> Iterator[DerivedWeight]:
    graph = piece.module.graph
    position = dict(zip(graph.find_nodes(op="placeholder"), piece.sources, strict=True))
    made: Any = graph.output_node().args[0]
    for name, node in zip(piece.names, made, strict=True):
        needed = _needed(node)
        ops = Counter(op_name(n) for n in graph.nodes if n in needed and n.op == "call_function" and not is_getitem(n))
        sources = tuple(names.get(position[n]) or n.name for n in position if n in needed)
        value = node.meta["val"] if "val" in node.meta else node.args[0].meta["val"]  # a clone is made without
        yield DerivedWeight(name, _text(value), sources, dict(ops))


def _needed(node: fx.Node) -> set[fx.Node]:
    """A node and all that it needs."""
    needed, stack = {node}, [node]
    while stack:
        new = [one for one in stack.pop().all_input_nodes if one not in needed]
        needed.update(new)
        stack.extend(new)
    return needed


def draw(split: Split, cut: Partitioned, names: dict[int, str]) -> Drawing:
    """The drawing of a graph that was cut into engines and PyTorch.

    Args:
        split: the lowered graph without its parameters-only arithmetic.
        cut: its partitions.
        names: the user's name of the source at each position, as far as known.
    """
    return _Sketch(split, cut, names).run()


class _Sketch:
    def __init__(self, split: Split, cut: Partitioned, names: dict[int, str]) -> None:
        self.cut = cut
        placeholders = [n.name for n in split.module.graph.find_nodes(op="placeholder")]
        called = {placeholders[index]: name for index, name in names.items()}
        self.weights = {name: called.get(name) or name for name in split.weights}
        self.reasons = {rejection.node: rejection.reason for rejection in cut.rejections}
        self.nodes: list[Drawn] = []
        self.boxes: list[str] = []
        #: For each node the drawn ones that its value comes from, and the weights.
        self.behind: dict[fx.Node, tuple[int, ...]] = {}
        self.taken: dict[fx.Node, tuple[str, ...]] = {}
        #: Changes between engines and PyTorch on the longest way to a drawn node.
        self.level: list[int] = []

    def run(self) -> Drawing:
        partitions = {part.name: part for part in self.cut.partitions}
        leaving: dict[fx.Node, list[fx.Node]] = {}
        for node in self.cut.module.graph.nodes:
            if node.op == "call_module" and node.target in partitions:
                leaving[node] = self._engine(node, partitions[str(node.target)])
            elif is_getitem(node) and node.args[0] in leaving:
                self.behind[node] = self.behind[leaving[node.args[0]][node.args[1]]]
            else:
                self._node(node, None)
        self._pieces()
        return Drawing(tuple(self.nodes), tuple(self.boxes))

    def _engine(self, call: fx.Node, part: Partition) -> list[fx.Node]:
        """Draws what is inside an engine; what its outputs are."""
        box = len(self.boxes)
        self.boxes.append(part.name)
        given: Any = iter(call.args[1:])  # the first one is all weights
        graph = part.module.graph
        outer = [i for node in call.all_input_nodes for i in self.behind.get(node, ())]
        level = max((self.level[i] + (self.nodes[i].box is None) for i in outer), default=0)
        for node in graph.nodes:
            if node.op == "placeholder" and node.name not in part.weights:
                self.behind[node] = self.behind.get(next(given), ())
            elif node.op != "output":
                self._node(node, box, level)
        leaving: Any = graph.output_node().args[0]
        return list(leaving)

    def _node(self, node: fx.Node, box: int | None, level: int | None = None) -> None:
        if node.op == "placeholder" and node.name in self.weights:
            self.taken[node] = (self.weights[node.name],)
            return
        if node.name == WEIGHTS and node.op == "placeholder":
            return
        inputs = tuple(dict.fromkeys(i for one in node.all_input_nodes for i in self.behind.get(one, ())))
        if node.op == "get_attr" or is_getitem(node) or (node.op != "placeholder" and _is_size(node)):
            self.behind[node] = inputs
            self.taken[node] = tuple(w for one in node.all_input_nodes for w in self.taken.get(one, ()))
            return
        weights = tuple(dict.fromkeys(w for one in node.all_input_nodes for w in self.taken.get(one, ())))
        reason = "" if box is not None else self.reasons.get(node.name, _VIEW if viewed(node) is not None else "")
        name = {"placeholder": "input", "output": "output"}.get(node.op) or op_name(node)
        value = node.args[0] if node.op == "output" else node.meta.get("val")
        self.behind[node] = (len(self.nodes),)
        self.nodes.append(Drawn(node.name, name, _text(value), inputs, box, weights, *origin(node), reason))
        steps = (self.level[i] + (self.nodes[i].box is not None) for i in inputs)
        self.level.append(max(steps, default=0) if level is None else level)

    def _pieces(self) -> None:
        """A box for each connected piece between two changes: so no box waits for one that waits for it."""
        box_of: dict[int, int] = {}
        root: dict[int, int] = {}

        def find(index: int) -> int:
            while root[index] != index:
                root[index] = index = root[root[index]]
            return index

        pieces = [i for i, one in enumerate(self.nodes) if one.box is None and one.op not in ("input", "output")]
        for index in pieces:
            root[index] = index
            for other in self.nodes[index].inputs:
                if other in root and self.level[other] == self.level[index]:
                    root[find(index)] = find(other)
        for index in pieces:
            box = box_of.setdefault(find(index), len(self.boxes))
            if box == len(self.boxes):
                self.boxes.append("")
            self.nodes[index] = replace(self.nodes[index], box=box)


def _is_size(node: fx.Node) -> bool:
    return isinstance(node.meta.get("val"), (int, torch.SymInt))


def _text(value: Any) -> str:
    """``float32[2, 3]``; several values of one node, one after another."""
    if isinstance(value, (list, tuple)):
        return ", ".join(text for one in value if (text := _text(one)))
    if isinstance(value, fx.Node):
        return _text(value.meta.get("val"))
    if isinstance(value, torch.Tensor):
        return f"{dtype_name(value.dtype)}{[*map(str, value.shape)]}".replace("'", "")
    return "" if value is None else str(value)
