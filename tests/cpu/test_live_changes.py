"""Every way in which a weight can change is seen before the next call, or documented as one that nobody can see."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, cast
from unittest import mock

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from tests.graphs import Engines, perturb, stage
from trt_stripped_backend import live, placement
from trt_stripped_backend.renewal import Renewal

Change = Callable[["Net"], object]


class Net(nn.Module):
    """Weights that engines read as they are, and weights derived from others."""

    scale: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4)  # folded
        self.plain = nn.Linear(4, 4)
        self.normed = parametrizations.weight_norm(nn.Linear(4, 4))
        self.a, self.b = nn.Parameter(torch.randn(4, 2)), nn.Parameter(torch.randn(2, 4))
        self.square = nn.Parameter(torch.randn(4, 4))
        self.tied = nn.Linear(4, 4, bias=False)
        self.tied.weight = self.plain.weight
        self.register_buffer("scale", torch.rand(4) + 0.5)

    def forward(self, x: torch.Tensor) -> Any:
        y = self.norm(self.conv(x)).relu().flatten(1)
        y = self.normed(self.plain(y)) @ (self.tied.weight + self.a @ self.b + self.square)
        return self.tied(y) * self.scale


def parameters(act: Callable[[torch.Tensor], object]) -> Change:
    def change(net: Net) -> None:
        for value in net.parameters():
            act(value)

    return change


def optimizer(make: Callable[..., torch.optim.Optimizer], **arguments: Any) -> Change:
    def change(net: Net) -> None:
        step = make(net.parameters(), **arguments)
        with torch.enable_grad():
            net(torch.rand(3, 2, 3, 3)).square().sum().backward()
        step.step()
        step.zero_grad()

    return change


class Silent(torch.optim.Optimizer):
    """Writes as capturable optimizers do, without bumping a version."""

    def __init__(self, params: Any, **defaults: Any) -> None:
        super().__init__(params, defaults)

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                p.data.mul_(1.2)


def other_state() -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in perturb(Net(), seed=7).state_dict().items()}


def new_parameters(net: Net) -> None:
    for module in net.modules():
        for name, value in list(module._parameters.items()):
            if value is not None and module is not net.tied:
                module._parameters[name] = nn.Parameter(value.detach() * 1.4)
    net.tied.weight = net.plain.weight


def same_memory(net: Net) -> None:
    """A new Parameter over the old memory, whose version counter stands where the old one stood."""
    net.a = nn.Parameter(net.a.data.mul_(1.5))
    net.plain.bias = nn.Parameter(net.plain.bias.data.mul_(1.5))


def swapped(net: Net) -> None:
    twin, swap = perturb(Net(), seed=3), cast(Any, torch.utils.swap_tensors)
    for mine, other in ((net.a, twin.a), (net.b, twin.b), (net.normed.bias, twin.normed.bias)):
        swap(mine, other)


def ema(net: Net) -> None:
    for mine in net.parameters():
        mine.lerp_(torch.rand_like(mine), 0.5)


def untied(net: Net) -> None:
    net.tied.weight = nn.Parameter(net.tied.weight.detach() * 2)


def retied(net: Net) -> None:
    untied(net)
    net.plain.weight = net.tied.weight


CHANGES: dict[str, Change] = {
    "add_": parameters(lambda p: p.add_(0.1)),
    "copy_": parameters(lambda p: p.copy_(p * 1.3)),
    "detach": parameters(lambda p: p.detach().mul_(1.3)),
    "foreach": lambda net: torch._foreach_mul_(list(net.parameters()), 1.3),
    "inference_mode": lambda net: torch.inference_mode()(parameters(lambda p: p.mul_(1.3)))(net),
    "sgd": optimizer(torch.optim.SGD, lr=0.05),
    "adamw": optimizer(torch.optim.AdamW, lr=0.05),
    "adamw_foreach": optimizer(torch.optim.AdamW, lr=0.05, foreach=True),
    "adamw_fused": optimizer(torch.optim.AdamW, lr=0.05, fused=True),
    "sgd_fused": optimizer(torch.optim.SGD, lr=0.05, fused=True),
    "capturable": optimizer(Silent, capturable=True),
    "load_state_dict": lambda net: net.load_state_dict(other_state()),
    "load_state_dict_assign": lambda net: net.load_state_dict(other_state(), assign=True),
    "new_parameters": new_parameters,
    "same_memory": same_memory,
    "new_module": lambda net: setattr(net, "plain", perturb(nn.Linear(4, 4), seed=4)),
    "new_data": parameters(lambda p: setattr(p, "data", p.data * 1.4)),
    "double_and_back": lambda net: (net.double(), parameters(lambda p: p.mul_(1.1))(net), net.float()),
    "swap_tensors": swapped,
    "lerp_": ema,
    "buffer": lambda net: dict(net.named_buffers())["norm.running_var"].mul_(2),
    "buffer_assigned": lambda net: setattr(net, "scale", net.scale * 2),
    "buffer_in_place": lambda net: net.scale.mul_(2),
    "original": lambda net: net.normed.parametrizations.weight.original0.mul_(2),
    "vector": lambda net: nn.utils.vector_to_parameters(torch.rand(200)[: _size(net)], net.parameters()),
    "transposed": lambda net: setattr(net.plain.weight, "data", net.plain.weight.data.t()),
    "transposed_derived": lambda net: setattr(net.square, "data", net.square.data.t()),
    "untied": untied,
    "retied": retied,
    "requires_grad": lambda net: [p.requires_grad_(False) for p in net.parameters()] and net.a.mul_(3),
}
#: Nobody can see these, except where an engine reads the very memory.
SILENT: dict[str, Change] = {
    "data_add_": parameters(lambda p: p.data.add_(0.1)),
    "numpy": parameters(lambda p: p.detach().numpy().__imul__(1.5)),
    "storage": lambda net: net.b.untyped_storage().copy_(torch.rand(8).untyped_storage()),
}


def _size(net: Net) -> int:
    return sum(p.numel() for p in net.parameters())


class Recorded(Renewal):
    """Does again, as a CUDA graph does, what was recorded."""

    launches = 0

    def again(self, act: Callable[[], None]) -> None:
        self._times += 1
        if self._times == 2:
            self.act = act

    @property
    def recorded(self) -> bool:
        return self._times >= 2

    def launch(self) -> None:
        Recorded.launches += 1
        self.act()


@pytest.fixture(params=["bound", "unaligned", "general", "recorded", "general recorded"])
def copies(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Engines that read the model's own memory, copies of it that fit, or what they were refitted with."""
    monkeypatch.setattr(placement, "ALIGNMENT", 1 << 40 if request.param == "unaligned" else 1)
    if "recorded" in request.param:
        monkeypatch.setattr(live, "Renewal", Recorded)
    return "general" in request.param


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    with torch.no_grad(), torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
        yield


def compiled(net: nn.Module, x: torch.Tensor, copies: bool) -> tuple[Callable[..., Any], Engines]:
    engines = Engines(copies=copies)
    return stage(net, x, call=engines).compiled, engines


X = torch.rand(3, 2, 3, 3)


def close(have: torch.Tensor, want: torch.Tensor) -> bool:
    largest = float(want.abs().max())  # sums of large products can be small
    return torch.allclose(have, want, rtol=1e-4, atol=1e-5 * max(1.0, largest))


def test_every_change_is_seen(copies: bool) -> None:
    net = perturb(Net())
    run, engines = compiled(net, X, copies)
    wrong = []
    for index, (name, change) in enumerate(CHANGES.items()):
        perturb(net, seed=index)
        before = net(X)
        assert close(run(X), before), f"in-place writes before {name}"
        change(net)
        assert not close(net(X), before), f"{name} must show"
        wrong += [name for _ in range(2) if not close(run(X), net(X))]
    assert wrong == []
    assert engines.graphs <= 6, "a change of values compiles nothing"


@pytest.mark.parametrize("copies", ["recorded", "general recorded"], indirect=True)
def test_derived_weights_are_computed_in_one_launch(copies: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Recorded, "launches", 0)
    net = perturb(Net())
    run, _ = compiled(net, X, copies)
    run(X)
    counts = []
    for index in range(5):
        perturb(net, seed=index)
        assert close(run(X), net(X))
        counts.append(Recorded.launches)
    assert counts == [0, 0, 1, 2, 3]
    net.a.add_(1)
    assert close(run(X), net(X))
    assert Recorded.launches == 3, "one of several pieces is computed by itself"
    net.a.data = net.a.data.clone()
    net.norm.running_mean = net.norm.running_mean + 1  # type: ignore[operator]
    assert close(run(X), net(X)), "what was recorded reads the old memory"
    assert Recorded.launches == 3
    perturb(net, seed=9)
    assert close(run(X), net(X))


@pytest.mark.parametrize("name", SILENT)
def test_silent_writes_need_a_refresh(name: str, copies: bool) -> None:
    net = perturb(Net())
    run, _ = compiled(net, X, copies)
    before = net(X)
    SILENT[name](net)
    assert not close(net(X), before)
    assert not close(run(X), net(X))
    live.refresh_all()
    assert close(run(X), net(X))


class Bare(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(2, 4), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> Any:
        return self.two(self.one(x).relu())


@pytest.mark.parametrize("name", SILENT)
def test_bound_engines_see_silent_writes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "ALIGNMENT", 1)
    net, x = perturb(Bare()), torch.rand(3, 2)
    run, _ = compiled(net, x, False)
    before = net(x)
    net.b = net.one.weight
    SILENT[name](net)  # type: ignore[arg-type]
    assert not close(net(x), before)
    assert close(run(x), net(x))


def test_inference_tensors(copies: bool) -> None:
    with torch.inference_mode():
        net = perturb(Net())
    x = torch.rand(3, 2, 3, 3)
    run, engines = compiled(net, x, copies)
    assert close(run(x), net(x))
    with torch.inference_mode():
        net.plain.weight = nn.Parameter(net.plain.weight * 2, requires_grad=False)
        net.a = nn.Parameter(net.a * 2, requires_grad=False)
    assert close(run(x), net(x))
    with torch.inference_mode():
        net.b.mul_(2)
    live.refresh_all()
    assert close(run(x), net(x))
    assert engines.refits == (3 if copies else 0)


def test_nothing_is_done_when_nothing_changed(copies: bool) -> None:
    net = perturb(Net())
    run, engines = compiled(net, X, copies)
    run(X)
    assert engines.live is not None
    token, refits = engines.live._last[2].token, engines.refits  # type: ignore[index]
    for _ in range(3):
        run(X)
    assert engines.live._last[2].token is token  # type: ignore[index]
    assert engines.refits == refits


def test_writes_to_what_engines_read_renew_what_is_computed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The addresses stay, and nothing looks at each weight: a model may have thousands."""
    monkeypatch.setattr(placement, "ALIGNMENT", 1)
    net = perturb(Net())
    run, engines = compiled(net, X, False)
    run(X)
    assert engines.live is not None
    first = engines.live._last[2]  # type: ignore[index]
    whole = mock.Mock(side_effect=AssertionError("every weight is looked at"))
    monkeypatch.setattr(live.LiveWeights, "_renewed", whole)
    for seed in range(3):
        perturb(net, seed)
        assert close(run(X), net(X))
        latest = engines.live._last[2]  # type: ignore[index]
        assert latest.token is not first.token
        assert latest.pointers == first.pointers
    net.plain.weight = net.tied.weight = nn.Parameter(net.plain.weight * 2)
    with pytest.raises(AssertionError, match="every weight"):
        run(X)


def test_back_and_forth_between_models(copies: bool) -> None:
    """Two instances share a graph; returning to the first neither refits nor computes anything again."""
    one, two = perturb(Net(), seed=1), perturb(Net(), seed=2)
    engines = Engines(copies=copies)
    run_one = stage(one, X, call=engines).compiled
    first = run_one(X)
    assert engines.live is not None
    token = engines.live._last[2].token  # type: ignore[index]
    staged = engines.staged
    assert staged is not None
    names = {index: name for index, name in staged.lowered.names.items()}
    args = list(staged.calls[-1])
    tensors = dict([*two.named_parameters(remove_duplicate=False), *two.named_buffers()])
    other = [tensors[names[i]] if i in names else value for i, value in enumerate(args)]
    refits = engines.refits
    assert close(engines(staged, list(other))[0], two(X))
    for _ in range(3):
        assert torch.equal(engines(staged, list(args))[0], first)
        assert engines.live._last[2].token is token  # type: ignore[index]
        assert close(engines(staged, list(other))[0], two(X))
    assert engines.refits == refits + (len(staged.cut.partitions) if copies else 0)


def test_freed_memory_is_not_the_old_weight(copies: bool) -> None:
    net = perturb(Net())
    run, _ = compiled(net, X, copies)
    seen = set()
    for seed in range(20):
        for name in ("a", "b"):
            shape = getattr(net, name).shape
            delattr(net, name)
            seen.add((value := nn.Parameter(torch.rand(shape) + seed)).data_ptr())
            setattr(net, name, value)
        net.plain.weight.data = torch.empty(0)
        net.plain.weight.data = torch.rand(4, 4) + seed
        assert close(run(X), net(X)), seed
    assert seen
