"""TensorRT under ``torch.compile`` with weight-stripped, cached engines and live weights.

``torch.compile(model, backend="trt_stripped")`` needs no import of this package: the backend is found by its entry
point. The names below are resolved at first use, so importing the package imports neither torch nor TensorRT.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api import clear_stats, refresh, reports, stats, wait
    from .cache import EngineCache, open_cache
    from .errors import BadEntry, BuildFailed, CacheError, MissingEngine, OptionError, RefitFailed, TRTStrippedError
    from .options import Options
    from .report import Report
    from .tracing import explain, prebuild
    from .variant import Variant

__version__ = "0.1.0"

_WHERE = {
    "BadEntry": "errors", "BuildFailed": "errors", "CacheError": "errors", "OptionError": "errors",
    "MissingEngine": "errors", "RefitFailed": "errors", "TRTStrippedError": "errors",
    "EngineCache": "cache", "open_cache": "cache",
    "Options": "options",
    "Report": "report", "clear_stats": "api", "refresh": "api", "reports": "api", "stats": "api",
    "explain": "tracing", "prebuild": "tracing", "Variant": "variant", "wait": "api",
}  # fmt: skip

__all__ = [
    "BadEntry",
    "BuildFailed",
    "CacheError",
    "EngineCache",
    "MissingEngine",
    "OptionError",
    "Options",
    "RefitFailed",
    "Report",
    "TRTStrippedError",
    "Variant",
    "clear_stats",
    "explain",
    "open_cache",
    "prebuild",
    "refresh",
    "reports",
    "stats",
    "wait",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
