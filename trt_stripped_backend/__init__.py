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
    from .errors import (
        BadEntry,
        BuildFailed,
        CacheError,
        InputError,
        MissingEngine,
        OptionError,
        RefitFailed,
        TRTStrippedError,
    )
    from .options import Options
    from .programs.engine import StrippedEngine, strip_engine
    from .programs.export import export
    from .programs.program import RefittedProgram, StrippedProgram
    from .report import Report
    from .tracing import explain, prebuild
    from .variant import Variant

__version__ = "0.1.0"

_WHERE = {
    "BadEntry": "errors", "BuildFailed": "errors", "CacheError": "errors", "InputError": "errors",
    "MissingEngine": "errors", "OptionError": "errors", "RefitFailed": "errors", "TRTStrippedError": "errors",
    "EngineCache": "cache", "open_cache": "cache",
    "Options": "options",
    "Report": "report", "clear_stats": "api", "refresh": "api", "reports": "api", "stats": "api",
    "explain": "tracing", "prebuild": "tracing", "Variant": "variant", "wait": "api",
    "RefittedProgram": "programs.program", "StrippedProgram": "programs.program", "export": "programs.export",
    "StrippedEngine": "programs.engine", "strip_engine": "programs.engine",
}  # fmt: skip

__all__ = [
    "BadEntry",
    "BuildFailed",
    "CacheError",
    "EngineCache",
    "InputError",
    "MissingEngine",
    "OptionError",
    "Options",
    "RefitFailed",
    "RefittedProgram",
    "Report",
    "StrippedEngine",
    "StrippedProgram",
    "TRTStrippedError",
    "Variant",
    "clear_stats",
    "explain",
    "export",
    "open_cache",
    "prebuild",
    "refresh",
    "reports",
    "stats",
    "strip_engine",
    "wait",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
