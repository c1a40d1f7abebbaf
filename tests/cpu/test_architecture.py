"""What the layout promises: imports point one way, TensorRT is imported late, and by few."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import trt_stripped_backend

PACKAGE = Path(next(iter(trt_stripped_backend.__path__)))

#: Stages, each importing only what stands before it. A name stands for a module or a folder.
STAGES = (
    "errors", "sizes", "types", "options", "flavour", "progress", "precision", "fingerprint", "watch", "inplace",
    "origin", "decompositions", "lowering", "kernel_layout", "weights", "placement", "driver",
    "streams", "cudagraph", "derived", "renewal", "weightset", "live", "ops", "reasons", "expanded", "unrolled",
    "repeats", "cut", "partition", "pieces", "bisection", "key", "profile", "portable", "cache", "megacache",
    "unbuilt", "build", "refit", "context", "graphs", "threads", "run", "verify", "view", "report",
    "compilation", "artifact", "traces", "background", "enginecall", "backend", "variant", "layouts", "tracing",
    "programs", "api", "cli", "__init__",
)  # fmt: skip
#: Converters stand on these and on each other.
OPS_BASE = ("registry", "reach", "turns", "fused", "network", "shapes", "reductions", "arithmetic", "products", "net")
#: The only ones that may name TensorRT.
TENSORRT = {"flavour", "progress", "ops", "build", "refit", "context"}

MODULES = {path.relative_to(PACKAGE).with_suffix("").parts: path for path in sorted(PACKAGE.rglob("*.py"))}


def stage(parts: tuple[str, ...]) -> str:
    return parts[0]


def imports(parts: tuple[str, ...], *, typing: bool = False) -> set[tuple[str, ...]]:
    """The package's own modules that a module imports, anywhere in its text; ``if TYPE_CHECKING`` only if asked."""
    folder = parts[:-1]
    found: set[tuple[str, ...]] = set()
    stack: list[ast.AST] = [ast.parse(MODULES[parts].read_text())]
    while stack:
        node = stack.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING" and not typing:
            stack.extend(node.orelse)
            continue
        stack.extend(ast.iter_child_nodes(node))
        if isinstance(node, ast.ImportFrom):
            base = folder[: len(folder) + 1 - node.level] if node.level else ()
            if not node.level and not (node.module or "").startswith("trt_stripped_backend"):
                continue
            tail = tuple((node.module or "").removeprefix("trt_stripped_backend").strip(".").split("."))
            target = (*base, *(t for t in tail if t))
            names = [(*target, alias.name) for alias in node.names]
            found.update(name if is_module(name) else target for name in names)
    return {target for target in found if target}


def is_module(parts: tuple[str, ...]) -> bool:
    return parts in MODULES or (*parts, "__init__") in MODULES


@pytest.mark.parametrize("parts", MODULES, ids=".".join)
def test_imports_point_one_way(parts: tuple[str, ...]) -> None:
    own = stage(parts)
    assert own in STAGES, f"{own} has no place in the list of stages"
    for target in imports(parts):
        other = stage(target)
        assert other in STAGES, f"{other} has no place in the list of stages"
        if own != other:
            assert STAGES.index(other) < STAGES.index(own), f"{'.'.join(parts)} imports {'.'.join(target)}"
    if own == "ops" and parts[-1] in OPS_BASE:
        allowed = {("ops", name) for name in OPS_BASE[: OPS_BASE.index(parts[-1])]}
        assert {t for t in imports(parts) if stage(t) == "ops"} <= allowed


def test_the_layout_is_told_in_order() -> None:
    """CONTRIBUTING.md lists the stages, and each exists."""
    text = (PACKAGE.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `([\w/*]+?)(?:\.py|/)?` \|", text, re.MULTILINE)
    assert list(dict.fromkeys(name.partition("/")[0] for name in listed)) == [s for s in STAGES if s != "__init__"]
    assert {stage(parts) for parts in MODULES} == set(STAGES)


def test_no_cycles_inside_a_folder() -> None:
    graph = {parts: {t if t in MODULES else (*t, "__init__") for t in imports(parts)} - {parts} for parts in MODULES}
    done: set[tuple[str, ...]] = set()
    while ready := [p for p in graph if p not in done and not (graph[p] & graph.keys()) - done]:
        done.update(ready)
    assert not graph.keys() - done, f"a cycle among {sorted('.'.join(p) for p in graph.keys() - done)}"


@pytest.mark.parametrize("parts", MODULES, ids=".".join)
def test_only_few_name_tensorrt(parts: tuple[str, ...]) -> None:
    tree = ast.parse(MODULES[parts].read_text())
    absolute = {
        name.split(".")[0]
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom) and not node.level
            else []
        )
    }
    named = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    assert not {name for name in absolute if name.startswith("tensorrt")}, "TensorRT is found by flavour alone"
    assert "trt" not in named or stage(parts) in TENSORRT


@pytest.mark.parametrize("parts", [p for p in MODULES if stage(p) in TENSORRT], ids=".".join)
def test_no_enum_is_read_at_import(parts: tuple[str, ...]) -> None:
    """``trt.X`` at module level would import TensorRT with the module."""
    stack: list[ast.AST] = [ast.parse(MODULES[parts].read_text())]
    while stack:
        node = stack.pop()
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            assert node.value.id != "trt", f"{'.'.join(parts)}:{node.lineno} reads trt.{node.attr} at import"
        if isinstance(node, (ast.FunctionDef, ast.Lambda)):
            outer = [*node.args.defaults, *node.args.kw_defaults, *getattr(node, "decorator_list", [])]
            stack.extend(n for n in outer if n is not None)
        else:
            stack.extend(ast.iter_child_nodes(node))


def run_python(code: str) -> set[str]:
    """The top-level modules that a fresh interpreter has imported after ``code``."""
    script = f"import sys\n{code}\nprint(*sorted({{m.partition('.')[0] for m in sys.modules}}))"
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=PACKAGE.parent)
    return set(out.stdout.split())


def tensorrt(modules: set[str]) -> set[str]:
    return {m for m in modules if m.startswith("tensorrt")}


def test_importing_the_package_imports_neither_torch_nor_tensorrt() -> None:
    modules = run_python("import trt_stripped_backend; trt_stripped_backend.__version__")
    assert "torch" not in modules
    assert not tensorrt(modules)


def test_importing_torch_does_not_import_us() -> None:
    modules = run_python("import torch, torch._dynamo; torch._dynamo.list_backends()")
    assert "trt_stripped_backend" not in modules


def test_options_are_read_without_tensorrt() -> None:
    modules = run_python("import trt_stripped_backend.options as o; o.Options.of({'refit_mode': 'bound'}); o.table()")
    assert not tensorrt(modules)
    assert "torch" not in modules


def test_everything_before_the_build_works_without_tensorrt() -> None:
    assert not tensorrt(
        run_python("import trt_stripped_backend.backend, trt_stripped_backend.ops.library as o; o.all_ops()")
    )


def test_files_are_short() -> None:
    files = [*PACKAGE.rglob("*.py"), *Path(__file__).parents[1].rglob("*.py")]
    lengths = {str(path): len(path.read_text().splitlines()) for path in files}
    assert not {name: length for name, length in lengths.items() if length > 400}
