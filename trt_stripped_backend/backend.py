"""The backend: from Dynamo's graph to a callable, or PyTorch for a whole graph. Read it top to bottom."""

from __future__ import annotations

import dataclasses
import functools
import logging
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import fx
from torch._dynamo.aot_compile_types import SerializableCallable
from torch._dynamo.precompile_context import BackendCacheArtifact, PrecompileContext
from torch.fx._lazy_graph_module import _LazyGraphModule

from . import artifact, context, lowering, refit, traces
from .compilation import VALUED, Compilation
from .enginecall import EngineCall
from .errors import BuildFailed, OptionError, Outgrown, RefitFailed, TRTStrippedError, Unsupported
from .flavour import load
from .live import LiveWeights
from .ops.registry import is_getitem
from .options import Options
from .partition import Partitioned
from .pieces import Planned
from .report import Report, recent, stats, warn
from .types import Rejection
from .watch import gather

log = logging.getLogger("trt_stripped_backend")


def trt_stripped(
    gm: fx.GraphModule, example_inputs: Sequence[Any], *, options: Any = None, mode: str | None = None
) -> Callable[..., Any]:
    """The backend that ``torch.compile(model, backend="trt_stripped", options={...})`` calls for each graph.

    Args:
        gm: Dynamo's graph.
        example_inputs: its arguments, real tensors.
        options: see :class:`~.Options`.
        mode: torch.compile's: ``"reduce-overhead"`` is ``cuda_graphs=True``; no other is known.

    Raises:
        OptionError: an unknown option, or a value that it does not take.
        BuildFailed: with ``require_full``, when anything would run in PyTorch.
    """
    chosen = Options.of(options)
    if mode == "reduce-overhead":
        chosen = dataclasses.replace(chosen, cuda_graphs=True)
    elif mode not in (None, "default"):
        raise OptionError(f"mode={mode!r} is Inductor's; this backend takes 'reduce-overhead', or options={{...}}")
    stats.add(graphs=1)
    compilation = _start(chosen, example_inputs)
    if isinstance(compilation, Rejection):
        return _eager(gm, compilation, chosen)
    saved: list[bytes] | None = [] if lowering.to_be_saved() else None
    name = traces.name_of(gm, example_inputs, compilation) if saved is None else None
    kept_as = _kept_as(gm)
    compiled = _known(gm, compilation, name, kept_as) if name is not None else None
    if compiled is None:
        make = functools.partial(
            _callable, compilation, arguments=len(example_inputs), saved=saved, name=name, kept_as=kept_as
        )
        compiled = lowering.trace(gm, example_inputs, make)
    recent.append(compilation.report)

    def call(*args: Any) -> Any:
        # torch 2.11 does not guard requires_grad of parameters, and AOT runs the inner callable with grad off.
        if torch.is_grad_enabled() and needs_grad(args):
            return gm(*args)
        try:
            return compiled(*args)
        except RefitFailed as error:
            stats.add(fallbacks=1)
            warn(f"this call runs in PyTorch: {error}")
            return gm(*args)

    return Saved(call, *saved) if saved is not None else call


class Saved(SerializableCallable):
    """A compiled graph that ``aot_compile`` can save, and what a process without the graph loads.

    Args:
        run: takes the arguments of Dynamo's graph.
        data: what :func:`.artifact.dump` made of it.
    """

    def __init__(self, run: Callable[..., Any], data: bytes) -> None:
        self.run, self.data = run, data

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.run(*args, **kwargs)

    @classmethod
    def serialize_compile_artifacts(cls, fn: Saved) -> bytes:
        return fn.data

    @classmethod
    def deserialize_compile_artifacts(cls, data: bytes) -> Saved:
        """The callable over saved bytes; it has no graph to fall back to, so what fails raises."""
        compilation, planned, names = artifact.restore(data)
        # A guard_filter_fn may have left no guard on the parameters.
        inner, _ = assembled(compilation, planned, names, guarded=False)
        run = _plain(inner)
        recent.append(compilation.report)

        def call(*args: Any) -> Any:
            if torch.is_grad_enabled() and needs_grad(args):
                raise TRTStrippedError("a saved function computes no gradients: call it under torch.no_grad()")
            return run(*args)

        return cls(call, data)


class Precompiled(BackendCacheArtifact[Any]):
    """A compiled graph among what PyTorch keeps for another process (``torch._dynamo.config.caching_precompile``)."""

    @classmethod
    def keep(cls, name: str, data: bytes) -> None:
        """Hands what :func:`.artifact.dump` made of a graph to PyTorch, under PyTorch's name of it."""
        PrecompileContext.record_artifact(cls(name, data))

    def __deepcopy__(self, _: Any) -> Precompiled:
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {"key": self.key, "content": self.content}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        # While PyTorch reads its file: only there does it go on without what cannot be had, and compiles anew.
        self.made = Saved.deserialize_compile_artifacts(self.content)

    def after_deserialization(self) -> Callable[..., Any]:
        return self.made.run


def _kept_as(gm: fx.GraphModule) -> str | None:
    """PyTorch's name of a graph that it would keep for the next process."""
    return getattr(gm, "_backend_id", None) if torch._dynamo.config.caching_precompile else None


def reset() -> None:
    """Called by ``torch._dynamo.reset()``: forgets the engines that were loaded."""
    refit.clear_pools()
    context.release()


trt_stripped.reset = reset  # type: ignore[attr-defined]


def _start(options: Options, inputs: Sequence[Any]) -> Compilation | Rejection:
    """A compilation for these inputs, or why they stay in PyTorch."""
    tensors = [t for t in inputs if isinstance(t, torch.Tensor)]
    if torch.is_grad_enabled() and needs_grad(tensors):
        return Rejection("", "graph", "grad", "a gradient is needed; use torch.no_grad() or inference_mode() to serve")
    device = next((t.device for t in tensors if t.device.type == "cuda"), None)
    if device is None:
        what = (
            "no CUDA device is available"
            if not torch.cuda.is_available()
            else "its tensors are on the CPU; use .cuda()"
        )
        return Rejection("", "graph", "device", what)
    try:
        flavour = load(options.flavour)
    except OptionError:
        raise
    except TRTStrippedError as error:
        return Rejection("", "graph", "device", str(error))
    if lowering.to_be_saved():  # what is saved holds its engines, or the keys of engines that there are
        options = dataclasses.replace(options, build="now")
    compilation = Compilation.of(options, flavour, device)
    if compilation.background and compilation.mode in VALUED:
        raise OptionError(
            f"build='background' cannot build for refit_mode={compilation.mode!r}: its plans depend on the values "
            "that the weights have at a call, which may change before a worker reads them; use refit_mode='bound' "
            "or 'general', or build='now'"
        )
    return compilation


def _known(
    gm: fx.GraphModule, compilation: Compilation, name: str, kept_as: str | None
) -> Callable[..., Any] | None:  # fmt: skip
    """The callable over what an earlier start kept of this graph; None if it kept nothing that is of use."""
    found = traces.find(name, compilation, gm)
    if found is None:
        return None
    restored, planned, saved = found
    dynamic = any(piece.signature.symbols for piece in planned.pieces)
    if kept_as is not None and not dynamic:
        Precompiled.keep(kept_as, artifact.sealed(saved))
    suspects = artifact.suspects(saved)
    inner, live = assembled(restored, planned, artifact.names(saved), suspects)
    if suspects or dynamic:
        inner = _replanned(compilation, functools.partial(lowering.lowered_anew, gm), inner, live, dynamic=dynamic)
    return _plain(inner)


def _plain(inner: Callable[..., Any]) -> Callable[..., Any]:
    """What AOTAutograd does around a graph that :func:`.artifact.dump` takes."""

    def call(*args: Any) -> Any:
        # Casts are a part of the graph.
        with torch.no_grad(), torch._C._DisableAutocast():
            return inner(list(args))

    return call


def _callable(
    compilation: Compilation, lowered: lowering.Lowered, *, arguments: int, saved: list[bytes] | None,
    name: str | None, kept_as: str | None,
) -> Callable[..., Any]:  # fmt: skip
    """The callable over a lowered graph: its engines, and what stays in PyTorch."""
    planned = compilation.plan(lowered)
    device = compilation.device = planned.cut.device or compilation.device
    if saved is not None:
        try:
            saved.append(artifact.dump(compilation, planned, lowered, arguments))
        except Unsupported as error:
            raise TRTStrippedError(f"aot_compile: {error}") from error
    if device is None or not runs_on(device):  # every CUDA tensor turned out to be unused
        return lowering.boxed(lowered.module)
    if name is not None:
        traces.keep(name, compilation, planned, lowered, arguments)
    if kept_as is not None:
        try:
            Precompiled.keep(kept_as, _lasting(compilation, planned, lowered, arguments))
        except Unsupported as error:
            log.warning("caching_precompile does not keep a graph, which the next process traces: %s", error)
    inner, live = assembled(compilation, planned, lowered.names, lowered.suspects)
    return _replanned(compilation, lambda _: lowered, inner, live) if lowered.suspects else inner


def _lasting(compilation: Compilation, planned: Planned, lowered: lowering.Lowered, arguments: int) -> bytes:
    """What becomes of a graph, for a process that has not the graph to fall back to.

    Raises:
        Unsupported: it may need the graph.
    """
    if any(piece.signature.symbols for piece in planned.pieces):
        raise Unsupported("sizes beyond those that its engines are built for need it")
    if compilation.cache is None and not compilation.options.embed_engines:
        raise Unsupported("no cache keeps its engines: see embed_engines")
    return artifact.dump(compilation, planned, lowered, arguments)


def _replanned(
    compilation: Compilation, lower: Callable[[Sequence[Any]], lowering.Lowered], inner: Callable[..., Any],
    live: LiveWeights, *, dynamic: bool = False,
) -> Callable[..., Any]:  # fmt: skip
    """A callable over ``inner`` that plans anew where a weight turns out to be data, which becomes an input, and where
    a size outgrows restored engines.

    Args:
        compilation: of the graph.
        lower: gives the lowered graph for arguments.
        inner: what runs until then.
        live: where it takes its weights from.
        dynamic: ``inner`` has restored engines for some sizes.
    """
    lock = threading.Lock()
    lowered: lowering.Lowered | None = None

    def again(args: Sequence[Any]) -> None:
        nonlocal lowered, inner, live
        lowered = lower(args) if lowered is None else lowered
        data = live.data
        if data:
            told = ", ".join(sorted(map(live.name, data)))
            why = "changes at every call while no weight does"
            log.warning("%s %s: it is an input of its engines from now on", told, why)
            sources = tuple(i for i in lowered.sources if i not in data)
            suspects = {i: written for i, written in lowered.suspects.items() if i not in data}
            lowered = dataclasses.replace(lowered, sources=sources, suspects=suspects)
        other = dataclasses.replace(compilation, report=compilation.report.anew(), uses=Counter())
        inner, live = assembled(other, other.plan(lowered), lowered.names, lowered.suspects)
        recent.append(other.report)

    def call(args: list[Any]) -> Any:
        if live.data:
            with lock:
                if live.data:  # else another thread was faster
                    again(args)
        run, given = inner, tuple(args) if dynamic else ()
        try:
            return run(args)
        except Outgrown:
            if not given:
                raise
            with lock:
                if inner is run:
                    log.info("sizes are beyond what an earlier start built engines for: the graph is traced once more")
                    again(given)
            return inner(list(given))

    call._boxed_call = True  # type: ignore[attr-defined]
    return call


def assembled(
    compilation: Compilation, planned: Planned, names: dict[int, str], suspects: Mapping[int, bool] | None = None, *,
    guarded: bool = True,
) -> tuple[Callable[..., Any], LiveWeights]:  # fmt: skip
    """The callable over engines and what stays in PyTorch between them, and where it takes its weights from.

    Args:
        compilation: for engines that must be had later.
        planned: the graph and its engines.
        names: where the user's model keeps each source, for messages.
        suspects: arguments that may be data, see :class:`.watch.Disguised`.
        guarded: Dynamo looks at the layouts of parameters before each call.
    """
    device = compilation.device
    assert device is not None
    slots = [piece.signature.slots for piece in planned.pieces]
    copies = compilation.mode != "bound"
    live = LiveWeights(
        planned.split, slots, copies=copies, names=names, device=device, suspects=suspects, guarded=guarded
    )
    module = planned.cut.module
    engines = [EngineCall(index, piece, compilation) for index, piece in enumerate(planned.pieces)]
    for engine in engines:
        module.set_submodule(engine.piece.partition.name, engine)

    def call(args: list[Any]) -> Any:
        given = tuple(args)
        args.clear()  # lets inputs be freed as soon as they are used
        bundle = live.current(given)
        return forward(bundle, *given, *bundle.set.values)

    alone = _alone(planned.cut, planned.split.arguments)
    if alone is None:
        _LazyGraphModule.force_recompile(module)
        forward = module.forward
    else:
        inputs, outputs = map(gather, alone)

        def call(args: list[Any]) -> Any:
            given = tuple(args)
            args.clear()
            return outputs(engines[0].execute(live.current(given), inputs(given)))

    call._boxed_call = True  # type: ignore[attr-defined]
    return call, live


def runs_on(device: torch.device) -> bool:
    return device.type == "cuda"


def _alone(cut: Partitioned, arguments: int) -> tuple[list[int], list[int]] | None:
    """Where one engine's inputs stand among the arguments, and the graph's outputs among its own, if it does all."""
    graph = cut.module.graph
    _, *given = graph.find_nodes(op="placeholder")
    position = {node: index for index, node in enumerate(given[:arguments])}
    calls = graph.find_nodes(op="call_module", target="engine_0")
    leaving: Any = graph.output_node().args[0]
    own = [n for n in graph.nodes if is_getitem(n) and n.args[0] in calls]
    if len(cut.partitions) != 1 or len(graph.nodes) != len(given) + len(calls) + len(own) + 2:
        return None
    inputs = calls[0].args[1:]
    if any(n not in position for n in inputs) or any(n not in own for n in leaving):
        return None
    return [position[n] for n in inputs], [n.args[1] for n in leaving]


def _eager(gm: fx.GraphModule, why: Rejection, options: Options) -> Callable[..., Any]:
    if lowering.to_be_saved():
        raise TRTStrippedError(f"aot_compile: the graph would run in PyTorch: {why.reason}")
    if options.require_full:
        raise BuildFailed(f"require_full: the graph would run in PyTorch: {why.reason}")
    stats.add(fallbacks=1)
    nodes = sum(node.op.startswith("call_") for node in gm.graph.nodes)
    recent.append(Report(flavour="PyTorch", mode="none", why=why.reason, graphs=1, nodes=nodes, rejections=[why]))
    warn(f"the model runs in PyTorch: {why.reason}")
    return gm


def needs_grad(args: Sequence[Any]) -> bool:
    return any(a.requires_grad for a in args if isinstance(a, torch.Tensor))
