"""``strip_engine``: its table is enough to run the plan without PyTorch, which an emulated network does here."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.export import Dim
from torch.nn import functional as F

import trt_stripped_backend as ts
from tests.graphs import TwoEngines, perturb
from tests.torch_network import TorchNetwork
from trt_stripped_backend import compilation, flavour
from trt_stripped_backend.build import convert
from trt_stripped_backend.errors import BuildFailed, OptionError, RefitFailed
from trt_stripped_backend.ops.net import Net
from trt_stripped_backend.types import Partition, Signature

X = torch.randn(2, 3, 6, 6)


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[Partition, Signature, Any]]]:
    """What was built: partition, signature, ranges."""
    found: list[tuple[Partition, Signature, Any]] = []
    original = compilation.build

    def build(part: Partition, signature: Signature, *args: Any, **kwargs: Any) -> Any:
        found.append((part, signature, kwargs["ranges"]))
        return original(part, signature, *args, **kwargs)

    monkeypatch.setattr(compilation, "build", build)
    yield found


class Image(nn.Module):
    """A folded batch norm, a low-rank update, results that share memory, channels last."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Linear(4, 5)
        self.a, self.b = nn.Parameter(torch.randn(5, 1)), nn.Parameter(torch.randn(1, 4))
        self.register_buffer("offset", torch.arange(5.0), persistent=False)

    def forward(self, x: torch.Tensor, *, more: dict[str, torch.Tensor]) -> Any:
        y = self.norm(self.conv(x)).relu().mean((2, 3))
        z = F.linear(y, self.head.weight + self.a @ self.b, self.head.bias) + self.offset
        return z, {"first": z[:, 0], "more": more["bias"] + 1}


def run(engine: ts.StrippedEngine, built: Any, given: dict[str, torch.Tensor], weights: dict[str, torch.Tensor]) -> Any:
    """The engine's outputs, from nothing but the table, the inputs by argument and the weights by slot."""
    table = json.loads(json.dumps(engine.table))
    tensors = {}
    for row in table["inputs"]:
        value = given[row["argument"]].permute(row["order"])
        assert list(value.shape) == row["binding"]
        tensors[row["name"]] = value
    for row in table["weights"]:
        value = weights[row["name"]]
        assert value.is_contiguous()
        assert (list(value.shape), str(value.dtype)) == (row["binding"], f"torch.{row['dtype']}")
        tensors[row["name"]] = value
    network = TorchNetwork(tensors)
    ((part, signature, _),) = built
    convert(part, signature, Net(network, flavour.load(), bound=True))
    network.check()
    back = {row["result"]: [row["order"].index(d) for d in range(len(row["order"]))] for row in table["outputs"]}
    return {row["result"]: network.outputs[row["name"]].value.permute(back[row["result"]]) for row in table["outputs"]}


@torch.no_grad()
def test_the_table_is_enough(built: Any, tmp_path: Path) -> None:
    model = perturb(Image()).to(memory_format=torch.channels_last)
    model.offset = torch.arange(5.0)
    x = X.to(memory_format=torch.channels_last)
    engine = ts.strip_engine(model, (x,), {"more": {"bias": torch.zeros(3)}})
    for seed in (0, 1):
        model = perturb(Image(), seed=seed)
        model.offset = torch.arange(5.0)  # in no state_dict, so the engine's own
        given = {"args[0]": torch.randn(2, 3, 6, 6), "kwargs['more']['bias']": torch.randn(3)}
        want = model(given["args[0]"], more={"bias": given["kwargs['more']['bias']"]})
        for weights in (model, model.state_dict()):
            have = run(engine, built, given, engine.weights(weights))
            assert set(have) == {"result[0]", "result[1]['first']", "result[1]['more']"}
            torch.testing.assert_close(have["result[0]"], want[0], rtol=1e-4, atol=1e-5)
            for name, value in want[1].items():
                torch.testing.assert_close(have[f"result[1]['{name}']"], value, rtol=1e-4, atol=1e-5)
    engine.save(tmp_path / "model.plan")
    assert (tmp_path / "model.plan").read_bytes() == engine.plan
    assert json.loads((tmp_path / "model.json").read_text()) == engine.table
    with pytest.raises(RefitFailed, match=r"missing: head\.bias"):
        engine.weights({name: v for name, v in model.state_dict().items() if name != "head.bias"})


@torch.no_grad()
def test_the_recipe_of_a_derived_weight() -> None:
    """Following the steps gives the weight."""
    model = perturb(Image())
    engine = ts.strip_engine(model, (X,), {"more": {"bias": torch.zeros(3)}})
    values = engine.weights(model)
    derived = [row for row in engine.table["weights"] if "derived" in row]
    assert len(derived) == 3
    assert {row["source"] for row in engine.table["weights"] if "source" in row} == {"head.bias", "offset"}
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}

    def argument(value: Any, done: dict[str, Any]) -> Any:
        if isinstance(value, list):
            return [argument(one, done) for one in value]
        if isinstance(value, dict):
            return done[value["step"]] if "step" in value else getattr(torch, *value.values())
        return value

    for row in derived:
        done: dict[str, Any] = {}
        for step in row["derived"]:
            if "source" in step:
                done[step["name"]] = tensors[step["source"]]
                continue
            packet, _, overload = step["operator"].removeprefix("aten.").partition(".")
            target = getattr(getattr(torch.ops.aten, packet), overload)
            kwargs = {name: argument(value, done) for name, value in step["kwargs"].items()}
            done[step["name"]] = target(*argument(step["args"], done), **kwargs)
        torch.testing.assert_close(done[row["derived"][-1]["name"]].permute(row["order"]), values[row["name"]])


@torch.no_grad()
def test_dynamic_sizes_are_in_the_table(built: Any) -> None:
    class Rows(nn.Module):
        def forward(self, x: torch.Tensor, n: int) -> torch.Tensor:
            return torch.cat([x, x], 1).relu() * torch.arange(n).sum()

    engine = ts.strip_engine(Rows(), (torch.randn(4, 3), 5), dynamic_shapes=({0: Dim("rows", max=64)}, Dim.DYNAMIC))
    rows = {row["argument"]: row for row in engine.table["inputs"]}
    name = rows["args[0]"]["shape"][0]
    assert rows["args[0]"]["shape"] == [name, 3]
    assert engine.table["sizes"][name] == [1, 4, 64]
    assert (rows["args[1]"]["dtype"], rows["args[1]"]["elements"]) == ("bool", "any")
    (output,) = engine.table["outputs"]
    assert output["shape"] == [name, 6]


def test_what_is_not_one_engine() -> None:
    with pytest.raises(BuildFailed) as raised:
        ts.strip_engine(perturb(TwoEngines()), (X,))
    assert "strip_engine: the model becomes 2 engines; export() takes any program:" in str(raised.value)
    assert "aten.cumsum.default: not refittable" in str(raised.value)

    class Same(nn.Module):
        def forward(self, x: torch.Tensor) -> Any:
            return x.relu() + 1, x

    with pytest.raises(BuildFailed, match=r"does not make every result.*\n  result\[1\]"):
        ts.strip_engine(Same(), (X,))


def test_small_mistakes_and_a_short_text(tmp_path: Path) -> None:
    engine = ts.strip_engine(nn.Linear(3, 2), (torch.randn(4, 3),))
    assert repr(engine).startswith(f"<StrippedEngine: {flavour.load()}, ") and "2 weights, 1 outputs>" in repr(engine)
    with pytest.raises(OptionError, match=r"would replace its plan at .*engine\.json"):
        engine.save(tmp_path / "engine.json")
    assert not list(tmp_path.iterdir())
    with pytest.raises(RefitFailed, match="weight is of type int; the program takes a tensor"):
        engine.weights({"weight": 5, "bias": torch.zeros(2)})  # type: ignore[dict-item]
