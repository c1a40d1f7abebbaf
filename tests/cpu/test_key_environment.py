"""Everything around the graph that decides a plan is in its key: versions, device, options, sources."""

from __future__ import annotations

import dataclasses
import shutil
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from packaging.version import Version
from torch import fx

import trt_stripped_backend as ts
from trt_stripped_backend import compilation, key
from trt_stripped_backend.compilation import Compilation
from trt_stripped_backend.errors import Unsupported
from trt_stripped_backend.flavour import Flavour
from trt_stripped_backend.key import canonical, environment, make_key
from trt_stripped_backend.options import IN_KEY, Options
from trt_stripped_backend.types import Json, Partition


def env(**changes: Any) -> str:
    given = {
        "flavour": ("tensorrt", "10.13.3"),
        "device": ["NVIDIA H200", 9, 0],
        "mode": "general",
        "options": Options.of({}).in_key("tensorrt"),
        "tf32": False,
        "half_sums": False,
        **changes,
    }
    return make_key({"graph": [], **environment(**given)}).digest


def test_every_part_of_the_environment_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = [
        env(),
        env(flavour=("tensorrt_rtx", "10.13.3")),
        env(flavour=("tensorrt", "10.13.4")),
        env(device=["NVIDIA H100", 9, 0]),
        env(device=["NVIDIA H200", 9, 1]),
        env(device="portable"),
        env(mode="bound"),
        env(tf32=True),
        env(half_sums=True),
    ]
    monkeypatch.setattr(key, "host", lambda: ["win32", "AMD64"])
    keys.append(env())
    monkeypatch.setattr(key, "source_digest", lambda: "0" * 64)
    keys.append(env())
    monkeypatch.setattr(key, "FORMAT", key.FORMAT + 1)
    keys.append(env())
    assert len(set(keys)) == len(keys)


OTHERS: dict[str, Any] = {
    "refit_mode": "general", "flavour": "tensorrt_rtx", "min_block_size": 2, "torch_executed_ops": ["aten.relu"],
    "allow_ops": ["aten.cumsum"], "require_full": True, "verify": True, "workspace_size": 1 << 20,
    "optimization_level": 1, "max_aux_streams": 0, "hardware_compatible": True, "version_compatible": True,
    "cache": False, "cache_dir": "/elsewhere", "cache_size": 5, "lock_timeout": 1, "cache_errors": "raise",
    "max_weight_sets": 1, "max_weight_bytes": 1 << 30, "dynamic_range": (1, 64), "progress": True,
    "build": "background", "dedupe_layers": True, "cuda_graphs": True, "embed_engines": True, "cache_traces": False,
}  # fmt: skip


@pytest.mark.parametrize("option", dataclasses.fields(Options), ids=lambda option: option.name)
@pytest.mark.parametrize("flavour", ["tensorrt", "tensorrt_rtx"])
def test_options(option: dataclasses.Field[Any], flavour: str) -> None:
    default, other = Options.of({"cache_dir": "/here"}), Options.of({option.name: OTHERS[option.name]})
    assert getattr(default, option.name) != getattr(other, option.name)
    decides = flavour in IN_KEY.get(option.metadata["key"], ())
    decides &= option.name != "refit_mode"  # the mode that it became is a part
    assert (env(options=default.in_key(flavour)) != env(options=other.in_key(flavour))) is decides


def test_a_hardware_compatible_plan_is_for_many_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.SimpleNamespace(BuilderFlag=types.SimpleNamespace(REFIT_INDIVIDUAL=1))
    full = Flavour("tensorrt", Version("10.13"), module)

    def targets(**options: bool) -> list[Json]:
        found = []
        for gpu in (("NVIDIA T4", 7, 5), ("NVIDIA A100", 8, 0), ("NVIDIA H200", 9, 0)):
            properties = types.SimpleNamespace(**dict(zip(("name", "major", "minor"), gpu, strict=True)))
            monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _, found=properties: found)
            found.append(Compilation.of(Options.of(options), full, torch.device("cuda", 0)).target())
        return found

    assert targets() == [["NVIDIA T4", 7, 5], ["NVIDIA A100", 8, 0], ["NVIDIA H200", 9, 0]]
    assert targets(hardware_compatible=True) == [["NVIDIA T4", 7, 5], "ampere+", "ampere+"]


def test_sums_in_float16_matter_where_there_is_float16(monkeypatch: pytest.MonkeyPatch) -> None:
    def keys(dtype: torch.dtype) -> set[str]:
        found = set()
        for allowed in (False, True):
            monkeypatch.setattr(compilation, "half_sums_allowed", lambda allowed=allowed: allowed)
            report = ts.explain(torch.mm, *[torch.ones(4, 4, dtype=dtype)] * 2, options={"min_block_size": 1})
            found |= {one.key for one in report.partitions}
        return found

    assert len(keys(torch.float32)) == len(keys(torch.bfloat16)) == 1
    assert len(keys(torch.float16)) == 2


def test_source_of_the_converters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = Path(key.__file__).parent
    shutil.copytree(package, tmp_path / "copy", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(key, "__file__", str(tmp_path / "copy" / "key.py"))
    digest = key.source_digest.__wrapped__
    seen = {digest()}
    assert seen == {key.source_digest()}
    files = ("ops/conv.py", "ops/net.py", "build.py", "flavour.py", "key.py", "precision.py", "profile.py", "types.py")
    for name in files:
        file = tmp_path / "copy" / name
        file.write_bytes(file.read_bytes() + b"\n")
        seen.add(digest())
    (tmp_path / "copy" / "ops" / "another.py").write_text("")
    seen.add(digest())
    assert len(seen) == len(files) + 2
    (tmp_path / "copy" / "backend.py").write_text("")
    assert digest() in seen


def test_parts_do_not_run_into_each_other() -> None:
    parts: list[dict[str, Json]] = [{"a": "bc"}, {"ab": "c"}, {"a": ["b", "c"]}, {"a": {"b": "c"}}]
    parts += [{"a": "b", "c": None}]
    parts += [{"a": one} for one in (1, True, "1", 1.5, None, [1], [[1]])]
    assert len({make_key(part).digest for part in parts}) == len(parts)
    assert make_key({"a": 1, "b": 2}).digest == make_key({"b": 2, "a": 1}).digest
    with pytest.raises(ValueError, match="JSON"):
        make_key({"a": float("nan")})


def test_unknown_arguments_are_refused() -> None:
    graph = fx.Graph()
    x = graph.placeholder("x")
    x.meta["val"] = torch.empty(4)
    node = graph.call_function(torch.ops.aten.mul.Scalar, (x, 1j))
    node.meta["val"] = torch.empty(4)
    graph.output((node,))
    with pytest.raises(Unsupported, match="complex"):
        canonical(Partition("engine_0", fx.GraphModule({}, graph), frozenset(), 1))
