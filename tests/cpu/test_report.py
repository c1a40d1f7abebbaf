"""Reports and counters."""

from __future__ import annotations

import json
import threading

import trt_stripped_backend as ts
from trt_stripped_backend.report import EngineReport, Report, Stats
from trt_stripped_backend.types import Rejection
from trt_stripped_backend.view.drawing import DerivedWeight

HIT = EngineReport(
    "engine_0", 4, {"aten.relu": 1, "aten.linear": 3}, "ab" * 32, "hit", 0.1, 2.5, 3_000_000, 6, 5_000_000
)
MISS = EngineReport(
    "engine_1", 2, {"aten.add.Tensor": 2}, "cd" * 32, "miss", differs=("options.workspace_size", "tf32")
)
BUILT = EngineReport("engine_2", 3, {"aten.mul.Tensor": 3}, "ef" * 32, "built", seconds=1.25)
FAILED = EngineReport("engine_3", 8, {"aten.bmm": 8}, "01" * 32, "failed")
REJECTIONS = [
    Rejection("cumsum", "aten.cumsum.default", "refit", "not refittable", "model.py:12", "x.cumsum(0)"),
    Rejection("cumsum_1", "aten.cumsum.default", "refit", "not refittable", "model.py:30"),
    Rejection("fft", "aten._fft_r2c.default", "op", "no converter"),
]
DERIVED = [
    DerivedWeight(
        "derived_mul", "float32[4, 3]", ("conv.weight", "norm.weight"), {"aten.rsqrt": 1, "aten.mul.Tensor": 2}
    )
]


def report() -> Report:
    engines = [HIT, MISS, BUILT, FAILED]
    return Report("tensorrt_rtx 1.7.1", "bound", "asked for", 1, engines, list(REJECTIONS), 20, list(DERIVED))


def test_counts() -> None:
    found = report()
    assert (found.hits, found.misses, found.builds) == (1, 3, 1)
    assert found.nodes_in_engines == 9


def test_as_json() -> None:
    data = json.loads(json.dumps(report().to_dict()))
    assert data["nodes_in_engines"] == 9
    assert [p["status"] for p in data["partitions"]] == ["hit", "miss", "built", "failed"]
    assert data["partitions"][1]["differs"] == ["options.workspace_size", "tf32"]
    assert data["rejections"][0] == {
        "node": "cumsum",
        "target": "aten.cumsum.default",
        "kind": "refit",
        "reason": "not refittable",
        "where": "model.py:12",
        "code": "x.cumsum(0)",
    }
    assert data["derived"] == 1 and data["derived_weights"][0]["sources"] == ["conv.weight", "norm.weight"]
    assert "drawings" not in data


def test_as_text() -> None:
    text = str(report())
    lines = text.splitlines()
    assert lines[0] == "tensorrt_rtx 1.7.1, refit mode bound (asked for)"
    assert lines[1] == "1 graph(s); 9 of 20 operators in 4 engine(s); 1 derived weight(s)"
    hit = "engine_0 [abababababab]: 4 operators, hit in 0.10 s, saved 2.50 s, 3.00 MB plan for 5.00 MB of weights"
    assert f"  {hit}" in lines and str(HIT) == hit
    assert "      linear×3, relu×1" in lines
    assert "miss: not in the cache" in text
    assert "      nearest entry differs in: options.workspace_size, tf32" in lines
    assert "built in 1.25 s" in text
    where = lines.index("  [refit] not refittable")
    assert lines[where + 1] == "       2 × aten.cumsum.default  (model.py:12 x.cumsum(0); model.py:30)"
    assert lines[where + 2 :][:2] == ["  [op] no converter", "       1 × aten._fft_r2c.default"]
    assert "  derived_mul float32[4, 3]: from conv.weight, norm.weight by mul.Tensor×2, rsqrt×1" in lines
    assert "failed, saved" not in text


def test_without_tensorrt() -> None:
    found = Report(flavour="no TensorRT: not installed", rejections=[Rejection("", "graph", "device", "not installed")])
    assert str(found).startswith("no TensorRT: not installed\n")
    assert "in PyTorch:" in str(found)
    assert found.nodes_in_engines == 0


def test_counters_from_threads() -> None:
    stats = Stats()

    def work() -> None:
        for _ in range(1000):
            stats.add(builds=1, build_seconds=0.5)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = stats.snapshot()
    assert (found["builds"], found["build_seconds"], found["hits"]) == (4000, 2000.0, 0)
    found["builds"] = 7
    assert stats.snapshot()["builds"] == 4000
    stats.reset()
    assert set(stats.snapshot().values()) == {0}


def test_public_counters() -> None:
    ts.clear_stats()
    assert set(ts.stats()) == set(Stats.NAMES)
    assert not any(ts.stats().values())
    assert ts.reports() == []
    documented = ts.stats.__doc__ or ""
    assert [name for name in Stats.NAMES if f"``{name}``" not in documented] == []
