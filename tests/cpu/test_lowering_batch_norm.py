"""A batch norm behind a convolution becomes part of its weights, and those stay live."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from tests.graphs import Staged, perturb, stage, targets
from trt_stripped_backend import decompositions

NORM = "aten._native_batch_norm_legit_no_training.default"


def run(staged: Staged, *args: torch.Tensor) -> Any:
    with torch.no_grad():
        return staged.compiled(*args)


def eager(model: Callable[..., Any], *args: torch.Tensor) -> Any:
    with torch.no_grad():
        return model(*args)


class Net(nn.Module):
    def __init__(self, conv: nn.Module, norm: nn.Module) -> None:
        super().__init__()
        self.conv, self.norm = conv, norm

    def forward(self, x: torch.Tensor) -> Any:
        return self.norm(self.conv(x))


FOLDED: list[tuple[str, Net, tuple[int, ...]]] = [
    ("bias", Net(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6)), (2, 4, 7, 7)),
    ("no_bias", Net(nn.Conv2d(4, 6, 3, bias=False), nn.BatchNorm2d(6)), (2, 4, 7, 7)),
    ("no_affine", Net(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6, affine=False)), (2, 4, 7, 7)),
    ("bare", Net(nn.Conv2d(4, 6, 3, bias=False), nn.BatchNorm2d(6, affine=False, eps=0.1)), (2, 4, 7, 7)),
    ("grouped", Net(nn.Conv2d(4, 6, 3, groups=2, padding=1, stride=2), nn.BatchNorm2d(6)), (2, 4, 7, 7)),
    ("depthwise", Net(nn.Conv2d(4, 8, 3, groups=4, dilation=2), nn.BatchNorm2d(8)), (2, 4, 7, 7)),
    ("1d", Net(nn.Conv1d(4, 6, 3), nn.BatchNorm1d(6)), (2, 4, 9)),
    ("3d", Net(nn.Conv3d(2, 3, 2), nn.BatchNorm3d(3)), (1, 2, 4, 5, 6)),
]


@pytest.mark.parametrize(("model", "shape"), [pytest.param(m, s, id=name) for name, m, s in FOLDED])
def test_folded_and_live(model: Net, shape: tuple[int, ...]) -> None:
    x = torch.randn(shape)
    perturb(model)
    staged = stage(model, x)
    assert NORM not in targets(staged.graph)
    assert targets(staged.split.module) == ["aten.convolution.default"]
    torch.testing.assert_close(run(staged, x), eager(model, x), rtol=1e-4, atol=1e-5)
    for value in [*model.parameters(), *model.buffers()]:
        if value.is_floating_point():
            before = eager(model, x)
            value.data.mul_(1.7).add_(0.1)
            after = eager(model, x)
            assert not torch.allclose(before, after, rtol=1e-2)
            torch.testing.assert_close(run(staged, x), after, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_round_once(dtype: torch.dtype) -> None:
    model = perturb(Net(nn.Conv2d(8, 16, 3), nn.BatchNorm2d(16)))
    x = torch.randn(2, 8, 7, 7)
    want = eager(model, x)
    model, given = model.to(dtype), x.to(dtype)
    staged = stage(model, given)
    assert targets(staged.split.module) == ["aten.convolution.default"]
    have = run(staged, given)
    assert have.dtype == dtype

    def error(value: torch.Tensor) -> float:
        return float((value.float() - want).norm() / want.norm())

    assert error(have) <= max(2 * error(eager(model, given)), 2e-3 if dtype == torch.float16 else 1.6e-2)


def test_norm_in_float32_behind_a_half_convolution() -> None:
    class Cast(Net):
        def forward(self, x: torch.Tensor) -> Any:
            return self.norm(self.conv(x).float())

    model = perturb(Cast(nn.Conv2d(4, 6, 3).half(), nn.BatchNorm2d(6)))
    x = torch.randn(2, 4, 7, 7).half()
    staged = stage(model, x)
    assert NORM in targets(staged.graph)
    torch.testing.assert_close(run(staged, x), eager(model, x))


def test_double_is_not_rounded() -> None:
    model = perturb(Net(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6))).double()
    x = torch.randn(2, 4, 7, 7, dtype=torch.float64)
    staged = stage(model, x)
    torch.testing.assert_close(run(staged, x), eager(model, x), rtol=1e-13, atol=1e-13)


def test_transposed_is_not_folded() -> None:
    model = perturb(Net(nn.ConvTranspose2d(4, 6, 3), nn.BatchNorm2d(6)))
    x = torch.randn(2, 4, 7, 7)
    staged = stage(model, x)
    assert NORM in targets(staged.graph)
    torch.testing.assert_close(run(staged, x), eager(model, x))


class Shown(Net):
    """The convolution's own result is needed too."""

    def forward(self, x: torch.Tensor) -> Any:
        y = self.conv(x)
        return self.norm(y), y.relu()


class Fed(nn.Module):
    """The kernel comes from outside."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(6)

    def forward(self, x: torch.Tensor, kernel: torch.Tensor) -> Any:
        return self.norm(torch.conv2d(x, kernel))


def test_shared_result_is_not_folded() -> None:
    model, x = perturb(Shown(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6))), torch.randn(2, 4, 7, 7)
    staged = stage(model, x)
    assert NORM in targets(staged.graph)
    torch.testing.assert_close(run(staged, x), eager(model, x))


def test_foreign_kernel_is_not_folded() -> None:
    model, x, kernel = perturb(Fed()), torch.randn(2, 4, 7, 7), torch.randn(6, 4, 3, 3)
    staged = stage(model, x, kernel)
    assert NORM in targets(staged.graph)
    torch.testing.assert_close(run(staged, x, kernel), eager(model, x, kernel))


def test_training_statistics_are_not_folded() -> None:
    model, x = perturb(Net(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6))).train(), torch.randn(2, 4, 7, 7)
    twin = perturb(Net(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6))).train()
    staged = stage(model, x)
    eager(twin, x)
    torch.testing.assert_close(run(staged, x), eager(twin, x))
    torch.testing.assert_close(dict(model.named_buffers()), dict(twin.named_buffers()))


class Head(nn.Module):
    """One block over several maps, and one kernel behind two norms."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.one, self.two = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> Any:
        late = self.conv(x.sin())
        small, large = (self.one(self.conv(y)) for y in (x, x + 1))
        return small, large, self.two(self.conv(small)), self.one(late)


def test_a_layer_called_again_has_one_folded_weight() -> None:
    model, x = perturb(Head()), torch.randn(2, 4, 7, 7)
    staged = stage(model, x)
    assert NORM not in targets(staged.graph)
    assert sum(len(piece.names) for piece in staged.split.derived) == 4  # kernel and bias, for each norm
    torch.testing.assert_close(run(staged, x), eager(model, x), rtol=1e-4, atol=1e-5)


def test_cudnn_batch_norm_is_the_same_operator() -> None:
    x, weight, bias, mean, var = torch.randn(2, 4, 3), *(torch.rand(4) for _ in range(4))
    out, *_ = decompositions._cudnn_batch_norm(x, weight, bias, mean, var, False, 0.1, 1e-5)
    torch.testing.assert_close(out, torch.nn.functional.batch_norm(x, mean, var, weight, bias, eps=1e-5))
    assert decompositions._cudnn_batch_norm(x, weight, bias, mean, var, True, 0.1, 1e-5) is NotImplemented
