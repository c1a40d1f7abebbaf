"""Resize and grid sample."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.nn import functional as F

from trt_stripped_backend.ops.network import FLOAT, INT

from .base import Layer, expect, ints, require

ROUNDING = {
    "HALF_UP": lambda c: torch.floor(c + 0.5),
    "HALF_DOWN": lambda c: torch.ceil(c - 0.5),
    "FLOOR": torch.floor,
    "CEIL": torch.ceil,
}


class Resize(Layer):
    """Separable: along each resized dimension, sums of weighted neighbours."""

    shape: Any = None
    scales: Any = None
    resize_mode: Any = None
    coordinate_transformation: Any = None
    selector_for_single_pixel: Any = None
    nearest_rounding: Any = None
    exclude_outside = 0
    cubic_coeff = -0.75

    def compute(self, x: torch.Tensor, sizes: torch.Tensor | None = None) -> torch.Tensor:
        mode = "NEAREST" if self.resize_mode is None else self.resize_mode.name
        expect(x, FLOAT if mode != "NEAREST" else FLOAT | INT, f"the input of a {mode} resize")
        require((self.shape is None) + (self.scales is None) + (sizes is None) == 2, "a resize needs a shape or scales")
        if self.scales is not None:
            scales = [float(s) for s in self.scales]
            shape = [math.floor(n * s) for n, s in zip(x.shape, scales, strict=True)]
        else:
            shape = ints(self.shape if sizes is None else sizes)
            scales = [new / old for new, old in zip(shape, x.shape, strict=True)]
        resized = [d for d in range(x.ndim) if shape[d] != x.shape[d] or scales[d] != 1]
        inner = 2 if mode == "CUBIC" else 3
        require(not resized or resized[0] >= x.ndim - inner, f"a {mode} resize of {resized} of rank {x.ndim}")
        out = x.float() if x.dtype in FLOAT else x
        for dim in resized:
            at = self._coordinates(x.shape[dim], shape[dim], scales[dim])
            if mode == "NEAREST":
                rounding = "FLOOR" if self.nearest_rounding is None else self.nearest_rounding.name
                out = out.index_select(dim, ROUNDING[rounding](at).clamp(0, x.shape[dim] - 1).long())
            else:
                places, weights = (self._linear if mode == "LINEAR" else self._cubic)(at, x.shape[dim])
                picked = out.movedim(dim, -1)[..., places]  # what is not picked spreads no NaN
                out = (picked * weights.float()).sum(-1).movedim(-1, dim)
        return out.to(x.dtype)

    def _coordinates(self, old: int, new: int, scale: float) -> torch.Tensor:
        at = torch.arange(new, dtype=torch.float64)
        kind = "ASYMMETRIC" if self.coordinate_transformation is None else self.coordinate_transformation.name
        upper = self.selector_for_single_pixel is not None and self.selector_for_single_pixel.name == "UPPER"
        if upper and new < 2:
            return torch.zeros_like(at)
        if kind == "ALIGN_CORNERS":
            return at * ((old - 1) / (new - 1)) if new > 1 else torch.zeros_like(at)
        # Single precision, as on the GPU: nearest neighbours at exact halves depend on it.
        at = at.float()
        return at / scale if kind == "ASYMMETRIC" else (at + 0.5) / scale - 0.5

    def _taps(self, at: torch.Tensor, size: int, taps: range, kernel: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Places and weights of the neighbours of each output element."""
        base = torch.floor(at)[:, None]
        offsets = torch.tensor(list(taps), dtype=at.dtype)
        places = (base + offsets).long()
        weights = kernel((at[:, None] - base - offsets).double().abs())
        if self.exclude_outside:
            weights = torch.where((places >= 0) & (places < size), weights, 0)
            weights = weights / weights.sum(1, keepdim=True)
        return places.clamp(0, size - 1), weights

    def _linear(self, at: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self._taps(at, size, range(2), lambda t: (1 - t).clamp(min=0))

    def _cubic(self, at: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor]:
        a = self.cubic_coeff

        def kernel(t: torch.Tensor) -> torch.Tensor:
            near = ((a + 2) * t - (a + 3)) * t * t + 1
            far = ((a * t - 5 * a) * t + 8 * a) * t - 4 * a
            return torch.where(t <= 1, near, torch.where(t < 2, far, torch.zeros_like(t)))

        return self._taps(at, size, range(-1, 3), kernel)


class GridSample(Layer):
    interpolation_mode: Any = None
    align_corners = False
    sample_mode: Any = None

    def compute(self, x: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
        expect(x, FLOAT, "the input of a grid sample")
        require(x.dtype == grid.dtype, "input and grid need one type")
        require(x.ndim in (4, 5) and grid.ndim == x.ndim, f"a grid sample of ranks {x.ndim} and {grid.ndim}")
        mode = "LINEAR" if self.interpolation_mode is None else self.interpolation_mode.name
        padding = "FILL" if self.sample_mode is None else self.sample_mode.name
        require(padding in ("CLAMP", "FILL", "REFLECT"), f"a grid sample with {padding}")
        require(mode != "CUBIC" or x.ndim == 4, "a cubic grid sample of rank 5")
        out = F.grid_sample(
            x.float(),
            grid.float(),
            {"LINEAR": "bilinear", "NEAREST": "nearest", "CUBIC": "bicubic"}[mode],
            {"CLAMP": "border", "FILL": "zeros", "REFLECT": "reflection"}[padding],
            self.align_corners,
        )
        return out.to(x.dtype)
