"""``trt-stripped cache``, run as a user runs it."""

from __future__ import annotations

import hashlib
import io
import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cpu.cache.support import entry, entry_file, key, plant
from trt_stripped_backend import __version__
from trt_stripped_backend.cache import EngineCache, open_cache
from trt_stripped_backend.cache.entry import MAGIC
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
    def refuse(name: str) -> None:
        raise ValueError(f"{name} is no JSON")

    return json.loads(run(capsys, *arguments, "--json", code=code), parse_constant=refuse)


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


def answered(monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    """A terminal at which somebody types this."""
    terminal = io.StringIO(answer)
    monkeypatch.setattr(terminal, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys, "stdin", terminal)


def test_clear_names_the_directory_that_it_clears(
    capsys: pytest.CaptureFixture[str], cache: EngineCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    open_cache(other).put(key("c"), entry(key("c")))
    answered(monkeypatch, "y\n")
    assert main(["cache", "clear", "--dir", str(other), "--dir", str(cache.dirs[0])]) == 0
    assert capsys.readouterr().err == f"Remove 1 entries from {other}? [y/N] "
    assert len(cache.entries()) == 2


def test_clear_asks(capsys: pytest.CaptureFixture[str], cache: EngineCache, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "--yes" in fail(capsys, "clear")
    for answer in ("n\n", ""):
        answered(monkeypatch, answer)
        assert main(["cache", "clear", "--json"]) == 1
        assert capsys.readouterr() == ("", f"Remove 2 entries from {cache.dirs[0]}? [y/N] ")
    assert len(cache.entries()) == 2
    answered(monkeypatch, "y\n")
    assert run_json(capsys, "clear")["entries"] == 3
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


def test_diff_shows_where_long_values_differ(capsys: pytest.CaptureFixture[str], cache: EngineCache) -> None:
    keys = [key(f"long {last}") for last in (1, 2)]
    for last, one in zip((1, 2), keys, strict=True):
        cache.put(one, Entry(one.digest, {"parts": {"long": [*range(100), last]}}, b""))
    (row,) = run(capsys, "diff", keys[0].digest, keys[1].digest, code=1).splitlines()
    assert row == "long\t…3,94,95,96,97,98,99,1]\t…3,94,95,96,97,98,99,2]"


@pytest.mark.parametrize(
    "damage", ['"created":NaN', '"created":1e300', '"created":Infinity', '"created":' + "9" * 400, '"created":-1e18']
)
def test_one_bad_header_hides_no_entry(capsys: pytest.CaptureFixture[str], cache: EngineCache, damage: str) -> None:
    """Listings do not verify what they list."""
    header = '{"build_seconds":1e999,"mode":"\\u001b[31m\\n\\ud800","flavour":["x"]}'
    text = f'{{{damage},"header":{header},"key":"{key("c").digest}","plan_bytes":0}}'.encode()
    data = MAGIC + struct.pack("<II", 1, len(text)) + text
    plant(cache.dirs[0], key("c"), data + hashlib.sha256(data).digest())
    rows = [line.split("\t") for line in run(capsys, "ls").splitlines()]
    assert {row[0] for row in rows} == {one.digest[:12] for one in (A[0], B[0], key("c"))}
    (bad,) = (row for row in rows if row[0] == key("c").digest[:12])
    assert (bad[1], bad[4], bad[5]) == ("?", "", "x, \\x1b[31m\\n\\ud800")
    assert len(run_json(capsys, "ls")) == 3
    entry_file(cache.dirs[0], key("c")).unlink()


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
    assert "directory" in fail(capsys, "pack", "") and "directory" in fail(capsys, "unpack", "")


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


PRINTS = (
    "import sys; from trt_stripped_backend.cli import completion, main; "
    "completion._run = lambda arguments: print('größer ' * {count}) or sys.stdout.isatty(); "
    "sys.exit(main(['completion', 'bash']))"
)


@pytest.mark.parametrize("count", [1, 10_000])
def test_output_that_cannot_be_written(count: int) -> None:
    command = [sys.executable, "-c", PRINTS.format(count=count)]
    reading, writing = os.pipe()
    os.close(reading)
    gone = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert (gone.returncode, gone.stderr) == (0, "")
    with Path("/dev/full").open("w") as device:
        full = subprocess.run(command, stdout=device, stderr=subprocess.PIPE, text=True, check=False)
    assert full.returncode == 2 and full.stderr.startswith("trt-stripped: ") and len(full.stderr.splitlines()) == 1
    closed = subprocess.run(["sh", "-c", 'exec "$@" >&-', "sh", *command], capture_output=True, text=True, check=False)
    assert (closed.returncode, closed.stderr) == (0, "")


def test_characters_that_the_output_lacks() -> None:
    command = [sys.executable, "-c", PRINTS.format(count=1)]
    done = subprocess.run(command, capture_output=True, check=True, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert done.stdout == b"gr\\xf6\\xdfer \n"


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0 and capsys.readouterr().out == f"trt-stripped {__version__}\n"


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
