"""``export``: real plans, a file without weights, and right results with any weights; engines are emulated."""

from __future__ import annotations

import copy
import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree

import trt_stripped_backend as ts
from tests.emulated_programs import Pool, engines
from tests.graphs import TwoEngines, perturb
from trt_stripped_backend import flavour
from trt_stripped_backend.errors import BadEntry, BuildFailed, OptionError, RefitFailed
from trt_stripped_backend.programs import program as program_module

__all__ = ["engines"]  # a fixture

OPTIONS = {"min_block_size": 1}
X = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))
MODES = ["bound", "general"]


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    ts.clear_stats()
    yield
    ts.clear_stats()


class Stored(dict[str, Path]):
    """One program for each mode, on disk, exported when first asked for; none of its weights exist."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def __missing__(self, mode: str) -> Path:
        with torch.device("meta"):
            model, x = TwoEngines().eval(), torch.empty(2, 3, 6, 6)
        path = self.folder / mode
        ts.export(model, (x,), options={**OPTIONS, "refit_mode": mode, "cache": False}).save(path)
        return self.setdefault(mode, path)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Stored:
    return Stored(tmp_path_factory.mktemp("programs"))


def close(have: Any, want: Any) -> None:
    """Compares trees of results, every tensor by value."""
    mine, tree = pytree.tree_flatten(have)
    theirs, other = pytree.tree_flatten(want)
    assert tree == other
    for a, b in zip(mine, theirs, strict=True):
        if isinstance(b, torch.Tensor):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5, check_stride=True)
        else:
            assert type(a) is type(b)
            assert a == b


# ------------------------------------------------------------------------------------------------ weights


@pytest.mark.parametrize("mode", MODES)
@torch.no_grad()
def test_two_state_dicts_one_file(mode: str, stored: dict[str, Path], engines: dict[str, Pool]) -> None:
    loaded = ts.StrippedProgram.load(stored[mode])
    models = [perturb(TwoEngines(), seed=seed) for seed in range(2)]
    calls = [loaded.refit(model.state_dict()) for model in models]
    assert not torch.allclose(models[0](X), models[1](X), rtol=1e-2, atol=1e-2)
    for _ in range(2):
        for model, call in zip(models, calls, strict=True):
            close(call(X), model(X))
    assert len(engines) == 2
    copies = 0 if mode == "bound" else 2  # of the weights, one for each set
    assert [len(pool.engines) for pool in engines.values()] == [copies, copies]
    assert all(pool.loads for pool in engines.values()), "engines are loaded before the first call"


@pytest.mark.parametrize("mode", MODES)
@torch.no_grad()
def test_a_module_stays_live(mode: str, stored: dict[str, Path], engines: dict[str, Pool]) -> None:
    model, other = perturb(TwoEngines()), perturb(TwoEngines(), seed=1)
    call = ts.StrippedProgram.load(stored[mode]).refit(model)
    close(call(X), model(X))
    changes: list[Callable[[], Any]] = [
        lambda: [p.mul_(1.2) for p in model.parameters()],
        lambda: model.load_state_dict(other.state_dict()),
        lambda: [setattr(p, "data", p.data * 0.8) for p in model.parameters()],
        lambda: model.load_state_dict({k: v * 0.7 for k, v in other.state_dict().items()}, assign=True),
        lambda: setattr(model, "head", perturb(nn.Linear(4, 5), seed=5)),
        lambda: setattr(model, "a", nn.Parameter(torch.ones(4, 2))),
        lambda: model.norm.running_mean.sub_(3),
    ]
    for change in changes:
        stale = model(X)
        change()
        assert not torch.allclose(stale, model(X), rtol=1e-3, atol=1e-3), "the change must show"
        close(call(X), model(X))
    assert len(engines) == 2


@torch.no_grad()
def test_what_the_module_lost_is_told(stored: dict[str, Path], engines: dict[str, Pool]) -> None:
    model = perturb(TwoEngines())
    call = ts.StrippedProgram.load(stored["bound"]).refit(model)
    model.head.weight.data = model.head.weight.data.half()
    with pytest.raises(RefitFailed, match=r"head\.weight is float16\[5, 4\]"):
        call(X)
    del model.head
    with pytest.raises(RefitFailed, match="has lost a part"):
        call(X)


def test_everything_wrong_with_the_weights_is_told_at_once(stored: dict[str, Path], engines: dict[str, Pool]) -> None:
    loaded = ts.StrippedProgram.load(stored["bound"])
    state = perturb(TwoEngines()).state_dict()
    state["a"] = state["a"].half()
    state["heed.bias"] = state.pop("head.bias")
    state["norm.weight"] = torch.zeros(7)
    with pytest.raises(RefitFailed) as raised:
        loaded.refit(state)
    assert str(raised.value).splitlines() == [
        "these weights are not the exported model's:",
        "  a is float16[4, 2]; the program takes float32[4, 2]",
        "  norm.weight is float32[7]; the program takes float32[4]",
        "  missing: head.bias (float32[5])",
        "  unexpected: heed.bias; did you mean head.bias?",
    ]
    with pytest.raises(RefitFailed, match=r"missing: conv\.weight") as raised:
        loaded.refit(nn.Linear(2, 2))
    assert "unexpected" not in str(raised.value), "a module may have more than a program needs"
    with pytest.raises(RefitFailed, match="not a list"):
        loaded.refit([state])  # type: ignore[arg-type]


@torch.no_grad()
def test_weights_from_a_file(stored: dict[str, Path], engines: dict[str, Pool], tmp_path: Path) -> None:
    from safetensors.torch import save_file

    model = perturb(TwoEngines(), seed=2)
    loaded = ts.StrippedProgram.load(stored["bound"])
    path = tmp_path / "model.safetensors"
    save_file(model.state_dict(), path)
    close(loaded.refit(path)(X), model(X))
    close(loaded.refit(str(path))(X), model(X))
    save_file({**model.state_dict(), "more": torch.zeros(1)}, path)
    with pytest.raises(RefitFailed, match="unexpected: more"):
        loaded.refit(path)
    path.write_bytes(b"nonsense")
    with pytest.raises(RefitFailed, match="cannot be read as safetensors"):
        loaded.refit(path)
    with pytest.raises(RefitFailed, match=r"model\.pt is not a \.safetensors file"):
        loaded.refit(tmp_path / "model.pt")


def test_safetensors_is_optional(
    stored: dict[str, Path], engines: dict[str, Pool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(ts.TRTStrippedError, match=r"pip install 'trt_stripped_backend\[safetensors\]'"):
        ts.StrippedProgram.load(stored["bound"]).refit("model.safetensors")


def test_a_program_has_no_weights_and_no_device(stored: dict[str, Path]) -> None:
    loaded = ts.StrippedProgram.load(stored["bound"])
    with pytest.raises(RefitFailed, match="has no weights: call what"):
        loaded(X)
    with pytest.raises(RefitFailed, match="no CUDA device is available"):
        loaded.refit(perturb(TwoEngines()).state_dict())


def test_no_weight_is_in_the_file(tmp_path: Path) -> None:
    model = perturb(TwoEngines())
    one, two = (tmp_path / name for name in ("one", "two"))
    ts.export(model, (X,), options=OPTIONS).save(one)
    for value in model.state_dict().values():
        raw = value.numpy().tobytes()
        assert len(raw) <= 8 or raw not in one.read_bytes()
    ts.export(perturb(TwoEngines(), seed=1), (X,), options=OPTIONS).save(two)
    blobs = [ts.StrippedProgram.load(path)._blobs for path in (one, two)]
    plans = [{name: blob for name, blob in b.items() if name.startswith("plan/")} for b in blobs]
    assert plans[0] == plans[1]
    assert len(plans[0]) == 2
    assert ts.stats()["builds"] == 2, "the second export finds the first one's engines"
    assert str(Path(__file__).parent).encode() not in one.read_bytes(), "nor where the model's source lies"


# ------------------------------------------------------------------------------------------------ options


@pytest.mark.parametrize("mode", ["identical", "immutable"])
def test_modes_that_need_values(mode: str) -> None:
    for function in (ts.export, ts.strip_engine):
        with pytest.raises(OptionError, match="needs the weights' values; use bound or general"):
            function(TwoEngines(), (X,), options={"refit_mode": mode})


@torch.no_grad()
def test_require_full_and_a_program_without_engines(
    engines: dict[str, Pool], monkeypatch: pytest.MonkeyPatch
) -> None:
    from trt_stripped_backend import report

    monkeypatch.setattr(report, "_warned", set())
    model = nn.Linear(4, 4).double()
    with pytest.raises(BuildFailed, match="float64 stays in PyTorch"):
        ts.export(model, (torch.zeros(2, 4).double(),), options={"require_full": True})
    with pytest.warns(UserWarning, match="has no engine and runs in PyTorch"):
        exported = ts.export(model, (torch.zeros(2, 4).double(),))
    assert exported.engines == []
    assert "float64" in str(exported.report["rejections"])
    x = torch.randn(2, 4).double()
    close(exported.refit(model.state_dict())(x), model(x))


def test_what_export_takes() -> None:
    traced = torch.export.export(nn.ReLU(), (X,))
    with pytest.raises(ts.TRTStrippedError, match="has its arguments already"):
        ts.export(traced, (X,))
    with pytest.raises(ts.TRTStrippedError, match="not a function"):
        ts.export(lambda x: x, (X,))  # type: ignore[arg-type]


def test_options_of_the_export_stay(stored: dict[str, Path]) -> None:
    loaded = ts.StrippedProgram.load(stored["general"], options={"verify": True, "refit_mode": "general"})
    assert (loaded._options.refit_mode, loaded._options.verify) == ("general", True)
    assert ts.StrippedProgram.load(stored["general"], options=ts.Options(verify=True))._options.verify
    with pytest.raises(OptionError, match="refit_mode='bound': the program was exported with 'general': export again"):
        ts.StrippedProgram.load(stored["general"], options={"refit_mode": "bound"})
    with pytest.raises(OptionError, match="exported with 'general'"):
        ts.StrippedProgram.load(stored["general"], options=ts.Options(refit_mode="bound"))
    with pytest.raises(OptionError, match="did you mean 'verify'"):
        ts.StrippedProgram.load(stored["general"], options={"verfy": True})


def test_a_variable_does_not_change_the_mode(stored: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRT_STRIPPED_REFIT_MODE", "general")
    assert ts.StrippedProgram.load(stored["bound"])._options.refit_mode == "bound"


# ------------------------------------------------------------------------------------------------ other machines


def changed(path: Path, **content: Any) -> ts.StrippedProgram:
    """A stored program that says something else of where it was exported."""
    loaded = ts.StrippedProgram.load(path)
    return ts.StrippedProgram({**loaded._content, **content}, loaded._blobs)


def test_another_version(stored: dict[str, Path], engines: dict[str, Pool]) -> None:
    own = flavour.load()
    message = f"was exported for {own.name} 1.2.3, and this process has {own}, which .* export again with {own}"
    with pytest.raises(RefitFailed, match=message):
        changed(stored["bound"], flavour=[own.name, "1.2.3"]).refit(TwoEngines())


def test_another_flavour(stored: dict[str, Path], engines: dict[str, Pool]) -> None:
    other = "tensorrt" if flavour.load().is_rtx else "tensorrt_rtx"
    with pytest.raises(RefitFailed, match=f"was exported for {other} 10.3, and this process has {flavour.load()}"):
        changed(stored["bound"], flavour=[other, "10.3"]).refit(TwoEngines())


def test_another_machine(stored: dict[str, Path], engines: dict[str, Pool]) -> None:
    with pytest.raises(RefitFailed, match=r"was exported on plan9 mips and this is .*: export again here"):
        changed(stored["bound"], host=["plan9", "mips"]).refit(TwoEngines())


def test_another_gpu(stored: dict[str, Path], engines: dict[str, Pool], monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclasses.dataclass
    class Properties:
        name: str = "Here"
        major: int = 9
        minor: int = 0

    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Properties())
    message = r"exported for There \(compute capability 8.6\), and this is Here \(compute capability 9.0\)"
    with pytest.raises(RefitFailed, match=message):
        changed(stored["bound"], device=["There", 8, 6]).refit(perturb(TwoEngines()))
    changed(stored["bound"], device=["Here", 9, 0]).refit(perturb(TwoEngines()))
    changed(stored["bound"], device="ampere+").refit(perturb(TwoEngines()))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Properties("T4", 7, 5))
    with pytest.raises(RefitFailed, match=r"for GPUs since Ampere, and this is T4 \(compute capability 7\.5\)"):
        changed(stored["bound"], device="ampere+").refit(perturb(TwoEngines()))


def test_tf32_that_was_settled_otherwise(
    stored: dict[str, Path], engines: dict[str, Pool], monkeypatch: pytest.MonkeyPatch
) -> None:
    program_module.settlement.made(True)
    with pytest.raises(RefitFailed, match="cannot run in this process: its float32 products may not round to TF32"):
        ts.StrippedProgram.load(stored["bound"]).refit(perturb(TwoEngines()))


def test_an_engine_for_another_graph(stored: dict[str, Path], engines: dict[str, Pool]) -> None:
    """Plans and graphs of one file belong together, whatever version of the package planned them."""
    content = copy.deepcopy(ts.StrippedProgram.load(stored["bound"])._content)
    for break_it in (
        lambda one: one["header"]["digests"].update(graph="0" * 64),
        lambda one: one.update(nodes=["nothing"]),
        lambda one: one.update(nodes=one["nodes"][:-1]),
    ):
        engines_now = copy.deepcopy(content["engines"])
        break_it(engines_now[0])
        with pytest.raises(BadEntry, match="its graph is not the same here: export again"):
            changed(stored["bound"], engines=engines_now).refit(perturb(TwoEngines()))


def test_the_pytorch_part_of_another_version(stored: dict[str, Path], engines: dict[str, Pool]) -> None:
    loaded = ts.StrippedProgram.load(stored["bound"])
    loaded._blobs["program"] = b"not what torch.export.save writes"
    with pytest.raises(BadEntry, match=f"torch {torch.__version__.split('+')[0]}.* cannot read the PyTorch part"):
        loaded.refit(perturb(TwoEngines()))


def test_a_fresh_process_reads_the_file(stored: dict[str, Path], tmp_path: Path) -> None:
    code = (
        "import sys, trt_stripped_backend as ts; program = ts.StrippedProgram.load(sys.argv[1]);"
        "assert 'tensorrt' not in ' '.join(sys.modules), 'looking at a file needs no TensorRT';"
        "print(program, [s['name'] for e in program.engines for s in e['slots']])"
    )
    run = [sys.executable, "-c", code, str(stored["bound"])]
    out = subprocess.run(run, capture_output=True, text=True, check=False, env=dict(os.environ))
    assert out.returncode == 0, out.stderr
    assert "2 engine(s)" in out.stdout
    assert "'w0'" in out.stdout
