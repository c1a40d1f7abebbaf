"""CUDA graphs through the driver, with a stand-in for the driver."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest

from trt_stripped_backend import cudagraph
from trt_stripped_backend import driver as cuda_driver


class Driver:
    """Notes each call; those named in ``failing`` return an error."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.failing: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> int:
            if name == "cuGetErrorString":
                arguments[1]._obj.value = b"operation failed due to a previous error during capture"
                return 0
            self.calls.append(name)
            if name in self.failing:
                return 901
            for out in arguments:
                if hasattr(out, "_obj"):
                    out._obj.value = 1234
            return 0

        return call


@pytest.fixture
def driver() -> Iterator[Driver]:
    stand_in = Driver()
    with (
        mock.patch.object(cudagraph, "driver", lambda: stand_in),
        mock.patch.object(cuda_driver, "driver", lambda: stand_in),
    ):
        yield stand_in


def test_recorded_launched_and_let_go(driver: Driver) -> None:
    graph = cudagraph.CudaGraph()
    graph.begin(7)
    graph.end(7)
    graph.launch(0)
    assert driver.calls == [
        "cuStreamBeginCapture_v2", "cuStreamEndCapture", "cuGraphInstantiateWithFlags", "cuGraphDestroy",
        "cuGraphLaunch",
    ]  # fmt: skip
    del graph
    assert driver.calls[-1] == "cuGraphExecDestroy"


@pytest.mark.parametrize(
    "failing", ["cuStreamBeginCapture_v2", "cuStreamEndCapture", "cuGraphInstantiateWithFlags", "cuGraphLaunch"]
)
def test_what_cuda_refuses_is_told(driver: Driver, failing: str) -> None:
    driver.failing = {failing}
    graph = cudagraph.CudaGraph()
    with pytest.raises(RuntimeError, match="CUDA error 901: operation failed due to a previous error during capture"):
        graph.begin(7)
        graph.end(7)
        graph.launch(7)
    made = "cuGraphInstantiateWithFlags" in driver.calls
    assert ("cuGraphDestroy" in driver.calls) is made, "the graph that was ended is let go, whatever becomes of it"
    del graph
    assert ("cuGraphExecDestroy" in driver.calls) is (failing == "cuGraphLaunch")
