"""``trt-stripped env``: what this machine has, what is missing, and the command that mends it."""

from __future__ import annotations

import argparse
import difflib
import importlib.metadata
import os
import platform
import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from .. import __version__
from ..errors import TRTStrippedError
from ..flavour import Flavour, installed, load, refit_mode
from ..options import PREFIX, Options
from .output import print_json, print_table, size_text

#: Packages whose versions matter; TensorRT's are told by module.
_PACKAGES = ("torch", "numpy", "diskcache", "filelock", "packaging", "platformdirs", "rich")
_DRIVER = Path("/proc/driver/nvidia/version")


@dataclass(frozen=True)
class Missing:
    """Something to mend.

    Attributes:
        what: what is wrong.
        mend: what to do about it, mostly a command.
        stops: no engine can be built without it.
    """

    what: str
    mend: str
    stops: bool


def add(commands: Any) -> None:
    """Adds ``env`` to the parser's commands."""
    help = "show versions, GPU, TensorRT, cache, variables and what is missing; exit code 1 if no engine can be built"
    parser = commands.add_parser("env", help=help, description=help)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    found = environment()
    if arguments.json:
        print_json(found)
    else:
        print_table(("", "found"), [(name, text) for name, text in _rows(found)])
    return 0 if found["builds"] else 1


def environment() -> dict[str, Any]:
    """All that the command shows, as JSON."""
    missing: list[Missing] = []
    options = _options(missing)
    gpu = _gpu(missing)
    flavour = _flavour(options, missing)
    if flavour is not None and gpu is None and not flavour.builds_without_gpu:
        mend = "pip install 'trt_stripped_backend[rtx]', set TRT_STRIPPED_FLAVOUR=tensorrt_rtx, or run on a GPU"
        missing.append(Missing(f"{flavour} needs a GPU to build, and there is none", mend, True))
    if flavour is not None and flavour.refuses_hopper and gpu is not None and gpu["capability"] == "9.0":
        mend = "uninstall it and its parts, and pip install tensorrt-rtx-cu12==1.6.1.120"
        missing.append(Missing(f"{flavour} loaded no plan on SM 9.0 when it was tried", mend, False))
    return {
        "versions": {
            "python": platform.python_version(),
            "trt_stripped_backend": __version__,
            **{name: _version(name) for name in _PACKAGES},
            **{name: _version_of_module(name) for name in ("tensorrt", "tensorrt_rtx")},
        },
        "platform": platform.platform(),
        "gpu": gpu,
        "flavour": str(flavour) if flavour is not None else None,
        "refit_mode": _refit_mode(options, flavour, missing),
        "cache": [_cache(path, options, missing) for path in _cache_dirs(options, missing)],
        "cache_size": options.cache_size,
        "variables": _variables(missing),
        "missing": [vars(one) for one in missing],
        "builds": not any(one.stops for one in missing),
    }


def _rows(found: dict[str, Any]) -> list[tuple[str, str]]:
    gpu, mode = found["gpu"], found["refit_mode"]
    rows = [(name, version or "not installed") for name, version in found["versions"].items()]
    rows.append(("platform", found["platform"]))
    rows.append(("GPU", "none" if gpu is None else ", ".join(
        f"{name} {value}" if name != "name" else value for name, value in gpu.items() if value is not None
    )))  # fmt: skip
    rows.append(("TensorRT in use", found["flavour"] or "none"))
    rows.append(("refit_mode", "none" if mode is None else f"{mode['mode']}: {mode['why']}"))
    for one in found["cache"]:
        may = "writable" if one["exists"] else "can be made"
        state = one["problem"] or (may if one["writable"] else f"not {may}")
        held = f"{one['entries']} entries, {size_text(one['bytes'])} of" if one["exists"] else "not made yet, limit"
        rows.append(("cache", f"{one['directory']}: {held} {size_text(found['cache_size'])}, {state}"))
    rows += [("variable", f"{name}={value}") for name, value in found["variables"].items()]
    rows += [("missing", f"{one['what']}: {one['mend']}") for one in found["missing"]]
    rows.append(("engines", "can be built" if found["builds"] else "cannot be built"))
    return rows


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _version_of_module(name: str) -> str | None:
    """Of a TensorRT, without importing it: two of them in one process would be one too many."""
    if name not in installed():
        return None
    owners = importlib.metadata.packages_distributions()
    for module in (name, f"{name}_bindings"):
        for distribution in owners.get(module, ()):
            return _version(distribution)
    return "unknown"


def _options(missing: list[Missing]) -> Options:
    try:
        return Options.of({})
    except TRTStrippedError as error:
        missing.append(Missing(str(error), "change or unset the variable", True))
        return Options()


def _gpu(missing: list[Missing]) -> dict[str, Any] | None:
    try:
        import torch
    except ImportError as error:
        missing.append(Missing(f"PyTorch cannot be imported ({error})", "pip install torch", True))
        return None
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(torch.cuda.current_device())
        return {
            "name": properties.name,
            "capability": f"{properties.major}.{properties.minor}",
            "memory": size_text(properties.total_memory),
            "driver": _driver(),
            "CUDA": torch.version.cuda,
        }
    if torch.version.cuda is None:
        what, mend = "this PyTorch is built without CUDA", "pick a CUDA build at pytorch.org/get-started/locally"
    else:
        what = f"PyTorch for CUDA {torch.version.cuda} finds no GPU" + ("" if _driver() else " and there is no driver")
        mend = "nvidia-smi must list one: install NVIDIA's driver, or start the container with --gpus all"
    missing.append(Missing(f"{what}, so models run in PyTorch", mend, False))
    return None


def _driver() -> str | None:
    try:
        match = re.search(r"\s(\d+\.\d+(?:\.\d+)?)\s", _DRIVER.read_text())
    except OSError:
        return None
    return match[1] if match else None


def _flavour(options: Options, missing: list[Missing]) -> Flavour | None:
    try:
        return load(options.flavour)
    except TRTStrippedError as error:
        what, _, mend = str(error).partition(": ")
        missing.append(Missing(what, mend, True))
        return None


def _refit_mode(options: Options, flavour: Flavour | None, missing: list[Missing]) -> dict[str, str] | None:
    if flavour is None:
        return None
    try:
        mode, why = refit_mode(options, flavour)
    except TRTStrippedError as error:
        missing.append(Missing(str(error), "set TRT_STRIPPED_REFIT_MODE=auto", True))
        return None
    return {"mode": mode, "why": why}


def _cache_dirs(options: Options, missing: list[Missing]) -> tuple[Path, ...]:
    try:
        return options.cache_dirs
    except TRTStrippedError as error:
        what, _, mend = str(error).partition(": ")
        missing.append(Missing(what, mend, False))
        return ()


def _cache(path: Path, options: Options, missing: list[Missing]) -> dict[str, Any]:
    """One directory. Trouble with it costs builds, and stops none."""
    from ..cache import EngineCache

    cache = EngineCache((path,), size_limit=options.cache_size, lock_timeout=0, errors="raise")
    found = {"directory": str(path), "exists": path.exists(), "entries": 0, "bytes": 0, "writable": False}
    problem = None
    try:
        found |= {"entries": len(cache.entries()), "bytes": cache.size}
        there = next(one for one in (path, *path.absolute().parents) if one.exists())
        found["writable"] = os.access(there, os.W_OK | os.X_OK)
        if not found["writable"]:
            problem = f"{there} cannot be written"
    except OSError as error:
        problem = str(error)
    except TRTStrippedError as error:
        problem = str(error)
    if problem is not None:
        missing.append(Missing(problem, "name another directory with TRT_STRIPPED_CACHE_DIR", False))
    return {**found, "problem": problem}


def _variables(missing: list[Missing]) -> dict[str, str]:
    known = [field.name.upper() for field in fields(Options)]
    found = {name: value for name, value in sorted(os.environ.items()) if name.startswith(PREFIX)}
    for name in sorted(found):
        if name.removeprefix(PREFIX) in known:
            continue
        near = difflib.get_close_matches(name.removeprefix(PREFIX), known, 1)
        mend = f"did you mean {PREFIX}{near[0]}?" if near else "trt-stripped knows no such option; unset it"
        missing.append(Missing(f"{name} is no variable of this package", mend, False))
    return found
