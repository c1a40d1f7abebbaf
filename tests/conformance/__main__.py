"""``python -m tests.conformance run|report``: ``run --help`` says the rest."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import torch

from .report import report
from .run import run, run_shards
from .samples import DTYPES, tasks


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.conformance", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    runs = verbs.add_parser("run", help="run samples; goes on where the file ends")
    runs.add_argument("--device", choices=("cpu", "cuda"), required=True, help="cpu: on the emulated network")
    runs.add_argument("--out", type=Path, required=True, help="JSON lines, one for each operator and element type")
    runs.add_argument("--dtypes", default=",".join(str(d).removeprefix("torch.") for d in DTYPES))
    runs.add_argument("--ops", default="", help="names in op_db, separated by commas; all of them if not given")
    runs.add_argument("--samples-per-op", type=int, help="so many of each operator's, drawn by the seed")
    runs.add_argument("--seed", type=int, default=0)
    runs.add_argument("--build", action="store_true", help="on the CPU: build every engine with TensorRT too")
    runs.add_argument("--minutes", type=float, help="begin nothing after so many")
    runs.add_argument("--jobs", type=int, default=1, help="processes")
    runs.add_argument("--shard", default="0/1", help="INDEX/COUNT")
    reports = verbs.add_parser("report", help="print the table; fails if anything is wrong")
    reports.add_argument("file", type=Path)
    reports.add_argument("--device", choices=("cpu", "cuda"), default="cuda", help="whose expected failures count")
    reports.add_argument("--reasons", action="store_true", help="print why operators stay in PyTorch")
    given = parser.parse_args(arguments)
    if given.verb == "report":
        return report(given.file, given.device, reasons=given.reasons)
    if given.device == "cuda":  # else samples after the first that may use TF32 would stay in PyTorch
        os.environ.setdefault("NVIDIA_TF32_OVERRIDE", "0")
    if given.jobs > 1:
        run_shards(arguments, given.jobs)
        return 0
    torch.set_num_threads(1)
    index, count = (int(part) for part in given.shard.split("/"))
    chosen = tasks([getattr(torch, d) for d in given.dtypes.split(",")], given.device, _names(given.ops))
    chosen.sort(key=lambda t: (DTYPES.index(t.dtype), t.hash(given.seed)))
    run(
        chosen[index::count], given.device, given.out, seed=given.seed, limit=given.samples_per_op, build=given.build,
        minutes=given.minutes,
    )  # fmt: skip
    return 0


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


sys.exit(main(sys.argv[1:]))
