"""Makes a graph that fails smaller: fewer outputs, inputs in place of steps, plain inputs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch

from .graph import Graph, Input, Step


def shrink(graph: Graph, fails: Callable[[Graph], bool], seconds: float) -> Graph:
    """The smallest graph found in so many seconds that still fails."""
    until = time.monotonic() + seconds
    while True:
        for candidate in smaller(graph):
            if time.monotonic() > until:
                return graph
            if fails(candidate):
                graph = candidate
                break
        else:
            return graph


def smaller(graph: Graph) -> Iterator[Graph]:
    """Graphs with less in them, those with the least first."""
    if len(graph.outputs) > 1:
        for name in graph.outputs:
            yield pruned(graph, (name,))
        for name in graph.outputs:
            yield pruned(graph, tuple(other for other in graph.outputs if other != name))
    for index in reversed(range(len(graph.steps))):
        cut = _without(graph, index)
        if cut is not None:
            yield cut
    for index, one in enumerate(graph.inputs):
        plain = replace(one, layout="contiguous")
        if one != plain:
            yield replace(graph, inputs=(*graph.inputs[:index], plain, *graph.inputs[index + 1 :]))


def pruned(graph: Graph, outputs: tuple[str, ...]) -> Graph:
    """The part of a graph that some of its values need."""
    made = _results(graph)
    needed, kept = set(outputs), list[Step]()
    for step, results in zip(reversed(graph.steps), reversed(made), strict=True):
        if not needed.isdisjoint(results):
            kept.append(step)
            needed.update(ref.name for ref in step.refs())
    steps = kept[::-1]
    inputs = [i for i in range(len(graph.inputs)) if f"x{i}" in needed]
    names = {f"x{old}": f"x{new}" for new, old in enumerate(inputs)}
    pairs = zip(graph.steps, made, strict=True)
    results = [name for step, own in pairs if any(step is one for one in kept) for name in own]
    names |= {old: f"v{new}" for new, old in enumerate(results)}
    renamed = tuple(step.renamed(names) for step in steps)
    return Graph(tuple(graph.inputs[i] for i in inputs), renamed, tuple(names[name] for name in outputs))


def _results(graph: Graph) -> list[list[str]]:
    """The names of what each step gives."""
    made: list[list[str]] = []

    def call(step: Step, values: dict[str, torch.Tensor]) -> list[torch.Tensor]:
        results = step.call(values)
        first = sum(map(len, made))
        made.append([f"v{first + i}" for i in range(len(results))])
        return results

    graph.run(graph.make(), call)
    return made


def _without(graph: Graph, index: int) -> Graph | None:
    """The graph with inputs in place of a step's results; None if those are its outputs alone."""
    made = _results(graph)
    names = made[index]
    used = {ref.name for step in graph.steps for ref in step.refs()}
    outputs = tuple(name for name in graph.outputs if name not in names)
    if used.isdisjoint(names) or not outputs:
        return None
    values = Graph(graph.inputs, graph.steps, tuple(names))(*graph.make())
    new = {name: f"x{len(graph.inputs) + i}" for i, name in enumerate(names)}
    inputs = [_like(value) for value in values]
    steps = tuple(step.renamed(new) for i, step in enumerate(graph.steps) if i != index)
    later = [name for i, own in enumerate(made) if i != index for name in own]
    shifted = {old: f"v{i}" for i, old in enumerate(later)}
    cut = Graph(
        (*graph.inputs, *inputs), tuple(step.renamed(shifted) for step in steps), tuple(shifted[n] for n in outputs)
    )
    return pruned(cut, cut.outputs)


def _like(value: torch.Tensor) -> Input:
    """An input of the same shape and type; integers, which may be places, stay within what they were."""
    whole = not value.is_floating_point() and value.dtype != torch.bool and value.numel() > 0
    return Input(tuple(value.shape), value.dtype, below=max(int(value.max()), 0) + 1 if whole else 0)
