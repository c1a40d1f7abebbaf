"""``trt-stripped completion``: the script with which a shell completes the command."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..errors import TRTStrippedError

SHELLS = ("bash", "zsh", "fish")
_USE = """\
how to use it:
  bash   trt-stripped completion bash > ~/.local/share/bash-completion/completions/trt-stripped
  zsh    trt-stripped completion zsh > ~/.zfunc/_trt-stripped      (with ~/.zfunc in $fpath)
  fish   trt-stripped completion fish > ~/.config/fish/completions/trt-stripped.fish
"""


def add(commands: Any) -> None:
    """Adds ``completion`` to the parser's commands."""
    help = "print the script with which a shell completes trt-stripped"
    parser = commands.add_parser(
        "completion", help=help, description=help, epilog=_USE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("shell", choices=SHELLS)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    try:
        import shtab
    except ImportError:
        raise TRTStrippedError("shell completion needs shtab: pip install 'trt_stripped_backend[completion]'") from None
    _name_files(arguments.parser, {"file": shtab.FILE, "directory": shtab.DIRECTORY})
    print(shtab.complete(arguments.parser, arguments.shell))
    return 0


def _name_files(parser: argparse.ArgumentParser, kinds: dict[str, Any]) -> None:
    """Marks what takes a path, in all subcommands."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                _name_files(inner, kinds)
        elif action.type is Path:
            action.complete = kinds["directory" if action.metavar == "DIR" else "file"]  # type: ignore[attr-defined]
