"""Options: one table of names, defaults, meanings, and whether each belongs to the key.

A value comes from the ``options`` dict of ``torch.compile``, else from the variable ``TRT_STRIPPED_<NAME>``, else from
the default. An ``Options`` object does as well as a dict: what equals its default there counts as not given. An
unknown name in the dict, or a bad value anywhere, raises ``OptionError``.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import platformdirs

from .errors import CacheError, OptionError

MODES = ("auto", "bound", "general", "identical", "immutable")
FLAVOURS = ("auto", "tensorrt", "tensorrt_rtx")
PREFIX = "TRT_STRIPPED_"
#: What the table says of options in the key, and the flavours for which it holds.
IN_KEY = {"yes": ("tensorrt", "tensorrt_rtx"), "yes, with tensorrt": ("tensorrt",)}

_SIZE = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*(?:([KMGT])(i?)B?|B)?\s*$", re.IGNORECASE)
_A_SIZE = "a size in bytes, such as 8589934592 or '8GiB'"
#: What TensorRT takes of bytes and counts.
_MOST_BYTES, _MOST = (1 << 63) - 1, (1 << 31) - 1
_TRUE, _FALSE = {"1", "true", "yes", "on"}, {"0", "false", "no", "off"}


def parse_size(value: Any) -> int:
    """Bytes from an int or from text such as ``"512MiB"``, ``"8 GB"`` (decimal), ``"1073741824"``."""
    match = _SIZE.match(str(value))
    if isinstance(value, int) and not isinstance(value, bool):
        size = value
    elif isinstance(value, bool) or not match or len(match[1]) > 30:
        raise ValueError(_A_SIZE)
    else:
        base = 1024 if match[3] else 1000
        unit = base ** ("KMGT".index(match[2].upper()) + 1) if match[2] else 1
        size = int(float(match[1]) * unit) if "." in match[1] else int(match[1]) * unit
    if not 0 <= size <= _MOST_BYTES:
        raise ValueError("a size of 0 or more" if size < 0 else f"{_A_SIZE}, below 2**63")
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
        if not low <= number <= (_MOST if high is None else high):
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
    what = "operator names such as 'aten.cumsum' or 'aten.cumsum.default'"
    if isinstance(value, str):
        value = [part for part in re.split(r"[,\s]+", value) if part]
    elif not isinstance(value, Iterable):
        raise ValueError(what)
    names = frozenset(str(one).removeprefix("torch.ops.") for one in value)
    for name in sorted(names):
        if not re.fullmatch(r"\w+\.\w+(\.\w+)?", name):
            raise ValueError(f"{what}, not {name!r}")
        near = _not_in_aten(name)
        if near is not None:
            raise ValueError(f"{what}; PyTorch has no {name!r}" + (f", did you mean {near!r}?" if near else ""))
    return names


def _not_in_aten(name: str) -> str | None:
    """For a name that ATen does not have, the nearest that it has, or ""; libraries of others may come later."""
    namespace, packet, *overload = name.split(".")
    if namespace != "aten":
        return None
    import torch  # here, since most options need no PyTorch

    found = getattr(torch.ops.aten, packet, None)
    if found is None:
        known = {one.partition(".")[0] for one in torch._C._dispatch_get_all_op_names() if one.startswith("aten::")}
        near = difflib.get_close_matches(packet, [one.removeprefix("aten::") for one in known], 1)
    elif overload and overload[0] not in found.overloads():
        near = [f"{packet}.{one}" for one in difflib.get_close_matches(overload[0], found.overloads(), 1)]
    else:
        return None
    return f"aten.{near[0]}" if near else ""


def _parse_dirs(value: Any) -> tuple[Path, ...]:
    what = f"a directory, or several separated by {os.pathsep!r}"
    parts = value.split(os.pathsep) if isinstance(value, str) else value
    try:
        found = [Path(one) for one in (parts if isinstance(parts, (list, tuple)) else [parts]) if str(one)]
    except TypeError:
        raise ValueError(what) from None
    if not found or any("\0" in str(one) for one in found):
        raise ValueError(what)
    try:
        return tuple(one.expanduser() for one in found)
    except RuntimeError:
        raise ValueError(f"{what}; there is no such user, or no home directory, for its '~'") from None


def _parse_range(value: Any) -> tuple[int, int]:
    parts = re.split(r"[\s,:]+", value.strip()) if isinstance(value, str) else value
    try:
        low, high = (_parse_int(0, _MOST_BYTES)(part) for part in parts)
    except (TypeError, ValueError):
        low, high = 1, 0
    if low > high or not high:
        raise ValueError("the smallest and the largest size, such as (1, 4096) or '1:4096'")
    return low, high


def _optional(parse: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value in (None, "") else parse(value)


def default_cache_dir() -> Path:
    """``$XDG_CACHE_HOME/trt_stripped``, else ``~/.cache/trt_stripped`` (or what the platform uses).

    Raises:
        CacheError: there is no home directory.
    """
    try:
        found = platformdirs.user_cache_dir("trt_stripped", appauthor=False)
    except RuntimeError:
        found = "~"
    if found.startswith("~"):  # as older versions of platformdirs say so
        raise CacheError("there is no home directory to keep engines in: name a directory in TRT_STRIPPED_CACHE_DIR")
    return Path(found)


def _option(default: Any, parse: Callable[[Any], Any], help: str, *, key: str) -> Any:
    """A field; ``key`` is :data:`IN_KEY`, or ``"no: "`` and the reason why the plan does not depend on it."""
    if key not in IN_KEY and not key.startswith("no: "):
        raise ValueError("an option leaves the key only with a written reason")
    return field(default=default, metadata={"parse": parse, "help": help, "key": key})


@dataclass(frozen=True)
class Options:
    """Options of the backend; the README says what each means.

    Raises:
        OptionError: a value that the option does not take.
    """

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
        key="yes, with tensorrt",
    )
    version_compatible: bool = _option(
        False, _parse_bool, "tensorrt: plans that later versions run too (slower)", key="yes, with tensorrt"
    )
    cache: bool = _option(
        True, _parse_bool, "use the disk cache",
        key="no: it says whether plans are stored",
    )  # fmt: skip
    cache_traces: bool = _option(
        True, _parse_bool, "keep in the cache what a graph became on its way to engines, so that the next start does "
        "not trace it again",
        key="no: it says whether a graph is traced, not what it becomes",
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

    def __post_init__(self) -> None:
        for one in dataclasses.fields(self):
            object.__setattr__(self, one.name, _parsed(one, getattr(self, one.name), f"option {one.name!r}"))

    @classmethod
    def of(cls, given: Mapping[str, Any] | Options | None = None) -> Options:
        """Options from a dict (``torch.compile(options=…)``), with variables for what it does not name.

        In an :class:`Options` object nobody can tell a default that was named from one that was not: variables apply to
        both. A dict keeps them apart.

        Raises:
            OptionError: not a mapping, an unknown name, or a value that the option does not take.
        """
        if isinstance(given, Options):
            given = given.changed()
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
        return cls(**given)

    def changed(self) -> dict[str, Any]:
        """The options that are not as by default."""
        values = {f.name: (getattr(self, f.name), f.default) for f in dataclasses.fields(self)}
        return {name: value for name, (value, default) in values.items() if value != default}

    def in_key(self, flavour: str) -> dict[str, Any]:
        """The options that decide a plan of this flavour, as JSON."""
        decide = (f.name for f in dataclasses.fields(self) if flavour in IN_KEY.get(f.metadata["key"], ()))
        return {name: getattr(self, name) for name in decide}

    @property
    def cache_dirs(self) -> tuple[Path, ...]:
        """Raises CacheError where none is named and there is no home directory."""
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
