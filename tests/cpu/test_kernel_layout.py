"""Kernels of convolutions lie as TensorRT's own where that is free, and PyTorch never sees the difference."""

from __future__ import annotations

from typing import Any
from unittest import mock

import pytest
import torch
from torch import nn
from torch._dynamo.aot_compile import AOTCompiledFunction

from tests.emulated import emulated
from tests.graphs import aligned, perturb, stage
from tests.saved import compiled
from trt_stripped_backend import backend, report, run
from trt_stripped_backend.kernel_layout import CHANNELS_LAST, kernel_format
from trt_stripped_backend.key import canonical
from trt_stripped_backend.types import Slot

CONTIGUOUS = (0, 1, 2, 3)
HALF = torch.bfloat16


class Image(nn.Module):
    """A convolution whose batch norm is folded, then a view that takes a contiguous image for granted."""

    def __init__(self, conv: nn.Module, norm: bool = True) -> None:
        super().__init__()
        self.conv, self.norm = conv, nn.BatchNorm2d(16) if norm else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(self.conv(x))
        return y.view(y.shape[0], -1).relu()


def kernel(model: nn.Module, x: torch.Tensor, **options: Any) -> Slot:
    """The slot of a model's only kernel."""
    (piece,) = stage(model, x, **options).cut.partitions
    (found,) = (slot for _, slot in canonical(piece)[1].slots if len(slot.spec.shape) == 4)
    return found


@pytest.mark.parametrize(
    ("conv", "dtype", "expected"),
    [
        (nn.Conv2d(8, 16, 3), HALF, (True, CHANNELS_LAST)),
        (nn.Conv2d(8, 16, 3), torch.float32, (True, CHANNELS_LAST)),
        (nn.Conv2d(3, 16, 3), torch.float32, (True, CHANNELS_LAST)),
        (nn.Conv2d(3, 16, 3), HALF, (False, CONTIGUOUS)),  # vectors of 8 channels
        (nn.Conv2d(8, 16, 1), HALF, (True, CONTIGUOUS)),  # one pixel: the same memory
        (nn.Conv2d(16, 16, 3, groups=2), HALF, (False, CONTIGUOUS)),
        (nn.ConvTranspose2d(8, 16, 3), HALF, (False, CONTIGUOUS)),
    ],
)
@torch.no_grad()
def test_kernels_that_are_computed(conv: nn.Module, dtype: torch.dtype, expected: Any) -> None:
    model = perturb(Image(conv)).to(dtype)
    x = torch.randn(2, conv.in_channels, 5, 6, dtype=dtype)
    found = kernel(model, x)
    assert (found.kernel, found.spec.order) == expected
    assert found.relaid == (expected[1] == CHANNELS_LAST)
    general = kernel(model, x, refit_mode="general")
    assert (general.relaid, general.spec.order) == (False, CONTIGUOUS)


@torch.no_grad()
def test_kernels_of_the_model() -> None:
    """Bound where they lie: what the model has is not copied, so that every write is seen."""
    model, x = Image(nn.Conv2d(8, 16, 3), norm=False), torch.randn(2, 8, 5, 6)
    found = kernel(model, x)
    assert (found.kernel, found.relaid, found.spec.order) == (False, False, CONTIGUOUS)
    model.conv.weight.data = model.conv.weight.data.contiguous(memory_format=torch.channels_last)
    staged = stage(lambda x: model.conv(x).relu(), x)
    ((_, slot), *_) = canonical(staged.cut.partitions[0])[1].slots
    assert (slot.kernel, slot.relaid, slot.spec.order) == (True, False, CHANNELS_LAST)


def test_formats() -> None:
    assert [kernel_format(d) for d in (torch.float32, torch.float16, torch.bfloat16)] == ["HWC", "HWC8", "HWC8"]


@torch.no_grad()
def test_pytorch_between_engines_gets_contiguous_kernels() -> None:
    model, x = perturb(Image(nn.Conv2d(8, 16, 3))), torch.randn(2, 8, 5, 6)
    staged = stage(model, x, torch_executed_ops=("aten.convolution",))
    assert staged.split.kernels
    assert any("contiguous" in str(n.target) for n in staged.cut.module.graph.nodes)
    torch.testing.assert_close(staged.compiled(x), model(x), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_an_engine_that_fails_leaves_contiguous_kernels_to_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "_warned", set())
    model, x = perturb(Image(nn.Conv2d(8, 16, 3))), aligned(torch.randn(2, 8, 5, 6))
    with emulated():
        fast = torch.compile(model, backend=backend.trt_stripped, options={"min_block_size": 1, "cache": False})
        torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-5)
        model.conv.weight.mul_(-2)
        torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-5)
        with (
            mock.patch.object(run.Runner, "__call__", side_effect=RuntimeError("out of order")),
            pytest.warns(UserWarning, match="out of order"),
        ):
            torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("outside", [(), ("aten.convolution",)])
@torch.no_grad()
def test_kernels_of_a_saved_function(outside: tuple[str, ...]) -> None:
    """Another process gets the same layouts, in an engine and between engines."""
    model, x = perturb(Image(nn.Conv2d(8, 16, 3))), aligned(torch.randn(2, 8, 5, 6))
    with emulated():
        options = {"embed_engines": True, "cache": False, "torch_executed_ops": outside}
        made = compiled(model, **options).aot_compile(((model, x), {}))
        run_it = AOTCompiledFunction.deserialize(AOTCompiledFunction.serialize(made).serialized_data)
        for factor in (1, -2):
            model.conv.weight.mul_(factor)
            torch.testing.assert_close(run_it(model, x), model(x), rtol=1e-4, atol=1e-5)
