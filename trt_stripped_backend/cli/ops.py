"""``trt-stripped ops``: which operators run in TensorRT, with their limits, and which stay in PyTorch."""

from __future__ import annotations

import argparse
from typing import Any

from .output import print_json, print_table


def add(commands: Any) -> None:
    """Adds ``ops`` to the parser's commands."""
    help = "list the operators that run in TensorRT and their limits; exit code 1 if none matches"
    parser = commands.add_parser("ops", help=help, description=help)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--grep", default="", metavar="TEXT", help="only operators whose name holds this")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from ..ops.support import LEFT, short, supported  # here, since it imports PyTorch

    text = arguments.grep.lower()
    inside = [one for one in supported() if text in one.operator.lower()]
    outside = [(name, left) for left in LEFT for name in left.operators if text in name.lower()]
    if arguments.json:
        left_out = [{"operator": name, "kind": left.kind, "reason": left.reason} for name, left in outside]
        print_json({"supported": [one.to_json() for one in inside], "in_pytorch": left_out})
    else:
        rows = [
            (
                one.operator.removeprefix("aten.").removesuffix(".default"),
                one.family,
                short(one.dtypes),
                "yes" if one.refittable else "no",
                "; ".join(one.limits),
            )
            for one in inside
        ]
        rows += [(name, "in PyTorch", "", "", left.reason) for name, left in outside]
        print_table(("operator", "family", "dtypes", "refittable", "stays in PyTorch"), rows)
    return 0 if inside or outside else 1
