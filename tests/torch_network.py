"""``INetworkDefinition`` on PyTorch tensors: runs converters and gives numbers without a GPU.

Each layer computes what TensorRT's documentation says, and raises :class:`Refused` where TensorRT would not build.
TensorRT's own enums, ``Weights`` and ``Permutation`` are taken, so that a converter cannot tell the difference.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from trt_stripped_backend.ops.network import from_trt

from .torch_layers import linear, move, pointwise, resample, window
from .torch_layers.base import MAX_RANK, Input, Layer, Refused, Tensor, read_weights, require

__all__ = ["Refused", "Tensor", "TorchNetwork"]


class TorchNetwork:
    """A network whose inputs have values.

    Args:
        sets: what the inputs hold, by name, in memory order; several for inputs of dynamic shapes, whose sizes differ.

    Attributes:
        outputs: the marked outputs, by name.
        weight_names: the names given to weights.
    """

    def __init__(self, *sets: dict[str, torch.Tensor]) -> None:
        self._inputs = {name: tuple(values[name] for values in sets) for name in sets[0]}
        self._made: list[Layer] = []
        self.outputs: dict[str, Tensor] = {}
        self.weight_names: list[str] = []

    # ---------------------------------------------------------------- inputs, outputs, weights

    def add_input(self, name: str, dtype: Any, shape: Sequence[int]) -> Tensor:
        values = self._inputs[name]
        for value in values:
            require(value.dtype == from_trt(dtype), f"input {name} is {value.dtype}, not {dtype}")
            require(value.ndim == len(shape), f"input {name} has rank {value.ndim}, not {len(shape)}")
            require(value.ndim <= MAX_RANK, f"input {name} has rank {value.ndim}")
        return Input(name, tuple(shape), values)

    def mark_output(self, tensor: Tensor) -> None:
        require(tensor.name not in self._inputs, f"input {tensor.name} cannot be an output")
        require(bool(tensor.name) and tensor.name not in self.outputs, f"output name {tensor.name!r} is taken")
        self.outputs[tensor.name] = tensor

    def set_weights_name(self, weights: Any, name: str) -> bool:
        self.weight_names.append(name)
        return True

    def mark_weights_refittable(self, name: str) -> bool:
        return name in self.weight_names

    @property
    def num_layers(self) -> int:
        return len(self._made)

    def check(self) -> None:
        """Computes every layer, also those whose output nobody asked for."""
        for layer in self._made:
            _ = layer.get_output(0).value

    def _add(self, layer: Any) -> Any:
        self._made.append(layer)
        return layer

    # ---------------------------------------------------------------- constants and pointwise layers

    def add_constant(self, shape: Sequence[int], weights: Any) -> Any:
        value = read_weights(weights)
        value = torch.empty(0, dtype=from_trt(weights.dtype)) if value is None else value
        require(value.numel() == torch.Size(shape).numel(), f"{value.numel()} weights for shape {tuple(shape)}")
        return self._add(pointwise.Constant(shape=tuple(shape), weights=weights, value=value.reshape(tuple(shape))))

    def add_fill(self, shape: Sequence[int], op: Any, output_type: Any) -> Any:
        return self._add(pointwise.Fill(shape=tuple(shape), operation=op, to_type=output_type))

    def add_unary(self, input: Tensor, op: Any) -> Any:
        return self._add(pointwise.Unary(input, op=op))

    def add_elementwise(self, input1: Tensor, input2: Tensor, op: Any) -> Any:
        return self._add(pointwise.Elementwise(input1, input2, op=op))

    def add_activation(self, input: Tensor, type: Any) -> Any:
        return self._add(pointwise.Activation(input, type=type))

    def add_parametric_relu(self, input: Tensor, slopes: Tensor) -> Any:
        return self._add(pointwise.ParametricRelu(input, slopes))

    def add_cast(self, input: Tensor, to_type: Any) -> Any:
        return self._add(pointwise.Cast(input, to_type=to_type))

    def add_identity(self, input: Tensor) -> Any:
        return self._add(pointwise.Identity(input))

    def add_select(self, condition: Tensor, then_input: Tensor, else_input: Tensor) -> Any:
        return self._add(pointwise.Select(condition, then_input, else_input))

    # ---------------------------------------------------------------- layers that move elements

    def add_shuffle(self, input: Tensor) -> Any:
        return self._add(move.Shuffle(input))

    def add_slice(self, input: Tensor, start: Sequence[int], shape: Sequence[int], stride: Sequence[int]) -> Any:
        return self._add(move.Slice(input, start=tuple(start), shape=tuple(shape), stride=tuple(stride)))

    def add_concatenation(self, inputs: Sequence[Tensor]) -> Any:
        return self._add(move.Concatenation(*inputs))

    def add_padding_nd(self, input: Tensor, pre_padding: Sequence[int], post_padding: Sequence[int]) -> Any:
        return self._add(move.Padding(input, pre_padding_nd=tuple(pre_padding), post_padding_nd=tuple(post_padding)))

    def add_squeeze(self, input: Tensor, axes: Tensor) -> Any:
        return self._add(move.Squeeze(input, axes))

    def add_unsqueeze(self, input: Tensor, axes: Tensor) -> Any:
        return self._add(move.Unsqueeze(input, axes))

    def add_shape(self, input: Tensor) -> Any:
        return self._add(move.Shape(input))

    def add_gather(self, input: Tensor, indices: Tensor, axis: int) -> Any:
        return self._add(move.Gather(input, indices, axis=axis))

    def add_gather_v2(self, input: Tensor, indices: Tensor, mode: Any) -> Any:
        return self._add(move.Gather(input, indices, mode=mode))

    def add_scatter(self, data: Tensor, indices: Tensor, updates: Tensor, mode: Any) -> Any:
        return self._add(move.Scatter(data, indices, updates, mode=mode))

    def add_one_hot(self, indices: Tensor, values: Tensor, depth: Tensor, axis: int) -> Any:
        return self._add(move.OneHot(indices, values, depth, axis=axis))

    def add_topk(self, input: Tensor, op: Any, k: int, axes: int, indices_type: Any = None) -> Any:
        return self._add(move.TopK(input, op=op, k=k, axes=axes, indices_type=indices_type))

    def add_cumulative(self, input: Tensor, axis: Tensor, op: Any, exclusive: bool, reverse: bool) -> Any:
        return self._add(move.Cumulative(input, axis, op=op, exclusive=exclusive, reverse=reverse))

    # ---------------------------------------------------------------- layers that combine elements

    def add_reduce(self, input: Tensor, op: Any, axes: int, keep_dims: bool) -> Any:
        return self._add(linear.Reduce(input, op=op, axes=axes, keep_dims=keep_dims))

    def add_softmax(self, input: Tensor) -> Any:
        return self._add(linear.SoftMax(input))

    def add_matrix_multiply(self, input0: Tensor, op0: Any, input1: Tensor, op1: Any) -> Any:
        return self._add(linear.MatrixMultiply(input0, input1, op0=op0, op1=op1))

    def add_einsum(self, inputs: Sequence[Tensor], equation: str) -> Any:
        return self._add(linear.Einsum(*inputs, equation=equation))

    def add_normalization(self, input: Tensor, scale: Tensor, bias: Tensor, axesMask: int) -> Any:
        return self._add(linear.Normalization(input, scale, bias, axes=axesMask))

    def add_normalization_v2(self, input: Tensor, scale: Tensor, bias: Tensor, axesMask: int) -> Any:
        return self._add(linear.Normalization(input, scale, bias, axes=axesMask, is_v2=True))

    def add_convolution_nd(
        self, input: Tensor, num_output_maps: int, kernel_shape: Sequence[int], kernel: Any, bias: Any = None
    ) -> Any:
        return self._add(
            window.Convolution(
                input, num_output_maps=num_output_maps, kernel_size_nd=tuple(kernel_shape), kernel=kernel, bias=bias
            )
        )

    def add_deconvolution_nd(
        self, input: Tensor, num_output_maps: int, kernel_shape: Sequence[int], kernel: Any, bias: Any = None
    ) -> Any:
        return self._add(
            window.Deconvolution(
                input, num_output_maps=num_output_maps, kernel_size_nd=tuple(kernel_shape), kernel=kernel, bias=bias
            )
        )

    def add_pooling_nd(self, input: Tensor, type: Any, window_size: Sequence[int]) -> Any:
        return self._add(window.Pooling(input, type=type, window_size_nd=tuple(window_size)))

    def add_resize(self, input: Tensor) -> Any:
        return self._add(resample.Resize(input))

    def add_grid_sample(self, input: Tensor, grid: Tensor) -> Any:
        return self._add(resample.GridSample(input, grid))
