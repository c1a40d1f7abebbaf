"""Builds sdist and wheel, and tries the wheel in an empty environment that has what it declares to need, and no more.

python -m tests.tools.dist [DIR]      where they go; dist/ if not given

What the wheel needs is linked into the environment from this one, so nothing is downloaded but the build backend. No
TensorRT is there: the backend must be found and say so.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
IN_WHEEL = ("py.typed", "view/page.html", "view/page.css", "view/page.js", "cli/__main__.py", "ops/attention.py")
IN_SDIST = ("pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "mkdocs.yml", "Makefile", "docs/operators.md",
            "examples/quickstart.py", "tests/conftest.py", "trt_stripped_backend/py.typed")  # fmt: skip
SCRIPT = """
import sys, warnings
import torch, torch._dynamo
assert "trt_stripped" in torch._dynamo.list_backends()
assert not [name for name in sys.modules if name.startswith("trt_stripped")], "import torch imports us"
model, x = torch.nn.Linear(4, 5), torch.randn(2, 4)
with warnings.catch_warnings(record=True) as said, torch.no_grad():
    warnings.simplefilter("always")
    assert torch.equal(torch.compile(model, backend="trt_stripped")(x), model(x))
assert any("trt_stripped: the model runs in PyTorch" in str(one.message) for one in said), [str(one) for one in said]
import trt_stripped_backend
report = trt_stripped_backend.explain(model, x)
assert "TensorRT is not installed" in str(report) and "<svg" not in report.to_html()
assert trt_stripped_backend.__version__ == sys.argv[1], trt_stripped_backend.__version__
assert sys.prefix in trt_stripped_backend.__file__, trt_stripped_backend.__file__
"""


def build(folder: Path) -> tuple[Path, Path]:
    """Sdist and wheel.

    Raises:
        AssertionError: one of them lacks a file, or holds what it should not.
    """
    subprocess.run([sys.executable, "-m", "build", "--outdir", str(folder), str(ROOT)], check=True, capture_output=True)
    sdist, wheel = (max(folder.glob(kind), key=lambda path: path.stat().st_mtime) for kind in ("*.tar.gz", "*.whl"))
    with zipfile.ZipFile(wheel) as file:
        names = set(file.namelist())
    missing = [name for name in IN_WHEEL if f"trt_stripped_backend/{name}" not in names]
    foreign = [name for name in names if not name.startswith("trt_stripped_backend")]
    assert not missing and not foreign, f"{wheel.name}: lacks {missing}, holds {foreign}"
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    missing = [name for name in IN_SDIST if name not in names]
    foreign = [name for name in names if name.startswith((".venv", "dist", "site/")) or "__pycache__" in name]
    assert not missing and not foreign, f"{sdist.name}: lacks {missing}, holds {foreign}"
    return sdist, wheel


def needed(wheel: Path) -> dict[str, metadata.Distribution]:
    """What a wheel declares to need without extras, and what that needs."""
    with zipfile.ZipFile(wheel) as file:
        name = next(name for name in file.namelist() if name.endswith(".dist-info/METADATA"))
        fields = file.read(name).decode().partition("\n\n")[0].splitlines()
    asked = [line.partition(": ")[2] for line in fields if line.startswith("Requires-Dist: ")]
    found: dict[str, metadata.Distribution] = {}
    while asked:
        requirement = Requirement(asked.pop())
        if requirement.name in found or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        found[requirement.name] = metadata.distribution(requirement.name)
        asked += found[requirement.name].requires or []
    return found


def install(wheel: Path, folder: Path) -> Path:
    """An environment with the wheel; its folder of scripts."""
    venv.create(folder, symlinks=True)
    scripts = folder / ("Scripts" if sys.platform == "win32" else "bin")
    site = next(folder.glob("[Ll]ib/**/site-packages"))
    for distribution in needed(wheel).values():
        for top in {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}:
            target = site / top
            if not target.exists():
                target.symlink_to(Path(str(distribution.locate_file(top))))
    pip = [sys.executable, "-m", "pip", "--python", str(scripts / "python"), "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "install", "--no-deps", "--no-index", str(wheel)], check=True)
    return scripts


def main(arguments: list[str]) -> int:
    sdist, wheel = build(Path(arguments[0]) if arguments else ROOT / "dist")
    with tempfile.TemporaryDirectory() as folder:
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "TRT_STRIPPED_"))}
        clean["TRT_STRIPPED_CACHE_DIR"] = str(Path(folder) / "cache")
        scripts = install(wheel, Path(folder) / "environment")

        def run(code: int, *command: str) -> str:
            command = (str(scripts / command[0]), *command[1:])
            done = subprocess.run(command, cwd=folder, env=clean, capture_output=True, text=True)
            assert done.returncode == code, f"{command} gave {done.returncode}:\n{done.stdout}{done.stderr}"
            return done.stdout

        run(0, "python", "-c", SCRIPT, wheel.name.split("-")[1])
        assert "COMMAND" in run(0, "trt-stripped", "--help")
        assert "gelu" in run(0, "trt-stripped", "ops", "--grep", "gelu")
        assert "TensorRT is not installed" in run(1, "trt-stripped", "env")
        run(2, "trt-stripped", "completion", "bash")
    print(f"{sdist.name} and {wheel.name} are complete; the wheel works in an empty environment")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
