"""``trt-stripped cache``: look into the engine cache, clean it, carry it elsewhere."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import CacheError
from ..options import Options, parse_size
from .output import print_json, print_table, size_text, time_text

if TYPE_CHECKING:
    from ..cache import EngineCache, Freed, Record

#: How much of a value ``diff`` shows in a table, and how much of it before the first difference.
_WIDTH, _BEFORE = 60, 20
_PRUNES = (
    "in the directory that is written, remove damaged entries and left-overs, then the least recently used entries"
)


def add(commands: Any) -> None:
    """Adds ``cache`` and its subcommands to the parser's."""
    parser = commands.add_parser(
        "cache", help="the engine cache", description="Look into the engine cache, clean it, pack it."
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)

    def action(name: str, run: Callable[[argparse.Namespace], int], help: str, *aliases: str) -> Any:
        one = actions.add_parser(name, help=help, description=help, aliases=aliases)
        one.add_argument("--json", action="store_true", help="print JSON")
        one.add_argument(
            "--dir", action="append", type=Path, metavar="DIR",
            help="a cache directory, instead of TRT_STRIPPED_CACHE_DIR; may be given several times",
        )  # fmt: skip
        one.set_defaults(run=run)
        return one

    action("ls", _ls, "list the entries, most recently used first")
    show = action("show", _show, "show one entry as JSON: its header and the parts of its key")
    show.add_argument("key", metavar="KEY", help="a key, or enough of its beginning")
    action(
        "check",
        _check,
        "audit digests, owners, modes, index, left-overs; exit code 1 on problems",
        "verify",
    )
    prune = action("prune", _prune, _PRUNES)
    size = "bytes to keep at most, e.g. 2GiB (default: TRT_STRIPPED_CACHE_SIZE, else 8GiB)"
    prune.add_argument("--size", type=_size, metavar="SIZE", help=size)
    clear = action("clear", _clear, "remove all entries of the directory that is written")
    clear.add_argument("--yes", action="store_true", help="do not ask")
    diff = action("diff", _diff, "show which parts of two keys differ; exit code 1 if any")
    diff.add_argument("left", metavar="KEY1", help="a key, or enough of its beginning")
    diff.add_argument("right", metavar="KEY2", help="another one")
    pack = action("pack", _pack, "write entries to one file, for unpack on other machines")
    pack.add_argument("file", type=Path, metavar="FILE", help="where to write them")
    pack.add_argument("keys", metavar="KEY", nargs="*", help="entries (default: all)")
    unpack = action("unpack", _unpack, "verify a file of entries and add them; a plan is code, so trust its author")
    unpack.add_argument("file", type=Path, metavar="FILE", help="what pack wrote")


def _size(text: str) -> int:
    try:
        return parse_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"takes {error}") from None


def _cache(arguments: argparse.Namespace) -> EngineCache:
    from ..cache import EngineCache  # here, since it imports PyTorch, which takes longer than a help text should

    options = Options.of({"cache_dir": arguments.dir} if arguments.dir else {})
    return EngineCache(options.cache_dirs, size_limit=options.cache_size, lock_timeout=0, errors="raise")


def _find(records: list[Record], key: str) -> Record:
    found = {record.key: record for record in reversed(records) if record.key.startswith(key)}
    if len(found) != 1:
        raise CacheError(f"{len(found) or 'no'} entries have a key that begins with {key!r}: see trt-stripped cache ls")
    return next(iter(found.values()))


def _as_json(record: Record) -> dict[str, Any]:
    return {
        "key": record.key,
        "created": record.created,
        "used": record.used,
        "size": record.size,
        "plan_bytes": record.plan_bytes,
        "build_seconds": record.build_seconds,
        "summary": record.summary,
        "directory": str(record.directory),
    }


def _ls(arguments: argparse.Namespace) -> int:
    records = _cache(arguments).entries()
    if arguments.json:
        print_json([_as_json(record) for record in records])
        return 0
    rows = [
        (
            record.key[:12],
            time_text(record.created),
            time_text(record.used),
            size_text(record.size),
            "" if record.build_seconds is None else f"{record.build_seconds:.1f}",
            record.summary,
            record.directory,
        )
        for record in records
    ]
    columns = ("key", "created", "last used", "size", "build s", "engine", "directory")
    print_table(columns, rows, right=("size", "build s"))
    return 0


def _show(arguments: argparse.Namespace) -> int:
    record = _find(_cache(arguments).entries(), arguments.key)
    print_json({**_as_json(record), "header": record.header})
    return 0


def _check(arguments: argparse.Namespace) -> int:
    problems = _cache(arguments).check()
    if arguments.json:
        print_json([{"kind": one.kind, "path": str(one.path), "message": one.message} for one in problems])
    elif problems:
        print_table(("problem", "path", "what"), [(one.kind, one.path, one.message) for one in problems])
    else:
        print("no problems")
    return 1 if problems else 0


def _prune(arguments: argparse.Namespace) -> int:
    return _tell(_cache(arguments).prune(arguments.size), arguments)


def _clear(arguments: argparse.Namespace) -> int:
    cache = _cache(arguments)
    if not arguments.yes:
        if not sys.stdin.isatty():
            raise CacheError("clear removes all entries: say --yes")
        where = cache.written
        if where is None:
            return _tell(cache.clear(), arguments)  # which says why there is none
        count = sum(record.directory == where for record in cache.entries())
        print(f"Remove {count} entries from {where}? [y/N] ", end="", file=sys.stderr, flush=True)
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            return 1
    return _tell(cache.clear(), arguments)


def _tell(freed: Freed, arguments: argparse.Namespace) -> int:
    if arguments.json:
        print_json({"entries": freed.entries, "bytes": freed.bytes})
    else:
        print(f"{freed.entries} entries removed, {size_text(freed.bytes)} freed")
    return 0


def _diff(arguments: argparse.Namespace) -> int:
    from ..cache.diff import differences
    from ..cache.entry import canonical

    records = _cache(arguments).entries()
    left, right = (_find(records, key) for key in (arguments.left, arguments.right))
    found = differences(left.parts, right.parts)
    if arguments.json:
        print_json([one._asdict() for one in found])
    else:
        rows = [(one.part, *_shown(*(canonical(side).decode() for side in one[1:]))) for one in found]
        print_table(("part", left.key[:12], right.key[:12]), rows)
    return 1 if found else 0


def _shown(left: str, right: str) -> list[str]:
    """Two values, cut to the part where they begin to differ."""
    pairs = enumerate(zip(left, right, strict=False))
    first = next((i for i, (a, b) in pairs if a != b), min(len(left), len(right)))
    start = max(first - _BEFORE, 0) if max(len(left), len(right)) > _WIDTH else 0
    end = start + _WIDTH
    return [("…" if start else "") + one[start:end] + ("…" if one[end:] else "") for one in (left, right)]


def _pack(arguments: argparse.Namespace) -> int:
    cache = _cache(arguments)
    records = cache.entries()
    keys = [_find(records, key).key for key in arguments.keys] or None
    return _list("packed", cache.pack(arguments.file, keys), arguments)


def _unpack(arguments: argparse.Namespace) -> int:
    return _list("unpacked", _cache(arguments).unpack(arguments.file), arguments)


def _list(done: str, keys: list[str], arguments: argparse.Namespace) -> int:
    if arguments.json:
        print_json({done: keys})
    else:
        print(f"{len(keys)} entries {done}: {arguments.file}")
    return 0
