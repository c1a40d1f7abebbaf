"""What a report looks like: the drawn graph, tables, and the page."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import nn

import trt_stripped_backend
from tests.graphs import TwoEngines, perturb, stage
from trt_stripped_backend.origin import Origin, origin
from trt_stripped_backend.report import EngineReport, Report
from trt_stripped_backend.types import Rejection
from trt_stripped_backend.view.drawing import DerivedWeight, Drawing, Drawn, derived_weights, draw
from trt_stripped_backend.view.text import grouped

X = torch.randn(2, 3, 6, 6)
HOSTILE = "</script><!--<script><img src=x onerror=alert(1)>&\"'`${0}\u2028\udcff"


def drawing(model: Any, *args: Any, **options: Any) -> Drawing:
    staged = stage(model, *args, **options)
    return draw(staged.split, staged.cut, staged.lowered.names)


def of(drawn: Drawing, op: str) -> Drawn:
    (found,) = (one for one in drawn.nodes if one.op == op)
    return found


def test_the_graph_is_drawn_with_its_boxes() -> None:
    found = drawing(perturb(TwoEngines()), X)
    assert [name for name in found.boxes if name] == ["engine_0", "engine_1"] and found.boxes.count("") == 1
    boxes = {one.op: found.boxes[one.box] for one in found.nodes if one.box is not None}
    assert boxes["aten.cumsum"] == "" and boxes["aten.convolution"] == "engine_0"
    cumsum = of(found, "aten.cumsum")
    assert cumsum.reason.startswith("not refittable") and "cumsum" in cumsum.code
    assert cumsum.where.rpartition(":")[0].endswith("tests/graphs.py")
    assert [found.nodes[i].box for i in cumsum.inputs] == [found.boxes.index("engine_0")]
    given, result = of(found, "input"), of(found, "output")
    assert (given.value, given.inputs, given.box) == ("float32[2, 3, 6, 6]", (), None)
    assert [found.nodes[i].box for i in result.inputs] == [found.boxes.index("engine_1")] and result.box is None
    assert all(i < at for at, one in enumerate(found.nodes) for i in one.inputs), "edges point back"


def test_weights_are_named_where_they_are_taken() -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 5)).eval()
    found = drawing(model, torch.randn(2, 4))
    taken = [one.weights for one in found.nodes if one.op == "aten.linear"]
    assert [[name.rpartition(".")[2] for name in names] for names in taken] == [["weight", "bias"]] * 2
    assert len({name for names in taken for name in names}) == 4


def test_what_a_derived_weight_is_made_from_and_of() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).eval()
    staged = stage(model, X)
    kernel, shift = derived_weights(staged.split, {i: f"source {i}" for i in staged.lowered.sources})
    assert (kernel.value, shift.value) == ("float32[4, 3, 3, 3]", "float32[4]")
    assert len(kernel.sources) == 3 and len(shift.sources) == 5
    assert set(kernel.sources) & set(shift.sources) and all(name.startswith("source ") for name in kernel.sources)
    assert kernel.ops["aten.rsqrt"] == 1 and "aten.sub.Tensor" in shift.ops and "aten.sub.Tensor" not in kernel.ops


def test_outputs_of_one_operator_are_one_node() -> None:
    found = drawing(lambda x: torch.sort(x)[0] + torch.sort(x)[1], torch.randn(4, 5))
    assert {one.op for one in found.nodes} == {"input", "output", "aten.sort", "aten.add.Tensor"}
    assert of(found, "aten.add.Tensor").inputs and all(one.value for one in found.nodes)


def test_pieces_in_pytorch_do_not_wait_for_each_other() -> None:
    """Boxes make no cycle. PyTorch, an engine, PyTorch and a way past the engine would, were all PyTorch one box."""

    def fn(x: torch.Tensor) -> torch.Tensor:
        a = x.cumsum(0)
        return (a.relu() + 1).cumsum(0) * a.cumprod(0)

    found = drawing(fn, torch.randn(3, 4), torch_executed_ops="aten.cumprod")
    before: dict[int, set[int]] = {}
    for one in found.nodes:
        for i in one.inputs:
            other = found.nodes[i].box
            if one.box is not None and other is not None and other != one.box:
                before.setdefault(one.box, set()).add(other)
    done: set[int] = set()
    while ready := [box for box in range(len(found.boxes)) if box not in done and before.get(box, set()) <= done]:
        done.update(ready)
    assert len(done) == len(found.boxes) >= 3


@pytest.mark.parametrize(
    ("trace", "expected"),
    [
        ("", Origin()),
        ('  File "/me/m.py", line 7, in forward\n    y = f(x)\n        ^^^^\n', Origin("/me/m.py:7", "y = f(x)")),
        (
            f'  File "m.py", line 3, in f\n    g(x)\n  File "{torch.__file__}", line 9, in g\n    h(x)\n',
            Origin("m.py:3", "g(x)"),
        ),
        (f'  File "{torch.__file__}", line 9, in g\n    h(x)\n', Origin()),
        ('  File "a.py", line 1, in f\n  File "<string>", line 2, in g\n', Origin("<string>:2")),
    ],
)
def test_the_users_line(trace: str, expected: Origin) -> None:
    node = torch.fx.Graph().placeholder("x")
    node.meta["stack_trace"] = trace
    assert origin(node) == expected


class Relu(nn.Sequential):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).relu()


def test_without_a_line_of_the_users_the_module_is_named() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Tanh()), nn.TransformerEncoderLayer(4, 2), Relu())
    found = trt_stripped_backend.explain(model.eval(), torch.randn(3, 2, 4), options={"min_block_size": 100})
    where = {r.target: {one.where for one in found.rejections if one.target == r.target} for r in found.rejections}
    assert where["aten.tanh.default"] == {"1.0"} and {"0", "2.linear1"} < where["aten.linear.default"]
    assert any(one.startswith(__file__) for one in where["aten.relu.default"])
    (alone,) = trt_stripped_backend.explain(nn.Tanh(), torch.randn(3)).rejections
    assert alone.where == "Tanh"


def hostile() -> Report:
    engine = EngineReport(HOSTILE, 1, {HOSTILE: 1}, "k" * 64, "hit", 0.5, 1.5, 10, 1, 10, (HOSTILE,))
    nodes = (
        Drawn(HOSTILE, "input", HOSTILE),
        Drawn(HOSTILE, HOSTILE, HOSTILE, (0,), 0, (HOSTILE,), HOSTILE, HOSTILE),
        Drawn(HOSTILE, HOSTILE, HOSTILE, (1,), 1, (HOSTILE,), HOSTILE, HOSTILE, HOSTILE),
    )
    return Report(
        HOSTILE, "bound", HOSTILE, 1, [engine], [Rejection(HOSTILE, HOSTILE, "op", HOSTILE, HOSTILE, HOSTILE)], 2,
        [DerivedWeight(HOSTILE, HOSTILE, (HOSTILE,), {HOSTILE: 1})], [Drawing(nodes, (HOSTILE, ""))],
    )  # fmt: skip


class Page(HTMLParser):
    """Tags, and the text inside each."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.inside: dict[str, list[str]] = {}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.inside.setdefault(self.tags[-1][0] if self.tags else "", []).append(data)

    def attributes(self, tag: str) -> list[dict[str, str | None]]:
        return [found for name, found in self.tags if name == tag]


def test_nothing_of_a_report_is_read_as_html(tmp_path: Path) -> None:
    report = hostile()
    html = report.to_html(tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == html
    page = Page(html)
    assert [tag for tag, _ in page.tags if tag in ("script", "img")] == ["script", "script"]
    data = json.loads(re.findall(r'id="data">(.*?)</script>', html, re.DOTALL)[0])
    assert data["report"] == json.loads(json.dumps(report.to_dict()))
    assert data["graphs"][0]["nodes"][2]["reason"] == HOSTILE
    assert "onerror=alert(1)>" in "".join(page.inside["pre"]), "without JavaScript there is the text"


def test_the_page_needs_no_network_and_runs_only_its_own_script() -> None:
    html = hostile().to_html()
    page = Page(html)
    assert not [found for _, found in page.tags if {"src", "href", "srcset"} & found.keys()]
    (policy,) = (found["content"] for found in page.attributes("meta") if "http-equiv" in found)
    assert policy is not None and policy.startswith("default-src 'none'; ")
    for tag in ("style", "script"):
        (text,) = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
        assert "http" not in text.replace("http://www.w3.org/2000/svg", "") and "@import" not in text
    assert "innerHTML" not in html and " style=" not in html and "onclick" not in html


def test_the_page_of_a_report_without_drawings() -> None:
    rejection = Rejection("", "graph", "device", "not installed")
    html = Report("no TensorRT: not installed", rejections=[rejection]).to_html()
    assert '"graphs":[]' in html and "no TensorRT: not installed" in html


def test_a_terminal_gets_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    report = hostile()
    report.partitions.append(replace(report.partitions[0], name="[red]engine", status="miss", saved_seconds=0.0))
    report.derived_weights *= 9
    out = io.StringIO()
    report.show(out)
    assert out.getvalue() == f"{report}\n", "a pipe gets the text"
    console = Console(width=240, record=True, file=io.StringIO())
    console.print(report)
    text = console.export_text()
    assert "[red]engine" in text and "1.50 s saved" in text and "and 3 more" in text and "in PyTorch" in text
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "240")
    report.show(terminal)
    assert "1.50 s saved" in terminal.getvalue() and terminal.getvalue() != f"{report}\n"


def test_rejections_are_grouped_by_reason() -> None:
    made = [Rejection("a", "aten.a", "op", "no converter"), Rejection("b", "aten.b", "dtype", "no int8")]
    made += [Rejection(str(i), "aten.c", "op", "no converter") for i in range(3)]
    first, second = grouped(made)
    assert (first.kind, first.reason, [(name, len(found)) for name, found in first.targets]) == (
        "op", "no converter", [("aten.c", 3), ("aten.a", 1)],
    )  # fmt: skip
    assert second.targets == [("aten.b", [made[1]])]


def test_many_parts_of_a_key_are_not_all_named() -> None:
    differs = (*(f"node {i} args" for i in range(50)), "tf32")
    report = Report("t", "bound", "", 1, [EngineReport("engine_0", 1, {}, "k", "miss", differs=differs)])
    assert "nearest entry differs in: the graph, in 50 places, tf32" in str(report)
