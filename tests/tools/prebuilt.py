"""Builds the engines of ``tests/gpu/prebuilt.py`` without a GPU and packs them into one file.

python -m tests.tools.prebuilt .gpu/prebuilt.pack.xz

Run with the TensorRT-RTX of the machine that will use them, and any PyTorch. A key holds a digest of the converters'
source, so the file is made anew when that changes: ``make prebuilt`` does both.
"""

from __future__ import annotations

import lzma
import sys
import tempfile
from pathlib import Path

import torch

import trt_stripped_backend as ts
from tests.gpu.prebuilt import BOUND, CASES, OPTIONS


def main(path: Path) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for name, case in CASES.items():
            variants = [
                ts.Variant((case.argument(shape, torch.float32, "meta"),), {}, shapes, getattr(torch, dtype))
                for dtype in BOUND
                for shape, shapes in case.variants
            ]
            with torch.device("meta"):
                model = case.model().eval()
            report = ts.prebuild(model, variants=variants, options={**OPTIONS, "cache_dir": folder})
            print(f"{name}: {report.builds} built, {report.hits} shared with others")
            if report.builds + report.hits != len(report.partitions):
                print(report)
                return 1
        packed = Path(folder) / "pack"
        keys = ts.open_cache(folder).pack(packed)
        path.write_bytes(lzma.compress(packed.read_bytes()))  # a hundredth: small plans have most in common
    print(f"{len(keys)} engines in {path}, {path.stat().st_size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
