"""What TensorRT-RTX 1.6 does not build together is built apart."""

from __future__ import annotations

import pytest
import torch
from packaging.version import Version

import trt_stripped_backend as ts
from trt_stripped_backend import flavour


@pytest.mark.parametrize("mode", ["bound", "general"])
@torch.no_grad()
def test_two_that_are_not_built_together_are_both_in_engines(mode: str) -> None:
    def graph(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor, i: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return a @ b, c[..., i].sum(-1)

    a, b, c = (torch.randn(shape, device="cuda") for shape in ((4, 7), (4, 5), (2, 3, 6)))
    given = a.t(), b, c, torch.tensor([[0, 2], [2, 4]], device="cuda")
    fast = torch.compile(graph, backend="trt_stripped", options={"min_block_size": 1, "refit_mode": mode})
    for have, want in zip(fast(*given), graph(*given), strict=True):
        torch.testing.assert_close(have, want, rtol=1e-5, atol=1e-5)
    report = ts.reports()[-1]
    assert not report.rejections and report.nodes_in_engines == report.nodes
    loaded = flavour.load()
    if loaded.is_rtx and loaded.version < Version("1.7"):
        assert len(report.partitions) == 2
