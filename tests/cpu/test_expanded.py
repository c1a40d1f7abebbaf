"""What TensorRT-RTX would write out as a large tree is cut: engines are built in seconds, whatever reads whatever."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from tests import harness
from tests.cases import all_cases
from tests.cpu.test_unrolled import engines_of
from tests.rounds import ENDS, THREE, times
from trt_stripped_backend import expanded, flavour
from trt_stripped_backend.build import convert
from trt_stripped_backend.flavour import trt
from trt_stripped_backend.ops.net import Net
from trt_stripped_backend.ops.network import Network
from trt_stripped_backend.profile import as_intervals, ranges

FAMILIES = ("activation", "elementwise", "norm", "special", "unary", "whole")
STORED = ("MATRIX_MULTIPLY", "CONVOLUTION", "REDUCE", "SOFTMAX", "TOPK", "SCATTER", "CUMULATIVE", "NORMALIZATION")


#: So often TensorRT-RTX itself reads what it takes (1.7.1, by the time that builds of chains take).
INSIDE = {"GELU_ERF": 2, "GELU_TANH": 5}


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[int, int]]:
    """For each operator of the networks that are made, how often its tensors read one that it takes, and how many
    values they are, written out as trees; at most."""
    most: dict[str, tuple[int, int]] = defaultdict(lambda: (1, 1))
    trees: dict[tuple[str, str], tuple[Counter[str], int]] = {}
    take = Network.take

    def counting(self: Network, layer: Any, index: int = 0) -> Any:
        made = take(self, layer, index)
        reads, own, inside = Counter[str](), 1, INSIDE.get(layer.type.name, 1)
        if layer.type.name not in STORED:
            for one in (layer.get_input(i) for i in range(layer.num_inputs)):
                if one is not None:
                    literal = {} if self.literal_bytes(one) else {one.name: 1}
                    some, values = trees.get((self.node, one.name), (literal, 0))
                    reads.update({name: inside * count for name, count in some.items()})
                    own += inside * values
        trees[self.node, made.name] = reads, own
        name = self.node.partition(":")[2]
        most[name] = max(most[name][0], *reads.values(), 1), max(most[name][1], own)
        return made

    monkeypatch.setattr(Network, "take", counting)
    return most


def test_the_table_says_how_often_operands_are_read(counts: dict[str, tuple[int, int]]) -> None:
    builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
    for family, case in all_cases():
        if family in FAMILIES and case.converted and not case.rejected:
            piece, signature = harness.lower_case(case).engine()
            bounds = as_intervals(signature, ranges(piece, signature, None, None))
            network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
            convert(piece, signature, Net(network, flavour.load(), bound=True, ranges=bounds))
    told = {str(target): count for target, count in (expanded.READS | expanded.MULTIPLIED).items()}
    assert {name: counts[name] for name in told} == told
    # Twice: norms, which _SLOW has, and what takes one value in two places.
    assert {name: count for name, count in counts.items() if name not in told and count[0] > 2} == {}


@pytest.mark.parametrize("name", ENDS)
def test_what_would_be_built_for_minutes_is_cut(name: str) -> None:
    assert engines_of(ENDS[name], torch.randn(6, 64), build=True) > 1


@pytest.mark.parametrize(
    "fn", [THREE, lambda x: THREE(x) @ THREE(x).t(), lambda x: times(F.silu, 9)(x).sum(-1)],
    ids=["elements", "product", "few"],
)  # fmt: skip
def test_others_stay_together(fn: Callable[[torch.Tensor], torch.Tensor]) -> None:
    assert engines_of(fn, torch.randn(6, 64), build=True) == 1
