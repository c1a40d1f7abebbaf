"""A start with PyTorch's ``caching_precompile``, in a process of its own, with emulated engines.

``python -m tests.precompiled [OPTION=VALUE…]`` prints one line of JSON.
"""

from __future__ import annotations

import json
import logging
import sys
from typing import Any
from unittest import mock

import torch

import trt_stripped_backend as ts
from tests.emulated import emulated
from tests.graphs import TwoEngines, perturb
from tests.saved import X
from trt_stripped_backend import backend, lowering


def start(**options: Any) -> dict[str, Any]:
    """Results with three sets of weights, and how many graphs were traced, by whom."""
    model, errors = perturb(TwoEngines(), seed=5), []
    given = {"min_block_size": 1, "cache": options.pop("cache", "1") == "1", **options}
    with mock.patch.object(lowering, "trace", side_effect=lowering.trace) as trace:
        fast = torch.compile(model, backend=backend.trt_stripped, dynamic=False, options=given)
        for seed in (5, 6):
            perturb(model, seed)
            errors.append(float((fast(X) - model(X)).abs().max()))
        model.head = perturb(TwoEngines(), 9).head
        errors.append(float((fast(X) - model(X)).abs().max()))
        fast(X[:1])  # of another shape
    torch.compiler.save_cache_artifacts()
    (report, *_) = ts.reports()
    return {
        "errors": errors, "lowered": trace.call_count, **{name: ts.stats()[name] for name in ("graphs", "builds")},
        "engines": len(report.partitions), "status": [p.status for p in report.partitions],
    }  # fmt: skip


def main() -> None:
    logging.getLogger("torch._dynamo").setLevel(logging.ERROR)  # tells of each guard that it does not keep
    with emulated(), torch.no_grad(), torch._dynamo.config.patch(caching_precompile=True):
        print(json.dumps(start(**dict(one.split("=") for one in sys.argv[1:]))))


if __name__ == "__main__":
    main()
