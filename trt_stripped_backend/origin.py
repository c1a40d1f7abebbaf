"""Where a node of the graph comes from: the user's file, line and code, or the module that has it."""

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
    """``where`` is ``model.py:12``, ``code`` the line that stands there; both empty if nobody knows.

    Where no line is the user's, as in a bare ``nn.Sequential``, ``where`` is the module's path, such as ``encoder.3``.
    """

    where: str = ""
    code: str = ""


def origin(node: fx.Node) -> Origin:
    """The innermost line outside PyTorch and this package in the trace that Dynamo recorded for a node."""
    frames = list(_FRAME.finditer(node.meta.get("stack_trace") or ""))
    own = [f for f in frames if not f["file"].replace("\\", "/").startswith(_NOT_THE_USERS)]
    if not own:
        return Origin(_module(node))
    return Origin(f"{own[-1]['file']}:{own[-1]['line']}", (own[-1]["code"] or "").strip())


def _module(node: fx.Node) -> str:
    """The path in the model of the innermost module that has a node; the class of the model itself."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    if not stack:
        return ""
    path, kind = stack[-1]
    return path_in_model(str(path)) if len(stack) > 1 else getattr(kind, "__name__", str(kind))


def path_in_model(source: str) -> str:
    """Dynamo's name of something that a model holds, such as ``L['self']._modules['h'].weight``, as ``h.weight``."""
    parts = re.findall(r"\['?([^'\]]+)'?\]|\.(\w+)", source.removeprefix("L"))
    words = [key or attribute for key, attribute in parts]
    return ".".join(w for w in words[1:] if w not in ("_modules", "_parameters", "_buffers")) or ".".join(words)
