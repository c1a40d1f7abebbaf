"""A stored program: engines, the PyTorch between them, and which weight goes where."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from .. import weights
from ..backend import assembled, needs_grad
from ..compilation import AMPERE, Compilation
from ..enginecall import EngineCall
from ..errors import BadEntry, OptionError, RefitFailed, Unsupported
from ..flavour import Flavour, load
from ..key import canonical, digest, host
from ..lowering import Lowered
from ..options import Options
from ..partition import recut
from ..pieces import Piece, Planned
from ..precision import exact_in_tf32, settlement
from ..report import recent, warn
from ..types import Entry, Json, Partition
from . import container, graph
from .calling import Calling, Inputs, loaded
from .supply import Supply, Weights, device_of, supply


@dataclass(frozen=True)
class _Placed:
    """A program on one device.

    Attributes:
        call: runs it with engines; takes one list of arguments.
        in_torch: runs it in PyTorch alone, with gradients.
        results: the tree of its results.
    """

    call: Callable[[list[Any]], Any]
    in_torch: Callable[..., Any]
    results: Any


class RefittedProgram:
    """A program with weights: takes the exported model's arguments and returns its results.

    Attributes:
        device: where it runs.
    """

    def __init__(self, calling: Calling, given: Supply, placed: _Placed, device: torch.device) -> None:
        self.device = device
        self._supply, self._placed = given, placed
        self._inputs = Inputs(calling, device)
        self._written = [index for index, source in enumerate(calling.sources) if source.written]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Runs it, as the exported model. Where a gradient is needed, it runs in PyTorch, with a warning.

        Raises:
            InputError: the arguments are not what the program was exported for; names all that is wrong.
            RefitFailed: a weight is not what the program was exported for.
        """
        sources = self._supply.tensors()
        given = [*sources, *self._inputs.flat(args, kwargs, [sources[i] for i in self._written])]
        if torch.is_grad_enabled() and needs_grad(given):
            warn("an exported program runs in PyTorch: a gradient is needed; use torch.no_grad() to serve")
            return pytree.tree_unflatten(self._placed.in_torch(*given), self._placed.results)
        with torch.no_grad():
            return pytree.tree_unflatten(self._placed.call(given), self._placed.results)


class StrippedProgram:
    """Engines, what PyTorch runs between them, and which weight goes where; but no weights.

    Made by ``export`` or ``load``. ``refit`` gives it weights, and may do so any number of times: the
    callables share the engines.

    Attributes:
        report: what ``Report.to_dict`` said at export: engines, and why the rest runs in PyTorch.
    """

    def __init__(self, content: Json, blobs: Mapping[str, bytes], options: Any = None) -> None:
        self._content, self._blobs = content, dict(blobs)
        self.report: Json = content["report"]
        self._calling = Calling.from_json(content["calling"])
        self._options = self._chosen(options)
        self._program: ExportedProgram | None = None
        self._placed: dict[torch.device, _Placed] = {}
        self._lock = threading.Lock()

    def _chosen(self, given: Any) -> Options:
        """Options of this process, with those of the export where they decided the plans."""
        content = self._content
        decided = {**content["options"], "refit_mode": content["mode"], "flavour": content["flavour"][0]}
        asked = Options.of(given)
        own = given.changed() if isinstance(given, Options) else dict(given or {})
        for name in own.keys() & decided.keys():
            value = getattr(asked, name)
            if value not in (decided[name], "auto"):
                raise OptionError(f"{name}={value!r}: the program was exported with {decided[name]!r}: export again")
        return dataclasses.replace(asked, **decided)

    @property
    def engines(self) -> list[Json]:
        """For each engine, in order: its key, the bytes of its plan, and its slots, as JSON.

        A slot has a ``source``: the parameter or buffer by name, or ``derived``, the arithmetic that makes it of some.
        """
        return [
            {"key": one["key"], "plan_bytes": len(self._blobs[f"plan/{one['key']}"]), "slots": one["slots"]}
            for one in self._content["engines"]
        ]

    def save(self, path: str | Path) -> None:
        """Writes the program to a file, all or nothing. The file is a safetensors file of bytes, without pickle.

        Raises:
            OSError: it cannot be written; then nothing is left behind.
        """
        container.write(Path(path), self._content, self._blobs)

    @classmethod
    def load(cls, path: str | Path, *, options: Any = None) -> StrippedProgram:
        """Reads what ``save`` wrote, and checks every byte of it against its SHA-256.

        A plan is code: load only files that you trust.

        Args:
            path: the file.
            options: as for ``export``; those that decide a plan are the file's own.

        Raises:
            BadEntry: truncated, damaged, of another format version, or something else altogether.
            OptionError: an unknown option, a value that it does not take, or one that the export decided.
        """
        content, blobs = container.read(Path(path))
        try:
            needed = {"program", *(f"plan/{one['key']}" for one in content["engines"])}
            if not needed <= blobs.keys():
                raise BadEntry(f"{path} lacks {', '.join(sorted(needed - blobs.keys()))}: export again")
            return cls(content, blobs, options)
        except (KeyError, TypeError, AttributeError) as error:
            raise BadEntry(f"{path} has a header that this version cannot read ({error!r}): export again") from error

    def refit(self, weights: Weights, *, device: torch.device | str | int | None = None) -> RefittedProgram:
        """The program with weights.

        Args:
            weights: a module, whose parameters and buffers stay its own: each call sees them as they are; a
                ``state_dict``, whose tensors are moved to the GPU once; or the path of a ``.safetensors`` file.
            device: where to run; the module's own, or the current GPU, unless given.

        Returns:
            A callable that takes the exported model's arguments and returns its results.

        Raises:
            RefitFailed: names every weight that is missing, unexpected, or of another shape or dtype; or the program is
                not for this TensorRT, GPU or machine.
            BadEntry: this version of PyTorch, or of this package, cannot read it.
        """
        where = device_of(weights, device)
        place = self._place(where)
        held = {one.name: self._value(one.name, one.spec.shape, one.spec.dtype) for one in self._calling.sources}
        given = supply(weights, self._calling, {name: v for name, v in held.items() if v is not None}, where)
        return RefittedProgram(self._calling, given, place, where)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Never runs: a program has no weights.

        Raises:
            RefitFailed: always.
        """
        raise RefitFailed("the program has no weights: call what program.refit(module or state_dict) returns")

    def __repr__(self) -> str:
        content, calling = self._content, self._calling
        size = sum(map(len, self._blobs.values()))
        return (
            f"<StrippedProgram: {len(content['engines'])} engine(s) for {content['flavour'][0]} "
            f"{content['flavour'][1]}, {content['mode']}, {size / 1e6:.2f} MB without {len(calling.sources)} weight(s)>"
        )

    def _value(self, name: str, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor | None:
        data = self._blobs.get(f"value/{name}")
        if data is None:
            return None
        flat = torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.empty(0, dtype=torch.uint8)
        return flat.view(dtype).reshape(tuple(shape))

    # ------------------------------------------------------------------------------------------------ on a device

    def _place(self, device: torch.device) -> _Placed:
        with self._lock:
            if device not in self._placed:
                self._placed[device] = self._made(device)
            return self._placed[device]

    def _made(self, device: torch.device) -> _Placed:
        flavour = self._flavour(device)
        if self._program is None:
            self._program = graph.parse(self._blobs["program"])
        lowered = graph.restored(self._program, self._calling, device)
        compilation = Compilation.of(self._options, flavour, device)
        compilation.tf32, compilation.half_sums = self._content["tf32"], self._content["half_sums"]
        planned = self._planned(lowered)
        compilation.exact = exact_in_tf32(planned.split.module.graph)  # for engines of wider ranges
        try:
            for tf32 in {bool(piece.entry.header["tf32"]) for piece in planned.pieces if piece.entry is not None}:
                if flavour.is_rtx:
                    settlement.made(tf32)
        except Unsupported as error:
            raise RefitFailed(f"the program cannot run in this process: {error}") from error
        recent.append(compilation.report)
        call, _ = assembled(compilation, planned, lowered.names, guarded=False)
        for engine in planned.cut.module.children():
            if isinstance(engine, EngineCall):
                engine.load()
        return _Placed(call, lowered.module, loaded(self._calling.gives))

    def _planned(self, lowered: Lowered) -> Planned:
        """The engines of the file, each for the very graph that it was built for."""
        engines = self._content["engines"]
        again = (
            f"the program was exported by trt_stripped_backend {self._content['package']} with torch "
            f"{self._content['torch']}, and its graph is not the same here: export again"
        )
        split = weights.split(
            lowered, mode=self._content["mode"], rtx=self._content["flavour"][0] == "tensorrt_rtx"
        )
        try:
            cut = recut(split, [(one["nodes"], one["outputs"]) for one in engines])
        except KeyError as error:
            raise BadEntry(again) from error
        by_node = {one["nodes"][-1]: one for one in engines}  # the first may be a literal of several
        pieces = []
        for part in cut.partitions:
            graph, signature = canonical(part)
            one = by_node.get(nodes(part)[-1])
            if one is None or digest(graph) != one["header"]["digests"]["graph"]:
                raise BadEntry(again)
            entry = Entry(one["key"], one["header"], self._blobs[f"plan/{one['key']}"])
            ranges = tuple((low, best, high) for low, best, high in one["header"]["ranges"])
            pieces.append(Piece(part, signature, graph, entry, limits=ranges))
        return Planned(split, cut, tuple(pieces))

    def _flavour(self, device: torch.device) -> Flavour:
        """The TensorRT of this process.

        Raises:
            RefitFailed: the program is not for it, for this GPU, or for this machine.
        """
        name, version = self._content["flavour"]
        try:
            flavour = load(name)
        except OptionError:  # another one is in use
            flavour = load()
        if not flavour.runs(name, version, newer=self._content["options"].get("version_compatible", False)):
            raise RefitFailed(
                f"the program was exported for {name} {version}, and this process has {flavour}, which does not run "
                f"such plans: export again with {flavour}, or install {name}=={version}"
            )
        if self._content["host"] != host():
            raise RefitFailed(
                f"the program was exported on {' '.join(self._content['host'])} and this is {' '.join(host())}: "
                "export again here"
            )
        wanted = self._content["device"]
        if wanted != "portable":
            found = torch.cuda.get_device_properties(device)
            here: Any = [found.name, found.major, found.minor]
            if wanted != here and not (wanted == AMPERE and found.major >= 8):
                exported = "GPUs since Ampere" if wanted == AMPERE else _gpu(*wanted)
                raise RefitFailed(
                    f"the program was exported for {exported}, and this is {_gpu(*here)}: export again here, or with "
                    "hardware_compatible=True"
                )
        return flavour


def _gpu(name: str, major: int, minor: int) -> str:
    return f"{name} (compute capability {major}.{minor})"


def nodes(part: Partition) -> list[str]:
    """What an engine computes, by name in the main graph."""
    return [node.name for node in part.module.graph.nodes if node.op == "call_function"]


def outputs(part: Partition) -> list[str]:
    """What of it an engine returns."""
    return [node.name for node in part.module.graph.output_node().all_input_nodes]
