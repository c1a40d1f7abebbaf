"""Runs exported programs without a GPU: engines are their converters on PyTorch tensors, with the weights they see.

The road there is the package's own: :class:`~.enginecall.EngineCall`, live weights, bundles. Only the runner is
another, which reads bound weights at their addresses and copies the others as ``refit.Engine`` does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch

from trt_stripped_backend import flavour
from trt_stripped_backend.build import convert
from trt_stripped_backend.enginecall import EngineCall
from trt_stripped_backend.live import Bundle
from trt_stripped_backend.ops.net import Net
from trt_stripped_backend.precision import Settlement
from trt_stripped_backend.profile import as_intervals
from trt_stripped_backend.programs import program
from trt_stripped_backend.types import Entry

from .graphs import memory
from .torch_network import TorchNetwork

CPU = torch.device("cpu")


class Pool:
    """The engines of one plan: one for all in bound mode, else one for each set of weights."""

    def __init__(self, entry: Entry) -> None:
        self.entry, self.loads = entry, 0
        self.engines: dict[Any, tuple[Any, list[torch.Tensor]]] = {}

    def preload(self) -> None:
        self.loads += 1


class Runner:
    """Stands for :class:`trt_stripped_backend.run.Runner`."""

    def __init__(self, call: EngineCall, entry: Entry, pools: dict[str, Pool]) -> None:
        self.call, self.entry = call, entry
        self.pool = pools.setdefault(entry.key, Pool(entry))

    def __call__(self, weights: Bundle, inputs: Sequence[Any]) -> tuple[torch.Tensor, ...]:
        signature, piece = self.call.piece.signature, self.call.piece.partition
        known = {
            one.name: inputs[i] if dim is None else inputs[i].shape[dim]
            for one, (i, dim) in zip(signature.symbols, self.call.places, strict=True)
        }
        given = {f"x{i}": inputs[self.call.inputs[name]].permute(spec.order)
                 for i, (name, spec) in enumerate(signature.inputs)}  # fmt: skip
        values = self._weights(weights)
        given |= {slot.name: v.permute(slot.spec.order) for (_, slot), v in zip(signature.slots, values, strict=True)}
        given |= {s.name: torch.empty(known[s.name], dtype=torch.bool) for s in signature.symbols if s.dim is None}
        ranges = tuple((low, best, high) for low, best, high in self.entry.header["ranges"])
        bounds = as_intervals(signature, ranges)
        assert all(low <= known[name] <= high for name, (low, high) in bounds.items()), "outside the engine's range"
        network = TorchNetwork(given)
        convert(piece, signature, Net(network, flavour.load(), bound=True, ranges=bounds))
        network.check()
        outputs = []
        for index, spec in enumerate(signature.outputs):
            now = spec.at(known)
            made = torch.empty_strided(now.shape, now.stride, dtype=now.dtype)
            back = [spec.order.index(d) for d in range(made.ndim)]
            outputs.append(made.copy_(network.outputs[f"y{index}"].value.permute(back)))
        return tuple(outputs)

    def _weights(self, weights: Bundle) -> list[torch.Tensor]:
        index, current = self.call.index, weights.set
        if self.entry.header["mode"] == "bound":
            pairs = zip(current.pointers[index], weights.live.slots[index], strict=True)
            return [memory(pointer, slot.spec) for pointer, (_, slot) in pairs]
        stamp, values = self.pool.engines.get(current.pointers[index], (None, []))
        if stamp != current.stamps[index]:
            values = [value.clone() for value in weights.slots(index)]
            self.pool.engines[current.pointers[index]] = current.stamps[index], values
        return values


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Pool]]:
    """Programs run on the CPU, with emulated engines; the pools by key."""
    pools: dict[str, Pool] = {}
    monkeypatch.setattr(program, "device_of", lambda weights, wanted: CPU)
    monkeypatch.setattr(program, "settlement", Settlement())  # nothing here rounds, whatever ran before
    monkeypatch.setattr(EngineCall, "_runner", lambda call, entry: entry and Runner(call, entry, pools))
    yield pools
