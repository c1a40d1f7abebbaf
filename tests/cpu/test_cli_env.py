"""``trt-stripped env``: on this machine, and on ones that lack something."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from packaging.version import Version

from trt_stripped_backend import flavour
from trt_stripped_backend.cache import open_cache
from trt_stripped_backend.cli import env, main
from trt_stripped_backend.errors import TRTStrippedError


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable but the cache's."""
    for name in os.environ:
        if name.startswith("TRT_STRIPPED_") and name != "TRT_STRIPPED_CACHE_DIR":
            monkeypatch.delenv(name)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with a GPU."""
    properties = types.SimpleNamespace(name="NVIDIA L40S", major=8, minor=9, total_memory=48 << 30)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def run(capsys: pytest.CaptureFixture[str], *, code: int = 0) -> Any:
    assert main(["env", "--json"]) == code
    return json.loads(capsys.readouterr().out)


def mended(found: Any, what: str) -> Any:
    (one,) = (one for one in found["missing"] if what in one["what"])
    return one


def test_a_gpu_that_the_newest_library_does_not_serve(
    capsys: pytest.CaptureFixture[str], gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    properties = types.SimpleNamespace(name="NVIDIA H200", major=9, minor=0, total_memory=150 << 30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    assert "tensorrt-rtx-cu12==1.6.1.120" in mended(run(capsys), "on SM 9.0")["mend"]


def test_this_machine(capsys: pytest.CaptureFixture[str], no_gpu: None, own_cache: Path) -> None:
    found = run(capsys)
    used = flavour.load()
    assert found["versions"]["torch"].partition("+")[0] == torch.__version__.partition("+")[0]
    assert found["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert all(found["versions"][name] for name in (used.name, "diskcache", "packaging"))
    assert found["flavour"] == str(used) and found["builds"] and found["gpu"] is None
    why = "on tensorrt_rtx the fastest to build, start and update, without a second copy of the weights"
    assert found["refit_mode"] == {"mode": "bound", "why": why}
    assert found["variables"] == {"TRT_STRIPPED_CACHE_DIR": str(own_cache)}
    assert not mended(found, "so models run in PyTorch")["stops"]


def test_text(capsys: pytest.CaptureFixture[str], gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["env"]) == 0
    lines = dict(line.split("\t", 1) for line in capsys.readouterr().out.splitlines())
    assert lines["GPU"].startswith("NVIDIA L40S, capability 8.9, memory 48.0 GiB")
    assert lines["TensorRT in use"] == str(flavour.load()) and lines["engines"] == "can be built"
    assert "missing" not in lines and lines["refit_mode"].startswith("bound: ")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert main(["env"]) == 0
    table = capsys.readouterr().out
    assert "NVIDIA L40S" in table and "\t" not in table


def test_the_driver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(env, "_DRIVER", tmp_path / "version")
    assert env._driver() is None
    (tmp_path / "version").write_text("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release\n")
    assert env._driver() == "580.95.05"


def test_pytorch_for_cuda_without_a_gpu(
    capsys: pytest.CaptureFixture[str], no_gpu: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(env, "_DRIVER", tmp_path / "absent")
    one = mended(run(capsys), "PyTorch for CUDA 13.0 finds no GPU and there is no driver")
    assert "nvidia-smi" in one["mend"]


def test_without_tensorrt(capsys: pytest.CaptureFixture[str], no_gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flavour, "_chosen", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    found = run(capsys, code=1)
    assert found["flavour"] is None and found["refit_mode"] is None and not found["builds"]
    assert found["versions"]["tensorrt"] is None and found["versions"]["tensorrt_rtx"] is None
    one = mended(found, "TensorRT is not installed")
    assert one["stops"] and one["mend"].startswith("pip install 'trt_stripped_backend[rtx]'")


def test_tensorrt_needs_a_gpu(
    capsys: pytest.CaptureFixture[str], no_gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = types.SimpleNamespace(BuilderFlag=types.SimpleNamespace(REFIT_IDENTICAL=1))
    full = flavour.Flavour("tensorrt", Version("10.13.3.9"), module)
    monkeypatch.setattr(flavour, "_chosen", full)
    found = run(capsys, code=1)
    assert found["flavour"] == "tensorrt 10.13.3.9" and found["refit_mode"]["mode"] == "general"
    assert "[rtx]" in mended(found, "tensorrt 10.13.3.9 needs a GPU to build")["mend"]


def test_without_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    missing: list[env.Missing] = []
    assert env._gpu(missing) is None
    assert missing[0].stops and missing[0].mend == "pip install torch"


def test_a_mode_that_is_wrong_here(
    capsys: pytest.CaptureFixture[str], gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> Any:
        raise TRTStrippedError("it may drop GEMM biases")

    monkeypatch.setattr("trt_stripped_backend.cli.env.refit_mode", refuse)
    assert mended(run(capsys, code=1), "GEMM")["mend"] == "set TRT_STRIPPED_REFIT_MODE=auto"


def test_variables(capsys: pytest.CaptureFixture[str], gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRT_STRIPPED_REFITMODE", "bound")
    monkeypatch.setenv("TRT_STRIPPED_XYZ", "1")
    found = run(capsys)
    assert found["variables"]["TRT_STRIPPED_REFITMODE"] == "bound"
    assert mended(found, "TRT_STRIPPED_REFITMODE")["mend"] == "did you mean TRT_STRIPPED_REFIT_MODE?"
    assert "unset" in mended(found, "TRT_STRIPPED_XYZ")["mend"]
    monkeypatch.setenv("TRT_STRIPPED_REFIT_MODE", "fastest")
    assert mended(run(capsys, code=1), "TRT_STRIPPED_REFIT_MODE takes one of")["stops"]


def test_caches(
    capsys: pytest.CaptureFixture[str], gpu: None, own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert open_cache().put_blob("runtime", "name", bytes(100))
    absent, unsafe = tmp_path / "absent", tmp_path / "unsafe"
    unsafe.mkdir()
    unsafe.chmod(0o777)
    monkeypatch.setenv("TRT_STRIPPED_CACHE_DIR", os.pathsep.join(map(str, (own_cache, absent, unsafe))))
    first, second, third = run(capsys)["cache"]
    assert (first["exists"], first["entries"], first["writable"], first["problem"]) == (True, 0, True, None)
    assert first["bytes"] > 100
    assert (second["exists"], second["writable"]) == (False, True) and not absent.exists()
    assert "chmod go-w" in third["problem"] and not third["writable"]
    assert main(["env"]) == 0
    out = capsys.readouterr().out
    assert f"missing\tcache directory {unsafe} is not safe" in out
    assert f"{absent}: not made yet, limit 8.0 GiB, can be made" in out


def test_without_a_home_directory(
    capsys: pytest.CaptureFixture[str], gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TRT_STRIPPED_CACHE_DIR")
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda *_, **__: "~/.cache/trt_stripped")
    found = run(capsys)
    one = mended(found, "there is no home directory")
    assert found["cache"] == [] and "TRT_STRIPPED_CACHE_DIR" in one["mend"] and not one["stops"]
    assert main(["cache", "ls"]) == 2
    assert "TRT_STRIPPED_CACHE_DIR" in capsys.readouterr().err


def test_the_command_runs() -> None:
    command = [sys.executable, "-m", "trt_stripped_backend.cli", "env", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert json.loads(done.stdout)["builds"]
