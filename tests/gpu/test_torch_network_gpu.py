"""The emulated network computes what the real one computes: every layer of the table, by value."""

from __future__ import annotations

import pytest
import torch

from tests.cpu.test_torch_network import emulate
from tests.layer_table import Row, rows
from trt_stripped_backend import flavour
from trt_stripped_backend.flavour import trt
from trt_stripped_backend.ops.network import from_trt, to_trt


def run(row: Row) -> list[torch.Tensor]:
    builder = trt.Builder(flavour.logger())
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    values = [value.cuda().contiguous() for value in row.make()]
    tensors = [network.add_input(f"x{i}", to_trt(v.dtype), tuple(v.shape)) for i, v in enumerate(values)]
    layer = row.add(network, *tensors)
    outputs = []
    for index in range(row.outputs):
        tensor = layer.get_output(index)
        tensor.name = f"y{index}"
        outputs.append(torch.empty(tuple(tensor.shape), dtype=from_trt(tensor.dtype), device="cuda"))
        network.mark_output(tensor)
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)
    runtime = trt.Runtime(flavour.logger())
    engine = runtime.deserialize_cuda_engine(bytes(memoryview(builder.build_serialized_network(network, config))))
    context, stream = engine.create_execution_context(), torch.cuda.Stream()
    for name, tensor in [*((f"x{i}", v) for i, v in enumerate(values)), *((f"y{i}", o) for i, o in enumerate(outputs))]:
        assert context.set_tensor_address(name, tensor.data_ptr())
    stream.wait_stream(torch.cuda.current_stream())
    assert context.execute_async_v3(stream.cuda_stream)
    stream.synchronize()
    return [output.cpu() for output in outputs]


@pytest.mark.parametrize("row", [pytest.param(row, id=row.name) for row in rows()])
def test_layer(row: Row) -> None:
    for got, want in zip(run(row), emulate(row), strict=True):
        torch.testing.assert_close(got, want, rtol=row.tol, atol=row.tol, equal_nan=True)


NAN = float("nan")


@pytest.mark.parametrize("op", ["MAX", "MIN"])
def test_nan_loses_against_a_number(op: str) -> None:
    """Against NaN anything may come out, which converters of ``maximum`` and ``clamp`` guard against."""
    row = Row(op, lambda n, a, b: n.add_elementwise(a, b, trt.ElementWiseOperation.__members__[op]), ())
    object.__setattr__(row, "make", lambda: [torch.tensor([[NAN, 1.0, NAN]]), torch.tensor([[1.0, NAN, NAN]])])
    (got,) = run(row)
    assert got.isnan().tolist() in ([[False, False, True]], [[True, False, True]], [[True, True, True]])
