"""``trt-stripped cache``, run as a user runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cpu.cache.support import entry, entry_file, key, plant
from trt_stripped_backend.cache import EngineCache, open_cache
from trt_stripped_backend.cli import main
from trt_stripped_backend.types import Entry, Json, Key


def stored(name: str, **options: Json) -> tuple[Key, Entry]:
    """A key and an entry as a build makes them."""
    node = ["aten.relu.default", {"self": {"node": 0}}, ["float32", [2, 8]]]
    of = key(name, graph={"nodes": [["input", {}], node]}, options={"workspace_size": None, **options})
    header = {
        "flavour": ["tensorrt_rtx", "1.7.1"], "mode": "bound", "nodes": 48, "build_seconds": 7.25, "parts": of.parts,
    }  # fmt: skip
    return of, Entry(of.digest, header, bytes(1000))


A, B = stored("a"), stored("b", workspace_size=1 << 30)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[EngineCache]:
    """The cache of the environment, with two entries and a blob."""
    monkeypatch.setenv("TRT_STRIPPED_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")
    one = open_cache()
    assert one.put_blob("runtime", "name", b"kernels") and one.put(*A) and one.put(*B)
    yield one
    assert one.check() == []


def run(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    """What the command prints."""
    assert main(["cache", *arguments]) == code
    return capsys.readouterr().out


def run_json(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> Any:
    return json.loads(run(capsys, *arguments, "--json", code=code))


def fail(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What the command says when it fails."""
    assert main(["cache", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("trt-stripped: ") and "Traceback" not in err
    return err


def test_ls(capsys: pytest.CaptureFixture[str], cache: EngineCache, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = run_json(capsys, "ls")
    assert (first["key"], second["key"]) == (B[0].digest, A[0].digest)
    assert first["plan_bytes"] == 1000 and first["build_seconds"] == 7.25 and first["directory"] == str(cache.dirs[0])
    assert first["summary"] == "tensorrt_rtx 1.7.1, bound, 48 operators"
    lines = run(capsys, "ls").splitlines()
    assert [line.split("\t")[0] for line in lines] == [B[0].digest[:12], A[0].digest[:12]]
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    table = run(capsys, "ls")
    assert "last used" in table and A[0].digest[:12] in table and " KiB " in table and "7.2" in table


def test_show(capsys: pytest.CaptureFixture[str]) -> None:
    shown = run_json(capsys, "show", A[0].digest[:6])
    assert shown["key"] == A[0].digest and shown["header"] == A[1].header
    assert "no entries" in fail(capsys, "show", "ffffffff")
    assert "2 entries" in fail(capsys, "show", "")


def test_check(capsys: pytest.CaptureFixture[str], cache: EngineCache) -> None:
    assert run(capsys, "check") == "no problems\n"
    assert run_json(capsys, "verify") == []
    path = plant(cache.dirs[0], key("c"), b"foreign")
    (problem, *_) = run_json(capsys, "check", code=1)
    assert set(problem) == {"kind", "path", "message"}
    assert f"damaged\t{path}\t" in run(capsys, "check", code=1)
    run(capsys, "prune")


def test_prune(capsys: pytest.CaptureFixture[str], cache: EngineCache) -> None:
    assert run_json(capsys, "prune") == {"entries": 0, "bytes": 0}
    assert run(capsys, "prune", "--size", "1500").startswith("2 entries removed, 1.")
    assert [record.key for record in cache.entries()] == [B[0].digest]
    with pytest.raises(SystemExit):
        main(["cache", "prune", "--size", "much"])
    assert "8GiB" in capsys.readouterr().err


def test_clear_asks(capsys: pytest.CaptureFixture[str], cache: EngineCache, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "--yes" in fail(capsys, "clear")
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr("builtins.input", lambda question: "n")
    run(capsys, "clear", code=1)
    assert len(cache.entries()) == 2
    monkeypatch.setattr("builtins.input", lambda question: "y" if "2 entries" in question else "n")
    run(capsys, "clear")
    assert cache.entries() == []
    assert run_json(capsys, "clear", "--yes") == {"entries": 0, "bytes": 0}


def test_diff(capsys: pytest.CaptureFixture[str]) -> None:
    found = run_json(capsys, "diff", A[0].digest, B[0].digest[:8], code=1)
    assert found == [
        {"part": "name", "left": "a", "right": "b"},
        {"part": "options.workspace_size", "left": None, "right": 1 << 30},
    ]
    assert "options.workspace_size\tnull\t1073741824\n" in run(capsys, "diff", A[0].digest, B[0].digest, code=1)
    assert run_json(capsys, "diff", A[0].digest, A[0].digest) == []


def test_pack_and_unpack(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path, there = str(tmp_path / "fleet.pack"), str(tmp_path / "there")
    assert run_json(capsys, "pack", path, A[0].digest[:8]) == {"packed": [A[0].digest]}
    assert run(capsys, "pack", path) == f"2 entries packed: {path}\n"
    assert set(run_json(capsys, "unpack", path, "--dir", there)["unpacked"]) == {A[0].digest, B[0].digest}
    assert {one["key"] for one in run_json(capsys, "ls", "--dir", there)} == {A[0].digest, B[0].digest}
    assert open_cache(there).get(A[0]) == A[1]
    assert "no entries" in fail(capsys, "pack", path, "ffffffff")
    Path(path).write_bytes(Path(path).read_bytes()[:-1])
    assert "pack" in fail(capsys, "unpack", path)
    assert "absent" in fail(capsys, "unpack", str(tmp_path / "absent"))


def test_several_directories(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    other = tmp_path / "other"
    open_cache(other).put(key("c"), entry(key("c")))
    both = run_json(capsys, "ls", "--dir", str(other), "--dir", str(tmp_path / "cache"))
    assert [one["key"] for one in both] == [key("c").digest, B[0].digest, A[0].digest]


def test_an_unsafe_directory_is_an_error(capsys: pytest.CaptureFixture[str], cache: EngineCache) -> None:
    cache.dirs[0].chmod(0o777)
    for action in (["ls"], ["prune"], ["clear", "--yes"], ["pack", "out.pack"], ["unpack", "in.pack"]):
        assert "chmod go-w" in fail(capsys, *action)
    assert run_json(capsys, "check", code=1)[0]["kind"] == "directory"
    cache.dirs[0].chmod(0o700)


def test_a_bad_variable_is_an_error(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRT_STRIPPED_CACHE_SIZE", "much")
    assert "TRT_STRIPPED_CACHE_SIZE" in fail(capsys, "ls")


def test_no_command_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["cache"], ["cache", "explode"]):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 2
    assert "usage: trt-stripped" in capsys.readouterr().err


def test_the_module_runs(cache: EngineCache) -> None:
    command = [sys.executable, "-m", "trt_stripped_backend.cli", "cache"]
    done = subprocess.run([*command, "ls", "--json"], capture_output=True, text=True, check=True, env=dict(os.environ))
    assert len(json.loads(done.stdout)) == 2
    helped = subprocess.run([*command, "--help"], capture_output=True, text=True, check=True)
    assert all(
        action in helped.stdout for action in ("ls", "show", "check", "prune", "clear", "diff", "pack", "unpack")
    )


def test_help_needs_no_torch() -> None:
    code = "import sys; from trt_stripped_backend.cli import parser; parser(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_damage_is_told_in_one_line(capsys: pytest.CaptureFixture[str], cache: EngineCache, tmp_path: Path) -> None:
    path = entry_file(cache.dirs[0], A[0])
    data = bytearray(path.read_bytes())
    data[-40] ^= 1
    path.write_bytes(data)
    assert "does not match its digest" in fail(capsys, "pack", str(tmp_path / "out.pack"))
    run(capsys, "prune")
