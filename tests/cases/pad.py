"""Padding: constants, reflection, replication; negative sizes crop."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from tests.cases import Case, T

IMAGE = (2, 3, 5, 4)


FLOAT, BOOL = T(()), T((), torch.bool, "bool")
INT, LONG = T((), torch.int32, "int:-9:9"), T((), torch.int64, "int:-9:9")


def pad(name: str, shape: tuple[int, ...], sizes: tuple[int, ...], *how: Any, like: T = FLOAT) -> Case:
    return Case(name, lambda x: F.pad(x, sizes, *how), (T(shape, like.dtype, like.kind),))


CASES = [
    pad("zeros", IMAGE, (1, 2)),
    pad("zeros_two_dims", IMAGE, (1, 2, 3, 0)),
    pad("zeros_all_dims", IMAGE, (1, 0, 0, 2, 1, 1, 2, 0)),
    pad("value", IMAGE, (1, 2, 3, 4), "constant", 2.5),
    pad("value_infinite", IMAGE, (1, 2), "constant", float("-inf")),
    pad("crop", IMAGE, (-1, -2, -1, 0)),
    pad("crop_and_pad", IMAGE, (-1, 3, 2, -2), "constant", 1.5),
    pad("crop_before_shift", (6,), (-4, 5)),
    pad("nothing", IMAGE, (0, 0, 0, 0)),
    pad("vector", (5,), (2, 1)),
    pad("int32", IMAGE, (1, 2, 0, 1), "constant", 7, like=INT),
    pad("int64", IMAGE, (1, 2, 0, 1), "constant", -3, like=LONG),
    pad("int64_zeros", IMAGE, (1, 2), like=LONG),
    pad("bool", IMAGE, (1, 2, 0, 1), "constant", True, like=BOOL),
    pad("bool_false", IMAGE, (1, 2), "constant", False, like=BOOL),
    pad("rank_7", (1, 2, 1, 2, 1, 2, 3), (1, 1, 0, 2)),
    pad("reflect_1d", (2, 3, 6), (2, 5), "reflect"),
    pad("reflect_2d", IMAGE, (1, 3, 4, 2), "reflect"),
    pad("reflect_2d_unbatched", (3, 5, 4), (3, 0, 1, 1), "reflect"),
    pad("reflect_3d", (1, 2, 3, 4, 5), (1, 2, 3, 0, 2, 1), "reflect"),
    pad("reflect_crop", (2, 3, 6), (-1, 3), "reflect"),
    pad("replicate_1d", (2, 3, 6), (2, 9), "replicate"),
    pad("replicate_2d", IMAGE, (1, 3, 7, 2), "replicate"),
    pad("replicate_3d", (1, 2, 3, 4, 5), (1, 2, 3, 0, 2, 1), "replicate"),
    pad("replicate_crop", IMAGE, (-1, 3, 2, -2), "replicate"),
    pad("circular", IMAGE, (1, 2, 2, 1), "circular"),
    Case("negative_zero", lambda x: 1 / F.pad(x, (1, 2), "constant", -0.0), (T(IMAGE),)),
    Case("constant_then_slice", lambda x: F.pad(x, (1, 1))[..., 1:-1], (T(IMAGE),)),
    Case("empty", lambda x: F.pad(x, (1, 1)), (T((3, 0)),), rejected="empty"),
]
_BOTH = {"zeros_two_dims", "value", "crop_and_pad", "reflect_2d", "replicate_2d"}
CASES += [c.with_dtype(d) for d in (torch.float16, torch.bfloat16) for c in CASES if c.name in _BOTH]
