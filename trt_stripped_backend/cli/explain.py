"""``trt-stripped explain`` and ``trt-stripped prebuild``: what of a model would run in TensorRT, and its engines."""

from __future__ import annotations

import argparse
import contextlib
import sys
from typing import TYPE_CHECKING, Any

from ..errors import TRTStrippedError
from . import factory
from .output import print_json

if TYPE_CHECKING:
    from ..report import Report


def add(commands: Any) -> None:
    """Adds ``explain`` and ``prebuild`` to the parser's commands."""
    for name, help, more in (
        ("explain", "show what of a model runs in TensorRT, and what in PyTorch and why", "Nothing is run or built."),
        ("prebuild", "build a model's engines into the cache, with TensorRT-RTX without a GPU", "Nothing is run."),
    ):
        told = f"{help}; exit code 1 if nothing runs in TensorRT"
        parser = commands.add_parser(name, help=told, description=f"{told}. {more}")
        factory.add(parser)
        parser.set_defaults(run=_run, verb=name)


def _run(arguments: argparse.Namespace) -> int:
    options = factory.options(arguments.options)
    with contextlib.redirect_stdout(sys.stderr):  # what the model's own code prints is no part of the report
        report = _report(arguments.verb, arguments.factory, options)
    if arguments.html is not None:
        report.to_html(arguments.html)
        print(f"written: {arguments.html}", file=sys.stderr)
    if arguments.json:
        print_json(report.to_dict())
    else:
        report.show()
    return 0 if report.nodes_in_engines else 1


def _report(verb: str, name: str, options: dict[str, str]) -> Report:
    model, args, kwargs = factory.made(name)
    from ..tracing import explain, prebuild  # here, since it imports PyTorch

    try:
        if verb == "explain":
            return explain(model, *args, options=options, **kwargs)
        return prebuild(model, args, kwargs, options=options)
    except TRTStrippedError:
        raise
    except Exception as error:
        raise factory.failed(f"the model of {name} cannot be traced", error) from error
