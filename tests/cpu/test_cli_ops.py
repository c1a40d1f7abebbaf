"""``trt-stripped ops`` and docs/operators.md: both from the registry."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

from tests.tools import readme
from trt_stripped_backend.cli import main
from trt_stripped_backend.ops import library
from trt_stripped_backend.ops.support import supported


def run(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    assert main(["ops", *arguments]) == code
    return capsys.readouterr().out


def run_json(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> Any:
    return json.loads(run(capsys, "--json", *arguments, code=code))


def test_json_has_every_overload(capsys: pytest.CaptureFixture[str]) -> None:
    found = run_json(capsys)
    assert {one["operator"] for one in found["supported"]} == {str(target) for target in library.all_ops()}
    cumsum = next(one for one in found["supported"] if one["operator"] == "aten.cumsum.default")
    assert cumsum["refittable"] is False and cumsum["family"] == "reduce" and cumsum["schema"].startswith("cumsum(")
    nonzero = next(one for one in found["in_pytorch"] if one["operator"] == "nonzero")
    assert nonzero == {"operator": "nonzero", "kind": "data", "reason": "the shape of the result depends on data"}


def test_a_pipe_gets_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    lines = [line.split("\t") for line in run(capsys, "--grep", "Cum").splitlines()]
    assert ["cumsum", "reduce", "float, int, bool", "no", "a reduction of no elements"] in lines
    assert any(line[:2] == ["cummax", "in PyTorch"] and "no layer" in line[4] for line in lines)
    assert all("cum" in line[0] for line in lines)


def test_a_terminal_gets_a_table(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    table = run(capsys, "--grep", "topk")
    assert "refittable" in table and "sort" in table and "\t" not in table


def test_nothing_found(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "--grep", "no such operator", code=1) == ""
    assert run_json(capsys, "--grep", "no such operator", code=1) == {"supported": [], "in_pytorch": []}


def test_the_page_is_up_to_date() -> None:
    text = readme.OPERATORS.read_text(encoding="utf-8")
    assert text == readme.operators_page(), "run python -m tests.tools.readme"
    assert all(f"| `{readme.name(row)}` |" in text for row in supported())
    assert "| `nonzero`" in text or " `nonzero` " in text


def test_check_tells_what_is_stale(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    page = tmp_path / "docs" / "operators.md"
    copy = tmp_path / "README.md"
    copy.write_text(readme.README.read_text(encoding="utf-8").replace("ATen operators in", "operators in"))
    monkeypatch.setattr(readme, "OPERATORS", page)
    monkeypatch.setattr(readme, "README", copy)
    assert readme.main(["--check"]) == 1
    told = capsys.readouterr().out
    assert "README.md" in told and "operators.md" in told and not page.exists()
    assert readme.main([]) == 0 and readme.main(["--check"]) == 0
    assert page.read_text(encoding="utf-8") == readme.operators_page()
