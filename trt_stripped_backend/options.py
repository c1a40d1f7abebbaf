"""Options: one table of names, defaults, meanings, and whether each belongs to the key.

A value comes from the ``options`` dict of ``torch.compile``, else from the variable ``TRT_STRIPPED_<NAME>``, else from
the default. An unknown name in the dict, or a bad value in either, raises ``OptionError``.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import platformdirs

from .errors import OptionError

MODES = ("auto", "bound", "general", "identical", "immutable")
FLAVOURS = ("auto", "tensorrt", "tensorrt_rtx")
PREFIX = "TRT_STRIPPED_"

_SIZE = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*(?:([KMGT])(i?)B?|B)?\s*$", re.IGNORECASE)
_TRUE, _FALSE = {"1", "true", "yes", "on"}, {"0", "false", "no", "off"}


def parse_size(value: Any) -> int:
    """Bytes from an int or from text such as ``"512MiB"``, ``"8 GB"`` (decimal), ``"1073741824"``."""
    if isinstance(value, bool):
        raise ValueError("a size in bytes, such as 8589934592 or '8GiB'")
    if isinstance(value, int):
        size = value
    else:
        match = _SIZE.match(str(value))
        if not match:
            raise ValueError("a size in bytes, such as 8589934592 or '8GiB'")
        base = 1024 if match[3] else 1000
        unit = base ** ("KMGT".index(match[2].upper()) + 1) if match[2] else 1
        size = int(float(match[1]) * unit) if "." in match[1] else int(match[1]) * unit
    if size < 0:
        raise ValueError("a size of 0 or more")
    return size


def _parse_bool(value: Any) -> bool:
    text = str(value).strip().lower()
    if isinstance(value, bool) or text in _TRUE | _FALSE:
        return value if isinstance(value, bool) else text in _TRUE
    raise ValueError("True or False (1 or 0 in the environment)")


def _parse_int(low: int, high: int | None = None) -> Callable[[Any], int]:
    def parse(value: Any) -> int:
        what = f"a whole number from {low}" + (f" to {high}" if high is not None else "")
        if isinstance(value, (bool, float)):
            raise ValueError(what)
        try:
            number = int(value)
        except (TypeError, ValueError):
            raise ValueError(what) from None
        if number < low or (high is not None and number > high):
            raise ValueError(what)
        return number

    return parse


def _parse_choice(*choices: str) -> Callable[[Any], str]:
    def parse(value: Any) -> str:
        if value in choices:
            return str(value)
        near = difflib.get_close_matches(str(value), choices, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"one of {', '.join(map(repr, choices))}{hint}")

    return parse


def _parse_ops(value: Any) -> frozenset[str]:
    """Operator names such as ``aten.cumsum`` (all overloads) or ``aten.cumsum.default``; overloads are taken too."""
    if isinstance(value, str):
        value = [part for part in re.split(r"[,\s]+", value) if part]
    names = frozenset(str(one).removeprefix("torch.ops.") for one in value)
    bad = sorted(n for n in names if not re.fullmatch(r"\w+\.\w+(\.\w+)?", n))
    if bad:
        raise ValueError(f"operator names such as 'aten.cumsum' or 'aten.cumsum.default', not {bad[0]!r}")
    return names


def _parse_dirs(value: Any) -> tuple[Path, ...]:
    parts = value.split(os.pathsep) if isinstance(value, str) else [value] if isinstance(value, os.PathLike) else value
    dirs = tuple(Path(p).expanduser() for p in parts if str(p))
    if not dirs:
        raise ValueError(f"a directory, or several separated by {os.pathsep!r}")
    return dirs


def _parse_range(value: Any) -> tuple[int, int]:
    parts = re.split(r"[\s,:]+", value.strip()) if isinstance(value, str) else value
    try:
        low, high = (_parse_int(0)(part) for part in parts)
    except (TypeError, ValueError):
        low, high = 1, 0
    if low > high or not high:
        raise ValueError("the smallest and the largest size, such as (1, 4096) or '1:4096'")
    return low, high


def _optional(parse: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value in (None, "") else parse(value)


def default_cache_dir() -> Path:
    """``$XDG_CACHE_HOME/trt_stripped``, else ``~/.cache/trt_stripped`` (or what the platform uses)."""
    return Path(platformdirs.user_cache_dir("trt_stripped", appauthor=False))


def _option(default: Any, parse: Callable[[Any], Any], help: str, *, key: str) -> Any:
    """A field; ``key`` is ``"yes"``, or ``"no: "`` and the reason why the plan does not depend on it."""
    if key != "yes" and not key.startswith("no: "):
        raise ValueError("an option leaves the key only with a written reason")
    return field(default=default, metadata={"parse": parse, "help": help, "key": key})


@dataclass(frozen=True)
class Options:
    """Options of the backend; the README says what each means."""

    refit_mode: str = _option(
        "auto", _parse_choice(*MODES),
        "how weights reach the engine: bound (engine inputs), general (refit), identical, immutable; "
        "auto: bound on tensorrt_rtx, general on tensorrt (bound on 11.3)",
        key="yes",
    )  # fmt: skip
    flavour: str = _option(
        "auto", _parse_choice(*FLAVOURS), "which TensorRT; auto: what is installed, tensorrt if both are",
        key="no: the library in use and its exact version are parts of the key",
    )  # fmt: skip
    min_block_size: int = _option(
        5, _parse_int(1), "fewest operators that become an engine; smaller blocks stay in PyTorch",
        key="no: it decides which partitions exist, and each partition's own graph is in the key",
    )  # fmt: skip
    dedupe_layers: bool = _option(
        False, _parse_bool, "build repeated blocks, such as a transformer's layers, once: each becomes a piece of its "
        "own, and all run one engine with their own weights; builds and plans stay small, each call launches them all",
        key="no: as min_block_size",
    )  # fmt: skip
    torch_executed_ops: frozenset[str] = _option(
        frozenset(), _parse_ops, "operators to leave in PyTorch, such as aten.gelu or aten.gelu.default",
        key="no: as min_block_size",
    )  # fmt: skip
    allow_ops: frozenset[str] = _option(
        frozenset(), _parse_ops, "non-refittable operators to convert all the same",
        key="no: as min_block_size",
    )  # fmt: skip
    require_full: bool = _option(
        False, _parse_bool, "raise when anything would run in PyTorch, instead of falling back",
        key="no: it changes what is raised, not what is built",
    )  # fmt: skip
    verify: bool = _option(
        False, _parse_bool, "compare each engine's first run with PyTorch; on a difference drop the engine and say so",
        key="no: it checks a plan and does not change it",
    )  # fmt: skip
    dynamic_range: tuple[int, int] | None = _option(
        None, _optional(_parse_range), "smallest and largest size of dynamic dimensions that PyTorch sets no limit "
        "for; a size beyond leads to another engine; None: up to 4096, or four times the first size, rounded up to a "
        "power of two",
        key="no: the ranges that an engine is built for are a part of the key",
    )  # fmt: skip
    workspace_size: int | None = _option(
        None, _optional(parse_size), "scratch bytes that TensorRT's tactics may use at most; None: its own default",
        key="yes",
    )  # fmt: skip
    optimization_level: int | None = _option(
        None, _optional(_parse_int(0, 5)), "builder effort 0…5; None: TensorRT's default (3)", key="yes"
    )
    max_aux_streams: int | None = _option(
        None, _optional(_parse_int(0)), "extra CUDA streams inside an engine; None: TensorRT decides", key="yes"
    )
    hardware_compatible: bool = _option(
        False,
        _parse_bool,
        "tensorrt: plans that run on every GPU from Ampere on (slower); tensorrt_rtx: always so",
        key="yes",
    )
    version_compatible: bool = _option(
        False, _parse_bool, "tensorrt: plans that later versions run too (slower)", key="yes"
    )
    cache: bool = _option(
        True, _parse_bool, "use the disk cache",
        key="no: it says whether plans are stored",
    )  # fmt: skip
    cache_dir: tuple[Path, ...] | None = _option(
        None, _optional(_parse_dirs), "where engines are cached; of several directories all are searched and the first "
        "writable one is written; None: $XDG_CACHE_HOME/trt_stripped, else ~/.cache/trt_stripped",
        key="no: it says where plans are stored",
    )  # fmt: skip
    cache_size: int = _option(
        8 << 30, parse_size, "bytes that the cache may hold; the least recently used entries leave first",
        key="no: it says how many plans are stored",
    )  # fmt: skip
    lock_timeout: int = _option(
        1800, _parse_int(0), "seconds to wait for another process that builds the same engine, before building it too",
        key="no: it decides who builds a plan",
    )  # fmt: skip
    cache_errors: str = _option(
        "warn", _parse_choice("warn", "raise"), "what cache trouble does: warn once and go on without, or raise",
        key="no: it changes what is raised, not what is built",
    )  # fmt: skip
    build: str = _option(
        "now", _parse_choice("now", "background"),
        "now: the first call waits until its engines are built; background: it runs in PyTorch, as all calls do until "
        "a worker thread has built them",
        key="no: it says when a plan is built, not what it is",
    )  # fmt: skip
    progress: bool | None = _option(
        None, _optional(_parse_bool), "show builds on stderr; None: where it is a terminal and a caller waits",
        key="no: it changes what is seen, not what is built",
    )  # fmt: skip
    embed_engines: bool = _option(
        False, _parse_bool, "aot_compile: put the engines into what is saved, so that it needs no cache where it is "
        "loaded",
        key="no: it says where plans are stored",
    )  # fmt: skip
    cuda_graphs: bool = _option(
        False, _parse_bool, "record each engine's run as a CUDA graph at the second call of the same sizes, and replay "
        "it: for small batches, where the launches take longer than the work; so does mode='reduce-overhead'",
        key="no: it changes how an engine is launched, not what is built",
    )  # fmt: skip
    max_weight_sets: int = _option(
        4, _parse_int(1), "general mode: refitted engines kept for each plan, so that switching weights needs no refit",
        key="no: it says how many copies of an engine live at run time",
    )  # fmt: skip
    max_weight_bytes: int | None = _option(
        None, _optional(parse_size), "general mode: bytes of weights that the refitted engines of one plan may hold, "
        "one engine always may; None: a quarter of the GPU's memory",
        key="no: as max_weight_sets",
    )  # fmt: skip

    @classmethod
    def of(cls, given: Mapping[str, Any] | Options | None = None) -> Options:
        """Options from a dict (``torch.compile(options=…)``), with variables for what it does not name.

        Raises:
            OptionError: not a mapping, an unknown name, or a value that the option does not take.
        """
        if isinstance(given, Options):
            return given
        if given is not None and not isinstance(given, Mapping):
            raise OptionError(f"options must be a dict such as {{'refit_mode': 'bound'}}, not {type(given).__name__}")
        given = dict(given or {})
        fields = {f.name: f for f in dataclasses.fields(cls)}
        for name in given:
            if name not in fields:
                near = difflib.get_close_matches(str(name), fields, 1)
                hint = f"did you mean {near[0]!r}?" if near else f"known options: {', '.join(fields)}"
                raise OptionError(f"unknown option {name!r}: {hint}")
        for name in fields:
            variable = PREFIX + name.upper()
            if name not in given and os.environ.get(variable):
                given[name] = _parsed(fields[name], os.environ[variable], variable)
            elif name in given:
                given[name] = _parsed(fields[name], given[name], f"option {name!r}")
        return cls(**given)

    def in_key(self) -> dict[str, Any]:
        """The options that decide a plan, as JSON."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.metadata["key"] == "yes"}

    @property
    def cache_dirs(self) -> tuple[Path, ...]:
        return self.cache_dir if self.cache_dir is not None else (default_cache_dir(),)


def _parsed(option: dataclasses.Field[Any], value: Any, what: str) -> Any:
    try:
        return option.metadata["parse"](value)
    except (TypeError, ValueError) as error:
        raise OptionError(f"{what} takes {error}; got {value!r}") from None


def table() -> list[dict[str, str]]:
    """One row an option: name, variable, default, help, key. The README's table is generated from this."""

    def show(option: dataclasses.Field[Any]) -> str:
        default: Any = option.default
        if default == frozenset():
            return "none"
        whole = option.metadata["parse"] is parse_size and default % (1 << 30) == 0
        return f"{default >> 30} GiB" if whole else str(default)

    return [
        {
            "name": f.name,
            "variable": PREFIX + f.name.upper(),
            "default": show(f),
            "help": f.metadata["help"],
            "key": f.metadata["key"],
        }
        for f in dataclasses.fields(Options)
    ]
