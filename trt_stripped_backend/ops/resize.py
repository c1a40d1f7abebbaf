"""Resampling: nearest, linear and cubic interpolation, grid sampling, pixel shuffling.

``IResizeLayer`` serves the cases where its coordinates are PyTorch's: nearest neighbours at whole multiples, and linear
and cubic interpolation whose scale is the quotient of the sizes. Everything else is a weighted sum of a few elements
along one dimension after the other, with PyTorch's own indices and weights as literals.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.fx.experimental.symbolic_shapes import statically_known_true

from ..flavour import trt
from ..sizes import alike, dynamic
from .net import FLOAT, Dim, ITensor, Net
from .registry import op

aten = torch.ops.aten

Sizes = Sequence[int] | None
Scales = Sequence[float] | None


@op(aten.upsample_nearest1d.vec, aten.upsample_nearest2d.vec, aten.upsample_nearest3d.vec, dtypes=FLOAT)
def upsample_nearest(net: Net, input: ITensor, output_size: Sizes, scale_factors: Scales) -> ITensor:
    """upsample_nearest1d.vec(Tensor input, SymInt[]? output_size, float[]? scale_factors) -> Tensor"""
    return _nearest(net, input, scale_factors, 0.0)


@op(
    aten._upsample_nearest_exact1d.vec,
    aten._upsample_nearest_exact2d.vec,
    aten._upsample_nearest_exact3d.vec,
    dtypes=FLOAT,
)
def _upsample_nearest_exact(net: Net, input: ITensor, output_size: Sizes, scale_factors: Scales) -> ITensor:
    """_upsample_nearest_exact1d.vec(Tensor input, SymInt[]? output_size, float[]? scale_factors) -> Tensor"""
    return _nearest(net, input, scale_factors, 0.5)


@op(aten.upsample_linear1d.vec, aten.upsample_bilinear2d.vec, aten.upsample_trilinear3d.vec, dtypes=FLOAT)
def upsample_linear(
    net: Net, input: ITensor, output_size: Sizes, align_corners: bool, scale_factors: Scales
) -> ITensor:
    """upsample_linear1d.vec(Tensor input, SymInt[]? output_size, bool align_corners, float[]? scale_factors) -> Tensor"""  # noqa: E501
    return _interpolate(net, input, align_corners, scale_factors, "LINEAR")


@op(aten.upsample_bicubic2d.vec, dtypes=FLOAT)
def upsample_bicubic2d(
    net: Net, input: ITensor, output_size: Sizes, align_corners: bool, scale_factors: Scales
) -> ITensor:
    """upsample_bicubic2d.vec(Tensor input, SymInt[]? output_size, bool align_corners, float[]? scale_factors) -> Tensor"""  # noqa: E501
    return _interpolate(net, input, align_corners, scale_factors, "CUBIC")


@op(aten._upsample_bilinear2d_aa.default, dtypes=FLOAT)
def _upsample_bilinear2d_aa(
    net: Net, self: ITensor, output_size: Sequence[int], align_corners: bool, scales_h: float | None = None,
    scales_w: float | None = None,
) -> ITensor:  # fmt: skip
    """_upsample_bilinear2d_aa(Tensor self, SymInt[2] output_size, bool align_corners, float? scales_h=None, float? scales_w=None) -> Tensor"""  # noqa: E501
    return _smooth(net, self, aten._upsample_bilinear2d_aa.default, output_size, align_corners, scales_h, scales_w)


@op(aten._upsample_bicubic2d_aa.default, dtypes=FLOAT)
def _upsample_bicubic2d_aa(
    net: Net, self: ITensor, output_size: Sequence[int], align_corners: bool, scales_h: float | None = None,
    scales_w: float | None = None,
) -> ITensor:  # fmt: skip
    """_upsample_bicubic2d_aa(Tensor self, SymInt[2] output_size, bool align_corners, float? scales_h=None, float? scales_w=None) -> Tensor"""  # noqa: E501
    return _smooth(net, self, aten._upsample_bicubic2d_aa.default, output_size, align_corners, scales_h, scales_w)


for _one in (
    upsample_nearest, _upsample_nearest_exact, upsample_linear, upsample_bicubic2d, _upsample_bilinear2d_aa,
    _upsample_bicubic2d_aa,
):  # fmt: skip
    _one.unless(Net.not_empty)


def _fixed_image(self: torch.Tensor, output_size: Sequence[int], **_: Any) -> Iterator[str]:
    yield from Net.fixed_along(self, 2, 3, numbers=output_size)


def _each(x: torch.Tensor, output_size: Sizes, scale_factors: Scales) -> list[tuple[Any, Any, float | None]]:
    """Size, new size and factor of each dimension, where only a call tells some: there are no indices and weights to
    write down then, and the layer must do."""
    scales: Sequence[Any] = scale_factors or [None] * (x.ndim - 2)
    outs = output_size or [s * int(k) if k == int(k) else s * k for s, k in zip(x.shape[2:], scales, strict=True)]
    return list(zip(x.shape[2:], outs, scales, strict=True)) if any(map(dynamic, (*x.shape[2:], *outs))) else []


def _doubled(input: torch.Tensor, output_size: Sizes, scale_factors: Scales) -> Iterator[str]:
    if not all(_doubles(size, out) for size, out, _ in _each(input, output_size, scale_factors)):
        yield "nearest neighbours for a dynamic size that does not become two, four, eight … times as large"


def _whole_factors(
    input: torch.Tensor, output_size: Sizes, align_corners: bool, scale_factors: Scales
) -> Iterator[str]:
    if not all(_plain(*one, align_corners) for one in _each(input, output_size, scale_factors)):
        yield "a dynamic size times what is no whole number"


for _one, _check in (
    (upsample_nearest, _doubled), (_upsample_nearest_exact, _doubled), (upsample_linear, _whole_factors),
    (upsample_bicubic2d, _whole_factors), (_upsample_bilinear2d_aa, _fixed_image),
    (_upsample_bicubic2d_aa, _fixed_image),
):  # fmt: skip
    _one.unless(_check)


@op(aten.grid_sampler_2d.default, dtypes=FLOAT)
def grid_sampler_2d(
    net: Net, input: ITensor, grid: ITensor, interpolation_mode: int, padding_mode: int, align_corners: bool
) -> ITensor:
    """grid_sampler_2d(Tensor input, Tensor grid, int interpolation_mode, int padding_mode, bool align_corners) -> Tensor"""  # noqa: E501
    return _grid_sample(net, input, grid, interpolation_mode, padding_mode, align_corners)


@op(aten.cudnn_grid_sampler.default, dtypes=FLOAT)
def cudnn_grid_sampler(net: Net, self: ITensor, grid: ITensor) -> ITensor:
    """cudnn_grid_sampler(Tensor self, Tensor grid) -> Tensor output"""
    return _grid_sample(net, self, grid, 0, 0, True)


grid_sampler_2d.unless(Net.not_empty)
cudnn_grid_sampler.unless(Net.not_empty)


@op(aten.pixel_shuffle.default)
def pixel_shuffle(net: Net, self: ITensor, upscale_factor: int) -> ITensor:
    """pixel_shuffle(Tensor self, int upscale_factor) -> Tensor"""
    r = upscale_factor
    channels, height, width = net.shape(self)[-3:]
    x = net.reshape(self, [-1, channels // (r * r), r, r, height, width])
    return net.reshape(net.permute(x, [0, 1, 4, 2, 5, 3]), net.out.shape)


@op(aten.pixel_unshuffle.default)
def pixel_unshuffle(net: Net, self: ITensor, downscale_factor: int) -> ITensor:
    """pixel_unshuffle(Tensor self, int downscale_factor) -> Tensor"""
    r = downscale_factor
    channels, height, width = net.shape(self)[-3:]
    x = net.reshape(self, [-1, channels, height // r, r, width // r, r])
    return net.reshape(net.permute(x, [0, 1, 3, 5, 2, 4]), net.out.shape)


pixel_shuffle.unless(Net.not_empty)
pixel_unshuffle.unless(Net.not_empty)


# ------------------------------------------------------------------------------------------------ one dimension


def taps(net: Net, x: ITensor, dim: int, indices: torch.Tensor, weights: torch.Tensor) -> ITensor:
    """``out[i] = sum over k of weights[i, k] * x[indices[i, k]]`` along ``dim``; both literals have shape (out, k)."""
    picked = net.gather(x, net.constant(indices.to(torch.int32)), dim)
    shape = [*net.shape(indices)] + [1] * (len(x.shape) - dim - 1)
    weighted = net.mul(picked, net.reshape(net.constant(weights), shape))
    return net.reduce(trt.ReduceOperation.SUM, weighted, [dim + 1])


def _sources(size: int, out: int, scale: float | None, align_corners: bool, offset: float) -> torch.Tensor:
    """Where each output element lies in the input, in float32 as in PyTorch's kernels.

    Source: aten/src/ATen/native/UpSample.h, ``area_pixel_compute_scale`` and ``area_pixel_compute_source_index``.
    """
    places = torch.arange(out, dtype=torch.float32)
    if align_corners:
        return places * torch.tensor((size - 1) / (out - 1) if out > 1 else 0.0)
    step = torch.tensor(1.0 / scale if scale is not None and scale > 0 else size / out, dtype=torch.float32)
    return (places + offset) * step


def _linear_taps(at: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    at = at.clamp(min=0)
    low = at.floor().clamp(max=size - 1)
    high = (at - low).clamp(0, 1)
    return torch.stack([low, (low + 1).clamp(max=size - 1)], 1).long(), torch.stack([1 - high, high], 1)


def _cubic_taps(at: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    low = at.floor().clamp(max=size - 1)
    t = (at - low).clamp(0, 1)
    # Keys' cubic convolution with a = -0.75.
    a = -0.75

    def near(x: torch.Tensor) -> torch.Tensor:
        return ((a + 2) * x - (a + 3)) * x * x + 1

    def far(x: torch.Tensor) -> torch.Tensor:
        return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a

    indices = torch.stack([low - 1, low, low + 1, low + 2], 1).clamp(0, size - 1)
    return indices.long(), torch.stack([far(t + 1), near(t), near(1 - t), far(2 - t)], 1)


def _smoothed_taps(
    rule: Callable[..., torch.Tensor], size: int, out: int, align_corners: bool, scale: float | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """PyTorch's own weights: what its operator makes of each element alone."""
    # Along the last dimension: torch 2.13 is wrong along another, on a CPU, when the last one has a single element.
    each = torch.eye(size).reshape(1, size, 1, size)
    weights = rule(each, [1, out], align_corners, None, scale)[0, :, 0].t()
    used = weights != 0
    first, count = used.int().argmax(1), int((size - used.flip(1).int().argmax(1) - used.int().argmax(1)).max())
    first = first.clamp(max=size - count)
    indices = first[:, None] + torch.arange(count)
    return indices, weights.gather(1, indices)


# ------------------------------------------------------------------------------------------------ all dimensions


def _nearest(net: Net, x: ITensor, scale_factors: Scales, offset: float) -> ITensor:
    tables = {}
    if any(isinstance(size, Dim) for size in (*net.shape(x)[2:], *net.out.shape[2:])):
        return _resize_layer(net, x, "NEAREST", "ASYMMETRIC")
    for dim, scale in _spatial(x, scale_factors):
        # A size that stays is copied, whatever the scale; in one and three dimensions only on a CPU, not on CUDA.
        scale = None if len(x.shape) == 4 and net.shape(x)[dim] == net.out.shape[dim] else scale
        at = _sources(net.shape(x)[dim], net.out.shape[dim], scale, False, offset).floor()
        tables[dim] = at.clamp(max=net.shape(x)[dim] - 1).long()
    if all(_repeats(table, net.shape(x)[dim]) for dim, table in tables.items()):
        return _resize_layer(net, x, "NEAREST", "ASYMMETRIC")
    for dim, table in tables.items():
        x = _pick(net, x, dim, table.tolist())
    return x


def _repeats(table: torch.Tensor, size: int) -> bool:
    """Each element as often as every other: the cases where no rounding of a coordinate is close."""
    return table.numel() % size == 0 and torch.equal(table, torch.arange(size).repeat_interleave(table.numel() // size))


def _pick(net: Net, x: ITensor, dim: int, table: list[int]) -> ITensor:
    step = table[1] - table[0] if len(table) > 1 else 1
    if step > 0 and table == list(range(table[0], table[0] + step * len(table), step)):
        return net.narrow(x, dim, table[0], len(table), step)
    # Of half types RTX 1.6 and 1.7 fail to build some gathers that are outputs and go on transposed.
    return net.cast(net.gather(net.wide(x), net.constant(table, torch.int32), dim), net.dtype(x))


def _interpolate(net: Net, x: ITensor, align_corners: bool, scale_factors: Scales, mode: str) -> ITensor:
    spatial, out = list(_spatial(x, scale_factors)), net.out.shape
    if alike(out, net.shape(x)):  # PyTorch copies, whatever the scale: cubic too on CUDA, though not on a CPU
        return x
    if all(_plain(net.shape(x)[dim], out[dim], scale, align_corners) for dim, scale in spatial):
        return _resize_layer(net, x, mode, "ALIGN_CORNERS" if align_corners else "HALF_PIXEL")
    y = net.wide(x)
    for dim, scale in spatial:
        size = net.shape(x)[dim]
        at = _sources(size, out[dim], scale, align_corners, 0.5)
        at = at if align_corners else at - 0.5
        y = taps(net, y, dim, *(_cubic_taps(at, size) if mode == "CUBIC" else _linear_taps(at, size)))
    return net.cast(y, net.dtype(x))


def _smooth(
    net: Net, x: ITensor, rule: Callable[..., torch.Tensor], output_size: Sequence[int], align_corners: bool,
    *scales: float | None,
) -> ITensor:  # fmt: skip
    y = net.wide(x)
    for dim, out, scale in zip((2, 3), output_size, scales, strict=True):
        y = taps(net, y, dim, *_smoothed_taps(rule, net.shape(x)[dim], out, align_corners, scale))
    return net.cast(y, net.dtype(x))


def _plain(size: Any, out: Any, scale: float | None, align_corners: bool) -> bool:
    """Whether the layer's own scale, the quotient of the sizes, is PyTorch's; undefined for one aligned corner."""
    if isinstance(size, int) and isinstance(out, int):
        return out > 1 if align_corners else scale is None or size * scale == out
    if align_corners:
        return statically_known_true(out > 1)
    return scale is None or (scale == int(scale) and statically_known_true(size * int(scale) == out))


def _doubles(size: Any, out: Any) -> bool:
    """Whether each element comes once, twice, four times …: coordinates without roundings."""
    return any(statically_known_true(out == size * 2**power) for power in range(6))


def _spatial(x: ITensor, scale_factors: Scales) -> Iterator[tuple[int, float | None]]:
    for index in range(len(x.shape) - 2):
        yield index + 2, None if scale_factors is None else scale_factors[index]


def _resize_layer(net: Net, x: ITensor, mode: str, coordinates: str) -> ITensor:
    layer = net.network.add_resize(x)
    if layer is not None:
        if any(isinstance(size, Dim) for size in net.out.shape):
            layer.set_input(1, net.shape_tensor(net.out.shape))
        else:
            layer.shape = tuple(net.out.shape)
        layer.resize_mode = getattr(trt.InterpolationMode, mode)
        layer.coordinate_transformation = getattr(trt.ResizeCoordinateTransformation, coordinates)
        layer.nearest_rounding = trt.ResizeRoundMode.FLOOR
    return net.keep(net.take(layer), net.out.shape)


def _grid_sample(net: Net, x: ITensor, grid: ITensor, mode: int, padding: int, align_corners: bool) -> ITensor:
    layer = net.network.add_grid_sample(net.wide(x), net.wide(grid))
    kinds, outside = trt.InterpolationMode, trt.SampleMode
    if layer is not None:
        layer.interpolation_mode = (kinds.LINEAR, kinds.NEAREST, kinds.CUBIC)[mode]
        layer.sample_mode = (outside.FILL, outside.CLAMP, outside.REFLECT)[padding]
        layer.align_corners = align_corners
    return net.cast(net.take(layer), net.dtype(x))
