"""All converters: importing the family modules registers them."""

from __future__ import annotations

import functools
import importlib
import pkgutil
from typing import Any

from .registry import Op, registry


@functools.cache
def _load() -> None:
    package = __name__.rpartition(".")[0]
    path = importlib.import_module(package).__path__
    for module in pkgutil.iter_modules(path):
        importlib.import_module(f"{package}.{module.name}")


def lookup(target: Any) -> Op | None:
    """The registered op of an overload, or None."""
    _load()
    return registry.get(target)


def all_ops() -> dict[Any, Op]:
    """Every registered op by overload."""
    _load()
    return dict(registry)
