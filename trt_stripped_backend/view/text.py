"""A report as text: plain for pipes and logs, tables of rich on a terminal."""

from __future__ import annotations

import os
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TextIO

from rich.console import Console, ConsoleRenderable, Group
from rich.table import Table
from rich.text import Text

from ..types import Rejection

if TYPE_CHECKING:
    from ..report import EngineReport, Report
    from .drawing import DerivedWeight

#: How many of one kind are listed before "and … more".
_FEW = 6
_COLORS = {
    "hit": "green", "shared": "green", "built": "cyan", "miss": "yellow", "unknown": "yellow", "pending": "yellow",
    "failed": "red",
}  # fmt: skip


def plain(report: Report) -> str:
    """The whole report; lines may be long."""
    lines = [*_head(report)]
    for one in report.partitions:
        lines += [f"  {_name(report, one)}{engine_line(one).removeprefix(one.name)}", f"      {_counts(one.ops)}"]
        lines += [f"      nearest entry differs in: {_parts(one.differs)}"] if one.differs else []
    reasons = grouped(report.rejections)
    lines += ["in PyTorch:"] if reasons else []
    for group in reasons:
        lines.append(f"  [{group.kind}] {group.reason}")
        for target, found in group.targets:
            places = _places(found)
            lines.append(f"    {len(found):4} × {target}" + (f"  ({places})" if places else ""))
    lines += ["computed in PyTorch when a parameter changes:"] if report.derived_weights else []
    lines += [f"  {one.name} {one.value}: {_recipe(one)}" for one in report.derived_weights[:_FEW]]
    if report.derived > _FEW:
        lines.append(f"  and {report.derived - _FEW} more")
    return "\n".join([*lines, *_notes(report)])


def tables(report: Report) -> ConsoleRenderable:
    """The whole report for a terminal."""
    title, counts = [*_head(report), ""][:2]
    parts: list[ConsoleRenderable] = [Text(title, style="bold"), Text(counts)]
    if report.partitions:
        table = _table("engine", "", "ops", "seconds", "plan", "weights", "key", "operators", right=(2, 3, 4, 5))
        for one in report.partitions:
            about = Text(_counts(one.ops))
            if one.differs:
                about.append(f"\nnearest entry differs in: {_parts(one.differs)}", style="yellow")
            status = Text(one.status, style=_COLORS.get(one.status, ""))
            if one.saved_seconds:
                status.append(f"\n{one.saved_seconds:.2f} s saved", style="dim")
            sizes = (_size(n) if n else "" for n in (one.plan_bytes, one.weight_bytes))
            cells = (str(one.nodes), f"{one.seconds:.2f}", *sizes, one.key[:12])
            table.add_row(Text(_name(report, one)), status, *map(Text, cells), about)
        parts.append(table)
    if report.rejections:
        table = _table("in PyTorch", "kind", "operators", "where")
        for group in grouped(report.rejections):
            for row, (target, found) in enumerate(group.targets):
                reason, kind = ("", "") if row else (group.reason, group.kind)
                cells = (reason, kind, f"{len(found)} × {target}", _places(found))
                table.add_row(*map(Text, cells), end_section=row == len(group.targets) - 1)
        parts.append(table)
    if report.derived_weights:
        table = _table("derived weight", "value", "from")
        for weight in report.derived_weights[:_FEW]:
            table.add_row(*map(Text, (weight.name, weight.value, _recipe(weight))))
        if report.derived > _FEW:
            table.add_row(Text(f"and {report.derived - _FEW} more", style="dim"))
        parts.append(table)
    return Group(*parts, *map(Text, _notes(report)))


def show(report: Report, file: TextIO | None = None) -> None:
    """Tables on a terminal, the plain text elsewhere."""
    file = sys.stdout if file is None else file
    if file.isatty():
        Console(file=file).print(tables(report))
    else:
        print(plain(report), file=file)


def engine_line(one: EngineReport) -> str:
    """``engine_0 [3ba1c7…]: 4 operators, hit in 0.01 s, saved 2.50 s, 3.00 MB plan for 5.00 MB of weights``."""
    spent = {
        "built": f"built in {one.seconds:.2f} s",
        "miss": "miss: not in the cache",
        "pending": "in PyTorch until it is built",
        "unknown": "known once it has the weights' values",
        "failed": "failed: runs in PyTorch",
    }.get(one.status, f"{one.status} in {one.seconds:.2f} s, saved {one.saved_seconds:.2f} s")
    size = f"{_size(one.weight_bytes)} of weights"
    size = f"{_size(one.plan_bytes)} plan for {size}" if one.plan_bytes else size
    return f"{one.name} [{one.key[:12]}]: {one.nodes} operators, {spent}, {size}"


class Reason(NamedTuple):
    """Rejections of one kind for one reason, by operator; the most frequent first."""

    kind: str
    reason: str
    targets: list[tuple[str, list[Rejection]]]


def grouped(rejections: Iterable[Rejection]) -> list[Reason]:
    """Rejections by reason, those of the most operators first."""
    groups: dict[tuple[str, str], dict[str, list[Rejection]]] = defaultdict(lambda: defaultdict(list))
    for one in rejections:
        groups[one.kind, one.reason][one.target].append(one)
    reasons = [
        Reason(kind, reason, sorted(targets.items(), key=lambda item: -len(item[1])))
        for (kind, reason), targets in groups.items()
    ]
    return sorted(reasons, key=lambda group: -sum(len(found) for _, found in group.targets))


def _notes(report: Report) -> list[str]:
    return [f"note: {note}" for note in report.notes]


def _head(report: Report) -> list[str]:
    if not report.mode:
        return [report.flavour]
    return [
        f"{report.flavour}, refit mode {report.mode} ({report.why})",
        f"{report.graphs} graph(s); {report.nodes_in_engines} of {report.nodes} operators in "
        f"{len(report.partitions)} engine(s); {report.derived} derived weight(s)",
    ]


def _name(report: Report, one: EngineReport) -> str:
    return one.name if report.graphs < 2 else f"graph {one.graph}, {one.name}"


def _counts(ops: Mapping[str, int]) -> str:
    most = sorted(ops.items(), key=lambda item: -item[1])
    return ", ".join(f"{name.removeprefix('aten.')}×{count}" for name, count in most)


def _recipe(weight: DerivedWeight) -> str:
    return f"from {_few(weight.sources) or 'nothing'} by {_counts(weight.ops)}"


def _few(names: Iterable[str]) -> str:
    found = list(names)
    return ", ".join(found[:_FEW]) + (f" and {len(found) - _FEW} more" if len(found) > _FEW else "")


def _parts(differs: Iterable[str]) -> str:
    """Parts of a key; nodes of the graph are too many to be named."""
    graph = [name for name in differs if name.startswith(("node ", "graph."))]
    rest = [name for name in differs if name not in graph]
    return _few([f"the graph, in {len(graph)} places", *rest] if len(graph) > 4 else [*graph, *rest])


def _size(count: int) -> str:
    return f"{count / 1e6:.2f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"


def _places(found: Iterable[Rejection]) -> str:
    """``model.py:12 y = x.cumsum(0)``: each line once."""
    here = f"{Path.cwd()}{os.sep}"
    places = list(dict.fromkeys(f"{one.where.removeprefix(here)} {one.code}".strip() for one in found if one.where))
    return "; ".join(places[:2]) + (f"; and {len(places) - 2} more" if len(places) > 2 else "")


def _table(*columns: str, right: Iterable[int] = ()) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    numbers = set(right)
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index in numbers else "left", overflow="fold")
    return table
