"""``torch.compile`` with the backend on a machine without a GPU: PyTorch runs the model, and says so once."""

from __future__ import annotations

import importlib.metadata
import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import trt_stripped_backend as ts
from tests.graphs import TwoEngines as Net
from tests.graphs import perturb
from trt_stripped_backend import backend, refit, report
from trt_stripped_backend.errors import BuildFailed, OptionError

OPTIONS = {"min_block_size": 1}


X = torch.randn(2, 3, 6, 6)


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing compiled, counted or warned about before."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(report, "_warned", set())
    torch._dynamo.reset()
    ts.clear_stats()
    yield
    torch._dynamo.reset()


def compiled(model: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    # The function itself, so that the package need not be installed.
    return torch.compile(model, backend=backend.trt_stripped, options=options or None)


# ------------------------------------------------------------------------------------------------ falling back


@torch.no_grad()
def test_without_a_gpu_the_model_runs_in_pytorch_with_one_warning() -> None:
    model = perturb(Net())
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        run = compiled(model)
        for _ in range(3):
            assert torch.equal(run(X), model(X))
        other = compiled(perturb(Net(), seed=1), min_block_size=2)
        other(X)
    ours = [str(w.message) for w in seen if "trt_stripped" in str(w.message)]
    assert ours == ["trt_stripped: the model runs in PyTorch: no CUDA device is available"]
    assert ts.stats()["fallbacks"] == 2
    assert ts.stats()["engines"] == 0


def test_gradients_are_right_with_one_warning() -> None:
    model, twin = perturb(Net()), perturb(Net())
    run = compiled(model)
    with pytest.warns(UserWarning, match="a gradient is needed") as seen:
        for _ in range(2):
            run(X).square().sum().backward()
    assert len([w for w in seen if "trt_stripped" in str(w.message)]) == 1
    for _ in range(2):
        twin(X).square().sum().backward()
    for mine, other in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad)


def test_inputs_that_need_a_gradient() -> None:
    model = perturb(Net()).requires_grad_(False)
    x, y = (X.clone().requires_grad_() for _ in range(2))
    with pytest.warns(UserWarning, match="a gradient is needed"):
        compiled(model)(x).sum().backward()
    model(y).sum().backward()
    torch.testing.assert_close(x.grad, y.grad)


def test_training_follows() -> None:
    model, twin = perturb(Net()).train(), perturb(Net()).train()
    run = compiled(model)
    with pytest.warns(UserWarning, match="a gradient is needed"):
        for net, forward in ((model, run), (twin, twin)):
            step = torch.optim.SGD(net.parameters(), lr=0.01)
            for _ in range(3):
                step.zero_grad()
                forward(X).square().mean().backward()
                step.step()
    for mine, other in zip(model.state_dict().values(), twin.state_dict().values(), strict=True):
        torch.testing.assert_close(mine, other)


@torch.no_grad()
def test_require_full() -> None:
    with pytest.raises(Exception, match="require_full: the graph would run in PyTorch: no CUDA device") as raised:
        compiled(perturb(Net()), require_full=True)(X)
    assert isinstance(raised.value.inner_exception, BuildFailed)  # type: ignore[attr-defined]


BAD = [
    ({"min_blok_size": 1}, "unknown option 'min_blok_size': did you mean 'min_block_size'?"),
    ({"refit_mode": "bond"}, "did you mean 'bound'"),
    ({"cache_size": "many"}, "a size in bytes"),
]


@pytest.mark.parametrize(("options", "message"), BAD)
@torch.no_grad()
def test_bad_options_reach_the_user(options: dict[str, Any], message: str) -> None:
    with pytest.raises(Exception, match="OptionError") as raised:
        compiled(perturb(Net()), **options)(X)
    assert isinstance(raised.value.inner_exception, OptionError)  # type: ignore[attr-defined]
    assert message in str(raised.value)
    for call in (ts.explain, lambda model, x, options: ts.prebuild(model, (x,), options=options)):
        with pytest.raises(OptionError) as direct:
            call(perturb(Net()), X, options=options)
        assert message in str(direct.value)


@torch.no_grad()
def test_inductors_modes_are_refused() -> None:
    run = torch.compile(perturb(Net()), backend=backend.trt_stripped, mode="max-autotune")
    with pytest.raises(Exception, match="mode='max-autotune' is Inductor's"):
        run(X)


def test_found_by_its_name() -> None:
    """An entry point, so only where the package is installed."""
    names = {e.name: e.value for e in importlib.metadata.entry_points(group="torch_dynamo_backends")}
    if "trt_stripped" in names:
        assert names["trt_stripped"] == f"{backend.__name__}:{backend.trt_stripped.__name__}"
        assert "trt_stripped" in torch._dynamo.list_backends()
        with torch.no_grad(), pytest.warns(UserWarning, match="runs in PyTorch"):
            torch.compile(perturb(Net()), backend="trt_stripped")(X)
        assert ts.stats()["graphs"] == 1


def test_reset_forgets_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    class Pool:
        entry = object()

    pool = Pool()
    monkeypatch.setitem(refit._pools, ("key", torch.device("cpu")), pool)  # type: ignore[misc]
    assert refit.loaded("key", torch.device("cpu")) is pool.entry
    backend.trt_stripped.reset()  # type: ignore[attr-defined]
    assert refit.loaded("key", torch.device("cpu")) is None


def test_a_graph_that_stays_in_pytorch_leaves_a_report() -> None:
    model = perturb(Net())
    with torch.no_grad(), pytest.warns(UserWarning, match="runs in PyTorch"):
        assert torch.equal(torch.compile(model, backend=backend.trt_stripped)(X), model(X))
    (report,) = ts.reports()
    assert [r.kind for r in report.rejections] == ["device"] and report.nodes_in_engines == 0 < report.nodes
    assert "no CUDA device" in str(report)


# ------------------------------------------------------------------------------------------------ cache


def test_an_unusable_cache_costs_time_and_not_the_answer(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "file"
    file.write_text("not a directory")
    options = {**OPTIONS, "cache_dir": str(file / "below")}
    with caplog.at_level(logging.WARNING, "trt_stripped_backend"):
        assert ts.prebuild(perturb(Net()), (X,), options=options).builds == 2
        assert ts.prebuild(perturb(Net()), (X,), options=options).builds == 2
    said = [r for r in caplog.records if r.levelno == logging.WARNING and r.getMessage().startswith("cache:")]
    assert 1 <= len(said) <= 2
    with pytest.raises(ts.CacheError):
        ts.prebuild(perturb(Net()), (X,), options={**options, "cache_errors": "raise"})


def test_without_a_cache(own_cache: Path) -> None:
    report = ts.prebuild(perturb(Net()), (X,), options={**OPTIONS, "cache": False})
    assert report.builds == 2
    assert list(own_cache.iterdir()) == []


def test_a_build_that_fails_is_a_rejection(monkeypatch: pytest.MonkeyPatch) -> None:
    from trt_stripped_backend import compilation

    def build(part: Any, *_: Any, **__: Any) -> Any:
        raise BuildFailed(f"{part.name}: TensorRT's\n own words")

    monkeypatch.setattr(compilation, "build", build)
    with pytest.warns(UserWarning, match="stays in PyTorch: engine_.: TensorRT's own words"):
        report = ts.prebuild(perturb(Net()), (X,), options=OPTIONS)
    assert [p.status for p in report.partitions] == ["failed", "failed"]
    assert [(r.kind, r.reason) for r in report.rejections if r.kind == "build"] == [
        ("build", "engine_0: TensorRT's own words"),
        ("build", "engine_1: TensorRT's own words"),
    ]
    assert report.nodes_in_engines == 0
    assert "failed: runs in PyTorch" in str(report)
    with pytest.raises(BuildFailed, match="own words"):
        ts.prebuild(perturb(Net()), (X,), options={**OPTIONS, "require_full": True})
