"""A report as one HTML page that needs no network.

The report is in the page as JSON, and the page's script makes all that is seen of it with ``textContent``: names,
reasons and source lines are never read as HTML. The page's policy allows its own script and style by their digests,
and nothing else, no request either.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from importlib import resources
from string import Template

from ..types import Json

_ESCAPED = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}


def page(report: Json, graphs: Json, text: str) -> str:
    """The page.

    Args:
        report: :meth:`.Report.to_dict`.
        graphs: :meth:`.Drawing.to_json` of each graph.
        text: what a browser without JavaScript shows.
    """
    style, script = _file("page.css"), _file("page.js")
    data = json.dumps({"report": report, "graphs": graphs}, separators=(",", ":")).translate(_ESCAPED)
    return Template(_file("page.html")).substitute(
        style=style, script=script, data=data, style_digest=_digest(style), script_digest=_digest(script),
        text=html.escape(text.encode(errors="backslashreplace").decode()),  # a file's name need not be Unicode
    )  # fmt: skip


def _file(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
