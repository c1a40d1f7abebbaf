"""Runs samples, counts what became of them, and keeps the counts in a file that a later run goes on from."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import trt_stripped_backend.backend as backend
from tests import gpus
from trt_stripped_backend.precision import PRODUCTS
from trt_stripped_backend.types import Rejection

from . import engines
from .judge import difference, eager
from .samples import Sample, Task


@dataclass
class Counts:
    """What became of the samples of one task.

    Attributes:
        name: of the task.
        inside: at least one engine, and right.
        rejected: right, in PyTorch, with a reason.
        wrong: another value than PyTorch's, or an exception that PyTorch does not raise.
        outside: right, and there was nothing to compute.
        invalid: PyTorch itself cannot run them; not counted.
        registered: some sample's graph has an operator with a converter.
        complete: these are all of the operator's samples.
        reasons: of operators in PyTorch, how often.
        failures: what was wrong, sample by sample.
        seconds: taken.
    """

    name: str
    inside: int = 0
    rejected: int = 0
    wrong: int = 0
    outside: int = 0
    invalid: int = 0
    registered: bool = False
    complete: bool = True
    reasons: dict[str, int] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """What is not as by default."""
        nothing = Counts("")
        return {name: value for name, value in vars(self).items() if value != getattr(nothing, name)}


def classify(task: Task, sample: Sample, device: str, *, seed: int = 0, build: bool = False) -> tuple[str, Any]:
    """(count that it belongs to, :class:`~.engines.Ran` or what went wrong)."""
    try:
        want = eager(sample, seed)
    except Exception as error:  # not a call that PyTorch can make
        return "invalid", str(error)
    if not want:
        return "invalid", "no tensor in the result"
    try:
        ran = engines.on_gpu(sample, seed) if device == "cuda" else engines.on_cpu(sample, seed, build)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        if "CUDA error" in str(error):  # nothing runs in this process any more
            raise
        why = engines.untraceable(sample)
        if why:
            return "rejected", engines.Ran(rejections=[Rejection("", "graph", "trace", why)])
        return "wrong", f"raises {type(error).__name__}: {error}"
    random = any("would repeat the same numbers" in r.reason for r in ran.rejections)
    products = any(target.rpartition(".")[0] in PRODUCTS for target in ran.targets)
    wrong = difference(task, sample, ran.outputs, want, seed, random=random, products=products)
    if wrong:
        return "wrong", wrong
    return "inside" if ran.engines else "rejected" if ran.rejections else "outside", ran


def count(task: Task, device: str, *, seed: int = 0, limit: int | None = None, build: bool = False) -> Counts:
    """Runs a task's samples."""
    start, counts, reasons = time.perf_counter(), Counts(task.name), Counter[str]()
    for done, sample in enumerate(task.samples(device, seed, limit)):
        counts.complete = limit is None or (done + 1) * task.parts < limit
        outcome, ran = classify(task, sample, device, seed=seed, build=build)
        setattr(counts, outcome, getattr(counts, outcome) + 1)
        if outcome == "wrong":
            counts.failures.append(f"#{sample.index} ({sample.text}): {_line(ran)}")
        elif outcome != "invalid":
            counts.registered |= ran.registered
            reasons.update({f"{r.kind}: {_line(r)}" for r in ran.rejections})
        if device == "cuda" and done % 50 == 49:
            backend.reset()
    counts.registered |= counts.wrong > 0
    counts.reasons, counts.seconds = dict(reasons.most_common()), time.perf_counter() - start
    if device == "cuda":
        backend.reset()
        torch.cuda.empty_cache()
    return counts


def _line(value: object) -> str:
    return " ".join(str(value).split())[:400]


# ------------------------------------------------------------------------------------------------ a run


def run(
    tasks: Sequence[Task], device: str, out: Path, *, seed: int, limit: int | None, build: bool, minutes: float | None
) -> None:
    """Runs the tasks that the file does not hold yet. A line is written before and after each one, so that one that
    ends the process is known: it does so twice. Once may have been the end of the whole run."""
    until = time.monotonic() + 60 * minutes if minutes is not None else float("inf")
    known, begun = read(out), _begun(out)
    for task in tasks:
        if task.name in known:
            continue
        if time.monotonic() > until:
            return
        if begun[task.name] > 1:
            _append(out, Counts(task.name, wrong=1, registered=True, failures=["the process died"]).to_json())
            continue
        _append(out, {"begun": task.name})
        with quiet():
            counts = count(task, device, seed=seed, limit=limit, build=build)
        _append(out, counts.to_json())


def run_shards(arguments: Sequence[str], jobs: int) -> None:
    """One process a shard, on the GPUs in turn; one that dies is started again after the task that it died of."""
    command = [sys.executable, "-m", "tests.conformance", *arguments]
    shards = {i: _start(command, i, jobs) for i in range(jobs)}
    deaths = 0
    while shards:
        for index, process in list(shards.items()):
            with contextlib.suppress(subprocess.TimeoutExpired):
                if process.wait(timeout=0.2) == 0 or deaths >= 20 * jobs:
                    del shards[index]
                else:
                    deaths += 1
                    shards[index] = _start(command, index, jobs)


def _start(command: Sequence[str], index: int, jobs: int) -> subprocess.Popen[bytes]:
    visible = gpus.names()
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": visible[index % len(visible)]} if visible else None
    return subprocess.Popen([*command, "--jobs", "1", "--shard", f"{index}/{jobs}"], env=environment)


def read(out: Path) -> dict[str, Counts]:
    """The finished tasks of a file, by name."""
    return {line["name"]: Counts(**line) for line in _lines(out) if "name" in line}


def _begun(out: Path) -> Counter[str]:
    return Counter(line["begun"] for line in _lines(out) if "begun" in line)


def _lines(out: Path) -> Iterator[dict[str, Any]]:
    if out.exists():
        for line in out.read_text().splitlines():
            with contextlib.suppress(json.JSONDecodeError):  # a line cut short by the end of its process
                yield json.loads(line)


def _append(out: Path, line: dict[str, Any]) -> None:
    # One write: shards share the file.
    descriptor = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(descriptor, (json.dumps(line) + "\n").encode())
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without warnings and logs: samples provoke thousands. Exact float32 products."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), torch.no_grad(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
