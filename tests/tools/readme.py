"""Writes the README's generated parts between their markers, docs/operators.md and docs/options.md.

python -m tests.tools.readme           writes them
python -m tests.tools.readme --check   exit status 1 if they are not up to date
"""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from pathlib import Path

from trt_stripped_backend.ops.support import LEFT, Support, short, supported
from trt_stripped_backend.options import table

README = Path(__file__).parents[2] / "README.md"
OPERATORS = README.parent / "docs" / "operators.md"
OPTIONS = README.parent / "docs" / "options.md"


def options() -> str:
    """One row an option."""
    lines = ["| option | default | meaning | part of the key |", "|---|---|---|---|"]
    for row in table():
        lines.append(f"| `{row['name']}` | `{row['default']}` | {cell(row['help'])} | {cell(row['key'])} |")
    return "\n".join(lines)


def options_page() -> str:
    """docs/options.md."""
    return f"{OPTIONS_HEADER}\n{options()}\n"


OPTIONS_HEADER = """# Options

Made by `python -m tests.tools.readme` from `options.py`. Given as `torch.compile(…, options={…})`, else by the
variable `TRT_STRIPPED_<OPTION>`, else the default. In a variable, names are separated by commas, directories as in
`PATH`, a range is `1:4096`, a size is in bytes or `8GiB`, and true is `1`. An unknown name raises and names the
nearest, a bad value raises and says what is taken; a variable that is no option's is only shown by
`trt-stripped env`. The last column says whether another value means another engine, or why it does not.
"""


def operators() -> str:
    """How many there are, and where they are listed."""
    rows = supported()
    count = len({row.operator.rpartition(".")[0] for row in rows})
    families = len({row.family for row in rows})
    return (
        f"{len(rows)} overloads of {count} ATen operators in {families} families run in engines, and many more\n"
        "reach them by decomposition. [docs/operators.md](docs/operators.md) lists each with its dtypes and limits,\n"
        "and what stays in PyTorch and why; so does `trt-stripped ops`."
    )


def operators_page() -> str:
    """docs/operators.md: one table a family, then what stays in PyTorch."""
    families: dict[str, list[Support]] = defaultdict(list)
    for row in supported():
        families[row.family].append(row)
    parts = [HEADER]
    for family, rows in sorted(families.items()):
        parts += [f"## {family}", "", "| operator | dtypes | stays in PyTorch |", "|---|---|---|"]
        parts += [f"| `{name(row)}` | {short(row.dtypes)} | {cell(limits(row))} |" for row in rows]
        parts.append("")
    parts += [LEFT_HEADER, "| operators | why |", "|---|---|"]
    parts += [f"| {' '.join(f'`{one}`' for one in sorted(left.operators))} | {cell(left.reason)} |" for left in LEFT]
    return "\n".join(parts) + "\n"


HEADER = """# Operators

Made by `python -m tests.tools.readme` from the converters themselves. `float` is float32, float16 and bfloat16; `int`
is int32 and int64. The last column says which calls stay in PyTorch; `…` stands for what depends on the call. An
operator that is in no table may still run in an engine: PyTorch takes it apart into those that are.
`trt_stripped_backend.explain` tells for a model.

In every family tensors of other dtypes, of more than 8 dimensions, or that are written to stay in PyTorch.
"""
LEFT_HEADER = """## In PyTorch
"""


def name(row: Support) -> str:
    return row.operator.removeprefix("aten.").removesuffix(".default")


def limits(row: Support) -> str:
    always = "unless `refit_mode` is `immutable` or `allow_ops` names it: a refit cannot set what its layers hold"
    return "; ".join([*([] if row.refittable else [always]), *row.limits])


def cell(text: str) -> str:
    return text.replace("|", "\\|")


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
    made = {
        README: rendered(README.read_text(encoding="utf-8")), OPERATORS: operators_page(), OPTIONS: options_page(),
    }  # fmt: skip
    stale = [path for path, text in made.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    for path in stale:
        if "--check" in arguments:
            print(f"{path.name}: generated parts are out of date; run python -m tests.tools.readme")
            continue
        path.parent.mkdir(exist_ok=True)
        path.write_text(made[path], encoding="utf-8")
    return int("--check" in arguments and bool(stale))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
