"""Operators that this PyTorch's decomposition table takes apart and that another's, or an exported graph, keeps."""

from __future__ import annotations

import pytest

from tests import harness
from tests.cases import all_cases
from trt_stripped_backend import lowering

NAMES = [
    "index/take",
    "index/unsafe",
    "scatter/put_unsafe",
    "shape/detach_alias",
    "shape/lift_fresh_copy",
    "shape/split",
    "shape/split_with_sizes_copy",
    "shape/squeeze",
    "shape/squeeze_dim_not_1",
    "shape/stack",
    "shape/stack_last",
    "shape/unbind",
    "shape/unsafe_view",
    "slicing/diag_embed",
    "slicing/diag_embed_dims",
    "slicing/diag_embed_offset",
    "slicing/select_scatter",
    "slicing/select_scatter_1d",
    "slicing/select_scatter_bool",
    "slicing/tril",
    "slicing/tril_large",
    "slicing/tril_nan",
    "slicing/tril_offset",
    "slicing/triangles_bool",
    "slicing/triangles_int64",
    "slicing/triu",
    "slicing/triu_offset",
]
CASES = {f"{family}/{case.name}": case for family, case in all_cases()}


@pytest.mark.parametrize("name", NAMES)
def test_values_without_decomposition(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lowering, "_decompositions", dict)
    monkeypatch.setattr(lowering, "PASSES", ())
    harness.emulate(CASES[name])
