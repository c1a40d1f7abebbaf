"""The command ``trt-stripped``. Each subcommand is a module that adds its parser and the function behind it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from ..errors import TRTStrippedError
from . import cache, completion, env, explain, ops

#: Modules with ``add(commands)``: it adds a parser whose default ``run`` takes the arguments and returns the exit code.
COMMANDS = (explain, cache, ops, env, completion)


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = argparse.ArgumentParser(
        prog="trt-stripped", description="Weight-stripped TensorRT engines: look into the cache and the backend."
    )
    top.set_defaults(parser=top)
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for module in COMMANDS:
        module.add(commands)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Runs ``trt-stripped``; 0 is success, 1 a finding (problems, differences), 2 an error, told on stderr."""
    arguments = parser().parse_args(argv)
    try:
        code: int = arguments.run(arguments)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output went away, as `head` does
        return 0
    except (TRTStrippedError, OSError) as error:
        print(f"trt-stripped: {error}", file=sys.stderr)
        return 2
    return code
