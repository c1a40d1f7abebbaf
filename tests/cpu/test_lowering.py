"""Dynamo's graph → functional ATen: what stays whole, what is folded, what the result computes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.graphs import perturb, stage, targets
from trt_stripped_backend import lowering

x1, x2, x3 = torch.randn(2, 4, 8), torch.randn(2, 4, 6, 8), torch.randn(1, 4, 4, 6, 8)
q, k = torch.randn(2, 4, 5, 8), torch.randn(2, 2, 5, 8)
mask = torch.rand(5, 5) > 0.3
w, b = torch.randn(8, 8), torch.randn(8)

WHOLE: list[tuple[str, str, Callable[[], torch.Tensor]]] = [
    ("attention", "aten.scaled_dot_product_attention.default", lambda: F.scaled_dot_product_attention(q, q, q)),
    (
        "attention_causal",
        "aten.scaled_dot_product_attention.default",
        lambda: F.scaled_dot_product_attention(q, q, q, is_causal=True, scale=0.3),
    ),
    (
        "attention_masked",
        "aten.scaled_dot_product_attention.default",
        lambda: F.scaled_dot_product_attention(q, q, q, attn_mask=mask),
    ),
    (
        "attention_grouped",
        "aten.scaled_dot_product_attention.default",
        lambda: F.scaled_dot_product_attention(q, k, k, enable_gqa=True),
    ),
    ("linear", "aten.linear.default", lambda: F.linear(x2, w, b)),
    ("linear_no_bias", "aten.linear.default", lambda: F.linear(x1, w)),
    ("layer_norm", "aten.layer_norm.default", lambda: F.layer_norm(x1, [8], b, b)),
    ("group_norm", "aten.group_norm.default", lambda: F.group_norm(x2, 2)),
    ("rms_norm", "aten.rms_norm.default", lambda: F.rms_norm(x1, [8], b)),
    ("instance_norm", "aten.instance_norm.default", lambda: F.instance_norm(x2)),
    ("matmul", "aten.matmul.default", lambda: x2 @ w),
    ("matmul_vector", "aten.matmul.default", lambda: x1 @ b),
    ("nearest1d", "aten.upsample_nearest1d.vec", lambda: F.interpolate(x1, scale_factor=2.0)),
    ("nearest2d", "aten.upsample_nearest2d.vec", lambda: F.interpolate(x2, scale_factor=2.0)),
    ("nearest3d", "aten.upsample_nearest3d.vec", lambda: F.interpolate(x3, scale_factor=2.0)),
    ("exact1d", "aten._upsample_nearest_exact1d.vec", lambda: F.interpolate(x1, 5, mode="nearest-exact")),
    ("exact2d", "aten._upsample_nearest_exact2d.vec", lambda: F.interpolate(x2, (5, 7), mode="nearest-exact")),
    ("exact3d", "aten._upsample_nearest_exact3d.vec", lambda: F.interpolate(x3, (2, 5, 7), mode="nearest-exact")),
    ("linear1d", "aten.upsample_linear1d.vec", lambda: F.interpolate(x1, 5, mode="linear")),
    ("bilinear2d", "aten.upsample_bilinear2d.vec", lambda: F.interpolate(x2, (5, 7), mode="bilinear")),
    ("trilinear3d", "aten.upsample_trilinear3d.vec", lambda: F.interpolate(x3, (2, 5, 7), mode="trilinear")),
    ("bicubic2d", "aten.upsample_bicubic2d.vec", lambda: F.interpolate(x2, (5, 7), mode="bicubic")),
    ("max_pool1d", "aten.max_pool1d.default", lambda: F.max_pool1d(x1, 2)),
    ("max_pool2d", "aten.max_pool2d.default", lambda: F.max_pool2d(x2, 2)),
    ("max_pool3d", "aten.max_pool3d.default", lambda: F.max_pool3d(x3, 2)),
    ("avg_pool1d", "aten.avg_pool1d.default", lambda: F.avg_pool1d(x1, 2)),
    ("adaptive1d", "aten.adaptive_avg_pool1d.default", lambda: F.adaptive_avg_pool1d(x1, 3)),
    ("adaptive2d", "aten.adaptive_avg_pool2d.default", lambda: F.adaptive_avg_pool2d(x2, 1)),
    ("adaptive3d", "aten.adaptive_avg_pool3d.default", lambda: F.adaptive_avg_pool3d(x3, 2)),
    ("silu", "aten.silu.default", lambda: F.silu(x1)),
    ("gelu", "aten.gelu.default", lambda: F.gelu(x1, approximate="tanh")),
    ("hardswish", "aten.hardswish.default", lambda: F.hardswish(x1)),
    ("hardsigmoid", "aten.hardsigmoid.default", lambda: F.hardsigmoid(x1)),
    ("mish", "aten.mish.default", lambda: F.mish(x1)),
    ("softplus", "aten.softplus.default", lambda: F.softplus(x1)),
    ("glu", "aten.glu.default", lambda: F.glu(x1)),
    ("leaky_relu", "aten.leaky_relu.default", lambda: F.leaky_relu(x1)),
    ("elu", "aten.elu.default", lambda: F.elu(x1)),
    ("hardtanh", "aten.hardtanh.default", lambda: F.hardtanh(x1)),
    ("pixel_shuffle", "aten.pixel_shuffle.default", lambda: F.pixel_shuffle(x2, 2)),
    ("pixel_unshuffle", "aten.pixel_unshuffle.default", lambda: F.pixel_unshuffle(x2, 2)),
    ("masked_fill", "aten.masked_fill.Scalar", lambda: x1.masked_fill(x1 > 0, 2.0)),
    ("roll", "aten.roll.default", lambda: torch.roll(x2, (1, 2), (2, 3))),
    ("std", "aten.std.correction", lambda: x1.std(-1)),
]


@pytest.mark.parametrize(("target", "fn"), [pytest.param(t, fn, id=name) for name, t, fn in WHOLE])
def test_stays_whole(target: str, fn: Callable[[], torch.Tensor]) -> None:
    staged = stage(fn)
    assert target in targets(staged.graph)
    assert len([t for t in targets(staged.graph) if t not in ("aten.gt.Scalar", "aten.t.default")]) == 1
    torch.testing.assert_close(staged.compiled(), fn())


def test_override_ends_with_the_trace() -> None:
    with pytest.raises(RuntimeError, match="stop"), lowering.keep_composites():
        raise RuntimeError("stop")
    seen: list[str] = []

    def backend(gm: torch.fx.GraphModule, inputs: Any) -> Callable[..., Any]:
        def compile(graph: torch.fx.GraphModule, _: Any) -> Callable[..., Any]:
            seen.extend(targets(graph))
            return graph.forward

        return torch._dynamo.backends.common.aot_autograd(fw_compiler=compile)(gm, inputs)

    torch._dynamo.reset()
    with torch.no_grad():
        torch.compile(lambda x: F.linear(x, w, b), backend=backend)(x1)
    assert "aten.linear.default" not in seen


# ------------------------------------------------------------------------------------------------ copies

COPIES: list[tuple[str, Callable[..., Any]]] = [
    ("clone", lambda x: x.clone()),
    ("clone_view", lambda x: x.clone().view(-1)),
    ("clone_chunk", lambda x: x.clone().chunk(2)),
    ("to_copy", lambda x: x.to(torch.float32, copy=True)[0]),
    ("clone_flatten", lambda x: (x + 1, x.clone().t().unsqueeze(0))),
    ("literal", lambda x: (x + 1, torch.tensor([1.0, 2.0]))),
    ("literal_view", lambda x: (x + 1, torch.tensor([1.0, 2.0]).view(2, 1))),
]


@pytest.mark.parametrize("fn", [pytest.param(fn, id=name) for name, fn in COPIES])
def test_results_are_the_callers_own(fn: Callable[..., Any]) -> None:
    x = torch.randn(4, 3)
    kept = x.clone()
    staged = stage(fn, x)
    with torch.no_grad():
        for _ in range(2):
            result = staged.compiled(x)
            for have, want in zip(_list(result), _list(fn(x)), strict=True):
                torch.testing.assert_close(have, want)
                have.zero_()
            torch.testing.assert_close(x, kept)


def test_copy_taken_before_a_write() -> None:
    def fn(x: torch.Tensor) -> Any:
        before = x.clone()
        x.add_(1)
        return before.view(-1), before * 2

    x, y = torch.randn(4, 3), torch.zeros(4, 3)
    staged, want = stage(fn, y), fn(x.clone())
    with torch.no_grad():
        for have, expected in zip(staged.compiled(x), want, strict=True):
            torch.testing.assert_close(have, expected)


def test_copies_that_nobody_sees_are_dropped() -> None:
    def fn(x: torch.Tensor) -> torch.Tensor:
        y = x.clone().detach().to(torch.float32, copy=True)
        return y * torch.tensor([1.0, 2.0, 3.0]) + y.contiguous()

    staged = stage(fn, torch.randn(4, 3))
    assert targets(staged.graph) == ["aten.mul.Tensor", "aten.add.Tensor"]


def test_a_copy_that_changes_the_layout_stays() -> None:
    staged = stage(lambda x: x.t().contiguous().relu() + 1, torch.randn(4, 3))
    assert "aten.clone.default" in targets(staged.graph)


@pytest.mark.parametrize("never", [torch.isnan, torch.isinf, torch.zeros_like], ids=["isnan", "isinf", "zeros_like"])
@pytest.mark.parametrize("made", [torch.logical_and, lambda x, w: (x + w).to(torch.int32)], ids=["bool", "int32"])
def test_what_only_shapes_decide_holds_on_to_no_weight(never: Callable[..., Any], made: Callable[..., Any]) -> None:
    staged = stage(lambda x, w: never(made(x, w)), torch.randn(4, 1), torch.randn(3))
    assert set(targets(staged.graph)) == {"aten.full.default"}


# ------------------------------------------------------------------------------------------------ sources


@torch.compiler.nested_compile_region
def inner(x: torch.Tensor, w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return x @ w + torch.tensor([0.5]), x.sin()


@torch.compiler.nested_compile_region
def outer(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    first, second = inner(x, w)
    return first.relu() * second


def test_regions_compiled_once_are_part_of_the_graph() -> None:
    model = perturb(nn.ModuleList(nn.Linear(8, 8, bias=False) for _ in range(2)))

    class Stack(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = model

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for layer in self.layers:
                x = outer(x, layer.weight)
            return outer(x[:3], self.layers[0].weight)

    one, x = Stack(), torch.randn(4, 8)
    staged = stage(one, x)
    assert not staged.cut.rejections
    assert len(staged.cut.partitions) == 1
    assert targets(staged.graph).count("aten.sin.default") == 3
    for seed in (1, 2):
        with torch.no_grad():
            torch.testing.assert_close(staged.compiled(x), one(x))
        perturb(model, seed)


class Named(nn.Module):
    scale: torch.Tensor
    state: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        one, two = nn.Linear(4, 4), nn.Linear(4, 4)
        self.h = nn.ModuleList([one, two])
        self.own = nn.Parameter(torch.randn(4))
        self.register_buffer("scale", torch.rand(4))
        self.register_buffer("state", torch.zeros(4))
        self.plain = torch.rand(4)
        two.weight = one.weight
        self.by_name = nn.ParameterDict({"key": torch.randn(4)})

    def forward(self, x: torch.Tensor) -> Any:
        self.state.add_(x.sum(0))
        for layer in self.h:
            x = layer(x)
        return x * self.own + self.scale * self.plain + self.state + self.by_name["key"]


def test_sources_and_their_names() -> None:
    model, x = Named(), torch.randn(2, 4)
    staged = stage(model, x)
    names = set(staged.lowered.names.values())
    assert names == {"h.0.weight", "h.0.bias", "h.1.bias", "own", "scale", "plain", "by_name.key"}
    assert set(staged.lowered.names) == set(staged.lowered.sources)
    (args,) = staged.calls
    for index, name in staged.lowered.names.items():
        where, _, attribute = name.rpartition(".")
        want = model.by_name[attribute] if where == "by_name" else getattr(model.get_submodule(where), attribute)
        assert args[index] is want, name


def test_a_written_buffer_is_an_argument() -> None:
    model, twin, x = Named(), Named(), torch.randn(2, 4)
    twin.load_state_dict(model.state_dict())
    twin.plain, reference = model.plain, model.state.clone()
    staged = stage(model, x)
    assert "state" not in staged.lowered.names.values()
    with torch.no_grad():
        twin.state.copy_(reference)
        want = [twin(x), twin(x)][1]
        torch.testing.assert_close(staged.compiled(x), want)
    torch.testing.assert_close(model.state, twin.state)


def test_tensors_given_as_arguments_are_no_sources() -> None:
    staged = stage(lambda x, y: x @ y + 1, torch.randn(4, 4), torch.randn(4, 4))
    assert staged.lowered.sources == ()


def test_gradient_history_is_not_touched() -> None:
    model = nn.Linear(4, 4)
    stage(model, torch.randn(2, 4))
    model(torch.randn(2, 4)).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_odd_outputs() -> None:
    def fn(x: torch.Tensor) -> Any:
        y = x.relu()
        return {"y": y, "none": None, "n": 3, "same": y, "argmax": y.argmax(-1), "input": x, "view": x[0]}

    x = torch.randn(3, 4)
    staged, want = stage(fn, x), fn(x)
    have = staged.compiled(x)
    assert (have["none"], have["n"]) == (None, 3)
    assert have["input"] is x
    assert have["same"] is have["y"]
    assert have["view"].data_ptr() == x.data_ptr()
    torch.testing.assert_close([have["y"], have["argmax"]], [want["y"], want["argmax"]])


# ------------------------------------------------------------------------------------------------ encoder fast path


@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("norm_first", [False, True])
def test_encoder_layer_is_taken_apart(activation: str, norm_first: bool) -> None:
    layer = nn.TransformerEncoderLayer(16, 2, 32, activation=activation, norm_first=norm_first, batch_first=True)
    model, x = perturb(layer), torch.randn(2, 5, 16)
    staged = stage(model, x)
    found = targets(staged.graph)
    assert "aten._transformer_encoder_layer_fwd.default" not in found
    assert found.count("aten.scaled_dot_product_attention.default") == 1
    assert found.count("aten.layer_norm.default") == 2
    with torch.no_grad():
        torch.testing.assert_close(staged.compiled(x), model(x), rtol=1e-4, atol=1e-5)
    assert not staged.cut.rejections


PADDING = torch.tensor([[0, 0, 0, 1, 1], [0, 0, 0, 0, 1]]).bool()
CAUSAL = torch.ones(5, 5).triu(1).bool()


@pytest.mark.parametrize(("mask", "padding"), [(None, PADDING), (CAUSAL, None), (CAUSAL, PADDING)])
def test_encoder_layer_with_a_mask_is_taken_apart(mask: torch.Tensor | None, padding: torch.Tensor | None) -> None:
    model, x = perturb(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)), torch.randn(2, 5, 16)
    with torch.no_grad():
        want = model(x, mask, padding)
        staged = stage(model, x, mask, padding)
        have = staged.compiled(x, mask, padding)
    torch.testing.assert_close(have, want, rtol=1e-4, atol=1e-5)
    assert not staged.cut.rejections


def _list(result: Any) -> list[torch.Tensor]:
    return list(result) if isinstance(result, (tuple, list)) else [result]
