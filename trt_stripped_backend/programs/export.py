"""``export`` and ``strip_engine``: a ``torch.export`` program through all stages up to its plans."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram

from .. import __version__
from ..compilation import VALUED, Compilation
from ..errors import OptionError, TRTStrippedError
from ..flavour import Flavour, load
from ..key import host
from ..options import Options
from ..pieces import Planned
from ..report import recent, warn
from ..types import Json
from ..variant import check_arguments
from . import graph
from .calling import Calling
from .flat import flat
from .program import StrippedProgram, nodes, outputs
from .table import slot_table


def export(
    model: nn.Module | ExportedProgram,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    dynamic_shapes: Any = None,
    options: Any = None,
) -> StrippedProgram:
    """Builds a model's engines without its weights, into a program that a file holds and any checkpoint completes.

    Nothing is run, and parameters may be on the ``meta`` device: no weight's value is read. With tensorrt_rtx a GPU is
    not needed either. Parameters and buffers come from ``StrippedProgram.refit``. What no ``state_dict`` has is the
    program's own: buffers registered with ``persistent=False``, which a refit with a module replaces, and tensors that
    are neither parameter nor buffer, which are literals. Products round as this process is set
    (``torch.set_float32_matmul_precision``).

    Args:
        model: a module, or what ``torch.export.export`` made of one. Its own devices are replaced by the one that the
            program runs on, so a model may be exported on the CPU.
        args: example arguments of a module.
        kwargs: example keyword arguments of a module.
        dynamic_shapes: as for ``torch.export.export``, for a module.
        options: as for ``torch.compile(options=…)``.

    Raises:
        OptionError: an unknown option, or a value that it does not take.
        BuildFailed: with ``require_full``, when anything would run in PyTorch; names all of it.
        TRTStrippedError: no TensorRT, or one that cannot build on this machine; or a program that cannot be stored.
    """
    chosen = Options.of(options)
    flavour = buildable(chosen, "export")
    plain = flat(traced(model, args, kwargs, dynamic_shapes))
    data = graph.dump(plain.program)
    # What runs later is planned from what was stored, so that both are the same graph.
    lowered = graph.restored(graph.parse(data), plain.calling, None, plain.traces)
    compilation = Compilation.of(chosen, flavour, None)
    planned = compilation.plan(lowered)
    recent.append(compilation.report)
    content, blobs = _content(compilation, planned, plain.calling), {"program": data}
    blobs |= {f"value/{name}": _bytes(value) for name, value in plain.values.items()}
    blobs |= {f"plan/{p.entry.key}": p.entry.plan for p in planned.pieces if p.entry is not None}
    if not content["engines"]:
        warn("export: the program has no engine and runs in PyTorch; its report says why")
    return StrippedProgram(content, blobs, options)


def traced(model: Any, args: Sequence[Any], kwargs: Mapping[str, Any] | None, dynamic_shapes: Any) -> ExportedProgram:
    """The ``torch.export`` program of a module, or the program itself."""
    check_arguments(args)
    if isinstance(model, ExportedProgram):
        if args or kwargs or dynamic_shapes:
            raise TRTStrippedError("an ExportedProgram has its arguments already: give it alone")
        return model
    model = getattr(model, "_orig_mod", model)
    if not isinstance(model, nn.Module):
        raise TRTStrippedError(f"export takes a module or an ExportedProgram, not a {type(model).__name__}")
    with torch.no_grad():
        keywords = dict(kwargs or {})
        return torch.export.export(model, tuple(args), keywords, dynamic_shapes=dynamic_shapes, strict=False)


def buildable(options: Options, what: str) -> Flavour:
    """The TensorRT that builds plans without weights' values on this machine.

    Raises:
        OptionError: the refit mode needs those values.
        TRTStrippedError: no TensorRT, or one that needs a GPU to build.
    """
    flavour = load(options.flavour)
    if not torch.cuda.is_available() and not flavour.builds_without_gpu:
        raise TRTStrippedError(f"{flavour} needs a GPU to build; install tensorrt_rtx, which does not, or run on one")
    if options.refit_mode in VALUED:
        raise OptionError(f"{what}: refit_mode={options.refit_mode!r} needs the weights' values; use bound or general")
    return flavour


def _content(compilation: Compilation, planned: Planned, calling: Calling) -> Json:
    return {
        "package": __version__,
        "torch": torch.__version__,
        "flavour": [compilation.flavour.name, str(compilation.flavour.version)],
        "device": compilation.target(),
        "host": host(),
        "mode": compilation.mode,
        "tf32": compilation.tf32,
        "half_sums": compilation.half_sums,
        "options": compilation.options.in_key(compilation.flavour.name),
        "calling": calling.to_json(),
        "engines": [
            {
                "key": piece.entry.key,
                "nodes": nodes(piece.partition),
                "outputs": outputs(piece.partition),
                "slots": slot_table(piece.signature, planned.split, calling),
                "header": piece.entry.header,
            }
            for piece in planned.pieces
            if piece.entry is not None
        ],
        "report": compilation.report.to_dict(),
    }


def _bytes(value: torch.Tensor) -> bytes:
    return value.reshape(-1).view(torch.uint8).numpy().tobytes() if value.numel() else b""
