"""One graph through the backend: on a GPU as a module, without one on the emulated network and through the builder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch._dynamo.exc import TorchRuntimeError

import trt_stripped_backend.backend as backend
from tests.conformance.run import quiet
from tests.graphs import cut_up, lower
from tests.harness import Given
from trt_stripped_backend import flavour
from trt_stripped_backend.build import build
from trt_stripped_backend.errors import TRTStrippedError
from trt_stripped_backend.key import canonical, make_key
from trt_stripped_backend.options import Options
from trt_stripped_backend.report import recent

from .graph import Graph
from .judge import Judge


@dataclass
class Found:
    """What became of a graph.

    Attributes:
        wrong: what; empty if nothing.
        invalid: PyTorch itself cannot run it; then nothing else counts.
        engines: how many it became.
        inside: operators in engines, of ``nodes``.
        checked: elements compared, and ``open``: not compared, as roundings decide them.
        reasons: why operators stay in PyTorch.
    """

    wrong: str = ""
    invalid: bool = False
    engines: int = 0
    inside: int = 0
    nodes: int = 0
    checked: int = 0
    open: int = 0
    reasons: tuple[str, ...] = ()


def check(
    graph: Graph, *, device: str = "cpu", built: bool = False, mode: str = "bound", dynamic: bool = False
) -> Found:
    """Compares a graph with PyTorch; on a GPU twice, with other weights and inputs the second time.

    Args:
        graph: to be run.
        device: ``cpu``, on the emulated network, or ``cuda``.
        built: on the CPU, every engine is built by TensorRT too.
        mode: how engines get their weights.
        dynamic: on a GPU, sizes before the last are symbols where they can be.

    Raises:
        AssertionError: something is wrong; the message is code that shows it.
    """
    how: dict[str, Any] = {"device": device, "built": built, "mode": mode, "dynamic": dynamic}
    found = found_in(graph, **how)
    assert not found.wrong, f"{found.wrong}\n\n{reproduction(graph, **how)}"
    return found


def reproduction(graph: Graph, device: str, built: bool, mode: str, dynamic: bool) -> str:
    """Code that runs a graph again."""
    inputs, steps = ("".join(f"            {one!r},\n" for one in many) for many in (graph.inputs, graph.steps))
    return (
        "import torch\n\nfrom tests.fuzz.check import check\n"
        "from tests.fuzz.graph import Graph, Input, Ref, Step\n\n"
        f"check(\n    Graph(\n        inputs=(\n{inputs}        ),\n        steps=(\n{steps}        ),\n"
        f"        outputs={graph.outputs!r},\n    ),\n    device={device!r}, built={built}, mode={mode!r}, "
        f"dynamic={dynamic},\n)\n"
    )


def found_in(
    graph: Graph, *, device: str = "cpu", built: bool = False, mode: str = "bound", dynamic: bool = False
) -> Found:
    """:func:`check` without an exception for what is wrong."""
    with quiet():
        try:
            judges = [Judge(graph, graph.make(seed)) for seed in range(2 if device == "cuda" else 1)]
        except (RuntimeError, NotImplementedError, IndexError, ValueError, TypeError):
            return Found(invalid=True)
        found = Found()
        try:
            outputs = _on_gpu(graph, mode, dynamic, found) if device == "cuda" else [_on_cpu(graph, built, mode, found)]
        except torch.OutOfMemoryError:
            raise
        except TorchRuntimeError:  # not on fake tensors
            return Found(invalid=True)
        except Exception as error:  # PyTorch runs it, so we must
            if "CUDA error" in str(error):  # nothing runs in this process any more
                raise
            found.wrong = f"raises {type(error).__name__}: {error}"
            return found
        for judge, have in zip(judges, outputs, strict=True):
            verdict = judge(have)
            found.wrong = found.wrong or verdict.wrong
            found.checked, found.open = found.checked + verdict.checked, found.open + verdict.open
        return found


def _on_cpu(graph: Graph, built: bool, mode: str, found: Found) -> Sequence[torch.Tensor]:
    inputs = graph.make(0)
    before = [value.clone() for value in inputs]
    staged = cut_up(lower(graph, *inputs, sources=graph.weights), refit_mode=mode)
    cut = staged.cut
    for piece in cut.partitions:
        cut.module.set_submodule(piece.name, Given(piece))
    found.engines, found.inside = len(cut.partitions), sum(p.nodes for p in cut.partitions)
    found.nodes = found.inside + len(cut.rejections)
    found.reasons = tuple(f"{r.target}: {r.reason}" for r in cut.rejections)
    outputs: Sequence[torch.Tensor] = staged.in_torch(inputs)
    if not all(torch.equal(a, b) or a.isnan().any() for a, b in zip(inputs, before, strict=True)):
        found.wrong = "an input was written to"
    for piece in cut.partitions if built else ():
        try:
            build(
                piece, canonical(piece)[1], make_key({"fuzz": mode}), flavour=flavour.load(), mode=mode,
                options=Options.of({}), tf32=False,
            )  # fmt: skip
        except TRTStrippedError as error:
            found.wrong = found.wrong or f"is not built: {' '.join(str(error).split())}"
    return outputs


class _Module(nn.Module):
    """A graph whose weights are parameters and buffers."""

    def __init__(self, graph: Graph, weights: Sequence[torch.Tensor]) -> None:
        super().__init__()
        self.graph, self.names = graph, [f"w{i}" for i in range(len(weights))]
        for name, value in zip(self.names, weights, strict=True):
            if value.is_floating_point():
                self.register_parameter(name, nn.Parameter(value, requires_grad=False))
            else:
                self.register_buffer(name, value)

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.graph(*(getattr(self, name) for name in self.names), *inputs)


def _on_gpu(graph: Graph, mode: str, dynamic: bool, found: Found) -> list[Sequence[torch.Tensor]]:
    first, second = ([value.cuda() for value in graph.make(seed)] for seed in range(2))
    count, results = graph.weights, []
    torch.compiler.reset()
    recent.clear()
    module = _Module(graph, first[:count])
    options: dict[str, Any] = {"min_block_size": 1, "cache": False, "refit_mode": mode}
    compiled = torch.compile(
        module, backend=backend.trt_stripped, options=options, dynamic=None if dynamic else False
    )
    for value in (*first[count:], *second[count:]) if dynamic else ():
        for dim in range(value.ndim - 1):
            torch._dynamo.maybe_mark_dynamic(value, dim)
    results.append([value.clone() for value in compiled(*first[count:])])  # some are views of weights
    for name, other in zip(module.names, second[:count], strict=True):
        getattr(module, name).copy_(other)
    results.append(compiled(*second[count:]))
    torch.cuda.synchronize()
    for report in recent:
        found.engines, found.nodes = found.engines + len(report.partitions), found.nodes + report.nodes
        found.inside += report.nodes_in_engines
        found.reasons += tuple(f"{r.target}: {r.reason}" for r in report.rejections)
        failed = [f"{r.target}: {r.reason}" for r in report.rejections if r.kind in ("build", "verify")]
        found.wrong = found.wrong or "; ".join(failed)
    return results
