"""``trt-stripped explain``, ``prebuild`` and ``completion``."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from trt_stripped_backend.cli import main

SOURCE = """
import torch
from torch import nn

MODEL = nn.Sequential(nn.Linear(4, 5), nn.ReLU())


class Made:
    @staticmethod
    def small():
        return MODEL, (torch.randn(2, 4),)


def make():
    return Made.small()


def with_keywords():
    def call(x, *, scale):
        return (x * scale).cumsum(0)
    return call, [torch.randn(2, 4)], {"scale": torch.ones(4)}


def of(size):
    return MODEL, (torch.randn(size, 4),)


def only_model():
    return MODEL


def three_and_more():
    return MODEL, (), {}, 1


def no_model():
    return "model", ()


def no_args():
    return MODEL, torch.randn(2, 4)


def no_kwargs():
    return MODEL, (), 3


def fails():
    raise OSError("my checkpoint is missing")


def leaves():
    raise SystemExit(3)


class Broken(nn.Module):
    def forward(self, x):
        raise RuntimeError("a bug of the model")


def broken():
    return Broken(), (torch.randn(2),)


def unknown():
    return MODEL, (torch.randn(2, 4),), {"nosuch": 1}


def noisy():
    print("hello from the model")
    return make()
"""


@pytest.fixture(autouse=True)
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory with models in it."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "their_models.py").write_text(SOURCE, encoding="utf-8")
    (tmp_path / "their_broken.py").write_text("import their_models, no_such_package\n", encoding="utf-8")
    (tmp_path / "their_wrong.py").write_text("1 / 0\n", encoding="utf-8")
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("their_"):
            del sys.modules[name]


def run(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> tuple[str, str]:
    assert main(["explain", *arguments]) == code
    return capsys.readouterr()


def test_json_and_page(capsys: pytest.CaptureFixture[str], models: Path) -> None:
    out, told = run(capsys, "their_models:make", "--json", "--html", "page.html", "-o", "min_block_size=1")
    found: Any = json.loads(out)
    assert [one["status"] for one in found["partitions"]] == ["miss"] and found["nodes_in_engines"] == 2
    assert told == "written: page.html\n"
    page = (models / "page.html").read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>") and '"op":"aten.linear"' in page


def test_text_and_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = run(capsys, "their_models.py:with_keywords", "--options", "min_block_size=9", code=1)
    assert "0 of 2 operators in 0 engine(s)" in out
    assert "aten.cumsum.default  (their_models.py:" in out and "return (x * scale).cumsum(0)" in out


def test_prebuild_fills_the_cache(capsys: pytest.CaptureFixture[str]) -> None:
    """Another process finds what it built, and ``explain`` says so."""
    for verb, status in (("prebuild", "built"), ("prebuild", "hit"), ("explain", "hit")):
        assert main([verb, "their_models:make", "--json", "-o", "min_block_size=1"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert [one["status"] for one in found["partitions"]] == [status]
    assert main(["prebuild", "their_models:make", "-o", "min_block_size=9", "-o", "require_full=1"]) == 2
    assert "require_full: these would run in PyTorch" in capsys.readouterr().err


def test_a_method_makes_a_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert "1 engine(s)" in run(capsys, "their_models:Made.small", "-o", "min_block_size=1")[0]


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("their_models", "'their_models' is not MODULE:FACTORY, such as models.vit:make or model.py:make"),
        ("no_such_module:make", "there is no module 'no_such_module' in "),
        ("no.such.module:make", "there is no module 'no' in "),
        ("no_such.py:make", "there is no file no_such.py"),
        ("their_broken:make", "their_broken cannot be imported: ModuleNotFoundError: No module named"),
        ("their_wrong.py:make", "their_wrong.py cannot be imported: ZeroDivisionError: division by zero"),
        ("their_models:mak", "their_models has no 'mak'; did you mean 'make'?"),
        ("their_models:zzzzzz", "their_models has no 'zzzzzz'\n"),
        ("their_models:MODEL", "their_models:MODEL is of type Sequential, not a function: it must return "),
        ("their_models:of", "their_models:of must be callable without arguments (missing a required argument: 'size')"),
        ("their_models:only_model", "returned Sequential: it must return (model, args) or (model, args, kwargs)"),
        ("their_models:three_and_more", "returned 4 values: "),
        ("their_models:no_model", "returned a model of type str, not callable"),
        ("their_models:no_args", "returned args of type Tensor, not a tuple"),
        ("their_models:no_kwargs", "returned kwargs of type int, not a dict"),
        ("their_models:fails", "their_models:fails failed: OSError: my checkpoint is missing"),
        ("their_models:leaves", "their_models:leaves failed: SystemExit: 3"),
        ("their_models:broken", "the model of their_models:broken cannot be traced: "),
        ("their_models:unknown", "the model of their_models:unknown cannot be traced: TypeError: "),
    ],
)
def test_errors_name_the_way_out(capsys: pytest.CaptureFixture[str], factory: str, message: str) -> None:
    _, told = run(capsys, factory, code=2)
    assert f"trt-stripped: {message}" in told or (message.startswith("returned") and message in told)


def test_where_a_model_fails_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    _, told = run(capsys, "their_models:broken", code=2)
    assert "Traceback" in told and 'raise RuntimeError("a bug of the model")' in told


def test_what_a_model_prints_is_no_part_of_the_report(capsys: pytest.CaptureFixture[str]) -> None:
    out, told = run(capsys, "their_models:noisy", "--json", "-o", "min_block_size=1")
    assert json.loads(out)["nodes_in_engines"] == 2
    assert "hello from the model" in told


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("min_block_size", "--options takes NAME=VALUE, such as min_block_size=1; got 'min_block_size'"),
        ("min_block=1", "unknown option 'min_block': did you mean 'min_block_size'?"),
        ("min_block_size=none", "option 'min_block_size' takes a whole number from 1; got 'none'"),
    ],
)
def test_options_that_are_wrong(capsys: pytest.CaptureFixture[str], option: str, message: str) -> None:
    assert message in run(capsys, "their_models:make", "-o", option, code=2)[1]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(capsys: pytest.CaptureFixture[str], shell: str) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert all(word in script for word in ("explain", "cache", "unpack", "ops", "env", "html"))
    if shutil.which(shell):
        checked = subprocess.run([shell, "-n"], input=script, text=True, capture_output=True, check=False)
        assert checked.returncode == 0, checked.stderr


def test_bash_completes(capsys: pytest.CaptureFixture[str], models: Path) -> None:
    bash = shutil.which("bash")
    assert bash is not None
    main(["completion", "bash"])
    script = capsys.readouterr().out

    def completed(*words: str) -> set[str]:
        line = f'COMP_WORDS=(trt-stripped {" ".join(words)}); COMP_CWORD={len(words)}; _shtab_trt_stripped'
        command = [bash, "-c", f'{script}\n{line}\necho "${{COMPREPLY[@]}}"']
        done = subprocess.run(command, text=True, capture_output=True, check=True)
        return set(done.stdout.split())

    assert completed("ca") == {"cache"}
    assert {"pack", "prune"} <= completed("cache", "p")
    assert "their_models.py" in completed("cache", "unpack", "their_m")


def test_completion_says_what_it_needs(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["completion", "bash"]) == 2
    assert "pip install 'trt_stripped_backend[completion]'" in capsys.readouterr().err
