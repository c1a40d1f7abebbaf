"""The emulated network agrees with the real builder on what exists, what it is called, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.layer_refused import refused
from tests.layer_table import Row, rows
from tests.torch_layers import linear, move, pointwise, resample, window
from tests.torch_layers.base import Layer, Refused, read_weights
from tests.torch_network import TorchNetwork
from trt_stripped_backend import flavour
from trt_stripped_backend.flavour import trt
from trt_stripped_backend.ops.network import to_trt


def each(table: Any) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("row", [pytest.param(row, id=row.name) for row in table])


def emulate(row: Row) -> list[torch.Tensor]:
    values = {f"x{i}": value for i, value in enumerate(row.make())}
    network = TorchNetwork(values)
    tensors = [network.add_input(name, to_trt(value.dtype), value.shape) for name, value in values.items()]
    layer = row.add(network, *tensors)
    return [layer.get_output(i).value for i in range(row.outputs)]


def real(row: Row) -> list[tuple[tuple[int, ...], Any]] | None:
    """Shapes and dtypes of the outputs of the real layer, or None where the plan does not build."""
    builder = trt.Builder(flavour.logger())
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    tensors = [network.add_input(f"x{i}", to_trt(t.dtype), t.shape) for i, t in enumerate(row.inputs)]
    try:
        layer = row.add(network, *tensors)
        outputs = [layer.get_output(i) for i in range(row.outputs)]
        told = [(tuple(t.shape), t.dtype) for t in outputs]
    except (AttributeError, RuntimeError):  # the layer is None, or has no shape
        return None
    for output in outputs:
        network.mark_output(output)
    plan = builder.build_serialized_network(network, builder.create_builder_config())
    return None if plan is None else told


@each(rows())
def test_layer(row: Row) -> None:
    assert [(tuple(t.shape), to_trt(t.dtype)) for t in emulate(row)] == real(row)


@each(refused())
def test_refused(row: Row) -> None:
    with pytest.raises(Refused):
        emulate(row)
    assert real(row) is None


REAL: dict[type[Layer], str] = {
    pointwise.Unary: "IUnaryLayer",
    pointwise.Elementwise: "IElementWiseLayer",
    pointwise.Activation: "IActivationLayer",
    pointwise.Fill: "IFillLayer",
    pointwise.Cast: "ICastLayer",
    move.Shuffle: "IShuffleLayer",
    move.Slice: "ISliceLayer",
    move.Concatenation: "IConcatenationLayer",
    move.Padding: "IPaddingLayer",
    move.Gather: "IGatherLayer",
    move.Scatter: "IScatterLayer",
    move.OneHot: "IOneHotLayer",
    move.TopK: "ITopKLayer",
    move.Cumulative: "ICumulativeLayer",
    linear.Reduce: "IReduceLayer",
    linear.SoftMax: "ISoftMaxLayer",
    linear.MatrixMultiply: "IMatrixMultiplyLayer",
    linear.Einsum: "IEinsumLayer",
    linear.Normalization: "INormalizationLayer",
    window.Convolution: "IConvolutionLayer",
    window.Deconvolution: "IDeconvolutionLayer",
    window.Pooling: "IPoolingLayer",
    resample.Resize: "IResizeLayer",
    resample.GridSample: "IGridSampleLayer",
}


@pytest.mark.parametrize("layer", REAL, ids=lambda layer: layer.__name__)
def test_attributes_exist(layer: type[Layer]) -> None:
    own = {name for cls in layer.__mro__ if issubclass(cls, Layer) for name, v in vars(cls).items() if not callable(v)}
    own = {name for name in own if not name.startswith("_")}
    if issubclass(layer, window.Pooling):
        own -= {"num_output_maps", "kernel_size_nd", "kernel", "bias", "num_groups", "dilation_nd"}
    assert own <= set(dir(getattr(trt, REAL[layer])))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int32, torch.int64, torch.bool])
def test_weights_are_read(dtype: torch.dtype) -> None:
    value = torch.tensor([1, 0, 3, -2]).to(dtype)
    read = read_weights(trt.Weights(to_trt(dtype), value.data_ptr(), 4))
    assert read is not None
    assert torch.equal(read, value)
    assert read_weights(trt.Weights()) is None
    with pytest.raises(Refused, match="placeholder"):
        read_weights(trt.Weights(to_trt(dtype), 0, 4))


def test_an_unknown_attribute_raises() -> None:
    network = TorchNetwork({"x": torch.zeros(2, 2)})
    layer = network.add_softmax(network.add_input("x", trt.DataType.FLOAT, (2, 2)))
    with pytest.raises(AttributeError, match="no attribute 'axis'"):
        layer.axis = 1


def test_an_attribute_set_too_late_raises() -> None:
    network = TorchNetwork({"x": torch.zeros(2, 2)})
    layer = network.add_softmax(network.add_input("x", trt.DataType.FLOAT, (2, 2)))
    assert layer.get_output(0).shape == (2, 2)
    with pytest.raises(Refused, match="after its output was used"):
        layer.axes = 1
