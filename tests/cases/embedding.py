"""Embedding tables and bags of their rows."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from tests.cases import Case, T

TABLE = T((11, 6))


def index(*shape: int, dtype: torch.dtype = torch.int64) -> T:
    return T(shape, dtype, "int:0:11")


def rows(name: str, indices: T, table: T = TABLE, **how: Any) -> Case:
    return Case(name, lambda i, w: F.embedding(i, w, **how), (indices, table), (1,))


CASES = [
    rows("vector", index(5)),
    rows("matrix", index(2, 5)),
    rows("rank_4", index(2, 1, 3, 2)),
    rows("one", index()),
    rows("int32", index(2, 5, dtype=torch.int32)),
    rows("padding_idx", index(2, 5), padding_idx=3),
    rows("int_table", index(2, 5), T((11, 6), torch.int64, "int:-9:9")),
    Case("table_is_data", F.embedding, (index(2, 5), TABLE)),
    Case("positions", lambda x, w: x + F.embedding(torch.arange(5, device=x.device), w), (T((2, 5, 6)), TABLE), (1,)),
    Case("tied", lambda i, w: F.linear(F.embedding(i, w), w), (index(2, 5), TABLE), (1,)),
    rows("no_indices", index(0), TABLE),
    Case("bag", lambda i, o, w: F.embedding_bag(i, w, o), (index(7), T((3,), torch.int64, "zeros"), TABLE), (2,)),
]
CASES[-2] = Case("no_indices", CASES[-2].fn, CASES[-2].inputs, rejected="empty")
CASES[-1] = Case("bag", CASES[-1].fn, CASES[-1].inputs, rejected="not refittable")
CASES += [c.with_dtype(d) for d in (torch.float16, torch.bfloat16) for c in CASES if c.name in ("matrix", "tied")]
