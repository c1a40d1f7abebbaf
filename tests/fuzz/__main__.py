"""Random graphs through the backend: ``python -m tests.fuzz --graphs 2000 --build``, or ``--device cuda`` on a GPU.
With ``--layers 3`` the graphs are common layers in a row, each order of three in turn.

Prints each failure as code that shows it, shrunk; ends with 1 if there is one.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

from .run import run, run_processes


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--graphs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--layers", type=int, default=0, help="rows of so many layers, from the one numbered --seed on")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="cpu: on the emulated network")
    parser.add_argument("--build", action="store_true", help="on the CPU: build every engine with TensorRT too")
    parser.add_argument("--dynamic", action="store_true", help="on a GPU: sizes before the last are symbols")
    parser.add_argument("--large", action="store_true", help="layers of tensors of up to half a million elements")
    parser.add_argument("--tf32", action="store_true", help="float32 products may round to TF32")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--minutes", type=float, default=1e6, help="begin nothing after so many")
    parser.add_argument("--shard", default="0/1", help="INDEX/COUNT")
    parser.add_argument("--out", type=Path, help="where to write the counts, as JSON")
    parser.add_argument("--reasons", action="store_true", help="print why operators stay in PyTorch")
    given = parser.parse_args(arguments)
    if given.device == "cuda":  # else graphs after the first that may use TF32 would stay in PyTorch
        os.environ.setdefault("NVIDIA_TF32_OVERRIDE", str(int(given.tf32)))
    if given.jobs > 1:
        with tempfile.TemporaryDirectory() as folder:
            totals = run_processes(arguments, given.jobs, Path(folder))
    else:
        shard, shards = map(int, given.shard.split("/"))
        totals = run(
            given.graphs, base=given.seed, device=given.device, built=given.build, layers=given.layers,
            dynamic=given.dynamic, large=given.large, until=time.monotonic() + 60 * given.minutes, shard=shard,
            shards=shards,
        )  # fmt: skip
    if given.out:
        given.out.write_text(totals.line())
    if given.shard == "0/1":
        if given.reasons:
            print(*(f"{times:6} {why}" for why, times in totals.reasons.most_common()), sep="\n")
        print(totals)
    return int(bool(totals.failures))


sys.exit(main(sys.argv[1:]))
