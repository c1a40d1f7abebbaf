"""What became of Dynamo's graph, kept in the cache: a start that finds it runs neither AOTAutograd nor the lowering.

What they make depends on Dynamo's graph, on its arguments' descriptions, on PyTorch's settings, on options and on code.
All that is in the name that a trace is kept under. A graph that holds anything which text does not tell apart has no
name: a tensor of its own, a size that depends on data, a function that is not PyTorch's, a region of another graph.
What is kept is what ``aot_compile`` would save (:mod:`.artifact`), without engines and without weights.

Dynamic sizes are named by their order, with what is known of them; what the lowering asked of them beside is kept, is
asked again when a trace is found, and becomes a guard then too (as PyTorch's own caches do,
``torch/_inductor/codecache.py``).
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import sympy
import torch
import torch._functorch.config as functorch_config
from torch import fx, nn
from torch._guards import TracingContext
from torch.fx.experimental.symbolic_shapes import free_symbols
from torch.fx.node import _get_qualified_name

from . import artifact
from .compilation import VALUED, Compilation
from .errors import TRTStrippedError, Unsupported
from .key import host
from .lowering import Lowered, described
from .pieces import Planned
from .report import stats
from .types import Json, dtype_name

log = logging.getLogger("trt_stripped_backend")

#: In the cache, beside the plans.
KIND = "trace"
#: Whose functions are the same for the same version of PyTorch and of Python.
_MODULES = frozenset({"torch", "operator", "_operator", "math", "builtins"})
_NAMESPACES = frozenset({"aten", "prims"})
_TORCH = Path(torch.__file__).parent
#: Options that say where things are kept, or how engines run.
_NO_MATTER = frozenset({
    "flavour", "verify", "cache_dir", "cache_size", "lock_timeout", "cache_errors", "build", "progress",
    "embed_engines", "cuda_graphs", "max_weight_sets", "max_weight_bytes",
})  # fmt: skip
_LISTS = (tuple, list, torch.Size, fx.immutable_collections.immutable_list)
_PLAIN = (torch.Tensor, nn.Parameter)
_SYMBOLS = (torch.SymInt, torch.SymFloat, torch.SymBool)
_CONSTANTS = (torch.dtype, torch.layout, torch.memory_format, torch.device)


def name_of(gm: fx.GraphModule, inputs: Sequence[Any], compilation: Compilation) -> str | None:
    """The name of what becomes of a graph: a SHA-256 in hexadecimal; None if it has none.

    Args:
        gm: Dynamo's graph.
        inputs: its arguments.
        compilation: of the graph, not yet planned.
    """
    if compilation.cache is None or compilation.mode in VALUED or not compilation.options.cache_traces:
        return None
    try:
        parts = [_graph(gm), _inputs(gm, inputs), _settings(), _environment(compilation)]
    except Unsupported as error:
        log.debug("no trace is kept of this graph: %s", error)
        return None
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def keep(name: str, compilation: Compilation, planned: Planned, lowered: Lowered, arguments: int) -> None:
    """Keeps what became of a graph, if it can be saved; called while AOTAutograd compiles.

    Args:
        name: of the graph.
        compilation: of the graph.
        planned: its pieces.
        lowered: the graph after the lowering.
        arguments: how many Dynamo's graph takes.
    """
    assert compilation.cache is not None
    context = TracingContext.try_get()
    try:
        if context is not None and context.guards_context.aotautograd_guards:
            raise Unsupported("AOTAutograd guards how its arguments share memory")
        given = [n.meta.get("val") for n in lowered.module.graph.find_nodes(op="placeholder")]
        values = [n.meta.get("val") for n in lowered.module.graph.nodes]
        if any(isinstance(one, _SYMBOLS) and not free_symbols(one) <= _told(given) for one in values):
            raise Unsupported("it has sizes that depend on data")
        content = artifact.content(compilation, planned, lowered, arguments, cached=True)
        data = artifact.sealed(content | {"guards": _guards(given)})
    except Unsupported as error:
        log.debug("no trace is kept of this graph: %s", error)
        return
    except Exception as error:  # whatever a graph holds: it runs without
        log.warning("no trace is kept of this graph: %s: %s", type(error).__name__, error)
        return
    compilation.cache.put_blob(KIND, name, data)


def find(name: str, compilation: Compilation, gm: fx.GraphModule) -> tuple[Compilation, Planned, Json] | None:
    """What an earlier start kept of a graph: with its engines, and as JSON. None if it must be traced.

    Args:
        name: of the graph.
        compilation: of the graph, not yet planned.
        gm: the graph.
    """
    assert compilation.cache is not None
    data = compilation.cache.get_blob(KIND, name)
    if data is None:
        return None
    try:
        saved = artifact.opened(data)
        compilation.exact = saved["exact"]
        made = set(saved["engine_tf32"])  # empty without engines, which then settle nothing
        if compilation.flavour.is_rtx and made and made != {compilation.engine_tf32()}:
            raise Unsupported("its engines round float32 products otherwise than this process")
        given = _traced(gm)
        if not _hold(saved["guards"], given, [s.node.hint for s in _dynamic(given)]):
            raise Unsupported("it was made for other sizes")
        restored, planned = artifact.rebuilt(saved, compilation)
        _hold(saved["guards"], given, _dynamic(given))  # from now on a guard
    except TRTStrippedError as error:  # an engine that was evicted, among others
        log.info("a kept trace is of no use: %s", error)
        return None
    except Exception as error:  # whatever was kept: the graph can be traced
        log.warning("a kept trace cannot be read: %s: %s", type(error).__name__, error)
        return None
    stats.add(traces=1)
    log.info("trace %s: found, so that neither AOTAutograd nor the lowering runs", name[:12])
    return restored, planned, saved


# ------------------------------------------------------------------------------------------------ dynamic sizes


def _traced(gm: fx.GraphModule) -> list[Any]:
    """Dynamo's arguments as it traced them."""
    return [node.meta.get("example_value") for node in gm.graph.find_nodes(op="placeholder")]


def _dynamic(given: Sequence[Any]) -> list[torch.SymInt]:
    return [one for one in given if isinstance(one, torch.SymInt)]


def _told(given: Sequence[Any]) -> set[sympy.Symbol]:
    """The symbols that arguments tell."""
    return {symbol for one in _dynamic(given) for symbol in one.node.expr.free_symbols}


def _guards(given: Sequence[Any]) -> str | None:
    """All that is asked of the dynamic sizes among arguments, as an expression; None where there are none.

    Raises:
        Unsupported: there are other sizes too, of which something may be asked, or PyTorch does not say.
    """
    sizes = _dynamic(given)
    if not sizes:
        return None
    environment: Any = sizes[0].node.shape_env
    asked = {symbol for guard in environment.guards for symbol in environment.replace(guard.expr).free_symbols}
    other = (asked | environment.deferred_runtime_asserts.keys()) - _told(given)
    if other:
        raise Unsupported(f"something is asked of {min(map(str, other))}, which is no argument")
    try:
        expression: str | None = environment.produce_guards_expression(placeholders=sizes)
    except Exception as error:  # PyTorch's own affair
        raise Unsupported(f"PyTorch gives no guards: {type(error).__name__}: {error}") from error
    return expression


def _hold(guards: str | None, given: Sequence[Any], sizes: Sequence[Any]) -> bool:
    """Whether what :func:`_guards` gave holds for these sizes, ints or dynamic ones."""
    if guards is None:
        return True
    return bool(_dynamic(given)[0].node.shape_env.evaluate_guards_expression(guards, sizes))


class _Sizes:
    """Dynamic sizes by the order in which they come."""

    def __init__(self, given: Sequence[Any]) -> None:
        self._names: dict[sympy.Expr, sympy.Symbol] = {}
        for one in _dynamic(given):
            if isinstance(one.node.expr, sympy.Symbol):
                name = sympy.Symbol(f"t{len(self._names)}", integer=True)
                self._names.setdefault(one.node.expr, name)

    def __call__(self, size: int | torch.SymInt) -> Json:
        if type(size) is int:
            return size
        expression = cast(torch.SymInt, size).node.expr
        if not expression.free_symbols <= self._names.keys():
            raise Unsupported(f"the size {expression} is no argument")
        return str(expression.xreplace(self._names))


# ------------------------------------------------------------------------------------------------ names


def _graph(gm: fx.GraphModule) -> Json:
    number = {node: index for index, node in enumerate(gm.graph.nodes)}
    return [
        [node.op, _target(node), _argument(node.args, number), _argument(node.kwargs, number),
         str(node.meta.get("stack_trace"))]
        for node in gm.graph.nodes
    ]  # fmt: skip


def _target(node: fx.Node) -> str:
    target: Any = node.target
    if node.op in ("placeholder", "output"):
        return ""
    if node.op == "call_method":
        return str(target)
    if node.op != "call_function" or isinstance(target, torch._ops.HigherOrderOperator):
        raise Unsupported(f"{node.name} is a {node.op} of {target}")
    if isinstance(target, torch._ops.OpOverload):
        if target.namespace not in _NAMESPACES:
            raise Unsupported(f"{target} is not PyTorch's")
        return str(target)
    try:
        name: str = _get_qualified_name(target)
    except RuntimeError as error:
        raise Unsupported(f"{target} has no name") from error
    root, *path = name.split(".")
    if root not in _MODULES or functools.reduce(_attribute, path, sys.modules.get(root)) is not target:
        raise Unsupported(f"{name} is not PyTorch's, or another function now")
    code = getattr(target, "__code__", None)
    if code is not None and not Path(code.co_filename).is_relative_to(_TORCH):  # it wraps another under its name
        raise Unsupported(f"{name} was replaced")
    return name


def _attribute(holder: Any, name: str) -> Any:
    return getattr(holder, name, None)


def _argument(value: Any, number: Mapping[fx.Node, int]) -> Json:
    if value is None or isinstance(value, (bool, str)) or type(value) is int:
        return value  # JSON keeps True, 1 and "1" apart
    if type(value) is float:
        return {"float": value.hex() if math.isfinite(value) else str(value)}
    if isinstance(value, fx.Node):
        return {"node": number[value]}
    if type(value) in _LISTS:
        return {type(value).__name__: [_argument(one, number) for one in value]}
    if isinstance(value, dict):
        return {"dict": [[_argument(k, number), _argument(one, number)] for k, one in value.items()]}
    if isinstance(value, slice):
        return {"slice": [_argument(one, number) for one in (value.start, value.stop, value.step)]}
    if value is Ellipsis or isinstance(value, _CONSTANTS):
        return {"constant": repr(value)}
    raise Unsupported(f"an argument of type {type(value).__name__}")


def _inputs(gm: fx.GraphModule, inputs: Sequence[Any]) -> Json:
    names, held = described(gm, inputs)
    traced = _traced(gm)
    sizes = _Sizes(traced)
    first: dict[int, tuple[int, int]] = {}  # who shares which memory with whom, which matters where it is written
    listed: list[Json] = [_guards(traced)]
    for index, (node, given) in enumerate(zip(gm.graph.find_nodes(op="placeholder"), inputs, strict=True)):
        seen = traced[index]
        if isinstance(seen, torch.SymInt):
            listed.append([names[index], sizes(seen)])
            continue
        if not _is_plain(given):
            raise Unsupported(f"{node.name} is a {type(given).__name__}, or of a special kind")
        shape, stride = given.shape, given.stride()
        if isinstance(seen, torch.Tensor):
            shape, stride = seen.shape, seen.stride()
            if not isinstance(seen.storage_offset(), int):
                raise Unsupported(f"{node.name} begins where its size says")
        start = given.storage_offset() * given.itemsize
        holder, its_start = first.setdefault(given.untyped_storage()._cdata, (index, start))
        listed.append([
            names[index], held[index], type(given).__name__, dtype_name(given.dtype), [sizes(s) for s in shape],
            [sizes(s) for s in stride], str(given.device), given.requires_grad, given.is_inference(),
            holder, start - its_start,
            str((node.meta.get("tensor_dict") or {}).get("_dynamo_static_input_type")),
        ])  # fmt: skip
    return listed


def _is_plain(given: Any) -> bool:
    if type(given) not in _PLAIN or torch._C._functorch.is_functorch_wrapped_tensor(given):
        return False
    return given.layout is torch.strided and not (given.is_conj() or given.is_neg() or given.is_quantized)


def _settings() -> Json:
    """What PyTorch's tracing reads beside the graph.

    Raises:
        Unsupported: a mode is active that may do anything.
    """
    if torch._C._len_torch_function_stack() or torch._C._len_torch_dispatch_stack():
        raise Unsupported("a mode for functions or operators is active")
    backends: Any = torch.backends
    deterministic: Any = torch.utils.deterministic
    return [
        torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_cache_enabled(),
        [[torch.is_autocast_enabled(kind), str(torch.get_autocast_dtype(kind))] for kind in ("cuda", "cpu")],
        str(torch.get_default_dtype()), torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(), deterministic.fill_uninitialized_memory,
        [backends.cudnn.enabled, backends.cudnn.benchmark, backends.cudnn.deterministic],
        [backends.mkldnn.enabled, backends.mha.get_fastpath_enabled()],
        [backends.cuda.flash_sdp_enabled(), backends.cuda.mem_efficient_sdp_enabled()],
        [backends.cuda.math_sdp_enabled(), backends.cuda.cudnn_sdp_enabled()],
        functorch_config.get_hash().hex(),
    ]  # fmt: skip


def _environment(compilation: Compilation) -> Json:
    changed = {name: value for name, value in compilation.options.changed().items() if name not in _NO_MATTER}
    options = {name: sorted(v) if isinstance(v, frozenset) else str(v) for name, v in changed.items()}
    gpu = torch.cuda.get_device_properties(compilation.device)
    return [
        str(compilation.flavour), compilation.mode, compilation.tf32, compilation.half_sums, options, host(),
        [gpu.name, gpu.major, gpu.minor], torch.__version__, str(torch.version.git_version), sys.version, _source(),
    ]  # fmt: skip


@functools.cache
def _source() -> str:
    """SHA-256 over this package: any change of it may make another graph."""
    here, total = Path(__file__).parent, hashlib.sha256()
    for file in sorted(here.rglob("*.py")):
        content = file.read_bytes()
        total.update(f"{file.relative_to(here).as_posix()}:{len(content)}:".encode())
        total.update(content)
    return total.hexdigest()
