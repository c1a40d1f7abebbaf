"""Never stale, never somebody else's: each way in which a weight can change, in each mode that keeps it live."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import trt_stripped_backend as ts
from tests.gpu.common import Block, ConvNet, LoRA, compiled, error, perturbed
from trt_stripped_backend import refit
from trt_stripped_backend.errors import RefitFailed
from trt_stripped_backend.refit import Engine

MODES = ["bound", "general"]
VALUED = ["identical", "immutable"]
Change = Callable[[nn.Module], Any]


class Net(nn.Module):
    """Plain, folded, derived, tied and parametrized weights, and a buffer, in one model."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.lora, self.block = ConvNet(), LoRA(10), Block(10)
        self.one, self.two = nn.Linear(10, 10, bias=False), nn.Linear(10, 10, bias=False)
        self.two.weight = self.one.weight
        self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(10, 10))
        self.register_buffer("shift", torch.zeros(10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.block(self.lora(self.conv(x))) + self.shift
        return self.normed(torch.relu(self.two(torch.relu(self.one(x)))))


def step(make: Callable[..., torch.optim.Optimizer], **arguments: Any) -> Change:
    def change(model: nn.Module) -> None:
        optimizer = make(model.parameters(), **arguments)
        with torch.enable_grad():
            model(torch.randn(4, 3, 16, 16, device="cuda")).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    return change


def every(act: Callable[[torch.Tensor], Any]) -> Change:
    return lambda model: [act(p) for p in model.parameters()]


def ema(model: nn.Module) -> None:
    other = perturbed(Net(), seed=5)
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        p.lerp_(q, 0.3)


def swap(model: nn.Module) -> None:
    other = perturbed(Net(), seed=6)
    torch.utils.swap_tensors(model.block.up.weight, other.block.up.weight)


def new_parameter(model: nn.Module) -> None:
    model.block.down.weight = nn.Parameter(model.block.down.weight.detach() * 1.5, requires_grad=False)


def new_module(model: nn.Module) -> None:
    model.block = perturbed(Block(10), seed=7)


def assign(model: nn.Module) -> None:
    model.load_state_dict(perturbed(Net(), seed=8).state_dict(), assign=True)
    model.two.weight = model.one.weight


CHANGES: dict[str, Change] = {
    "mul_": every(lambda p: p.mul_(1.1)),
    "sgd": step(torch.optim.SGD, lr=1e-3),
    "sgd_foreach": step(torch.optim.SGD, lr=1e-3, foreach=True),
    "sgd_fused": step(torch.optim.SGD, lr=1e-3, fused=True),
    "adamw": step(torch.optim.AdamW, lr=1e-2),
    "adamw_foreach": step(torch.optim.AdamW, lr=1e-2, foreach=True),
    "adamw_fused": step(torch.optim.AdamW, lr=1e-2, fused=True),
    "adamw_capturable": step(torch.optim.AdamW, lr=1e-2, capturable=True),
    "load_state_dict": lambda model: model.load_state_dict(perturbed(Net(), seed=9).state_dict()),
    "load_state_dict_assign": assign,
    "data": every(lambda p: setattr(p, "data", p.data * 0.9)),
    "new_parameter": new_parameter,
    "new_module": new_module,
    "to": lambda model: model.double().float(),
    "to_and_back_changed": lambda model: (model.half(), model.float()),
    "lerp_": ema,
    "swap_tensors": swap,
    "buffer": lambda model: model.shift.add_(0.3),
    "batch_norm_buffer": lambda model: model.conv.bn1.running_mean.add_(0.3),
    "parametrization": lambda model: model.normed.parametrizations.weight.original0.mul_(1.2),
    "tied": lambda model: model.one.weight.mul_(1.3),
    "lora": lambda model: model.lora.s.mul_(3.0),
}
#: Changes of nothing that a comparison at 1e-3 could see.
INVISIBLE = {"to"}


@pytest.mark.parametrize("mode", MODES + VALUED)
def test_every_change_is_seen(mode: str) -> None:
    model, x = perturbed(Net()), torch.randn(4, 3, 16, 16, device="cuda")
    fast = compiled(model, mode, max_weight_sets=2)
    wrong = {}
    with torch.no_grad():
        assert error(fast(x), model(x)) < 2e-5
        for name, change in CHANGES.items():
            if mode in VALUED and "adamw_" in name:
                continue  # each change builds an engine
            before = model(x)
            change(model)
            want = model(x)
            assert name in INVISIBLE or error(before, want) > 1e-4, f"{name} must show"
            have = error(fast(x), want)
            if not have < 2e-5:
                wrong[name] = have
    assert not wrong
    assert ts.stats()["fallbacks"] == 0


@pytest.mark.parametrize("mode", MODES)
@torch.no_grad()
def test_silent_writes_after_refresh(mode: str) -> None:
    model, x = perturbed(Net()), torch.randn(4, 3, 16, 16, device="cuda")
    fast = compiled(model, mode)
    fast(x)
    for p in model.parameters():
        p.data.add_(0.05)
    stale = error(fast(x), model(x))
    assert stale > 1e-3, "what nobody can see is documented so"
    ts.refresh(fast)
    assert error(fast(x), model(x)) < 2e-5


@pytest.mark.parametrize("mode", MODES)
@torch.no_grad()
def test_freed_memory_is_not_the_old_weight(mode: str) -> None:
    model, x = perturbed(Net()), torch.randn(4, 3, 16, 16, device="cuda")
    fast = compiled(model, mode)
    for seed in range(8):
        for name in ("up", "down"):
            layer = getattr(model.block, name)
            shape = layer.weight.shape
            layer.weight = None
            layer.weight = nn.Parameter(torch.randn(shape, device="cuda") * 0.3, requires_grad=False)
        kernel = model.conv.conv1.weight
        kernel.data = torch.empty(0, device="cuda")
        kernel.data = torch.randn(16, 3, 3, 3, device="cuda") * 0.2
        assert error(fast(x), model(x)) < 2e-5, seed


@pytest.mark.parametrize("mode", MODES)
@torch.no_grad()
def test_twelve_layers_one_build(mode: str) -> None:
    layers = nn.ModuleList([Block() for _ in range(12)])
    perturbed(layers)
    reference = [layer.state_dict() for layer in layers]
    x = want = torch.randn(4, 8, 64, device="cuda")
    plain = Block().cuda()
    for state in reference:
        plain.load_state_dict(state)
        want = plain(want)
    for layer in layers:
        layer.compile(backend="trt_stripped", options={"refit_mode": mode, "min_block_size": 1, "max_weight_sets": 12})
    for _ in range(3):
        have = x
        for layer in layers:
            have = layer(have)
        assert error(have, want) < 1e-5
    counts = ts.stats()
    assert (counts["builds"], counts["fallbacks"]) == (1, 0)
    if mode == "general":
        assert counts["refits"] == 12


@pytest.mark.parametrize("mode", MODES)
@torch.no_grad()
def test_lora_there_and_back_is_bit_identical(mode: str) -> None:
    model, x = perturbed(nn.Sequential(LoRA(), LoRA(), LoRA())), torch.randn(8, 64, device="cuda")
    adapters = [
        {n: torch.randn_like(p) * 0.3 for n, p in model.named_parameters() if n.endswith((".a", ".b", ".s"))}
        for _ in "AB"
    ]
    fast = compiled(model, mode)
    results = []
    for index in (0, 1, 0):
        model.load_state_dict(adapters[index], strict=False)
        results.append(fast(x))
        assert error(results[-1], model(x)) < 1e-5
    assert error(results[0], results[1]) > 1e-2
    assert torch.equal(results[0], results[2])
    for index in (1, 0):  # new tensors this time
        model.load_state_dict({n: t.clone() for n, t in adapters[index].items()}, strict=False, assign=True)
        last = fast(x)
    assert torch.equal(results[0], last)
    assert ts.stats()["builds"] == 1


@pytest.mark.parametrize("mode", MODES)
def test_training_with_fused_adamw_is_followed_at_every_step(mode: str) -> None:
    model, x = perturbed(Net()), torch.randn(4, 3, 16, 16, device="cuda")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, fused=True)
    fast = compiled(model, mode)
    for index in range(20):
        with torch.no_grad():
            want = model(x)
            assert error(fast(x), want) < 2e-5, index
        model(x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            assert error(model(x), want) > 1e-3
    assert ts.stats()["builds"] == 1


@torch.no_grad()
def test_identical_takes_another_key_for_one_changed_element() -> None:
    model, x = perturbed(Block()), torch.randn(4, 8, 64, device="cuda")
    fast = compiled(model, "identical")
    assert error(fast(x), model(x)) < 1e-5
    assert ts.stats()["builds"] == 1
    before = model.down.bias.clone()
    model.down.bias[-1] += 0.5
    assert error(fast(x), model(x)) < 1e-5
    assert ts.stats()["builds"] == 2
    model.down.bias.copy_(before)
    assert error(fast(x), model(x)) < 1e-5
    assert ts.stats()["builds"] == 2, "the first engine is in the cache, or in use still"


@torch.no_grad()
def test_immutable_takes_cumsum_in_and_is_not_cached() -> None:
    class Sums(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.bag = Block(), Block(), nn.EmbeddingBag(32, 64)

        def forward(self, x: torch.Tensor, bags: torch.Tensor) -> torch.Tensor:
            return self.two(self.one(x).cumsum(1) * 0.1 + self.bag(bags)[:, None])

    model = perturbed(Sums())
    x, bags = torch.randn(4, 8, 64, device="cuda"), torch.randint(0, 32, (4, 5), device="cuda")
    fast = compiled(model, "immutable", require_full=True)
    assert error(fast(x, bags), model(x, bags)) < 1e-5
    assert not list(ts.open_cache().entries())


@pytest.mark.parametrize("mode", MODES)
@torch.no_grad()
def test_grad_modes_share_engines_and_weights(mode: str) -> None:
    model, x = perturbed(ConvNet()), torch.randn(2, 3, 16, 16, device="cuda")
    fast = compiled(model, mode)
    fast(x)
    with torch.inference_mode():
        assert error(fast(x), model(x)) < 1e-5
        assert error(fast(x.clone()), model(x)) < 1e-5
    assert ts.stats()["builds"] == 1
    assert ts.stats()["shared"] >= 1


@pytest.mark.parametrize("mode", MODES)
def test_updates_under_a_lock_from_another_thread(mode: str) -> None:
    model, x = perturbed(Block()), torch.randn(8, 8, 64, device="cuda")
    fast, lock, failures = compiled(model, mode), threading.Lock(), []
    with torch.no_grad():
        fast(x)
    states = [perturbed(Block(), seed).state_dict() for seed in (1, 2)]
    served, done = threading.Semaphore(0), threading.Event()  # who lets a lock go would else take it again, mostly

    def serve() -> None:
        with torch.no_grad(), torch.cuda.stream(torch.cuda.Stream()):
            for _ in range(40):
                with lock:
                    have, want = fast(x), model(x)
                    torch.cuda.current_stream().synchronize()
                served.release()
                if error(have, want) > 1e-5:
                    failures.append(error(have, want))

    def update() -> None:
        index = 0
        while served.acquire() and not done.is_set():
            with lock, torch.no_grad():
                model.load_state_dict(states[index % 2])
                torch.cuda.synchronize()
            index += 1

    servers = [threading.Thread(target=serve) for _ in range(2)]
    updater = threading.Thread(target=update)
    for thread in (*servers, updater):
        thread.start()
    for thread in servers:
        thread.join()
    done.set()
    served.release()
    updater.join()
    assert not failures


@pytest.mark.parametrize("mode", MODES)
@torch.no_grad()
def test_threads_end_beside_refits(mode: str) -> None:
    """A thread's context ends with it, where TensorRT may be refitting the engine for another thread."""
    model, x = perturbed(Block()), torch.randn(8, 8, 64, device="cuda")
    fast, lock, failures = compiled(model, mode), threading.Lock(), []
    fast(x)
    states = [perturbed(Block(), seed).state_dict() for seed in (1, 2)]
    served = threading.Semaphore(0)

    def serve() -> None:
        with torch.no_grad(), torch.cuda.stream(torch.cuda.Stream()):
            with lock:
                have, want = fast(x), model(x)
                torch.cuda.current_stream().synchronize()
            served.release()
            if error(have, want) > 1e-5:
                failures.append(error(have, want))

    for _ in range(20):
        threads = [threading.Thread(target=serve) for _ in range(4)]
        for thread in threads:
            thread.start()
        for _ in threads:
            served.acquire()
            with lock:
                for state in states:
                    model.load_state_dict(state)
                    have, want = fast(x), model(x)
                    torch.cuda.synchronize()
                    assert error(have, want) < 1e-5
        for thread in threads:
            thread.join()
    assert not failures


@torch.no_grad()
def test_wrong_dtype_behind_dynamo_is_caught() -> None:
    class Shift(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shift = nn.Parameter(torch.randn(64, device="cuda"), requires_grad=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(x + self.shift) * 2

    model, x = Shift(), torch.randn(4, 64, device="cuda")
    fast = compiled(model, "bound")
    fast(x)
    model.shift.data = model.shift.data.half() * 3
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert error(fast(x), model(x)) < 1e-5
    recompiled = ts.stats()["graphs"] == 2  # newer versions of Dynamo look again themselves
    assert recompiled or any("shift is float16" in str(w.message) for w in caught)


@torch.no_grad()
def test_a_refused_weight_leaves_the_engine_empty_and_the_answer_right(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = perturbed(Block()), torch.randn(4, 8, 64, device="cuda")
    fast = compiled(model, "general")
    fast(x)
    kept = Engine._set

    def refuse(engine: Engine, name: str, *args: Any) -> None:
        if name == "w2":
            raise RefitFailed(f"TensorRT refused weight {name}")
        kept(engine, name, *args)

    monkeypatch.setattr(Engine, "_set", refuse)
    for p in model.parameters():
        p.data = p.data * 0.7
    with pytest.warns(UserWarning, match="refused weight w2"):
        have = fast(x)
    assert error(have, model(x)) < 1e-5
    (engine,) = (e for pool in refit._pools.values() for e in pool._engines.values())
    assert not engine.ready
    assert "refused weight w2" in str(ts.reports()[-1])


@torch.no_grad()
def test_same_memory_in_another_order() -> None:
    model, x = perturbed(nn.Sequential(nn.Linear(16, 16), nn.ReLU())), torch.randn(4, 16, device="cuda")
    for mode in MODES:
        torch.compiler.reset()
        fast = compiled(model, mode)
        fast(x)
        model[0].weight.data = model[0].weight.data.t()
        assert error(fast(x), model(x)) < 1e-5
        model[0].weight = nn.Parameter(model[0].weight.data.mul_(3), requires_grad=False)
        assert error(fast(x), model(x)) < 1e-5
