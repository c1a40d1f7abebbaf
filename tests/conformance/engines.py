"""One sample through the backend: on a GPU in engines, without one on the emulated network."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx
from torch._dynamo.backends.common import aot_autograd

import trt_stripped_backend.backend as backend
from tests.harness import Emulated
from trt_stripped_backend import flavour, lowering, weights
from trt_stripped_backend.build import build
from trt_stripped_backend.key import canonical, make_key
from trt_stripped_backend.ops.library import all_ops, lookup
from trt_stripped_backend.options import Options
from trt_stripped_backend.partition import partition
from trt_stripped_backend.report import recent
from trt_stripped_backend.types import Partition, Rejection, Signature

from .samples import Outputs, Sample

OPTIONS = {"min_block_size": 1, "cache": False}


@dataclass
class Ran:
    """What became of a sample.

    Attributes:
        outputs: all of them.
        engines: how many engines ran.
        targets: every operator of the lowered graph.
        rejections: why some of them stayed in PyTorch.
    """

    outputs: Outputs = ()
    engines: int = 0
    targets: set[str] = field(default_factory=set)
    rejections: list[Rejection] = field(default_factory=list)

    @property
    def registered(self) -> bool:
        """Whether some operator of the graph has a converter."""
        return not self.targets.isdisjoint(_registered())


def _registered() -> set[str]:
    return {str(target) for target in all_ops()}


def graph_of(sample: Sample) -> fx.GraphModule:
    """What Dynamo would hand to the backend."""
    graph = fx.Graph()
    inputs = tuple(graph.placeholder(f"arg{i}") for i in range(len(sample.inputs)))
    graph.output(graph.call_function(sample.fn, inputs))
    return fx.GraphModule({}, graph)


def on_gpu(sample: Sample, seed: int) -> Ran:
    """Compiles and runs with the backend itself.

    Raises:
        Exception: whatever the backend or its engines raise.
    """
    recent.clear()
    compiled = backend.trt_stripped(graph_of(sample), sample.make(), options=OPTIONS)
    inputs = sample.make()
    torch.manual_seed(seed)
    outputs = tuple(compiled(*inputs))
    torch.cuda.synchronize()
    if not recent:
        return Ran(outputs, rejections=[Rejection("", "graph", "device", "no tensor on the GPU")])
    report = recent[-1]
    targets = {_overload(t) for piece in report.partitions for t in piece.ops}
    targets |= {r.target for r in report.rejections}
    failed = {r.target for r in report.rejections if r.kind == "build"}
    return Ran(outputs, sum(p.name not in failed for p in report.partitions), targets, list(report.rejections))


def _overload(name: str) -> str:
    return name if name.count(".") == 2 else f"{name}.default"


class _Engine(Emulated):
    """An emulated engine that falls back like the backend's."""

    def __init__(self, piece: Partition, signature: Signature, ran: Ran, build: bool) -> None:
        super().__init__(piece, signature, {})
        self.ran, self.build = ran, build

    def forward(self, bundle: Any, *inputs: torch.Tensor) -> Outputs:
        try:
            if self.build:
                options = Options.of(OPTIONS)
                build(
                    self.piece, self.signature, make_key({}), flavour=flavour.load(), mode="bound", options=options,
                    tf32=False,
                )  # fmt: skip
            outputs = super().forward(bundle, *inputs)
        except Exception as error:  # whatever a converter raises, the backend would take for a failed build
            why = f"{type(error).__name__}: {error}"
            self.ran.rejections.append(Rejection("", self.piece.name, "build", why))
            return tuple(self.piece.module(*inputs))
        self.ran.engines += 1
        return outputs


def on_cpu(sample: Sample, seed: int, build: bool = False) -> Ran:
    """Lowers and cuts with the backend's own stages, and runs the converters on PyTorch tensors.

    Args:
        sample: on the CPU.
        seed: for random operators.
        build: every engine is built by TensorRT too.
    """
    ran = Ran()

    def compile(lowered: lowering.Lowered) -> Callable[..., Any]:
        cut = partition(weights.split(lowered), Options.of(OPTIONS), lookup)
        ran.targets |= {str(n.target) for n in lowered.module.graph.nodes if n.op == "call_function"}
        ran.rejections.extend(cut.rejections)
        for piece in cut.partitions:
            cut.module.set_submodule(piece.name, _Engine(piece, canonical(piece)[1], ran, build))
        module = cut.module

        def boxed(args: list[Any]) -> Any:
            return module(None, *args)

        boxed._boxed_call = True  # type: ignore[attr-defined]
        return boxed

    run = lowering.trace(graph_of(sample), sample.make(), compile)
    inputs = sample.make()
    torch.manual_seed(seed)
    with torch.no_grad():
        ran.outputs = tuple(run(*inputs))
    return ran


def untraceable(sample: Sample) -> str:
    """Why PyTorch's own tracing cannot take a sample; empty when it can."""

    def compile(gm: fx.GraphModule, _: Sequence[Any]) -> Callable[..., Any]:
        return lowering.boxed(gm)

    try:
        with torch.no_grad(), contextlib.redirect_stderr(io.StringIO()):
            aot_autograd(fw_compiler=compile)(graph_of(sample), sample.make())
    except Exception as error:  # any exception is the answer
        return f"{type(error).__name__}: {error}"
    return ""
