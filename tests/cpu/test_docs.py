"""The guides: messages that they quote are said, messages that are said are in them, their code runs, links lead on."""

from __future__ import annotations

import ast
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import trt_stripped_backend
from tests.cpu.warm import Run
from trt_stripped_backend import errors
from trt_stripped_backend.cli import parser

ROOT = Path(__file__).parents[2]
PACKAGE = Path(next(iter(trt_stripped_backend.__path__)))
PAGES = sorted((ROOT / "docs").glob("*.md"))
TEXT = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
#: Never reaches a user: the partitioner and the build make rejections of it.
INTERNAL = {"Unsupported"}
ERRORS = {name for name, value in vars(errors).items() if isinstance(value, type)} - INTERNAL
ERRORS |= {"OtherVersion", "TooLarge"}  # of the cache
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(PACKAGE.rglob("*.py"))}


def text_of(node: ast.expr | None) -> str:
    """A message as far as its source says it, with … for what it does not."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(map(text_of, node.values))
    if isinstance(node, ast.BinOp):
        return text_of(node.left) + text_of(node.right)
    return "…"


def said() -> set[str]:
    """All texts in the source of the package."""
    found = {
        re.sub(r"%(\.\d+)?[sdg]", "…", text_of(node))
        for tree in TREES.values()
        for node in ast.walk(tree)
        if isinstance(node, (ast.Constant, ast.JoinedStr, ast.BinOp))
    }
    return {text for text in found if text.strip("… ")}


def raised() -> Iterator[tuple[str, str]]:
    """(place, message) of each error that a user can meet."""
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ERRORS and node.args:
                yield f"{path.relative_to(PACKAGE)}:{node.lineno}", text_of(node.args[0])


def letters(text: str) -> int:
    return sum(map(str.isalpha, text))


def pattern(fragment: str) -> re.Pattern[str]:
    return re.compile(".*".join(re.escape(part) for part in re.split("…+", fragment)), re.DOTALL)


SAYS = [one for line in TEXT.splitlines() if line.startswith("Says: ") for one in re.findall(r"`([^`]+)`", line)]
REASONS = re.findall(r"^\| `([^`]+)` \|", TEXT, re.MULTILINE)
SAID = said()


@pytest.mark.parametrize("fragment", [*SAYS, *REASONS])
def test_what_is_quoted_is_said(fragment: str) -> None:
    assert any(pattern(fragment).search(text) for text in SAID), "no text of the package has this any more"


@pytest.mark.parametrize(("place", "message"), list(raised()), ids=lambda value: str(value)[:40])
def test_what_is_said_is_quoted(place: str, message: str) -> None:
    if letters(message) < 8:
        return  # someone else's message, passed on
    assert any(pattern(one).search(message) for one in SAYS if letters(one) >= 8), (
        f"{place} raises {message!r}: add it to docs/troubleshooting.md, with its cause and the way out"
    )


def code(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def test_the_code_runs(own_cache: Path, tmp_path: Path, run_warm: Run) -> None:
    blocks = [block for page in PAGES for block in code(page, "python")]
    assert len(blocks) >= 4
    environment = {**os.environ, "TRT_STRIPPED_CACHE_DIR": str(own_cache), "PYTHONPATH": str(ROOT)}
    script = tmp_path / "blocks.py"
    script.write_text("\n".join(blocks), encoding="utf-8")
    done = run_warm(script, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_commands_exist() -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in [*PAGES, ROOT / "README.md"])
    quoted = [*re.findall(r"`(trt-stripped [^`]+)`", text), *re.findall(r"^(trt-stripped [^#\n]+)", text, re.MULTILINE)]
    assert len(quoted) > 10
    for command in quoted:
        words = command.replace("…", "").replace("KEY1 KEY2", "a b").split()[1:]
        if words[0] == "cache" and len(words) == 1:
            continue
        words += ["bash"] if words == ["completion"] else []
        try:
            parser().parse_args(words)
        except SystemExit as end:
            assert end.code == 0, command  # 0 is --help


def anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[\s]+", "-", re.sub(r"[^\w\s-]", "", title.lower()).strip()) for title in titles}


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)", page.read_text(encoding="utf-8")):
        there = page.parent / target if target else page
        assert there.exists(), target
        assert not anchor or anchor in anchors(there), f"{target}#{anchor}"


def test_every_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert {page.name for page in PAGES} == set(re.findall(r"\b([\w-]+\.md)$", navigation, re.MULTILINE))


def test_measured_numbers_are_those_of_the_results() -> None:
    results = ROOT / "tests" / "benchmarks" / "results" / "h200-rtx-1.6.1-bound.json"
    models: dict[str, dict[str, Any]] = {}
    for row in json.loads(results.read_text(encoding="utf-8"))["rows"]:
        assert row["right"] and row["warm_right"] and row["warm_builds"] == 0
        models.setdefault(row["model"], {})[row["dtype"]] = row
    number = r"([\d.e-]+)"
    pair = rf"{number} \({number}\)"
    line = rf"^\|[^|]+\| (\d+) of (\d+) \| {number} \| {pair} \| {pair} \| {number} / (\d+) \|$"
    told = re.findall(line, (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    for found, model in zip(told, models.values(), strict=True):
        single, half, brain = (model[dtype] for dtype in ("float32", "float16", "bfloat16"))
        errors = [single["error"], half["error"], half["eager_error"], brain["error"], brain["eager_error"]]
        assert [int(found[0]), int(found[1])] == [half["inside"], half["nodes"]]
        assert [float(one) for one in found[2:7]] == [float(f"{one:.1e}") for one in errors]
        assert [float(found[7]), int(found[8])] == [round(half["plan_mb"], 1), round(half["weights_mb"])]

