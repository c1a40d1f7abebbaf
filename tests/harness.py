"""Runs a case without a GPU: its converters on PyTorch tensors, and its real plan through the builder.

The pipeline is the package's own (lowering, partition, canonical order, converters); only the network is another.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from unittest import mock

import pytest
import torch
from packaging.version import Version
from torch import fx

from trt_stripped_backend import flavour, lowering
from trt_stripped_backend.build import build as build_engine
from trt_stripped_backend.build import convert
from trt_stripped_backend.key import canonical, make_key
from trt_stripped_backend.ops.library import lookup
from trt_stripped_backend.ops.net import Net
from trt_stripped_backend.options import Options
from trt_stripped_backend.partition import Partitioned, partition
from trt_stripped_backend.profile import as_intervals, places, ranges, sizes
from trt_stripped_backend.types import Entry, Partition, Rejection, Signature
from trt_stripped_backend.weights import Split

from .cases import Case
from .torch_network import TorchNetwork

#: Relative and absolute: a few roundings of the type. Half types are compared with float32.
TOLERANCE = {torch.float32: 2e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}


def of_torch_2_11(what: str) -> pytest.MarkDecorator:
    """For what torch 2.11 itself traces wrongly, with any backend; later versions do not."""
    return pytest.mark.xfail(Version(torch.__version__).release < (2, 12), reason=f"torch 2.11: {what}", strict=True)


class Emulated(torch.nn.Module):
    """A partition whose converters run on PyTorch tensors at each call; every slot is an engine input.

    Sizes may be dynamic: then the converters see the ranges of an engine that takes this call's.
    """

    def __init__(self, piece: Partition, signature: Signature, weights: dict[str, torch.Tensor]) -> None:
        super().__init__()
        self.piece, self.signature, self.weights = piece, signature, weights
        names = [n.name for n in piece.module.graph.find_nodes(op="placeholder")]
        self.names = [n for n in names if n not in piece.weights]
        self.places = places(signature, self.names)

    def forward(self, bundle: Any, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        given = {**self.weights, **dict(zip(self.names, inputs, strict=True))}
        specs = [(f"x{i}", name, spec) for i, (name, spec) in enumerate(self.signature.inputs)]
        specs += [(slot.name, name, slot.spec) for name, slot in self.signature.slots]
        values = {name: given[source].permute(spec.order) for name, source, spec in specs}
        now = sizes(self.places, inputs)
        told = {s.name: torch.empty(n, dtype=torch.bool) for s, n in zip(self.signature.symbols, now, strict=True)}
        values |= {s.name: told[s.name] for s in self.signature.symbols if s.dim is None}
        bounds = as_intervals(self.signature, ranges(self.piece, self.signature, None, now))
        network = TorchNetwork(values)
        net = Net(network, flavour.load(), bound=True, ranges=bounds)
        convert(self.piece, self.signature, net)
        network.check()
        outputs = []
        for index, spec in enumerate(self.signature.outputs):
            back = [spec.order.index(d) for d in range(len(spec.order))]
            outputs.append(network.outputs[f"y{index}"].value.contiguous().permute(back))
        return tuple(outputs)


class Given(Emulated):
    """An emulated engine whose weights come with each call, by placeholder name."""

    def __init__(self, piece: Partition) -> None:
        super().__init__(piece, canonical(piece)[1], {})

    def forward(self, bundle: Mapping[str, torch.Tensor], *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        self.weights = {name: bundle[name] for name in self.piece.weights}
        return super().forward(bundle, *inputs)


@dataclass(frozen=True)
class Lowered:
    """A case as the partitioner sees it."""

    partitioned: Partitioned
    weights: dict[str, int]  # placeholder → position among the case's inputs

    @property
    def rejections(self) -> tuple[Rejection, ...]:
        return self.partitioned.rejections

    def engine(self) -> tuple[Partition, Signature]:
        """The one engine of the case.

        Raises:
            AssertionError: something stays in PyTorch, or there is not exactly one engine.
        """
        assert not self.rejections, "; ".join(map(str, self.rejections))
        assert len(self.partitioned.partitions) == 1, f"{len(self.partitioned.partitions)} engines"
        (piece,) = self.partitioned.partitions
        return piece, canonical(piece)[1]


Compile = Callable[[Lowered], Callable[..., Any]]


@functools.cache
def _lowered(case: Case) -> tuple[Lowered, Callable[..., Any]]:
    found: list[Lowered] = []

    def compile(lowered: Lowered) -> Callable[..., Any]:
        found.append(lowered)
        return _boxed(lambda *args: lowered.partitioned.module(None, *args))

    run = _trace(case, case.make(), compile)
    return found[0], run


def lower_case(case: Case) -> Lowered:
    """Lowers and partitions a case, its weights as parameters; once, for all tests that look at it."""
    return _lowered(case)[0]


def reject(case: Case) -> None:
    """Checks that a case stays in PyTorch, for the reason that it names."""
    found: list[Lowered] = []
    _trace(case, case.make(), lambda lowered: found.append(lowered) or _boxed(tuple), refit=True)
    reasons = [str(r) for r in found[0].rejections]
    assert any(str(case.rejected) in reason for reason in reasons), f"no {case.rejected!r} among {reasons}"


def emulate(case: Case) -> None:
    """Compares the converters with PyTorch: every output, by value.

    Raises:
        AssertionError: a value, shape or dtype differs, or something stays in PyTorch.
        Refused: TensorRT would not build a layer.
    """
    inputs, (lowered, run) = case.make(), _lowered(case)
    piece, signature = lowered.engine()
    weights = {name: inputs[position] for name, position in lowered.weights.items()}
    setattr(lowered.partitioned.module, piece.name, Emulated(piece, signature, weights))
    compare(case, run(*inputs))


def build(case: Case, bound: bool) -> Entry:
    """Builds the real plan of a case: weights as engine inputs, or as placeholders to refit.

    Raises:
        AssertionError: something stays in PyTorch.
        BuildFailed: TensorRT refused the network.
    """
    piece, signature = lower_case(case).engine()
    mode = "immutable" if case.rejected else "bound" if bound else "general"
    # Only weights of an engine that is not refittable are built in by value.
    inputs, weights = case.make(), lower_case(case).weights
    values = {slot.name: inputs[weights[name]].permute(slot.spec.order) for name, slot in signature.slots}
    return build_engine(
        piece,
        signature,
        make_key({"case": case.name, "mode": mode}),
        flavour=flavour.load(),
        mode=mode,
        options=Options.of({}),
        tf32=False,
        values=values if mode == "immutable" else None,
    )


def compare(case: Case, outputs: Sequence[torch.Tensor], at_least: dict[torch.dtype, float] | None = None) -> None:
    """Compares outputs with eager PyTorch on the CPU; values of half types with PyTorch's in float32.

    Args:
        case: says its own tolerance, or leaves it to the type.
        outputs: on any device.
        at_least: tolerances that a device needs whatever the case says.
    """
    expected = flat(case.fn)(*case.make())
    reference = _reference(case, expected)
    assert len(outputs) == len(expected), f"{len(outputs)} outputs, {len(expected)} in PyTorch"
    for index, (got, want, exact) in enumerate(zip(outputs, expected, reference, strict=True)):
        assert (got.dtype, got.shape) == (want.dtype, want.shape), (
            f"output {index} is {got.dtype} {tuple(got.shape)}, {want.dtype} {tuple(want.shape)} in PyTorch"
        )
        tol = 0.0 if not got.dtype.is_floating_point else TOLERANCE[got.dtype] if case.tol is None else case.tol
        if at_least is not None:
            tol = max(tol, at_least.get(got.dtype, 0.0))
        exact = exact if got.dtype.is_floating_point else want
        close = torch.testing.assert_close
        close(
            got.cpu().to(exact.dtype),
            exact,
            rtol=tol,
            atol=tol,
            equal_nan=True,
            msg=lambda m, i=index: f"output {i}: {m}",
        )


def _reference(case: Case, expected: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
    inputs = case.make()
    if not any(t.dtype in (torch.float16, torch.bfloat16) for t in [*inputs, *expected]):
        return expected
    wide = [t.float() if t.dtype.is_floating_point else t for t in inputs]
    try:
        return [t.float() if t.dtype.is_floating_point else t for t in flat(case.fn)(*wide)]
    except RuntimeError:  # a function that names a type itself may not take another
        return expected


def _trace(case: Case, inputs: list[torch.Tensor], compile: Compile, refit: bool = False) -> Callable[..., Any]:
    graph = fx.Graph()
    placeholders = tuple(graph.placeholder(f"arg{i}") for i in range(len(inputs)))
    graph.output(graph.call_function(flat(case.fn), placeholders))

    def on_lowered(lowered: lowering.Lowered) -> Callable[..., Any]:
        names = [n.name for n in lowered.module.graph.find_nodes(op="placeholder")]
        weights = {names[i]: i for i in case.weights}
        split = Split(lowered.module, len(names), (), frozenset(weights), ())
        return compile(Lowered(partition(split, Options.of({"min_block_size": 1}), lookup, refit=refit), weights))

    with decomposed(case):
        return lowering.trace(fx.GraphModule({}, graph), inputs, on_lowered)


def decomposed(case: Case) -> contextlib.AbstractContextManager[Any]:
    """Traces inside take operators apart by the package's table, or, for a ``whole`` case, by none."""
    return mock.patch.object(lowering, "decompositions", dict) if case.whole else contextlib.nullcontext()


def flat(fn: Callable[..., Any]) -> Callable[..., tuple[torch.Tensor, ...]]:
    """A function that returns a tuple of copies: PyTorch makes the views that a graph returns of its arguments."""

    def flat(*args: Any) -> tuple[torch.Tensor, ...]:
        out = fn(*args)
        return tuple(one.clone() for one in (out if isinstance(out, (tuple, list)) else (out,)))

    return flat


def _boxed(run: Callable[..., Any]) -> Callable[..., Any]:
    """AOTAutograd's convention: one list of arguments."""

    def boxed(args: list[Any]) -> Any:
        return run(*args)

    boxed._boxed_call = True  # type: ignore[attr-defined]
    return boxed
