"""``strip_engine``: a model as one bare plan and the table of its tensors, for C++ or trtexec."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn
from torch.export import ExportedProgram

from ..compilation import Compilation
from ..errors import BuildFailed, OptionError
from ..inplace import viewed
from ..key import host
from ..lowering import Lowered
from ..options import Options
from ..report import recent
from ..types import Json, Signature
from ..weights import Split
from . import graph
from .calling import Calling
from .export import buildable, traced
from .flat import flat
from .supply import Weights, supply, tensors_of
from .table import interface, outputs


@dataclass(frozen=True, repr=False)
class StrippedEngine:
    """One engine without weights, and what a program without PyTorch must know to run it.

    Attributes:
        plan: TensorRT's serialized engine.
        table: JSON: ``inputs``, ``weights`` (see ``StrippedProgram.engines``), ``outputs``, ``sizes`` (smallest,
            best and largest value of each dynamic one), ``mode`` (``bound``: weights are inputs of the engine;
            ``general``: they are refitted by name), and what the plan is for (``flavour``, ``device``, ``host``).
    """

    plan: bytes
    table: Json
    _signature: Signature
    _split: Split
    _calling: Calling
    _held: Mapping[str, torch.Tensor]

    def __repr__(self) -> str:
        table, size = self.table, len(self.plan) / 1e6
        counts = ", ".join(f"{len(table[name])} {name}" for name in ("inputs", "weights", "outputs"))
        return f"<StrippedEngine: {' '.join(table['flavour'])}, {table['mode']}, {size:.2f} MB, {counts}>"

    def weights(self, weights: Weights) -> dict[str, torch.Tensor]:
        """What to give the engine for each of its slots: tensors on the host, in the layout of its bindings.

        Derived weights are computed. ``safetensors.torch.save_file`` writes the result for a program without Python.

        Args:
            weights: a module, a ``state_dict``, or the path of a ``.safetensors`` file.

        Raises:
            RefitFailed: names every weight that is missing, unexpected, or of another shape or dtype.
        """
        if isinstance(weights, nn.Module):
            weights = tensors_of(weights)
        tensors = supply(weights, self._calling, self._held, torch.device("cpu")).tensors()
        placeholders = [node.name for node in self._split.module.graph.find_nodes(op="placeholder")]
        values = dict(zip(placeholders, tensors, strict=False))
        with torch.no_grad():
            for piece in self._split.derived:
                values.update(zip(piece.names, piece.module(*(tensors[i] for i in piece.sources)), strict=True))
        return {
            slot.name: values[name].detach().permute(slot.spec.order).clone(memory_format=torch.contiguous_format)
            for name, slot in self._signature.slots
        }

    def save(self, path: str | Path) -> None:
        """Writes the plan to ``path`` and the table beside it, as ``.json``.

        Raises:
            OptionError: both would lie at one path.
        """
        path = Path(path)
        if path.suffix == ".json":
            raise OptionError(f"the engine's table would replace its plan at {path}: name the plan otherwise")
        path.write_bytes(self.plan)
        path.with_suffix(".json").write_text(json.dumps(self.table, indent=1), encoding="utf-8")


def strip_engine(
    model: nn.Module | ExportedProgram,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    dynamic_shapes: Any = None,
    options: Any = None,
) -> StrippedEngine:
    """Builds the one engine of a model, without weights, for use without PyTorch.

    Args:
        model: a module, or what ``torch.export.export`` made of one.
        args: example arguments of a module.
        kwargs: example keyword arguments of a module.
        dynamic_shapes: as for ``torch.export.export``, for a module.
        options: as for ``torch.compile(options=…)``; ``min_block_size`` does not matter.

    Raises:
        BuildFailed: the model does not become exactly one engine; names what is in the way.
        OptionError: an unknown option, or a value that it does not take.
        TRTStrippedError: no TensorRT, or one that cannot build on this machine; or a program that cannot be stored.
    """
    chosen = dataclasses.replace(Options.of(options), min_block_size=1)
    flavour = buildable(chosen, "strip_engine")
    plain = flat(traced(model, args, kwargs, dynamic_shapes))
    # Through bytes as a stored program, so that its sizes have the limits of one.
    program = graph.parse(graph.dump(plain.program))
    lowered = graph.restored(program, plain.calling, torch.device("cpu"), plain.traces, in_place=False)
    _own_memory(lowered)
    compilation = Compilation.of(chosen, flavour, None)
    planned = compilation.plan(lowered)
    recent.append(compilation.report)
    entries = [piece.entry for piece in planned.pieces]
    if compilation.report.rejections or len(entries) != 1 or entries[0] is None:
        raise BuildFailed(_why(f"the model becomes {len(entries)} engines", map(str, compilation.report.rejections)))
    (piece,) = planned.pieces
    rows, wrong = outputs(piece.signature, planned.cut, plain.calling)
    if wrong:
        raise BuildFailed(_why("the engine does not make every result", wrong))
    table = {
        "flavour": [flavour.name, str(flavour.version)],
        "device": compilation.target(),
        "host": host(),
        "mode": compilation.mode,
        "tf32": entries[0].header["tf32"],
        "key": entries[0].key,
        **interface(piece.signature, compilation.ranges(piece), planned.split, plain.calling),
        "outputs": rows,
        "literals": entries[0].header["literals"],
    }
    return StrippedEngine(entries[0].plan, table, piece.signature, planned.split, plain.calling, plain.values)


def _own_memory(lowered: Lowered) -> None:
    """Results that are views of others get memory of their own: an engine cannot share it between outputs."""
    output: Any = lowered.module.graph.output_node()
    results = []
    with lowered.module.graph.inserting_before(output):
        for node in output.args[0]:
            if isinstance(node, fx.Node) and viewed(node) is not None:
                copy = lowered.module.graph.call_function(torch.ops.aten.clone.default, (node,))
                copy.meta = dict(node.meta)
                node = copy
            results.append(node)
    output.args = (tuple(results),)


def _why(what: str, reasons: Iterable[str]) -> str:
    return "\n  ".join([f"strip_engine: {what}; export() takes any program:", *reasons])
