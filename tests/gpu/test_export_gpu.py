"""Exported programs on a GPU: exported here or on the CPU, run in a fresh process with weights of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.export import Dim
from torch.utils import _pytree as pytree

import trt_stripped_backend as ts
from tests.gpu.common import Block, ConvNet, LoRA, error, perturbed
from trt_stripped_backend.errors import InputError, RefitFailed

MODES = ["bound", "general"]


class Middle(nn.Module):
    """Two engines around a cumsum; a buffer that is in no state_dict, tied weights, a folded batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.norm = Block(), Block(), nn.BatchNorm1d(64)
        self.head, self.tail = nn.Linear(64, 64), nn.Linear(64, 64)
        self.tail.weight = self.head.weight
        self.register_buffer("places", torch.linspace(0.5, 1.5, 64), persistent=False)

    def forward(self, x: torch.Tensor, *, scale: torch.Tensor) -> dict[str, Any]:
        y = self.one(x).cumsum(1) * 0.1 * self.places
        z = self.norm(self.tail(self.two(y) * scale).transpose(1, 2)).transpose(1, 2)
        return {"z": self.head(z), "last": (z[:, -1], None), "length": x.shape[1]}


def middle(seed: int) -> nn.Module:
    model = perturbed(Middle(), seed=seed)
    model.places = torch.linspace(0.5, 1.5, 64, device="cuda")
    return model


def same(have: Any, want: Any, bound: float = 1e-5) -> None:
    """Compares trees of results by value."""
    mine, tree = pytree.tree_flatten(have)
    theirs, other = pytree.tree_flatten(want)
    assert tree == other
    for a, b in zip(mine, theirs, strict=True):
        if isinstance(b, torch.Tensor):
            assert (a.shape, a.dtype, a.device) == (b.shape, b.dtype, b.device)
            assert error(a, b) < bound
        else:
            assert a == b


def exported(folder: Path, model: Any, *args: Any, mode: str = "bound", **how: Any) -> Path:
    path = folder / "program"
    ts.export(model, *args, options={"min_block_size": 1, "refit_mode": mode}, **how).save(path)
    return path


CHILD = """
import sys, torch, trt_stripped_backend as ts
from pathlib import Path
torch.set_float32_matmul_precision("highest")
torch.backends.cudnn.allow_tf32 = False
folder = Path(sys.argv[1])
data = torch.load(folder / "data.pt", weights_only=True)
program = ts.StrippedProgram.load(folder / "program")
calls = [program.refit(state) for state in data["states"]] + [program.refit(folder / "weights.safetensors")]
with torch.no_grad():
    for _ in range(2):
        results = [[call(x.cuda(), scale=data["scale"].cuda())["z"].cpu() for x in data["inputs"]] for call in calls]
torch.save(results, folder / "results.pt")
counts = ts.stats()
assert counts["builds"] == 0 and counts["fallbacks"] == 0, counts
assert counts["refits"] == (6 if sys.argv[2] == "general" else 0), counts  # two engines, three sets of weights
"""


@pytest.mark.parametrize("mode", MODES)
@torch.no_grad()
def test_a_fresh_process_with_other_weights(mode: str, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    scale = torch.tensor([1.5])
    exported(
        tmp_path, middle(0), (torch.randn(2, 6, 64, device="cuda"),), {"scale": scale.cuda()}, mode=mode,
        dynamic_shapes={"x": {0: Dim("batch", max=8), 1: Dim("length", max=64)}, "scale": None},
    )  # fmt: skip
    models = [middle(seed) for seed in (1, 2, 3)]
    states = [{name: value.cpu() for name, value in model.state_dict().items()} for model in models]
    inputs = [torch.randn(shape) for shape in ((2, 6, 64), (1, 9, 64), (8, 64, 64))]
    torch.save({"states": states[:2], "inputs": inputs, "scale": scale}, tmp_path / "data.pt")
    save_file({name: value.contiguous() for name, value in states[2].items() if name != "tail.weight"},
              tmp_path / "weights.safetensors")  # fmt: skip
    out = subprocess.run(
        [sys.executable, "-c", CHILD, str(tmp_path), mode], capture_output=True, text=True, check=False
    )
    assert out.returncode == 0, out.stderr
    results = torch.load(tmp_path / "results.pt", weights_only=True)
    wants = [[model(x.cuda(), scale=scale.cuda())["z"].cpu() for x in inputs] for model in models]
    for k, (have, want) in enumerate(zip(results, wants, strict=True)):
        for a, b, foreign in zip(have, want, wants[k - 1], strict=True):
            assert error(a, b) < 1e-5
            assert error(foreign, b) > 1e-1, "other weights must show"


@pytest.mark.parametrize("mode", MODES)
@torch.no_grad()
def test_a_module_stays_live(mode: str, tmp_path: Path) -> None:
    model, other = middle(0), middle(1)
    x, scale = torch.randn(2, 6, 64, device="cuda"), torch.ones(1, device="cuda")
    call = ts.StrippedProgram.load(exported(tmp_path, model, (x,), {"scale": scale}, mode=mode)).refit(model)
    same(call(x, scale=scale), model(x, scale=scale))
    changes: list[Any] = [
        lambda: [p.mul_(1.1) for p in model.parameters()],
        lambda: model.load_state_dict(other.state_dict()),
        lambda: [setattr(p, "data", p.data * 0.9) for p in model.parameters()],
        lambda: model.one.load_state_dict({k: v * 0.7 for k, v in other.one.state_dict().items()}, assign=True),
        lambda: setattr(model, "two", perturbed(Block(), seed=7)),
        lambda: ([p.data.add_(0.05) for p in model.parameters()], ts.refresh()),
        lambda: model.places.mul_(1.3),
        lambda: model.norm.running_mean.add_(1),
    ]
    for index, change in enumerate(changes):
        stale = model(x, scale=scale)["z"]
        change()
        want = model(x, scale=scale)
        assert error(stale, want["z"]) > 1e-2, f"change {index} must show"
        same(call(x, scale=scale), want)
    counts = ts.stats()
    assert (counts["builds"], counts["fallbacks"]) == (2, 0)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("make", "shape"), [(ConvNet, (2, 3, 16, 16)), (LoRA, (4, 64))])
@torch.no_grad()
def test_exported_on_the_cpu(mode: str, make: Any, shape: tuple[int, ...], tmp_path: Path) -> None:
    """The device of the export is not that of the run."""
    path = exported(tmp_path, perturbed(make()).cpu(), (torch.randn(shape),), mode=mode)
    program, x = ts.StrippedProgram.load(path), torch.randn(shape, device="cuda")
    one, two = perturbed(make(), seed=1), perturbed(make(), seed=2)
    calls = [program.refit(one.state_dict()), program.refit(two)]
    for _ in range(2):
        for model, call in zip((one, two), calls, strict=True):
            same(call(x), model(x))
    if mode == "general":
        assert ts.stats()["refits"] == 2, "switching back must not refit"
    assert ts.stats()["fallbacks"] == 0
    with pytest.raises(InputError, match=r"on cpu; the program takes .* on cuda:0"):
        calls[0](x.cpu())
    with pytest.raises(RefitFailed, match="the program would run on cpu"):
        program.refit(perturbed(make()).cpu())


class Cache(nn.Module):
    """Writes to buffers, one of which is in no state_dict, and to an argument."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = Block()
        self.register_buffer("cache", torch.zeros(1, 16, 64))
        self.register_buffer("step", torch.zeros((), dtype=torch.long), persistent=False)

    def forward(self, x: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
        self.cache.index_copy_(1, self.step[None], self.layer(x))
        self.step.add_(1)
        count.add_(1)
        return torch.relu(self.layer(self.cache)).sum(1)


def cache(seed: int) -> Cache:
    model = perturbed(Cache(), seed=seed)
    model.cache.zero_()
    return model  # type: ignore[return-value]


@pytest.mark.parametrize("mode", MODES)
@torch.no_grad()
def test_buffers_that_are_written(mode: str, tmp_path: Path) -> None:
    x = torch.randn(1, 1, 64, device="cuda")
    path = exported(tmp_path, cache(0), (x, torch.zeros(2, device="cuda")), mode=mode)
    program, model, twin = ts.StrippedProgram.load(path), cache(1), cache(1)
    state = cache(1).state_dict()
    live, fixed = program.refit(model), program.refit(state)
    counts = [torch.zeros(2, device="cuda") for _ in range(3)]
    for _ in range(3):
        x = torch.randn(1, 1, 64, device="cuda")
        want = twin(x, counts[0])
        same(live(x, counts[1]), want)
        same(fixed(x, counts[2]), want)
    assert error(model.cache, twin.cache) < 1e-5
    assert int(model.step) == 3
    assert not state["cache"].any(), "the dict is the caller's"
    assert all(torch.equal(count, counts[0]) for count in counts)
    assert ts.stats()["fallbacks"] == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@torch.no_grad()
def test_half_types_and_verify(dtype: torch.dtype, tmp_path: Path) -> None:
    model, x = perturbed(Block()).to(dtype), torch.randn(4, 8, 64, device="cuda", dtype=dtype)
    path = exported(tmp_path, model, (x,))
    call = ts.StrippedProgram.load(path, options={"verify": True}).refit(model)
    same(call(x), model(x), 2e-3 if dtype == torch.float16 else 1.6e-2)
    assert ts.stats()["fallbacks"] == 0


@torch.no_grad()
def test_a_size_beyond_the_engine_leads_to_another(tmp_path: Path) -> None:
    model = perturbed(Block())
    path = exported(tmp_path, model, (torch.randn(3, 64, device="cuda"),), dynamic_shapes=({0: Dim("rows")},))
    call = ts.StrippedProgram.load(path).refit(model)
    for rows in (3, 1, 4096, 5000):
        x = torch.randn(rows, 64, device="cuda")
        same(call(x), model(x))
    assert (ts.stats()["builds"], ts.stats()["fallbacks"]) == (2, 0)


@torch.no_grad()
def test_a_bare_engine_runs_from_its_table(tmp_path: Path) -> None:
    """By TensorRT's own calls: addresses by name, shapes in memory order."""
    from trt_stripped_backend.flavour import logger, trt

    model = perturbed(ConvNet())
    engine = ts.strip_engine(model, (torch.randn(2, 3, 16, 16, device="cuda"),), options={"refit_mode": "bound"})
    runtime = trt.Runtime(logger())
    loaded = runtime.deserialize_cuda_engine(engine.plan)
    context = loaded.create_execution_context()
    for seed in (0, 1):
        model, x = perturbed(ConvNet(), seed=seed), torch.randn(2, 3, 16, 16, device="cuda")
        tensors = {name: value.cuda() for name, value in engine.weights(model).items()}
        (given,), (row,) = engine.table["inputs"], engine.table["outputs"]
        tensors[given["name"]] = x.permute(given["order"]).contiguous()
        out = torch.empty(row["binding"], dtype=getattr(torch, row["dtype"]), device="cuda")
        for name, tensor in (*tensors.items(), (row["name"], out)):
            context.set_tensor_address(name, tensor.data_ptr())
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        assert context.execute_async_v3(stream.cuda_stream)
        stream.synchronize()
        assert error(out.permute([row["order"].index(d) for d in range(out.ndim)]), model(x)) < 1e-5
