"""Small public functions over the running process: counters, a refresh of weights, and the end of pending builds."""

from __future__ import annotations

from typing import Any

from . import report
from .background import worker
from .live import refresh_all


def stats() -> dict[str, Any]:
    """Counters of this process since its start or ``clear_stats()``.

    ``builds``, ``hits``, ``misses`` (of the disk cache), ``shared`` (engines loaded already), ``refits``,
    ``refitted_bytes``, ``engines``, ``fallbacks`` (to PyTorch), ``build_seconds``, ``saved_seconds`` (by hits),
    ``graphs`` (that Dynamo gave us), ``traces`` (of these, found in the cache), ``cuda_graphs`` (recorded).
    """
    return report.stats.snapshot()


def reports() -> list[report.Report]:
    """What the latest compilations of this process did, oldest first: one report for each of Dynamo's graphs."""
    return list(report.recent)


def clear_stats() -> None:
    """Sets all counters to zero and forgets the reports."""
    report.stats.reset()
    report.recent.clear()


def refresh(compiled: Any = None) -> None:
    """Makes the next call of every compiled model read its weights anew.

    For writes that leave no trace, where an engine or a derived weight holds a copy: ``p.data.add_(…)``, writes through
    numpy or raw storage, in-place writes to inference tensors. In ``bound`` mode weights that no arithmetic stands
    between are read at each call anyway.

    Args:
        compiled: the model, for the reader of the code: all compiled models are refreshed.
    """
    refresh_all()


def wait(compiled: Any = None, timeout: float | None = None) -> bool:
    """Waits until no engine is being built in the background (``options={"build": "background"}``).

    The next call then runs in the engines, but for those that failed: ``reports()`` and the log tell why. Also to be
    called before a CUDA graph is captured, which CUDA calls of another thread may spoil.

    Args:
        compiled: the model, for the reader of the code: the builds of all models are waited for.
        timeout: seconds to wait at most; None for as long as it takes.

    Returns:
        Whether all builds are done.
    """
    return worker.wait(timeout)
