"""Writes the README's generated tables between their markers.

python -m tests.tools.readme           writes them
python -m tests.tools.readme --check   exit status 1 if they are not up to date
"""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from pathlib import Path

from trt_stripped_backend.ops import library
from trt_stripped_backend.options import table

README = Path(__file__).parents[2] / "README.md"


def options() -> str:
    """One row an option."""
    lines = ["| option | default | meaning | part of the key |", "|---|---|---|---|"]
    for row in table():
        help, key = (row[name].replace("|", "\\|") for name in ("help", "key"))
        lines.append(f"| `{row['name']}` | `{row['default']}` | {help} | {key} |")
    return "\n".join(lines)


def operators() -> str:
    """One row a family: its operators, overloads in braces."""
    families: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for target, op in library.all_ops().items():
        family = op.convert.__module__.rpartition(".")[2]
        name, _, overload = str(target).removeprefix("aten.").rpartition(".")
        families[family][name].append(overload)
    lines = ["| family | operators |", "|---|---|"]
    for family, names in sorted(families.items()):
        lines.append(f"| {family} | {' '.join(spelled(name, found) for name, found in sorted(names.items()))} |")
    count = sum(len(found) for names in families.values() for found in names.values())
    packets = sum(len(names) for names in families.values())
    return "\n".join([f"{count} overloads of {packets} operators, by the module that converts them:", "", *lines])


def spelled(name: str, overloads: list[str]) -> str:
    if overloads == ["default"]:
        return f"`{name}`"
    inside = ",".join(sorted(overloads, key=lambda overload: (overload != "default", overload)))
    return f"`{name}.{inside}`" if len(overloads) == 1 else f"`{name}.{{{inside}}}`"


TABLES = {"options": options, "operators": operators}


def rendered(text: str) -> str:
    """The README with every generated part made anew.

    Raises:
        ValueError: a marker is missing.
    """
    for name, make in TABLES.items():
        found = re.search(rf"(?<=<!-- {name}: generated -->\n).*?(?=<!-- {name}: end -->)", text, re.DOTALL)
        if found is None:
            raise ValueError(f"README.md has no markers for {name}")
        text = f"{text[: found.start()]}{make()}\n{text[found.end() :]}"
    return text


def main(arguments: list[str]) -> int:
    old = README.read_text(encoding="utf-8")
    new = rendered(old)
    if "--check" in arguments:
        if new != old:
            print("README.md: generated tables are out of date; run python -m tests.tools.readme")
        return int(new != old)
    README.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
