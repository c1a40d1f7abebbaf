"""Float32 products of an odd number of terms, with TF32 and without; a process's first engine decides on that."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

import trt_stripped_backend as ts

ROOT = Path(__file__).parents[2]

#: Of positive numbers. Some of what they make of the zeros behind a row is not finite.
BEFORE: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "log": torch.log,
    "log_softmax": lambda x: x.log_softmax(0),
    "logsumexp": lambda x: x - x.logsumexp(0),
    "standardized": lambda x: (x - x.mean(0)) / x.std(0),
}


def _gated(y: torch.Tensor) -> torch.Tensor:
    one, two = y.chunk(2, -1)
    return one * F.gelu(two)


PRODUCTS: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "mm": lambda x, w: x @ w.t(),
    "linear": lambda x, w: F.linear(x, w, w.sum(1)),
    "gelu": lambda x, w: F.gelu(F.linear(x, w, 9 * w.sum(1))),  # of positive numbers: its tail has few exact bits
    "matrices": lambda x, w: torch.stack([x, x + 0.1]) @ w.t(),
    "turned": lambda x, w: (w @ x.t()).t(),
    "gated": lambda x, w: _gated(F.linear(x, w, 9 * w.sum(1))),
    "gated matrix": lambda x, w: _gated(F.linear(x[None], w, 9 * w.sum(1))),
    "a batch of one": lambda x, w: x[None].exp().log() @ w.t(),
    "pixels": lambda x, w: F.conv2d(x.t()[None, :, None], w[:, :, None, None]),
}
SIZES = [(5, 7, 6), (33, 13, 10), (64, 255, 128), (8, 3, 16)]
BOUNDS = {"high": 1e-2, "highest": 1e-4}


def compare(before: str, mode: str, precision: str) -> None:
    """Compares with float64, relative to the largest value. One of the products shows whether they round."""
    torch.set_float32_matmul_precision(precision)
    torch.backends.cudnn.allow_tf32 = precision == "high"
    seen = []
    for rows, terms, columns in SIZES:
        for name, product in PRODUCTS.items():
            torch.manual_seed(0)
            weight = torch.nn.Parameter(torch.rand(columns, terms, device="cuda") / terms)

            def fn(
                x: torch.Tensor, product: Callable[..., torch.Tensor] = product, w: torch.Tensor = weight
            ) -> torch.Tensor:
                return product(BEFORE[before](x), w)

            torch.compiler.reset()
            options = {"cache": False, "min_block_size": 1, "refit_mode": mode}
            fast = torch.compile(fn, backend="trt_stripped", options=options, dynamic=False)
            for scale in (1.0, 3.0):  # with other weights
                with torch.no_grad():
                    weight.mul_(scale)
                    x = torch.rand(rows, terms, device="cuda") + 0.5
                    want, have = product(BEFORE[before](x.double()), weight.double()), fast(x)
                error = float((have - want).abs().max() / want.abs().max())
                assert error < BOUNDS[precision], (name, rows, terms, columns, scale, error)
                seen.append(error)
            report = ts.reports()[-1]
            assert not report.rejections
            assert report.nodes_in_engines == report.nodes
    assert precision == "highest" or max(seen) > 3e-5


@pytest.mark.parametrize("precision", BOUNDS)
@pytest.mark.parametrize("mode", ["bound", "general"])
@pytest.mark.parametrize("before", BEFORE)
def test_in_a_process(before: str, mode: str, precision: str) -> None:
    command = [sys.executable, "-W", "ignore", "-m", "tests.gpu.test_odd_sums_gpu", before, mode, precision]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    environment.pop("NVIDIA_TF32_OVERRIDE", None)
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]


if __name__ == "__main__":
    compare(*sys.argv[1:])
