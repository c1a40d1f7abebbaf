"""``MODULE:FACTORY`` on the command line: a function of the user's that makes a model and its arguments."""

from __future__ import annotations

import argparse
import difflib
import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from ..errors import TRTStrippedError

_RETURNS = "it must return (model, args) or (model, args, kwargs), such as `return model, (torch.randn(2, 3),)`"


class FactoryError(TRTStrippedError):
    """MODULE:FACTORY names nothing that makes a model and its arguments."""


def add(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments that name a factory and options of the backend."""
    parser.add_argument(
        "factory", metavar="MODULE:FACTORY",
        help="a function that returns (model, args) or (model, args, kwargs); MODULE may be a file, such as model.py",
    )  # fmt: skip
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page with the graph drawn, too")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "-o", "--options", action="append", default=[], metavar="NAME=VALUE",
        help="an option of the backend, such as min_block_size=1; may be given several times",
    )  # fmt: skip


def failed(what: str, error: BaseException) -> FactoryError:
    """Prints where the user's code failed."""
    traceback.print_exception(error)
    first, *_ = str(error).strip().splitlines() or [""]
    return FactoryError(f"{what}: {type(error).__name__}" + (f": {first}" if first else ""))


def options(given: list[str]) -> dict[str, str]:
    pairs = [one.partition("=") for one in given]
    for name, equals, _ in pairs:
        if not name or not equals:
            raise FactoryError(f"--options takes NAME=VALUE, such as min_block_size=1; got {name + equals!r}")
    return {name: value for name, _, value in pairs}


def made(factory: str) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
    """What the factory makes: model, args, kwargs."""
    where, _, name = factory.rpartition(":")
    if not where or not name:
        raise FactoryError(f"{factory!r} is not MODULE:FACTORY, such as models.vit:make or model.py:make")
    make = _function(_module(where), where, name)
    try:
        result = make()
    except (Exception, SystemExit) as error:
        raise failed(f"{factory} failed", error) from error
    if not isinstance(result, (tuple, list)) or len(result) not in (2, 3):
        what = f"{len(result)} values" if isinstance(result, (tuple, list)) else type(result).__name__
        raise FactoryError(f"{factory} returned {what}: {_RETURNS}")
    model, args, kwargs = (*result, {})[:3]
    if not callable(model):
        raise FactoryError(f"{factory} returned a model of type {type(model).__name__}, not callable: {_RETURNS}")
    if not isinstance(args, (tuple, list)):
        raise FactoryError(f"{factory} returned args of type {type(args).__name__}, not a tuple: {_RETURNS}")
    if not isinstance(kwargs, Mapping):
        raise FactoryError(f"{factory} returned kwargs of type {type(kwargs).__name__}, not a dict: {_RETURNS}")
    return model, tuple(args), dict(kwargs)


def _module(where: str) -> ModuleType:
    """A module by name, found from the working directory too, or a file."""
    path = Path(where)
    folder = str(path.resolve().parent if path.suffix == ".py" else Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        if path.suffix != ".py":
            return importlib.import_module(where)
        if not path.is_file():
            raise FactoryError(f"there is no file {where}")
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None and spec.loader is not None
        module = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    except FactoryError:
        raise
    except ModuleNotFoundError as error:
        if error.name is None or not f"{where}.".startswith(f"{error.name}."):
            raise failed(f"{where} cannot be imported", error) from error
        raise FactoryError(f"there is no module {error.name!r} in {folder} or where Python looks for modules") from None
    except (Exception, SystemExit) as error:
        raise failed(f"{where} cannot be imported", error) from error
    return module


def _function(module: ModuleType, where: str, name: str) -> Callable[[], Any]:
    missing = object()
    found: Any = module
    for part in name.split("."):
        found = getattr(found, part, missing)
        if found is missing:
            known = [one for one, value in vars(module).items() if callable(value) and not one.startswith("_")]
            near = difflib.get_close_matches(name, known, 1)
            raise FactoryError(f"{where} has no {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
    if not callable(found) or hasattr(found, "forward"):
        raise FactoryError(f"{where}:{name} is of type {type(found).__name__}, not a function: {_RETURNS}")
    try:
        inspect.signature(found).bind()
    except TypeError as error:
        raise FactoryError(f"{where}:{name} must be callable without arguments ({error})") from None
    except ValueError:
        pass  # a builtin that does not tell
    return found  # type: ignore[no-any-return]
