"""How commands print: a rich table on a terminal, tab-separated lines in a pipe, JSON with ``--json``."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table


def print_json(value: Any) -> None:
    """One JSON value on stdout; what JSON has no number for (an entry's header may say NaN) is null."""
    print(json.dumps(_finite(value), indent=2, allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(one) for one in value]
    return value if not isinstance(value, float) or math.isfinite(value) else None


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, right: Sequence[str] = ()) -> None:
    """A table; the columns named in ``right`` hold numbers."""
    if not sys.stdout.isatty():
        for row in rows:
            print("\t".join(map(_cell, row)))
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(_cell, row))
    Console(markup=False).print(table)


def _cell(value: Any) -> str:
    """A value in one line, whatever it holds: control characters are written out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(value))


def size_text(count: int) -> str:
    """Bytes for people.

    >>> size_text(512), size_text(31457280), size_text(8 << 30)
    ('512 B', '30.0 MiB', '8.0 GiB')
    """
    if count < 1024:
        return f"{count} B"
    value = float(count)
    for unit in ("KiB", "MiB", "GiB"):
        value /= 1024
        if value < 1024:
            return f"{value:.1f} {unit}"
    return f"{value / 1024:.1f} TiB"


def time_text(seconds: float) -> str:
    """Unix seconds as local time; a header that nobody verified may hold anything.

    >>> time_text(float("nan"))
    '?'
    """
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
    except (ValueError, OverflowError, OSError):
        return "?"
