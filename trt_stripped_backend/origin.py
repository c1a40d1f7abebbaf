"""Where a node of the graph comes from: the user's file, line and code."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import torch
from torch import fx

_FRAME = re.compile(r'File "(?P<file>[^"\n]*)", line (?P<line>\d+), in [^\n]*(?:\n(?!\s*File ")\s*(?P<code>[^\n]+))?')
#: What lies here is called by the user's code, and is not it.
_NOT_THE_USERS = tuple(f"{Path(file).parent.as_posix()}/" for file in (torch.__file__, __file__))


class Origin(NamedTuple):
    """``where`` is ``model.py:12``, ``code`` the line that stands there; both empty if nobody knows."""

    where: str = ""
    code: str = ""


def origin(node: fx.Node) -> Origin:
    """The innermost line outside PyTorch and this package in the trace that Dynamo recorded for a node."""
    frames = list(_FRAME.finditer(node.meta.get("stack_trace") or ""))
    if not frames:
        return Origin()
    own = [f for f in frames if not f["file"].replace("\\", "/").startswith(_NOT_THE_USERS)]
    frame = (own or frames)[-1]
    return Origin(f"{frame['file']}:{frame['line']}", (frame["code"] or "").strip())
