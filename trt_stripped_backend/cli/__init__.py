"""The command ``trt-stripped``. Each subcommand is a module that adds its parser and the function behind it."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence

from .. import __version__
from ..errors import TRTStrippedError
from . import cache, completion, env, explain, ops

#: Modules with ``add(commands)``: it adds a parser whose default ``run`` takes the arguments and returns the exit code.
COMMANDS = (explain, cache, ops, env, completion)


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = argparse.ArgumentParser(
        prog="trt-stripped", description="Weight-stripped TensorRT engines: look into the cache and the backend."
    )
    top.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    top.set_defaults(parser=top)
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for module in COMMANDS:
        module.add(commands)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Runs ``trt-stripped``; 0 is success, 1 a finding (problems, differences), 2 an error, told on stderr."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by who called us
            setattr(sys, name, io.StringIO())
        elif isinstance(stream, io.TextIOWrapper):  # not every terminal or pipe has every character
            stream.reconfigure(errors="backslashreplace")
    try:
        arguments = parser().parse_args(argv)
        code: int = arguments.run(arguments)
        sys.stdout.flush()  # here, where it may fail
    except BrokenPipeError:  # the reader of our output went away, as `head` does
        return 0
    except (TRTStrippedError, OSError) as error:
        print(f"trt-stripped: {error}", file=sys.stderr)
        return 2
    finally:
        _discard_rest()
    return code


def _discard_rest() -> None:
    """What stdout holds and cannot write goes nowhere: Python would fail on it once more as it ends."""
    try:
        sys.stdout.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
