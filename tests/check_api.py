"""Reports TensorRT names that a source tree uses and some TensorRT version lacks.

    python -m tests.check_api [TREE]          (default: trt_stripped_backend)

Looks at every attribute chain rooted at the name ``trt`` (``trt.BuilderFlag.STRIP_PLAN``). A name is allowed where the
same file guards it with a string: ``hasattr(trt.BuilderFlag, "X")``. Members of objects (``network.add_attention``)
are not looked at: their type is unknown here. ``tests/api`` holds what each version's Python API contains, read from
its own bindings. Exit status 1 if anything is missing.
"""

from __future__ import annotations

import ast
import gzip
import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

API = Path(__file__).with_name("api")
ALWAYS = frozenset({"__version__", "__file__", "__name__", "__members__", "__doc__"})

#: Dotted name → whether it is a class, whose members are known too.
Names = dict[str, bool]


def versions() -> list[str]:
    """The known versions: ``cu12-10.0.1``, …, ``rtx-1.7.1.116``."""
    return sorted(path.name.removesuffix(".json.gz") for path in API.glob("*.json.gz"))


def load(version: str) -> Names:
    """What a version's Python module holds."""
    data: dict[str, Any] = json.loads(gzip.decompress((API / f"{version}.json.gz").read_bytes()))
    names: Names = dict.fromkeys([*data["functions"], *data["values"]], False)
    for class_name, members in data["classes"].items():
        names[class_name] = True
        for group in ("enum", "methods", "props", "other"):
            names.update(dict.fromkeys((f"{class_name}.{member}" for member in members.get(group, ())), False))
    return names


def first_missing(name: str, names: Names) -> str | None:
    """The shortest prefix of a dotted name that a version lacks."""
    parts = name.split(".")
    for count in range(1, len(parts) + 1):
        prefix = ".".join(parts[:count])
        if parts[count - 1] in ALWAYS:
            return None
        if prefix not in names:
            return prefix
        if not names[prefix]:
            return None  # a function or a value: what follows is no name of TensorRT's
    return None


def _chain(node: ast.expr) -> list[str]:
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return [node.id, *reversed(parts)] if isinstance(node, ast.Name) else []


class Uses(ast.NodeVisitor):
    """The names under ``trt`` that one file uses, and those that it asks for by string first."""

    def __init__(self) -> None:
        self.names: list[tuple[int, str]] = []
        self.guarded: set[str] = set()

    def visit_Attribute(self, node: ast.Attribute) -> None:
        chain = _chain(node)
        if chain[:1] == ["trt"]:
            self.names.append((node.lineno, ".".join(chain[1:])))
        else:
            self.visit(node.value)

    def visit_Call(self, node: ast.Call) -> None:
        asks = isinstance(node.func, ast.Name) and node.func.id in ("getattr", "hasattr") and len(node.args) > 1
        if asks and isinstance(node.args[1], ast.Constant):
            owner = _chain(node.args[0])
            name = str(node.args[1].value)
            self.guarded.add(".".join([*owner[1:], name]) if owner[:1] == ["trt"] else name)
        self.generic_visit(node)


def missing(source: str, apis: dict[str, Names]) -> dict[tuple[int, str], list[str]]:
    """(line, name) → the versions that lack it, for one file's text."""
    uses = Uses()
    uses.visit(ast.parse(source))
    found: dict[tuple[int, str], list[str]] = defaultdict(list)
    for version, names in apis.items():
        for line, name in uses.names:
            lacking = first_missing(name, names)
            if lacking and lacking not in uses.guarded:
                found[line, lacking].append(version)
    return dict(found)


def main(tree: str = "trt_stripped_backend") -> int:
    apis = {version: load(version) for version in versions()}
    count = 0
    for path in sorted(Path(tree).rglob("*.py")):
        for (line, name), lacking in sorted(missing(path.read_text(), apis).items()):
            count += 1
            where = "every version" if len(lacking) == len(apis) else " ".join(lacking)
            print(f"{path}:{line}: missing {name}: {where}")
    print(f"{count} names missing, {len(apis)} versions")
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
