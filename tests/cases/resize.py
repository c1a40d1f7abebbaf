"""Resampling: whole and broken factors, sizes and scale factors, aligned corners, grids, pixel shuffling."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from tests.cases import Case, T

LINE, IMAGE, VOLUME = (2, 3, 7), (2, 3, 6, 5), (1, 2, 4, 3, 5)
BILINEAR, BICUBIC = {"mode": "bilinear"}, {"mode": "bicubic"}
ALIGNED = {"align_corners": True}


def resize(name: str, shape: tuple[int, ...], **how: Any) -> Case:
    return Case(name, lambda x: F.interpolate(x, **how), (T(shape),))


def grid(name: str, mode: str, padding: str, align: bool) -> Case:
    """Points on both sides of the image's edge."""

    def sample(x: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        return F.grid_sample(x, at, mode, padding, align)

    return Case(f"grid_{name}", sample, (T(IMAGE), T((2, 4, 3, 2))))


def _turned(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A resized image that is a result itself, and is summed after a permutation."""
    y = F.interpolate(x, size=(6, 7))
    return y, y.permute(0, 2, 1, 3).float().sum((2, 3))


CASES = [
    Case("nearest_2d_turned", _turned, (T(IMAGE),)),
    resize("nearest_1d", LINE, scale_factor=2),
    resize("nearest_1d_size", LINE, size=10),
    resize("nearest_2d", IMAGE, scale_factor=2),
    resize("nearest_2d_uneven", IMAGE, scale_factor=(3, 1)),
    resize("nearest_2d_size", IMAGE, size=(12, 15)),
    resize("nearest_2d_broken", IMAGE, scale_factor=1.7),
    resize("nearest_2d_broken_size", IMAGE, size=(8, 11)),
    resize("nearest_2d_shrink", (1, 2, 8, 6), scale_factor=0.5),
    resize("nearest_2d_shrink_broken", (1, 2, 9, 7), scale_factor=0.4),
    resize("nearest_2d_recomputed", IMAGE, scale_factor=1.7, recompute_scale_factor=True),
    resize("nearest_2d_same", IMAGE, size=(6, 5)),
    resize("nearest_2d_one_same", (1, 2, 9, 5), scale_factor=(1.1, 1.5)),
    resize("nearest_2d_to_one", IMAGE, size=(1, 1)),
    resize("nearest_3d", VOLUME, scale_factor=2),
    resize("nearest_3d_broken", VOLUME, size=(5, 3, 8)),
    resize("exact_1d", LINE, scale_factor=3, mode="nearest-exact"),
    resize("exact_2d", IMAGE, scale_factor=2, mode="nearest-exact"),
    resize("exact_2d_broken", IMAGE, scale_factor=1.7, mode="nearest-exact"),
    resize("exact_2d_shrink", (1, 2, 8, 6), scale_factor=0.5, mode="nearest-exact"),
    resize("exact_3d", VOLUME, size=(6, 6, 6), mode="nearest-exact"),
    resize("linear_1d", LINE, scale_factor=2, mode="linear"),
    resize("linear_1d_broken", LINE, scale_factor=1.5, mode="linear"),
    resize("linear_1d_same", LINE, scale_factor=1.1, mode="linear"),
    resize("linear_1d_aligned", LINE, size=12, mode="linear", **ALIGNED),
    resize("bilinear", IMAGE, scale_factor=2, **BILINEAR),
    resize("bilinear_aligned", IMAGE, scale_factor=2, **BILINEAR, **ALIGNED),
    resize("bilinear_size", IMAGE, size=(9, 13), **BILINEAR),
    resize("bilinear_size_aligned", IMAGE, size=(9, 13), **BILINEAR, **ALIGNED),
    resize("bilinear_broken", IMAGE, scale_factor=1.7, **BILINEAR),
    resize("bilinear_broken_aligned", IMAGE, scale_factor=1.7, **BILINEAR, **ALIGNED),
    resize("bilinear_recomputed", IMAGE, scale_factor=1.7, recompute_scale_factor=True, **BILINEAR),
    resize("bilinear_same", IMAGE, scale_factor=1.1, **BILINEAR),
    resize("bilinear_shrink", (1, 2, 9, 8), scale_factor=0.5, **BILINEAR),
    resize("bilinear_shrink_size", (1, 2, 9, 8), size=(4, 3), **BILINEAR),
    resize("bilinear_to_one", IMAGE, size=(1, 1), **BILINEAR),
    resize("bilinear_to_one_aligned", IMAGE, size=(1, 4), **BILINEAR, **ALIGNED),
    resize("bilinear_from_one", (1, 2, 1, 1), size=(4, 3), **BILINEAR),
    resize("bilinear_from_one_aligned", (1, 2, 1, 1), size=(4, 3), **BILINEAR, **ALIGNED),
    resize("trilinear", VOLUME, scale_factor=2, mode="trilinear"),
    resize("trilinear_broken", VOLUME, scale_factor=(1.3, 2, 0.7), mode="trilinear"),
    resize("trilinear_same", VOLUME, scale_factor=1.1, mode="trilinear"),
    resize("trilinear_aligned", VOLUME, size=(7, 4, 9), mode="trilinear", **ALIGNED),
    resize("bicubic", IMAGE, scale_factor=2, **BICUBIC),
    resize("bicubic_size", IMAGE, size=(9, 13), **BICUBIC),
    resize("bicubic_aligned", IMAGE, size=(9, 13), **BICUBIC, **ALIGNED),
    resize("bicubic_broken", IMAGE, scale_factor=1.7, **BICUBIC),
    resize("bicubic_shrink", (1, 2, 9, 8), size=(4, 3), **BICUBIC),
    resize("bicubic_to_one_aligned", IMAGE, size=(1, 4), **BICUBIC, **ALIGNED),
    resize("bicubic_from_one", (1, 2, 1, 2), size=(4, 3), **BICUBIC),
    grid("bilinear_zeros", "bilinear", "zeros", False),
    grid("bilinear_zeros_aligned", "bilinear", "zeros", True),
    grid("bilinear_border", "bilinear", "border", False),
    grid("bilinear_reflection", "bilinear", "reflection", False),
    grid("bilinear_reflection_aligned", "bilinear", "reflection", True),
    grid("nearest_zeros", "nearest", "zeros", False),
    grid("nearest_border_aligned", "nearest", "border", True),
    grid("bicubic_zeros", "bicubic", "zeros", False),
    grid("bicubic_border_aligned", "bicubic", "border", True),
    grid("bicubic_reflection", "bicubic", "reflection", False),
    Case("shuffle", lambda x: F.pixel_shuffle(x, 2), (T((2, 8, 3, 4)),)),
    Case("shuffle_unbatched", lambda x: F.pixel_shuffle(x, 3), (T((18, 2, 1)),)),
    Case("shuffle_many_batches", lambda x: F.pixel_shuffle(x, 2), (T((2, 1, 3, 2, 4, 2, 3)),)),
    Case("shuffle_int", lambda x: F.pixel_shuffle(x, 2), (T((1, 4, 3, 2), torch.int64, "int:-9:9"),)),
    Case("unshuffle", lambda x: F.pixel_unshuffle(x, 2), (T((2, 3, 4, 6)),)),
    Case("unshuffle_unbatched", lambda x: F.pixel_unshuffle(x, 3), (T((2, 3, 6)),)),
    *(
        resize(f"{mode}_smooth_{name}", (2, 3, 9, 8), mode=mode, antialias=True, **given)
        for mode in ("bilinear", "bicubic")
        for name, given in (
            ("shrink", {"size": (3, 5)}), ("grow", {"size": (12, 10)}), ("aligned", {"size": (4, 4), **ALIGNED}),
            ("broken", {"scale_factor": (0.6, 1.3)}), ("to_one", {"size": (1, 3)}), ("alike", {"size": (9, 8)}),
        )
    ),
]
_BOTH = {
    "nearest_2d_turned", "nearest_2d", "nearest_2d_broken", "nearest_2d_shrink", "bilinear", "bilinear_broken",
    "bicubic", "bicubic_broken", "grid_bilinear_zeros", "grid_bilinear_border", "shuffle",
}  # fmt: skip
CASES += [c.with_dtype(d) for d in (torch.float16, torch.bfloat16) for c in CASES if c.name in _BOTH]
