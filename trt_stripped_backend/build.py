"""Partition → network → plan → :class:`~.types.Entry`.

Never needs a weight's value except in the modes that build values in: a slot is an engine input (``bound``) or a named
placeholder (``general``), so a miss copies no weight to the host.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import operator
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import fx
from torch._subclasses.fake_tensor import unset_fake_temporarily

from .errors import BuildFailed, NotBuilt, Unsupported
from .flavour import Flavour, logger, messages, trt
from .key import digest
from .ops.chosen import compared
from .ops.library import all_ops
from .ops.net import Net
from .ops.network import Out
from .ops.reach import Reach, multiplied, read_again
from .ops.registry import bind, is_getitem
from .options import Options
from .precision import applied
from .profile import as_intervals, symbol_names
from .progress import ending, watched
from .sizes import dim, dynamic, evaluate, interval, may_be, size
from .types import BlobStore, Entry, Json, Key, Partition, Ranges, Signature, dtype_name, flat_bytes
from .weights import is_pure

#: TensorRT-RTX keeps state between refittable builds of one process; one build at a time is also what memory allows.
_build_lock = threading.Lock()
#: Elements of what PyTorch computes from literals. Larger results are left to layers, so that plans stay small.
SMALL = 4096
#: Dimensions of one element come or go, and nothing else changes.
_UNIT_VIEWS = frozenset({torch.ops.aten.unsqueeze.default, torch.ops.aten.squeeze.dim, torch.ops.aten.squeeze.dims})


def build(
    partition: Partition,
    signature: Signature,
    key: Key,
    *,
    flavour: Flavour,
    mode: str,
    options: Options,
    tf32: bool,
    values: Mapping[str, torch.Tensor] | None = None,
    timings: Timings | None = None,
    ranges: Ranges = (),
    half_sums: bool = False,
    stop: threading.Event = ending,
) -> Entry:
    """Builds the engine of a partition.

    Args:
        partition: the piece of the graph.
        signature: its tensors in canonical order, which gives the engine's names.
        key: goes into the entry.
        flavour: the TensorRT to build with.
        mode: ``bound``, ``general``, ``identical`` or ``immutable``.
        options: builder settings.
        tf32: whether float32 matrix products may round to TF32.
        values: weights by slot name, in the layout of their slots; for ``identical`` and ``immutable`` alone.
        timings: where tensorrt keeps what it measured of its kernels, so that a later build measures less.
        ranges: of the signature's symbols, in order.
        half_sums: whether float16 products may be summed in float16.
        stop: gives the build up once it is set.

    Raises:
        BuildFailed: TensorRT refused the network; the message carries TensorRT's own.
    """
    messages.clear()
    if stop.is_set() or ending.is_set():
        raise BuildFailed(f"{partition.name}: not built, the process ends")
    start = time.perf_counter()
    # TensorRT measures its kernels on the GPU, which another build would disturb; RTX measures nothing.
    alone = contextlib.nullcontext() if flavour.is_rtx else _build_lock
    try:
        # Compiler callbacks run under an active FakeTensorMode; literals are real.
        with alone, applied(tf32), unset_fake_temporarily():
            builder = trt.Builder(logger())
            network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
            # A plan whose weights are not marked one by one may lack constants of the graph too.
            unmarked = mode == "identical" or (mode == "general" and not flavour.refit_individual)
            net = Net(
                network, flavour, bound=mode == "bound", values=_host(signature, values),
                mark=mode == "general" and flavour.refit_individual, name_literals=unmarked, tf32=tf32,
                ranges=as_intervals(signature, ranges), half_sums=half_sums,
            )  # fmt: skip
            convert(partition, signature, net)
            config = _config(builder, flavour, mode, options, tf32)
            if signature.symbols:
                config.add_optimization_profile(_profile(builder, signature, ranges))
            if timings is not None:
                timings.lend(config)
            with watched(config, partition.name, options.progress, stop=stop):
                serialized = builder.build_serialized_network(network, config)
            if timings is not None and serialized is not None:
                timings.keep(config)
    except (Unsupported, TypeError, ValueError, RuntimeError, LookupError, AttributeError, ArithmeticError) as error:
        said = f" (TensorRT: {messages.text()})" if messages.errors else ""
        raise BuildFailed(f"{partition.name}: {error}{said}") from error
    if serialized is None:
        passing = stop.is_set() or ending.is_set() or "memory" in messages.text().lower()
        raise (BuildFailed if passing else NotBuilt)(f"{partition.name}: TensorRT built no engine: {messages.text()}")
    plan = bytes(memoryview(serialized))
    header: dict[str, Json] = {
        "flavour": [flavour.name, str(flavour.version)],
        "mode": mode,
        "tf32": tf32,
        "inputs": [spec.to_json() for _, spec in signature.inputs],
        "slots": [[slot.name, slot.spec.to_json()] for _, slot in signature.slots],
        "outputs": [spec.to_json() for spec in signature.outputs],
        "literals": {name: _encode(value) for name, value in net.literals.items()},
        "ranges": [list(one) for one in ranges],
        "nodes": partition.nodes,
        "layers": network.num_layers,
        "build_seconds": time.perf_counter() - start,
        "parts": key.parts,
        "digests": {name: digest(part) for name, part in key.parts.items()},
    }
    return Entry(key.digest, header, plan)


def _host(signature: Signature, values: Mapping[str, torch.Tensor] | None) -> dict[str, torch.Tensor] | None:
    """Weights on the host, in memory order."""
    if values is None:
        return None
    return {s.name: values[s.name].permute(s.spec.order).contiguous().cpu() for _, s in signature.slots}


class Timings:
    """TensorRT's timing cache, kept beside the plans. For one version and one GPU: ``name`` says which.

    Losing it costs time only. What another process added in the meantime is overwritten, which is no worse.
    """

    def __init__(self, store: BlobStore, name: str) -> None:
        self.store, self.name = store, name

    def lend(self, config: Any) -> None:
        """Gives a builder config what is known; a cache that TensorRT does not take is replaced by an empty one."""
        data = self.store.get_blob("timing", self.name) or b""
        known = config.create_timing_cache(data)
        if known is None or not config.set_timing_cache(known, False):
            config.set_timing_cache(config.create_timing_cache(b""), False)

    def keep(self, config: Any) -> None:
        """Stores what the build added."""
        measured = config.get_timing_cache()
        if measured is not None:
            self.store.put_blob("timing", self.name, bytes(memoryview(measured.serialize())))


def _needed(graph: fx.Graph) -> set[fx.Node]:
    """What the outputs depend on."""
    needed, stack = set[fx.Node](), list(graph.output_node().all_input_nodes)
    while stack:
        node = stack.pop()
        if node not in needed:
            needed.add(node)
            stack.extend(node.all_input_nodes)
    return needed


def _literals(module: fx.GraphModule) -> dict[fx.Node, Any]:
    """The literals of a graph, and small ones that are computed from literals alone: by PyTorch, since RTX 1.6 fails to
    build what makes bools of literals."""
    values: dict[fx.Node, Any] = {}
    for node in module.graph.nodes:
        if node.op == "get_attr":
            values[node] = operator.attrgetter(str(node.target))(module).detach().cpu()
        elif node.op != "output" and is_pure(node) and all(i in values for i in node.all_input_nodes) and _small(node):
            args, kwargs = fx.node.map_aggregate(
                fx.node.map_arg((node.args, node.kwargs), values.__getitem__),
                lambda a: torch.device("cpu") if isinstance(a, torch.device) else a,
            )
            with contextlib.suppress(RuntimeError, NotImplementedError):  # not on a CPU: then by a layer
                values[node] = node.target(*args, **kwargs)
    return values


def _small(node: fx.Node) -> bool:
    if str(node.target).startswith("aten.empty"):  # whatever is in memory is no literal
        return False
    value = node.meta.get("val")
    tensors = value if isinstance(value, (tuple, list)) else [value]
    return all(isinstance(t, torch.Tensor) and not dynamic(t.numel()) and t.numel() <= SMALL for t in tensors)


def convert(partition: Partition, signature: Signature, net: Net) -> None:
    """Fills the network: inputs and slots, each node through its converter, outputs.

    Raises:
        Unsupported: a converter gave up, or made another shape or dtype than PyTorch.
    """
    values: dict[fx.Node, Any] = {}
    literals = _literals(partition.module)

    def lookup(node: fx.Node) -> Any:
        if node not in values:
            values[node] = net.constant(literals[node])
        return values[node]

    converters = all_ops()
    inputs = {name: functools.partial(net.input, f"x{i}", spec) for i, (name, spec) in enumerate(signature.inputs)}
    slots = {name: functools.partial(net.slot, slot) for name, slot in signature.slots}
    names = symbol_names(partition, signature)
    for symbol in signature.symbols:
        if symbol.dim is None:
            net.size_input(symbol.name)
    graph = partition.module.graph
    needed, once, reach = _needed(graph), compared(graph), Reach(graph)
    for index, node in enumerate(graph.nodes):
        if node in literals or (node not in needed and node.op != "output"):
            continue  # attention that nobody uses: PyTorch takes it for random, and keeps it
        net.node, net.out = f"{index}:{node.target}", _out(node.meta.get("val"), net, names)
        net.argument = _operator(next(iter(node.all_input_nodes), None))
        net.users = frozenset(_users(node))
        net.beyond, net.finite = functools.partial(reach.beyond, node), functools.partial(reach.finite, node)
        net.strided, net.multiplied = functools.partial(reach.strided, node), functools.partial(multiplied, node)
        net.read_again = functools.partial(read_again, node)
        net.beside = functools.cache(functools.partial(reach.beside, node))  # asked for each part of an unbind
        if isinstance(node.meta.get("val"), torch.SymInt):
            values[node] = dim(size(node.meta["val"], names), net.ranges)
        elif node.op == "placeholder":
            make = inputs.get(node.name) or slots.get(node.name)
            values[node] = make() if make is not None else None
        elif is_getitem(node):
            values[node] = values[node.args[0]][node.args[1]]
            if values[node] is None and node.users:
                raise Unsupported(f"{node.args[0].target} gives no output {node.args[1]} in TensorRT")
        elif node.op == "call_function":
            arguments = bind(node.target, fx.node.map_arg(node.args, lookup), fx.node.map_arg(node.kwargs, lookup))
            values[node] = converters[node.target].convert(net, **arguments)
            _check(str(node.target), values[node], net)
        if node in once:
            values[node] = net.once(values[node])
    leaving: Any = graph.output_node().args[0]
    for index, (node, spec) in enumerate(zip(leaving, signature.outputs, strict=True)):
        net.output(lookup(node), f"y{index}", spec)


def _operator(node: fx.Node | None) -> Any:
    """What a node calls, behind views; None for arguments and outputs of the graph."""
    while node is not None and (is_getitem(node) or node.target in _UNIT_VIEWS):
        node = node.all_input_nodes[0]
    return node.target if node is not None and node.op == "call_function" else None


def _users(node: fx.Node) -> Iterator[Any]:
    """What calls take what a node makes, behind views; None for outputs of the graph."""
    for user in node.users:
        if is_getitem(user) or user.target in _UNIT_VIEWS:
            yield from _users(user)
        else:
            yield _operator(user)


def _out(value: Any, net: Net, names: Mapping[Any, str]) -> Any:
    """A fake value as converters see it: an :class:`Out` for each tensor."""
    if isinstance(value, (tuple, list)):
        return tuple(_out(one, net, names) for one in value)
    if not isinstance(value, torch.Tensor):
        return None
    shape = (s if isinstance(s, int) else dim(size(s, names), net.ranges) for s in value.shape)
    return Out(tuple(shape), value.dtype)


def _check(target: str, made: Any, net: Net) -> None:
    """A converter must make what PyTorch makes: shape and dtype of each output."""
    single = isinstance(net.out, Out)
    for value, want in zip([made] if single else made, [net.out] if single else net.out, strict=False):
        if value is None or want is None:
            continue
        have = net.shape(value)
        if net.dtype(value) != want.dtype or not may_be(have, want.shape):
            raise Unsupported(
                f"{target} gives {dtype_name(net.dtype(value))}{have} in TensorRT, "
                f"{dtype_name(want.dtype)}{list(want.shape)} in PyTorch"
            )
        # A number beside an expression: a guard of PyTorch's says that they are equal.
        net.keep(value, [a if isinstance(a, int) else b for a, b in zip(have, want.shape, strict=True)])


def _profile(builder: Any, signature: Signature, ranges: Ranges) -> Any:
    profile = builder.create_optimization_profile()
    bounds = as_intervals(signature, ranges)
    best = {s.name: middle for s, (_, middle, _) in zip(signature.symbols, ranges, strict=True)}
    shapes = [(f"x{i}", spec.physical) for i, (_, spec) in enumerate(signature.inputs) if spec.dynamic]
    shapes += [(s.name, (s.name,)) for s in signature.symbols if s.dim is None]
    for name, shape in shapes:
        low, high = zip(*(interval(s, bounds) for s in shape), strict=True)
        middle = tuple(evaluate(s, best) for s in shape)
        # The bounds of a difference are those of no call: they may be negative.
        low = tuple(max(size, min(1, at)) for size, at in zip(low, middle, strict=True))
        if profile.set_shape(name, low, middle, high) is False:
            raise Unsupported(f"TensorRT refused the sizes {low} to {high} of input {name}: {messages.text()}")
    return profile


def _config(builder: Any, flavour: Flavour, mode: str, options: Options, tf32: bool) -> Any:
    config = builder.create_builder_config()
    flags = trt.BuilderFlag
    if mode == "general":
        config.set_flag(flags.STRIP_PLAN)
        config.set_flag(getattr(flags, "REFIT_INDIVIDUAL", None) or flags.REFIT)
    elif mode == "identical":
        config.set_flag(flags.STRIP_PLAN)
        config.set_flag(flags.REFIT_IDENTICAL)
    (config.set_flag if tf32 else config.clear_flag)(flags.TF32)
    if options.workspace_size is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_size)
    if options.optimization_level is not None:
        config.builder_optimization_level = options.optimization_level
    if options.max_aux_streams is not None:
        config.max_aux_streams = options.max_aux_streams
    if options.hardware_compatible and not flavour.is_rtx:
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    if options.version_compatible and not flavour.is_rtx:
        config.set_flag(flags.VERSION_COMPATIBLE)
    return config


def _encode(value: torch.Tensor) -> Json:
    raw = flat_bytes(value).numpy().tobytes()
    return [dtype_name(value.dtype), list(value.shape), base64.b64encode(raw).decode()]


def decode_literal(data: Json) -> torch.Tensor:
    """A literal of an entry's header, on the host."""
    dtype, shape, raw = data
    flat = (
        torch.frombuffer(bytearray(base64.b64decode(raw)), dtype=torch.uint8)
        if raw
        else torch.empty(0, dtype=torch.uint8)
    )
    return flat.view(getattr(torch, dtype)).reshape(shape)
