"""Builds a model's engines in CI, without a GPU, without its weights, and ships them as one file.

    python examples/prebuild_in_ci.py [FILE]

What a CI job does: describe the model on the ``meta`` device, list how it will be called, pack the result. What a node
with a GPU does: unpack it before the model starts. Its first call then builds nothing.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch
from torch import nn
from torch.export import Dim

import trt_stripped_backend
from trt_stripped_backend import Variant

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
OPTIONS = {"min_block_size": 1}


def model() -> nn.Module:
    return nn.Sequential(nn.Linear(256, 512), nn.GELU(), nn.LayerNorm(512), nn.Linear(512, 64), nn.Softmax(-1))


def in_ci(folder: Path, pack: Path) -> list[str]:
    """Engines for a batch of one in float32, and for any batch up to 512 in float16."""
    with torch.device("meta"):
        described, one, many = model(), torch.empty(1, 256), torch.empty(64, 256)
    any_batch = ({0: Dim("batch", min=2, max=512)},)
    report = trt_stripped_backend.prebuild(
        described,
        variants=[Variant((one,)), Variant((many,), dynamic_shapes=any_batch, dtype=torch.float16)],
        options={**OPTIONS, "require_full": True, "cache_dir": folder},
    )
    print(report)
    assert report.builds == 2
    keys = trt_stripped_backend.open_cache(folder).pack(pack)
    weights = sum(p.weight_bytes for p in report.partitions)
    print(f"\n{len(keys)} engines for {weights / 1e6:.1f} MB of weights in {pack}, {pack.stat().st_size / 1e6:.1f} MB")
    return keys


@torch.no_grad()
def on_a_node(folder: Path, pack: Path, keys: list[str]) -> None:
    """A new process would do the same: nothing but the file comes from the build."""
    trt_stripped_backend.open_cache(folder).unpack(pack)
    trt_stripped_backend.clear_stats()
    options, found = {**OPTIONS, "cache_dir": folder}, []
    for dtype, batch in ((torch.float32, 1), (torch.float16, 48)):
        torch.manual_seed(batch)
        served, x = model().to(DEVICE, dtype).eval(), torch.randn(batch, 256, device=DEVICE, dtype=dtype)
        if batch > 1:
            torch._dynamo.mark_dynamic(x, 0, min=2, max=512)
        looked = trt_stripped_backend.explain(served, x, options=options)
        if DEVICE == "cuda":
            have = torch.compile(served, backend="trt_stripped", options=options)(x)
            looked = trt_stripped_backend.reports()[-1]
            error = float((have.double() - served(x).double()).norm() / served(x).double().norm())
            print(f"{dtype}, batch {batch}: error against eager {error:.1e}")
            assert error < (1e-5 if dtype == torch.float32 else 1e-2)
        found += [p.key for p in looked.partitions if p.status == "hit"]
    if DEVICE == "cpu":
        assert sorted(found) == sorted(keys)
    assert trt_stripped_backend.stats()["builds"] == 0
    print(f"{len(found)} engines found, 0 engines built on the node")


def main() -> None:
    with tempfile.TemporaryDirectory() as place:
        pack = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(place) / "engines.pack"
        keys = in_ci(Path(place) / "ci", pack)
        on_a_node(Path(place) / "node", pack, keys)
    if DEVICE == "cpu":
        print("There is no GPU here: what a node would look for was looked for, and is there.")


if __name__ == "__main__":
    main()
