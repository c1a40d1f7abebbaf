"""Dynamo's graph → functional ATen, in a fixed list of passes.

Parameters and buffers are arguments of the lowered graph, which is what keeps them live. Composite operators that
TensorRT does well (attention, linear, norms, resampling) are kept whole, so that the same model gives the same graph
on a CPU, on a fake CUDA device and on a GPU, whichever kernels PyTorch would pick there.
"""

from __future__ import annotations

import contextlib
import functools
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch._functorch.config as functorch_config
from torch import fx
from torch._dynamo.backends.common import aot_autograd
from torch._guards import TracingContext, detect_fake_mode, tracing
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import has_free_symbols

from .decompositions import decompositions, keep_composites
from .errors import Unsupported
from .inplace import update_in_place, viewed, writes
from .origin import path_in_model
from .sizes import OPERATORS, Size, expression, is_symbol, sampled, size

aten = torch.ops.aten


@dataclass(frozen=True)
class Lowered:
    """A functional ATen graph and which of its arguments are sources of weights.

    Attributes:
        module: placeholders are the graph's arguments: sources, user inputs, mutated buffers.
        sources: positions of arguments that are parameters or buffers that the graph does not write to.
        names: for each position of ``sources``, where the user's model keeps it (``h.0.weight``), if known.
        suspects: sources that may be data in disguise (:class:`.watch.Disguised`): what is no parameter of a module.
    """

    module: fx.GraphModule
    sources: tuple[int, ...]
    names: dict[int, str]
    suspects: Mapping[int, bool] = field(default_factory=dict)


def trace(
    gm: fx.GraphModule, example_inputs: Sequence[Any], compile: Callable[[Lowered], Callable[..., Any]]
) -> Callable[..., Any]:
    """Runs AOTAutograd on Dynamo's graph and hands the lowered inference graph to ``compile``.

    Args:
        gm: Dynamo's graph; its placeholders hold ``_dynamo_source``.
        example_inputs: the real (or fake) tensors, parameters first or not.
        compile: receives the lowered graph and returns a callable that takes one list of arguments.

    Returns:
        A callable with Dynamo's calling convention.
    """
    dynamo_names, held = described(gm, example_inputs)

    def inner(lowered: fx.GraphModule, _: Sequence[Any]) -> Callable[..., Any]:
        return compile(_lowered(lowered, dynamo_names, held))

    # Autograd caching wants a compiler that it can serialize; torch.compile's aot_compile switches it on.
    uncached = functorch_config.patch({"force_autograd_cache": False, "bundled_autograd_cache": False})
    with torch.no_grad(), keep_composites(), uncached:
        run = aot_autograd(fw_compiler=inner, decompositions=decompositions(), keep_inference_input_mutations=True)
        return run(gm, example_inputs)


def described(gm: fx.GraphModule, inputs: Sequence[Any]) -> tuple[list[str], list[bool | None]]:
    """Where the user's model keeps each argument of Dynamo's graph, and whether it is a parameter of a module."""
    placeholders = gm.graph.find_nodes(op="placeholder")
    held = [_is_module_parameter(node, given) for node, given in zip(placeholders, inputs, strict=False)]
    return [_source_name(node) for node in placeholders], held


def lowered_anew(gm: fx.GraphModule, inputs: Sequence[Any]) -> Lowered:
    """What :func:`trace` hands to ``compile``, outside of Dynamo; sizes that were dynamic there are so again."""
    made: list[Lowered] = []
    traced = [node.meta.get("example_value") for node in gm.graph.find_nodes(op="placeholder")]
    if any(isinstance(one, torch.SymInt) for one in traced):
        inputs = traced
    mode = detect_fake_mode(inputs) or FakeTensorMode()

    def compile(lowered: Lowered) -> Callable[..., Any]:
        made.append(lowered)
        return boxed(lowered.module)

    with tracing(TracingContext(mode)):
        trace(gm, inputs, compile)
    return made[0]


def to_be_saved() -> bool:
    """Whether torch's ``aot_compile`` asks, which wants a callable that it can save."""
    return bool(functorch_config.force_autograd_cache and functorch_config.bundled_autograd_cache)


def boxed(module: fx.GraphModule) -> Callable[..., Any]:
    """A lowered graph in PyTorch, called as a compiler's result is: with one list of arguments, which it empties."""

    def call(args: list[Any]) -> Any:
        given = tuple(args)
        args.clear()
        return module(*given)

    call._boxed_call = True  # type: ignore[attr-defined]
    return call


def _is_module_parameter(node: fx.Node, given: Any) -> bool | None:
    """Whether an argument is a parameter of a module; None for a parameter that is an argument itself."""
    if not isinstance(given, torch.nn.Parameter):
        return False
    guarded = getattr(getattr(node, "_dynamo_source", None), "guard_source", None)
    if guarded is None:
        return True
    return True if guarded.is_unspecialized_nn_module() or guarded.is_specialized_nn_module() else None


def _lowered(gm: fx.GraphModule, dynamo_names: Sequence[str], held: Sequence[bool | None]) -> Lowered:
    context = TracingContext.try_get()
    metadata = context.fw_metadata if context is not None else None
    placeholders = gm.graph.find_nodes(op="placeholder")
    static = metadata.static_input_indices if metadata is not None else []
    written = {i for i, info in enumerate(metadata.input_info) if info.mutates_data} if metadata is not None else set()
    sources = [i for i in static if i not in written and _is_static_tensor(placeholders[i])]
    names, suspects = {}, {}
    for index in sources:
        position = getattr(placeholders[index].meta.get("desc"), "idx", index)
        if position < len(dynamo_names) and dynamo_names[position]:
            names[index] = dynamo_names[position]
        if position < len(held) and held[position] is not True:
            suspects[index] = held[position] is False
    for one_pass in PASSES:
        one_pass(gm, {placeholders[i] for i in sources})
        gm.graph.lint()
    gm.recompile()
    return Lowered(gm, tuple(sources), names, suspects)


def _is_static_tensor(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and not has_free_symbols(value.shape)


def _source_name(node: fx.Node) -> str:
    source = getattr(node, "_dynamo_source", None)
    if source is None:
        return ""
    return path_in_model(source.name() if callable(source.name) else source.name)


# ------------------------------------------------------------------------------------------------ passes


def inline_regions(gm: fx.GraphModule, sources: set[fx.Node]) -> None:
    """Puts what ``torch.compiler.nested_compile_region`` keeps apart, once for all its calls, where it is called."""
    waiting = [node for node in gm.graph.nodes if node.target is torch.ops.higher_order.invoke_subgraph]
    for call in waiting:  # grows: a region may call others
        holder: Any = call.args[0]
        region = operator.attrgetter(holder.target)(gm)
        given = dict(zip(region.graph.find_nodes(op="placeholder"), call.args[2:], strict=True))
        # Traced for another call's symbols, its values would have these.
        alike = all(_shape(node.meta.get("val")) == _shape(_value(one)) for node, one in given.items())
        if not alike or any(user.target is not operator.getitem for user in call.users):
            continue
        copies: dict[fx.Node, Any] = dict(given)
        with gm.graph.inserting_before(call):
            for node in region.graph.nodes:
                if node.op in ("placeholder", "output"):
                    continue
                copies[node] = made = gm.graph.node_copy(node, copies.__getitem__)
                if node.op == "get_attr":
                    made.target = f"{holder.target}_{node.target}".replace(".", "_")
                    setattr(gm, made.target, operator.attrgetter(node.target)(region))
                if node.target is torch.ops.higher_order.invoke_subgraph:
                    waiting.append(made)
        results = fx.node.map_arg(region.graph.output_node().args[0], copies.__getitem__)
        for user in list(call.users):
            user.replace_all_uses_with(results[user.args[1]])
            gm.graph.erase_node(user)
        gm.graph.erase_node(call)
    gm.graph.eliminate_dead_code()


def _value(argument: Any) -> Any:
    return argument.meta.get("val") if isinstance(argument, fx.Node) else argument


def _shape(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return [expression(size) for size in value.shape]
    return expression(value) if isinstance(value, (int, torch.SymInt)) else value


def drop_copies(gm: fx.GraphModule, sources: set[fx.Node]) -> None:
    """Removes nodes that only rename a value: ``detach``, ``alias``, ``lift_fresh_copy`` and casts to the same type.

    A copy that the caller gets to see stays, behind views too: without it a write to the result would reach an input, a
    constant, or what the next call reads.
    """
    for node in list(gm.graph.nodes):
        if node.target in _RENAMES:
            node.replace_all_uses_with(node.args[0])
            gm.graph.erase_node(node)
    shown: set[fx.Node] = set()
    for output in gm.graph.output_node().all_input_nodes:
        shown.add(node := output)
        while (base := viewed(node)) is not None:
            shown.add(node := base)
    for node in list(gm.graph.nodes):
        if node in shown or any(map(writes, node.users)):  # what is written may be what it is a copy of
            continue
        elif node.target is aten.lift_fresh_copy.default:
            node.replace_all_uses_with(node.args[0])
        elif node.target in (aten.clone.default, aten._to_copy.default):
            new, old = node.meta["val"], node.args[0].meta.get("val")
            if isinstance(old, torch.Tensor) and _alike(new, old):
                node.replace_all_uses_with(node.args[0])
    gm.graph.eliminate_dead_code()


#: The last, which torch 2.11 puts behind literals of regions, writes nothing but autograd's history.
_RENAMES = frozenset({aten.detach.default, aten.alias.default, aten.detach_.default})


def _alike(one: torch.Tensor, other: torch.Tensor) -> bool:
    if (one.dtype, one.device, one.ndim) != (other.dtype, other.device, other.ndim):
        return False
    return all(s[: one.ndim] == s[one.ndim :] for s in sampled([*one.stride(), *other.stride()]))


def fold_batch_norm(gm: fx.GraphModule, sources: set[fx.Node]) -> None:
    """conv → batch norm with running statistics ⇒ conv with ``W·s`` and ``(b − mean)·s + bias``, ``s = γ/√(var + ε)``.

    Both stay live: they are arithmetic on parameters alone, which :mod:`.weights` turns into derived weights. The
    product is formed in float32 and rounded once.
    """
    known: dict[tuple[Any, ...], tuple[fx.Node, fx.Node]] = {}
    first = next(node for node in gm.graph.nodes if node.op != "placeholder")
    for norm in gm.graph.find_nodes(op="call_function", target=aten._native_batch_norm_legit_no_training.default):
        conv: Any
        conv, gamma, beta, mean, var, _, eps = norm.args
        if not (isinstance(conv, fx.Node) and conv.target is aten.convolution.default and len(conv.users) == 1):
            continue
        kernel: Any
        kernel, bias, transposed = conv.args[1], conv.args[2], conv.args[6]
        if transposed or any(p is not None and p not in sources for p in (gamma, beta, mean, var, kernel, bias)):
            continue
        if any(user.target is not operator.getitem or (user.args[1] != 0 and user.users) for user in norm.users):
            continue
        if kernel.meta["val"].dtype not in _FOLDED:
            continue
        operands: Any = (kernel, bias, gamma, beta, mean, var, eps)
        if operands not in known:  # a layer that is called several times has one folded weight
            with gm.graph.inserting_before(first):
                known[operands] = _folded(functools.partial(_emit, gm.graph), *operands)
        folded, shift = known[operands]
        conv.args = (conv.args[0], folded, shift, *conv.args[3:])
        for user in list(norm.users):
            if user.args[1] == 0:
                user.replace_all_uses_with(conv)
    gm.graph.eliminate_dead_code()


#: What a product in float32 does not make worse.
_FOLDED = frozenset({torch.float32, torch.float16, torch.bfloat16})


def _folded(
    emit: Callable[..., fx.Node],
    kernel: fx.Node,
    bias: fx.Node | None,
    gamma: fx.Node | None,
    beta: fx.Node | None,
    mean: fx.Node,
    var: fx.Node,
    eps: float,
) -> tuple[fx.Node, fx.Node]:
    """Weight and bias of a convolution that includes a batch norm."""

    def wide(node: fx.Node) -> fx.Node:
        if node.meta["val"].dtype == torch.float32:
            return node
        return emit(aten._to_copy.default, node, dtype=torch.float32)

    dtype, rank = kernel.meta["val"].dtype, kernel.meta["val"].ndim
    scale = emit(aten.rsqrt.default, emit(aten.add.Scalar, wide(var), eps))
    scale = scale if gamma is None else emit(aten.mul.Tensor, scale, wide(gamma))
    folded = emit(aten.mul.Tensor, wide(kernel), emit(aten.view.default, scale, [-1] + [1] * (rank - 1)))
    shift = emit(aten.neg.default, wide(mean)) if bias is None else emit(aten.sub.Tensor, wide(bias), wide(mean))
    shift = emit(aten.mul.Tensor, shift, scale)
    shift = shift if beta is None else emit(aten.add.Tensor, shift, wide(beta))
    if dtype != torch.float32:
        folded = emit(aten._to_copy.default, folded, dtype=dtype)
        shift = emit(aten._to_copy.default, shift, dtype=dtype)
    return folded, shift


def _emit(graph: fx.Graph, target: torch._ops.OpOverload, *args: Any, **kwargs: Any) -> fx.Node:
    """A new node with its fake value."""
    node = graph.call_function(target, args, kwargs)
    values = [fx.node.map_arg(a, lambda n: n.meta["val"]) for a in args]
    mode = next(n.meta["val"].fake_mode for n in node.all_input_nodes)
    with mode:
        node.meta["val"] = target(*values, **kwargs)
    return node


def sizes_from_arguments(gm: fx.GraphModule, sources: set[fx.Node]) -> None:
    """Computes each symbolic size from the graph's own arguments, before everything else.

    So a size never waits for a tensor, and whatever is cut out of the graph can be told the sizes that it needs. Sizes
    that depend on data, or whose arithmetic TensorRT lacks, stay where they are.
    """
    placeholders = gm.graph.find_nodes(op="placeholder")
    first = next(node for node in gm.graph.nodes if node.op != "placeholder")
    known = {expression(n.meta["val"]): n for n in placeholders if is_symbol(n.meta.get("val"))}
    with gm.graph.inserting_before(first):
        for node in placeholders:
            value = node.meta.get("val")
            for dim, one in enumerate(value.shape if isinstance(value, torch.Tensor) else ()):
                if is_symbol(one) and expression(one) not in known:
                    known[expression(one)] = made = gm.graph.call_function(aten.sym_size.int, (node, dim))
                    made.meta["val"] = one
        made_of: dict[Any, fx.Node] = {symbol.name: node for symbol, node in known.items()}
        for node in list(gm.graph.nodes):
            value = node.meta.get("val")
            if node.op != "call_function" or not isinstance(value, torch.SymInt) or node in known.values():
                continue
            with contextlib.suppress(Unsupported, KeyError):
                computed = _computed(gm.graph, size(value, {s: s.name for s in known}), made_of)
                if isinstance(computed, fx.Node):
                    node.replace_all_uses_with(computed)
    gm.graph.eliminate_dead_code()


def _computed(graph: fx.Graph, wanted: Size, made: dict[Any, fx.Node]) -> fx.Node | int:
    """The node that computes a size."""
    if isinstance(wanted, int):
        return wanted
    if wanted in made:
        return made[wanted]
    operands = [_computed(graph, one, made) for one in wanted[1:]]
    rule = {"max": torch.sym_max, "min": torch.sym_min}.get(wanted[0]) or OPERATORS[wanted[0]]
    total = operands[0]
    for operand in operands[1:]:
        node = graph.call_function(rule, (total, operand))
        node.meta["val"] = rule(*(one.meta["val"] if isinstance(one, fx.Node) else one for one in (total, operand)))
        total = node
    assert isinstance(total, fx.Node)
    made[wanted] = total
    return total


#: In order; each is followed by a lint of the graph.
PASSES: tuple[Callable[[fx.GraphModule, set[fx.Node]], None], ...] = (
    inline_regions, drop_copies, update_in_place, fold_batch_norm, sizes_from_arguments,
)  # fmt: skip
