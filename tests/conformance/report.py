"""The table of a run."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import torch

from trt_stripped_backend.types import dtype_name

from .expected import EXPECTED, reason
from .run import Counts, read

#: Of the samples of registered operators, how many must be right in an engine.
INSIDE = 0.75


def report(file: Path, device: str, *, reasons: bool = False) -> int:
    """Prints the counts, and returns 0 if they are as they must be, else 1."""
    found = read(file)
    ops: dict[str, list[Counts]] = {}
    for counts in found.values():
        ops.setdefault(_op(counts), []).append(counts)
    registered = {op for op, rows in ops.items() if any(r.registered for r in rows)}
    print(f"{'operator':44} {'inside':>7} {'rejected':>8} {'wrong':>6}")
    for op in sorted(registered):
        sums = _sum(ops[op])
        print(f"{op:44} {sums['inside']:7} {sums['rejected']:8} {sums['wrong']:6}")
    print()
    for dtype in [*sorted({_dtype(c) for c in found.values()}), ""]:
        rows = [c for c in found.values() if _dtype(c) == (dtype or _dtype(c)) and _op(c) in registered]
        print(f"{dtype or 'all':10} {_summary(rows)}")
    failures = _failures(found, device)
    for line in failures:
        print(line)
    if reasons:
        _print_reasons([c for op in registered for c in ops[op]])
    share = _share([c for op in registered for c in ops[op]])
    return int(bool(failures) or share < INSIDE)


def _op(counts: Counts) -> str:
    return counts.name.split(":")[0]


def _dtype(counts: Counts) -> str:
    return counts.name.split(":")[1]


def _sum(rows: list[Counts]) -> Counter[str]:
    total: Counter[str] = Counter()
    for row in rows:
        total.update({k: getattr(row, k) for k in ("inside", "rejected", "wrong", "outside", "invalid")})
    return total


def _share(rows: list[Counts]) -> float:
    sums = _sum(rows)
    whole = sums["inside"] + sums["rejected"] + sums["wrong"]
    return sums["inside"] / whole if whole else 1.0


def _summary(rows: list[Counts]) -> str:
    sums = _sum(rows)
    return (
        f"{len({_op(r) for r in rows}):5} operators: {sums['inside']:6} inside, {sums['rejected']:6} rejected, "
        f"{sums['wrong']:4} wrong; inside {_share(rows):.1%}"
    )


def _failures(found: dict[str, Counts], device: str) -> list[str]:
    lines = []
    for counts in found.values():
        if counts.wrong and not reason(_op(counts), getattr(torch, _dtype(counts)), device):
            lines += [f"WRONG {counts.name} {failure}" for failure in counts.failures]
    for row in EXPECTED:
        names = {dtype_name(d) for d in row.dtypes}
        ran = [c for c in found.values() if _op(c) == row.op and _dtype(c) in names]
        if device in row.devices and ran and all(c.complete and not c.wrong for c in ran):
            lines.append(f"UNEXPECTED PASS {row.op}: {row.reason}")
    return lines


def _print_reasons(rows: list[Counts]) -> None:
    total: Counter[str] = Counter()
    for row in rows:
        total.update(row.reasons)
    for why, times in total.most_common():
        print(f"{times:6} {why}")
