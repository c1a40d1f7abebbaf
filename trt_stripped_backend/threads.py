"""What one thread holds of a runner, and what becomes of it."""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import MutableMapping
from typing import Any

from .context import Context
from .graphs import Recorded
from .refit import Engine

#: Recorded runs by what they depend on; None after a first call of this kind.
Known = OrderedDict[tuple[Any, ...], Recorded | None]


class Thread(threading.local):
    """A thread's contexts and CUDA graphs, by engine.

    Attributes:
        context: the one where one engine serves all weights.
        contexts: all of them.
        latest: the graph of the last call.
        recorded: all graphs.
    """

    def __init__(self) -> None:
        self.context: Context | None = None
        self.contexts: weakref.WeakKeyDictionary[Engine, Context] = weakref.WeakKeyDictionary()
        self.latest: Recorded | None = None
        self.recorded: weakref.WeakKeyDictionary[Engine, Known] = weakref.WeakKeyDictionary()
        self._end = _End(self.contexts, self.recorded)


class _End:
    """Ends with the thread, or with the runner, and leaves to each engine what there was for it.

    Twice a refit ended the process where a context of its engine had ended with its thread (RTX 1.6.1, of many runs).
    Contexts that are left serve the next thread, which so need not make one.
    """

    def __init__(self, contexts: MutableMapping[Engine, Context], recorded: MutableMapping[Engine, Known]) -> None:
        self._contexts, self._recorded = contexts, recorded

    def __del__(self) -> None:
        for engine, context in list(self._contexts.items()):
            context.leave()
            engine.idle.append(context)
        for engine, known in list(self._recorded.items()):
            engine.retired.append(known)
