"""``aot_compile``: saved in one process, run by another that traces nothing and holds other weights."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import fx, nn
from torch._dynamo.aot_compile import AOTCompiledFunction
from torch.fx.experimental.proxy_tensor import make_fx

import trt_stripped_backend as ts
from tests.cpu.warm import Run
from tests.emulated import World, emulated
from tests.graphs import TwoEngines, perturb
from tests.saved import X, compiled
from trt_stripped_backend import artifact, backend, portable
from trt_stripped_backend.errors import BadEntry, MissingEngine, TRTStrippedError, Unsupported

ROOT = Path(__file__).parents[2]


def process(start: Run, task: str, file: Path, cache: Path, *options: str) -> dict[str, Any]:
    environment = os.environ | {"TRT_STRIPPED_CACHE_DIR": str(cache), "PYTHONPATH": str(ROOT)}
    done = start(ROOT / "tests" / "saved.py", task, str(file), *options, env=environment, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def test_another_process_runs_it_without_tracing(tmp_path: Path, run_warm: Run) -> None:
    file, cache = tmp_path / "model.aot", tmp_path / "cache"
    saved = process(run_warm, "save", file, cache, "refit_mode=general")
    assert saved["right"]
    assert saved["builds"] == 2
    loaded = process(run_warm, "load", file, cache)
    assert max(loaded["errors"]) < 1e-5
    assert (loaded["graphs"], loaded["builds"]) == (0, 0)
    assert "size mismatch" in loaded["refused"], "torch's own guards are kept"
    assert loaded["refits"] > 0


# ------------------------------------------------------------------------------------------------ in this process


@pytest.fixture
def world() -> Iterator[World]:
    torch._dynamo.reset()
    with emulated() as made, torch.no_grad():
        yield made
    torch._dynamo.reset()


def saved(model: nn.Module, *args: Any, **options: Any) -> bytes:
    made = compiled(model, **options).aot_compile(((model, *args), {}))
    return made._artifacts.compiled_fn.data  # type: ignore[no-any-return]


def test_no_weights_and_no_code_are_saved(world: World) -> None:
    model = perturb(TwoEngines())
    data = saved(model, X)
    text = json.dumps(artifact.opened(data))
    assert "cumsum" in text
    assert "cumsum(1)" not in text, "a line of the user's code"
    assert "graphs.py" not in text
    for tensor in (*model.parameters(), *model.buffers()):
        assert tensor.numel() < 2 or tensor.numpy().tobytes() not in data
        assert tensor.numel() < 2 or json.dumps(portable.dump_tensor(tensor)[3]) not in text


class Literal(nn.Module):
    """A tensor of the graph itself, used in an engine or by an operator that stays in PyTorch."""

    def __init__(self, inside: bool) -> None:
        super().__init__()
        self.inside, self.line = inside, nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.line(x))
        return (y if self.inside else y.cumsum(1).cumprod(0)) * torch.tensor([1.0, 2.0, 3.0, 4.0])


@pytest.mark.parametrize("inside", [True, False])
def test_literals_are_saved(inside: bool, world: World) -> None:
    model, x = perturb(Literal(inside)), torch.randn(3, 4)
    made = compiled(model).aot_compile(((model, x), {}))
    run = AOTCompiledFunction.deserialize(AOTCompiledFunction.serialize(made).serialized_data)
    torch.testing.assert_close(run(model, x), model(x))


def test_directories_keep_their_order() -> None:
    given = {"cache_dir": ["/z/first", "/a/second"], "torch_executed_ops": ["aten.relu", "aten.gelu"], "verify": True}
    kept = artifact._options(ts.Options.of(given))
    assert kept == {**given, "torch_executed_ops": ["aten.gelu", "aten.relu"]}
    assert json.loads(json.dumps(kept)) == kept


class Refused(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.line = kind, nn.Linear(4, 4)
        self.register_buffer("count", torch.zeros(4))

    def forward(self, x: torch.Tensor) -> Any:
        y = torch.relu(self.line(x)) + 1
        if self.kind == "view":
            return y, x.view(-1)
        if self.kind == "mutation":
            return y * self.count.add_(1)
        return y


REFUSED = [
    ("view", {}, "shares memory"), ("plain", {"refit_mode": "identical"}, "refit_mode='identical'"),
    ("plain", {"refit_mode": "immutable"}, "refit_mode='immutable'"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "options", "message"), REFUSED)
def test_what_cannot_be_saved_says_why(kind: str, options: dict[str, Any], message: str, world: World) -> None:
    model = perturb(Refused(kind))
    with pytest.raises(Exception, match="aot_compile: ") as raised:
        saved(model, torch.randn(3, 4), **options)
    assert message in str(raised.value)


def test_buffers_that_the_graph_writes(world: World) -> None:
    """The write is a part of the graph."""
    model, twin, x = perturb(Refused("mutation")), perturb(Refused("mutation")), torch.randn(3, 4)
    made = compiled(model).aot_compile(((model, x), {}))
    run = AOTCompiledFunction.deserialize(AOTCompiledFunction.serialize(made).serialized_data)
    for _ in range(3):
        torch.testing.assert_close(run(model, x), twin(x))
    assert torch.equal(model.count, twin.count)


def test_engines_are_found_by_key_or_embedded(
    world: World, own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, whole = (saved(perturb(TwoEngines()), X, embed_engines=embed) for embed in (False, True))
    keys = {record.key for record in ts.open_cache().entries()}
    world.calls.clear()
    in_use = [backend.Saved.deserialize_compile_artifacts(plain)]
    monkeypatch.setenv("TRT_STRIPPED_CACHE_DIR", str(tmp_path / "elsewhere"))
    backend.Saved.deserialize_compile_artifacts(whole)
    backend.Saved.deserialize_compile_artifacts(plain)
    in_use.clear()
    backend.reset()
    with pytest.raises(MissingEngine) as raised:
        backend.Saved.deserialize_compile_artifacts(plain)
    message = str(raised.value)
    assert f"is not in the cache ({tmp_path / 'elsewhere'})" in message
    assert "embed_engines" in message
    assert any(key in message for key in keys)
    with pytest.raises(BadEntry):
        damaged = artifact.opened(whole)
        damaged["pieces"][0]["entry"] = damaged["pieces"][1]["entry"]
        artifact.restore(artifact.sealed(damaged))
    assert world.calls["build"] == 0


def test_without_a_gpu_there_is_nothing_to_save(monkeypatch: pytest.MonkeyPatch) -> None:
    torch._dynamo.reset()
    model = perturb(Refused("plain"))
    with torch.no_grad(), pytest.raises(TRTStrippedError, match="aot_compile: the graph would run in PyTorch"):
        compiled(model).aot_compile(((model, torch.randn(3, 4)), {}))


def test_gradients_are_refused(world: World) -> None:
    run = backend.Saved.deserialize_compile_artifacts(saved(perturb(TwoEngines()), X))
    with torch.enable_grad(), pytest.raises(TRTStrippedError, match="no gradients"):
        run(nn.Parameter(X), *[X] * 9)


def test_bytes_that_are_not_ours(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = saved(perturb(TwoEngines()), X)
    data = artifact.opened(whole)
    for bad in (b"", b"\x80\x04", b"[1]", b"{}", json.dumps(data).encode(), whole[1:]):
        with pytest.raises(BadEntry, match="not a saved function"):
            artifact.restore(bad)
    with pytest.raises(BadEntry, match="format 99"):
        artifact.restore(artifact.MAGIC + b"\x63" + whole[9:])
    with pytest.raises(TRTStrippedError, match=r"saved with tensorrt_rtx 9\.9"):
        artifact.restore(artifact.sealed(data | {"flavour": "tensorrt_rtx 9.9"}))
    with pytest.raises(TRTStrippedError, match=r"saved for \['win32', 'AMD64'\]; this is \["):
        artifact.restore(artifact.sealed(data | {"host": ["win32", "AMD64"]}))
    with pytest.raises(TRTStrippedError, match=r"saved for \['NVIDIA L4', 8, 9\]; this is portable"):
        artifact.restore(artifact.sealed(data | {"target": ["NVIDIA L4", 8, 9]}))
    with pytest.raises(TRTStrippedError, match="forbids"):
        artifact.restore(artifact.sealed(data | {"tf32": True}))
    data["pieces"][0]["key"] = "0" * 64
    with pytest.raises(MissingEngine, match="0" * 64):
        artifact.restore(artifact.sealed(data))


def test_one_changed_byte_is_seen(world: World) -> None:
    """A digit of a float, or the name of an argument, would be another function."""
    whole = saved(perturb(TwoEngines()), X, embed_engines=True)
    for place in range(0, len(whole), 97):
        changed = bytearray(whole)
        changed[place] ^= 1
        with pytest.raises(BadEntry):
            artifact.restore(bytes(changed))
    with pytest.raises(BadEntry, match="does not match its digest: copy it again"):
        artifact.restore(whole[:-1])


# ------------------------------------------------------------------------------------------------ graphs


def everything(x: torch.Tensor, i: torch.Tensor) -> Any:
    a, b = torch.split(x, [1, 3], 1)
    y = torch.cat([b, a], 1).to(torch.float64).masked_fill(x > 0.25, float("-inf")) + torch.full((2, 4), float("nan"))
    values, places = torch.topk(x, 2, dim=-1)
    z = torch.zeros(2, dtype=torch.int8, device="cpu").contiguous(memory_format=torch.contiguous_format)
    return y, values.index_select(0, i), places, z, x[:, 1:3:2], torch.tensor([1.5, -0.0]), x * (1 + 2**-52)


def test_graphs_come_back_as_they_were() -> None:
    x, i = torch.randn(2, 4), torch.tensor([1, 0])
    graph = make_fx(everything, tracing_mode="fake")(x, i)
    back = portable.load_graph(json.loads(json.dumps(portable.dump_graph(graph))))
    assert [(n.op, n.name, n.target, str(n.args), str(n.kwargs)) for n in graph.graph.nodes] == [
        (n.op, n.name, n.target, str(n.args), str(n.kwargs)) for n in back.graph.nodes
    ]
    for have, want in zip(back(x, i), graph(x, i), strict=True):
        torch.testing.assert_close(have, want, rtol=0, atol=0, equal_nan=True)
    assert [n.meta["val"].shape for n in back.graph.find_nodes(op="placeholder")] == [x.shape, i.shape]


DTYPES = [torch.bool, torch.int64, torch.float16, torch.bfloat16, torch.float64, torch.complex64]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (0, 3), (3, 2)])
def test_literals_by_value(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    value = torch.randn(shape).to(dtype).t() if len(shape) == 2 else torch.randn(shape).to(dtype)
    back = portable.load_tensor(json.loads(json.dumps(portable.dump_tensor(value))))
    assert back.dtype == dtype
    assert torch.equal(back, value)


def test_what_has_no_form_is_refused() -> None:
    graph = fx.Graph()
    x = graph.placeholder("x")
    graph.output(graph.call_function(print, (x,)))
    with pytest.raises(Unsupported, match="print"):
        portable.dump_graph(fx.GraphModule({}, graph))
    data = portable.dump_graph(make_fx(torch.relu)(X))
    data["nodes"][1][2] = "elsewhere::unknown.default"
    with pytest.raises(BadEntry, match="elsewhere::unknown"):
        portable.load_graph(data)


HOSTILE = [
    ["f", "call_function", "import_module::__call__.__call__", ["antigravity"], {}, None],
    ["f", "call_function", "load_library::__globals__.get", ["sys"], {}, None],
    ["f", "call_method", "numpy", [{"node": "x"}], {}, None],
    ["f", "placeholder", "y=print(1)", [], {}, None],
    ["f", "get_attr", "a\"),print(1)", [], {}, None],
    ["f", "call_function", "aten::relu.default", [{"node": "x"}], {"a=print(1),b": 1}, None],
    ["f", "call_function", "aten::relu.default", [{"torch": "load"}], {}, None],
]


@pytest.mark.parametrize("node", HOSTILE, ids=str)
def test_a_graph_runs_operators_alone(node: list[Any]) -> None:
    nodes = [["x", "placeholder", "x", [], {}, None], node, ["output", "output", "output", [{"node": "f"}], {}, None]]
    with pytest.raises(BadEntry, match=r"is not known here|holds an unknown"):
        portable.load_graph({"nodes": nodes, "literals": {}})
