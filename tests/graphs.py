"""Takes a model through lowering, weights and partition on the CPU, and runs the result with PyTorch for engines."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import fx, nn
from torch.fx.experimental.proxy_tensor import make_fx

from trt_stripped_backend import lowering, weights
from trt_stripped_backend.key import canonical, digest
from trt_stripped_backend.live import Bundle, LiveWeights
from trt_stripped_backend.ops.library import lookup
from trt_stripped_backend.ops.registry import Op
from trt_stripped_backend.options import Options
from trt_stripped_backend.partition import Lookup, Partitioned, partition
from trt_stripped_backend.types import Json, Partition, Slot, TensorSpec
from trt_stripped_backend.watch import Alias

Call = Callable[["Staged", list[Any]], Any]
M = TypeVar("M", bound=nn.Module)


@dataclass
class Staged:
    """A model after the stages that need no TensorRT.

    Attributes:
        lowered: the graph; its module is left as it was before the split.
        split: main graph and derived weights.
        cut: partitions; its engines are run by :class:`InTorch`.
        compiled: the model through all of that, with live weights; call it under ``torch.no_grad()``.
        calls: the lowered graph's arguments in each call.
    """

    lowered: lowering.Lowered
    split: weights.Split
    cut: Partitioned
    compiled: Callable[..., Any] = field(default=print)
    calls: list[list[Any]] = field(default_factory=list)

    @property
    def graph(self) -> fx.Graph:
        return self.lowered.module.graph

    def derived(self, args: Sequence[Any]) -> dict[str, torch.Tensor]:
        """Derived weights of these arguments, by placeholder of the main graph."""
        found: dict[str, torch.Tensor] = {}
        for piece in self.split.derived:
            values = piece.module(*(args[i] for i in piece.sources))
            found.update(zip(piece.names, values, strict=True))
        return found

    def in_torch(self, args: list[Any]) -> Any:
        """Derived weights, then the cut graph, all in PyTorch."""
        derived = self.derived(args)
        names = placeholders(self.split.module)
        given = dict(zip(names, [*args, *(derived[n] for n in names[self.split.arguments :])], strict=True))
        return self.cut.module(given, *given.values())


class InTorch(nn.Module):
    """An engine's stand-in: weights come by placeholder name, each output has memory of its own."""

    def __init__(self, piece: Partition) -> None:
        super().__init__()
        self.names = placeholders(piece.module)
        self.inputs = [n for n in self.names if n not in piece.weights]
        self.specs = [TensorSpec.of(node.meta["val"]) for node in leaving(piece)]
        self.piece = piece

    def forward(self, slots: Mapping[str, torch.Tensor], *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        given = {**slots, **dict(zip(self.inputs, inputs, strict=True))}
        given |= {name: given[name].contiguous() for name in self.piece.kernels}
        outputs = self.piece.module(*(given[name] for name in self.names))
        return tuple(own(value, spec) for value, spec in zip(outputs, self.specs, strict=True))


class Engines:
    """Runs a model's partitions with the weights that engines on a GPU would see: the ``call`` of :func:`stage`.

    Bound engines read memory at the addresses that they were given. The others copy their weights when they are
    refitted, and stay as they are until the next refit; partitions with the same graph share them.

    Args:
        copies: engines are refitted.

    Attributes:
        live: hands out the weights of the latest graph.
        refits: copies taken so far.
        graphs: how often Dynamo compiled.
    """

    def __init__(self, *, copies: bool) -> None:
        self.copies, self.refits, self.graphs = copies, 0, 0
        self.live: LiveWeights | None = None
        self.staged: Staged | None = None
        self.lives: dict[int, LiveWeights] = {}  # Dynamo keeps each graph that it compiled
        self.kept: dict[tuple[Json, tuple[int, ...]], tuple[object, Any, list[torch.Tensor], list[Alias]]] = {}

    def __call__(self, staged: Staged, args: list[Any]) -> Any:
        if self.staged is not staged:
            if id(staged) not in self.lives:
                self.lives[id(staged)] = live_weights(staged, copies=self.copies)
            self.staged, self.live, self.graphs = staged, self.lives[id(staged)], len(self.lives)
        assert self.live is not None
        bundle = self.live.current(args)
        weights: dict[str, torch.Tensor] = {}
        for index, slots in enumerate(self.live.slots):
            values = self._held(bundle, index) if self.copies else self._read(bundle, index)
            weights.update(zip((name for name, _ in slots), values, strict=True))
        return staged.cut.module(weights, *args, *bundle.set.values)

    def _read(self, bundle: Bundle, index: int) -> list[torch.Tensor]:
        pairs = zip(bundle.set.pointers[index], bundle.live.slots[index], strict=True)
        return [memory(pointer, slot.spec) for pointer, (_, slot) in pairs]

    def _held(self, bundle: Bundle, index: int) -> list[torch.Tensor]:
        assert self.staged is not None
        plan = digest(canonical(self.staged.cut.partitions[index])[0])
        current, where = bundle.set, (plan, bundle.set.pointers[index])
        token, stamp, values, aliases = self.kept.get(where, (None, None, [], []))
        if token is not current.token and stamp != current.stamps[index]:
            values = [value.clone() for value in bundle.slots(index)]
            aliases, self.refits = [Alias(value) for value in bundle.slots(index)], self.refits + 1
        self.kept[where] = current.token, current.stamps[index], values, aliases
        return values


def live_weights(staged: Staged, *, copies: bool) -> LiveWeights:
    """The live weights of a staged model, for engines on the CPU."""
    slots: list[list[tuple[str, Slot]]] = [list(canonical(piece)[1].slots) for piece in staged.cut.partitions]
    device = torch.device("cpu")
    return LiveWeights(staged.split, slots, copies=copies, names=staged.lowered.names, device=device)


def own(value: torch.Tensor, spec: TensorSpec) -> torch.Tensor:
    """A copy with the layout of a spec."""
    return torch.empty_strided(spec.shape, spec.stride, dtype=spec.dtype, device=value.device).copy_(value)


def stage(model: Callable[..., Any], *args: Any, call: Call = Staged.in_torch, **options: Any) -> Staged:
    """Compiles a model and calls it once, without gradients.

    Args:
        model: a module or a function of tensors.
        args: its arguments.
        call: runs the lowered graph's arguments at each call of ``compiled``.
        options: the backend's; ``min_block_size`` is 1 unless given.
    """
    torch._dynamo.reset()
    found: list[Staged] = []
    calls: list[list[Any]] = []

    def compile(lowered: lowering.Lowered) -> Callable[..., Any]:
        staged = cut_up(lowered, **options)
        staged.calls = calls
        found.append(staged)

        def boxed(given: list[Any]) -> Any:
            calls.append(list(given))
            return call(staged, given)

        boxed._boxed_call = True  # type: ignore[attr-defined]
        return boxed

    def backend(gm: fx.GraphModule, inputs: Sequence[Any]) -> Callable[..., Any]:
        return lowering.trace(gm, inputs, compile)

    # Dynamo keeps weak references to parameters for backends that are not registered, and ours is.
    backend.compiler_name = "eager"  # type: ignore[attr-defined]
    with torch.no_grad():
        compiled = torch.compile(model, backend=backend, fullgraph=True, dynamic=False)
        compiled(*args)
    found[0].compiled = compiled
    return found[0]


def lower(fn: Callable[..., Any], *args: Any, sources: int = 0) -> lowering.Lowered:
    """Lowers a function without Dynamo, which is faster; its first ``sources`` arguments are parameters."""

    def flat(*given: Any) -> tuple[Any, ...]:
        out = fn(*given)
        return tuple(out) if isinstance(out, (tuple, list)) else (out,)

    graph = fx.Graph()
    inputs = tuple(graph.placeholder(f"arg{i}") for i in range(len(args)))
    graph.output(graph.call_function(flat, inputs))
    found: list[fx.GraphModule] = []

    def compile(lowered: lowering.Lowered) -> Callable[..., Any]:
        found.append(lowered.module)
        boxed = lambda given: lowered.module(*given)  # noqa: E731
        boxed._boxed_call = True  # type: ignore[attr-defined]
        return boxed

    lowering.trace(fx.GraphModule({}, graph), args, compile)
    return as_lowered(found[0], sources)


def cut_up(lowered: lowering.Lowered, find: Lookup = lookup, **options: Any) -> Staged:
    """Splits and cuts a lowered graph."""
    split = weights.split(lowered, mode=str(options.get("refit_mode", "bound")))
    cut = partition(split, Options.of({"min_block_size": 1, **options}), find)
    for piece in cut.partitions:
        cut.module.set_submodule(piece.name, InTorch(piece))
    return Staged(lowered, split, cut)


def trace(fn: Callable[..., Any], sources: int, *args: torch.Tensor, find: Lookup = lookup, **options: Any) -> Staged:
    """As :func:`stage`, of a function whose first ``sources`` arguments are parameters; not lowered, so fast."""
    return cut_up(as_lowered(make_fx(fn, tracing_mode="fake")(*args), sources), find, **options)


def as_lowered(module: fx.GraphModule, sources: int) -> lowering.Lowered:
    """A traced graph whose first ``sources`` arguments are parameters."""
    return lowering.Lowered(module, tuple(range(sources)), {i: f"p{i}" for i in range(sources)})


def placeholders(module: fx.GraphModule) -> list[str]:
    return [node.name for node in module.graph.find_nodes(op="placeholder")]


def leaving(piece: Partition) -> Sequence[fx.Node]:
    """The nodes behind a partition's outputs."""
    return piece.module.graph.output_node().args[0]  # type: ignore[return-value]


def targets(graph: fx.Graph | fx.GraphModule) -> list[str]:
    """What a graph calls, such as ``aten.relu.default``, in order."""
    graph = graph.graph if isinstance(graph, fx.GraphModule) else graph
    return [str(node.target) for node in graph.nodes if node.op == "call_function"]


def without(*names: str) -> Lookup:
    """A lookup that does not know some operators."""

    def find(target: Any) -> Op | None:
        return None if str(target).split(".")[1] in names else lookup(target)

    return find


def engines(staged: Staged) -> list[list[str]]:
    """What each engine computes, in order."""
    return [[t.split(".")[1] for t in targets(piece.module) if "getitem" not in t] for piece in staged.cut.partitions]


def graph_digest(staged: Staged) -> Json:
    """Digest of a model's canonical graphs, all of whose operators are in engines."""
    assert not staged.cut.rejections, "; ".join(map(str, staged.cut.rejections))
    return digest([canonical(piece)[0] for piece in staged.cut.partitions])


def memory(pointer: int, spec: TensorSpec) -> torch.Tensor:
    """What an engine reads at an address."""
    if not spec.nbytes:
        return torch.empty(spec.shape, dtype=spec.dtype)
    raw = (ctypes.c_char * spec.nbytes).from_address(pointer)
    return torch.frombuffer(raw, dtype=spec.dtype).as_strided(spec.shape, spec.stride)


def aligned(value: torch.Tensor, alignment: int = 256, offset: int = 0) -> torch.Tensor:
    """A contiguous copy whose address is ``offset`` bytes after a multiple of ``alignment``."""
    size = value.element_size()
    flat = torch.empty(value.numel() + 2 * alignment // size, dtype=value.dtype)
    skip = ((offset - flat.data_ptr()) % alignment) // size
    return flat[skip : skip + value.numel()].view(value.shape).copy_(value)


def perturb(module: M, seed: int = 0) -> M:
    """Makes every parameter and float buffer matter: no zero bias, no unit scale. Returns the module, in eval mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in [*module.named_parameters(), *module.named_buffers()]:
            if value.is_floating_point():
                noise = torch.rand(value.shape, generator=generator).to(value.dtype)
                value.copy_(noise + 0.5 if "var" in name else (noise - 0.5) * 0.6 + (value.ndim == 1) * 0.5)
    return module.eval()


class TwoEngines(nn.Module):
    """Two engines around a cumsum, a folded batch norm and a derived weight."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.a, self.b = nn.Parameter(torch.randn(4, 2)), nn.Parameter(torch.randn(2, 4))
        self.head = nn.Linear(4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(self.conv(x)).relu().mean((2, 3)).cumsum(1)
        return self.head(y @ (self.a @ self.b))  # type: ignore[no-any-return]
