"""A compiled graph as bytes: a new process runs it without tracing anything.

``torch.compile(…).aot_compile`` saves it, and :mod:`.traces` keeps it in the cache for the next start.

It holds the split graph, signatures, and engines by their key; plans only if option ``embed_engines`` asks for them,
and no weights: those are arguments of every call. JSON inside, nothing in it can run.

::

    offset   size  what
    0        8     magic: 89 54 52 54 53 46 0D 0A ("\\x89TRTSF\\r\\n")
    8        4     format version, unsigned, little endian
    12       J     JSON
    12+J     32    SHA-256 of all before
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import os
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch._guards import TracingContext

from . import portable, refit
from .cache.entry import decode, encode
from .compilation import VALUED, Compilation
from .errors import BadEntry, MissingEngine, Outgrown, TRTStrippedError, Unsupported
from .flavour import load as load_flavour
from .key import host
from .lowering import Lowered
from .options import PREFIX, Options
from .partition import Partitioned
from .pieces import Piece, Planned
from .precision import settlement, tf32_allowed
from .types import Entry, Json, Key, Partition, Ranges, Rejection
from .view.drawing import DerivedWeight
from .weights import Derived, Split

MAGIC = b"\x89TRTSF\r\n"
FORMAT = 5

_HEAD = struct.Struct("<8sI")
_DIGEST_SIZE = hashlib.sha256().digest_size


def dump(compilation: Compilation, planned: Planned, lowered: Lowered, arguments: int) -> bytes:
    """:func:`content` as bytes."""
    return sealed(content(compilation, planned, lowered, arguments))


def content(
    compilation: Compilation, planned: Planned, lowered: Lowered, arguments: int, *, cached: bool = False
) -> Any:
    """What is saved, as JSON; called while AOTAutograd compiles, whose own work around the graph must come to nothing.

    Args:
        compilation: of this graph.
        planned: its pieces, all with an engine.
        lowered: for the weights' names.
        arguments: how many Dynamo's graph takes.
        cached: for the cache of this machine: without engines, which lie beside it, whatever ``embed_engines`` says,
            and with the lines of code that stay in PyTorch or begin an engine.

    Raises:
        Unsupported: what cannot be saved, and why.
    """
    if compilation.mode in VALUED:
        raise Unsupported(f"refit_mode={compilation.mode!r}: its engines hold values; save with 'bound' or 'general'")
    without = [piece.partition.name for piece in planned.pieces if piece.entry is None]
    if without:
        raise Unsupported(f"{', '.join(without)} could not be built: see the report")
    _check_plain(lowered, arguments)
    split, device, report = planned.split, compilation.device, compilation.report
    embed = compilation.options.embed_engines and not cached
    rejections = [one if cached else dataclasses.replace(one, where="", code="") for one in report.rejections]
    return {
        "flavour": str(compilation.flavour), "host": host(), "target": compilation.target(),
        "mode": compilation.mode, "tf32": compilation.tf32, "device": str(device),
        "half_sums": compilation.half_sums, "options": _options(compilation.options),
        "names": {str(position): name for position, name in lowered.names.items()},
        "suspects": [[position, held] for position, held in lowered.suspects.items()], "exact": compilation.exact,
        "engine_tf32": sorted(_tf32(planned)),
        "nodes": report.nodes, "rejections": [list(vars(one).values()) for one in rejections],
        "notes": list(planned.cut.notes) if cached else [],
        "derived_weights": [list(vars(one).values()) for one in report.derived_weights],
        "graph": portable.dump_graph(planned.cut.module),
        "placeholders": [n.name for n in split.module.graph.find_nodes(op="placeholder")],
        "arguments": split.arguments, "weights": sorted(split.weights), "sources": list(split.sources),
        "derived": [
            [portable.dump_graph(piece.module), list(piece.sources), list(piece.names)] for piece in split.derived
        ],
        "pieces": [_dump_piece(piece, embed) for piece in planned.pieces],
    }  # fmt: skip


def sealed(content: Json) -> bytes:
    """JSON as the bytes that are saved."""
    data = _HEAD.pack(MAGIC, FORMAT) + json.dumps(content).encode()
    return data + hashlib.sha256(data).digest()


def opened(data: bytes) -> Any:
    """What :func:`sealed` was given; nothing of it is looked at before its SHA-256 has been compared.

    Raises:
        BadEntry: something else, of another format, or changed.
    """
    if len(data) < _HEAD.size + _DIGEST_SIZE or not data.startswith(MAGIC):
        raise BadEntry("not a saved function of trt_stripped_backend")
    _, version = _HEAD.unpack_from(data)
    if version != FORMAT:
        raise BadEntry(f"a saved function of format {version}; this is format {FORMAT}: save it anew")
    if hashlib.sha256(data[:-_DIGEST_SIZE]).digest() != data[-_DIGEST_SIZE:]:
        raise BadEntry("a saved function does not match its digest: copy it again, or save it anew")
    return json.loads(data[_HEAD.size : -_DIGEST_SIZE])


def _check_plain(lowered: Lowered, arguments: int) -> None:
    """Raises Unsupported where AOTAutograd changes arguments or results around the graph: that part is not saved."""
    context = TracingContext.try_get()
    metadata: Any = context.fw_metadata if context is not None else None
    places = [getattr(n.meta.get("desc"), "idx", i) for i, n in enumerate(_placeholders(lowered))]
    reasons = {
        "arguments share memory": places != list(range(arguments)),
        "an output shares memory with an input or with another output": metadata is not None
        and (metadata.num_outputs_aliased or metadata.num_intermediate_bases),
        "it writes to its arguments": metadata is not None and metadata.num_mutated_inp_runtime_indices,
        "it has side effects": metadata is not None and metadata.tokens,
    }
    for reason, found in reasons.items():
        if found:
            raise Unsupported(f"{reason}, which a saved function does not take care of: use torch.compile for it")


def _placeholders(lowered: Lowered) -> list[Any]:
    return list(lowered.module.graph.find_nodes(op="placeholder"))


def _options(options: Options) -> Json:
    """What is not as by default."""

    def plain(value: Any) -> Json:
        if isinstance(value, tuple):  # directories are searched in their order
            return [str(one) if isinstance(one, Path) else one for one in value]
        return sorted(value) if isinstance(value, frozenset) else value

    return {name: plain(value) for name, value in options.changed().items()}


def _dump_piece(piece: Piece, embed: bool) -> Json:
    part, entry = piece.partition, piece.entry
    assert entry is not None
    return {
        "name": part.name, "nodes": part.nodes, "weights": sorted(part.weights), "key": entry.key,
        "module": portable.dump_graph(part.module), "signature": portable.dump_signature(piece.signature),
        "entry": base64.b64encode(encode(entry)).decode() if embed else None,
    }  # fmt: skip


# ------------------------------------------------------------------------------------------------ loading


@dataclass
class Restored(Compilation):
    """The compilation of a graph that another process lowered: nothing can be built from it."""

    def ranges(self, piece: Piece, values: Sequence[int] | None = None) -> Ranges:
        """Those that the engine was built for.

        Raises:
            Outgrown: others are asked for.
        """
        assert piece.entry is not None
        if values is not None:
            raise Outgrown(
                f"{piece.partition.name}: sizes {list(values)} are outside {piece.entry.header['ranges']}, which the "
                "saved function was made for: save it with a wider dynamic_range, or use torch.compile"
            )
        return tuple((low, best, high) for low, best, high in piece.entry.header["ranges"])


def restore(data: bytes) -> tuple[Restored, Planned, dict[int, str]]:
    """A compilation, its pieces and the names of its weights.

    Raises:
        BadEntry: not what :func:`dump` made, damaged, or by another version.
        MissingEngine: an engine is neither in the bytes nor in the cache.
        TRTStrippedError: another TensorRT, machine or GPU, or a precision that this process does not allow.
    """
    saved = opened(data)
    given = dict(saved["options"])
    if os.environ.get(f"{PREFIX}CACHE_DIR"):  # where the engines lie is a matter of this machine
        given.pop("cache_dir", None)
    options = Options.of(given)
    flavour = load_flavour(options.flavour)
    if str(flavour) != saved["flavour"]:
        raise TRTStrippedError(f"the function was saved with {saved['flavour']}; this is {flavour}: save it anew")
    device = torch.device(saved["device"])
    made = Compilation.of(options, flavour, device)
    here = {"host": host(), "target": made.target()}
    for name, found in here.items():
        if saved[name] != found:
            raise TRTStrippedError(f"the function was saved for {saved[name]}; this is {found}: save it anew here")
    made.mode, made.tf32, made.half_sums = saved["mode"], saved["tf32"], saved["half_sums"]
    made.report.mode = made.mode
    if saved["tf32"] and not tf32_allowed():
        raise TRTStrippedError(
            "the function was saved where float32 products may round to TF32, which this process forbids: "
            "torch.backends.cuda.matmul.allow_tf32 = True, or save it anew"
        )
    compilation, planned = rebuilt(saved, made)
    for tf32 in _tf32(planned):
        if flavour.is_rtx:
            settlement.made(tf32)
    return compilation, planned, names(saved)


def rebuilt(saved: Json, compilation: Compilation) -> tuple[Restored, Planned]:
    """What was saved for a compilation of the same setting, noted in its report.

    Raises:
        BadEntry: by another version.
        MissingEngine: an engine is neither in what was saved nor in the cache.
    """
    fields = {one.name: getattr(compilation, one.name) for one in dataclasses.fields(Compilation)}
    restored = Restored(**{**fields, "device": torch.device(saved["device"])})
    found: list[tuple[Entry, str, float]] = []
    known: dict[str, Entry] = {}
    for one in saved["pieces"]:
        if one["key"] in known:  # pieces that are alike
            found.append((known[one["key"]], "shared", 0.0))
        else:
            found.append(_entry(restored, one))
            known[one["key"]] = found[-1][0]
    pieces = tuple(_piece(one, entry) for one, (entry, _, _) in zip(saved["pieces"], found, strict=True))
    empty = torch.fx.Graph()
    for name in saved["placeholders"]:
        empty.placeholder(name)
    empty.output(())
    derived = tuple(Derived(portable.load_graph(gm), tuple(on), tuple(names)) for gm, on, names in saved["derived"])
    split = Split(
        torch.fx.GraphModule({}, empty), saved["arguments"], derived, frozenset(saved["weights"]),
        tuple(saved["sources"]),
    )  # fmt: skip
    modules: dict[str, torch.nn.Module] = {piece.partition.name: piece.partition.module for piece in pieces}
    module = portable.load_graph(saved["graph"], modules)
    cut = Partitioned(module, tuple(piece.partition for piece in pieces), (), restored.device)
    report = restored.report
    report.graphs += 1
    report.nodes += saved["nodes"]
    report.notes += saved["notes"]
    report.derived_weights += [
        DerivedWeight(name, value, tuple(sources), ops) for name, value, sources, ops in saved["derived_weights"]
    ]
    restored.reject(*(Rejection(*one) for one in saved["rejections"]))
    for piece, (entry, status, seconds) in zip(pieces, found, strict=True):
        restored.note(piece, Key(entry.key, {}), entry, status, seconds)
    return restored, Planned(split, cut, pieces)


def names(saved: Json) -> dict[int, str]:
    """Where the user's model keeps each source."""
    return {int(position): name for position, name in saved["names"].items()}


def suspects(saved: Json) -> dict[int, bool]:
    """Sources that may be data, as in :class:`.lowering.Lowered`."""
    return {position: held for position, held in saved["suspects"]}


def _tf32(planned: Planned) -> set[bool]:
    return {bool(piece.entry.header["tf32"]) for piece in planned.pieces if piece.entry is not None}


def _piece(saved: Json, entry: Entry) -> Piece:
    part = Partition(
        saved["name"], portable.load_graph(saved["module"]), frozenset(saved["weights"]), saved["nodes"]
    )
    return Piece(part, portable.load_signature(saved["signature"]), None, entry)


def _entry(compilation: Compilation, saved: Json) -> tuple[Entry, str, float]:
    """An engine, its status in the report, and the seconds that it took to find."""
    start, key = time.perf_counter(), Key(saved["key"], {})
    assert compilation.device is not None
    entry, status = refit.loaded(key.digest, compilation.device), "shared"
    if entry is None:
        status = "hit"
        if saved["entry"] is not None:
            entry = decode(base64.b64decode(saved["entry"]), key)
        elif compilation.cache is not None:
            entry = compilation.cache.get(key)
    if entry is None:
        where = ", ".join(map(str, compilation.cache.dirs)) if compilation.cache is not None else "no cache is used"
        raise MissingEngine(
            f"{saved['name']}: the engine of key {key} is not in the cache ({where}): bring it there "
            "(trt-stripped cache pack, unpack), or save the function with options={'embed_engines': True}"
        )
    return entry, status, time.perf_counter() - start
