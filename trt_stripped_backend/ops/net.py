"""What converters are written in: inputs, slots and outputs, above arithmetic, products, reductions and shapes.

A converter takes ``ITensor`` values and Python scalars, and returns ``ITensor`` values.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from ..errors import Unsupported
from ..flavour import messages, trt
from ..kernel_layout import kernel_format
from ..sizes import Dim, dim, dynamic, may_be
from ..types import Slot, TensorSpec
from .network import BOOL, DTYPES, FLOAT, INT, ITensor, Scalar, Value, to_trt
from .products import Products
from .shapes import AnySize

__all__ = ["BOOL", "DTYPES", "FLOAT", "INT", "AnySize", "Dim", "ITensor", "Net", "Scalar", "Value"]


class Net(Products):
    """The only wrapper of ``INetworkDefinition`` that converters see."""

    # ---------------------------------------------------------------- inputs, slots, outputs

    def input(self, name: str, spec: TensorSpec) -> ITensor:
        """An engine input in memory order, permuted to the order that PyTorch sees."""
        shape = tuple(s if isinstance(s, int) else -1 for s in spec.physical)
        tensor = self.network.add_input(name, to_trt(spec.dtype), shape)
        if tensor is None:
            raise Unsupported(f"TensorRT refused input {name} {spec}: {messages.text()}")
        for axis, size in enumerate(spec.physical):
            if isinstance(size, str):
                self.tell(size, tensor, axis)
        self.keep(tensor, [dim(s, self.ranges) for s in spec.physical])
        return self._logical(tensor, spec)

    def size_input(self, symbol: str) -> None:
        """An engine input that tells a size by its shape; nobody reads its elements."""
        tensor = self.network.add_input(symbol, trt.DataType.BOOL, (-1,))
        if tensor is None:
            raise Unsupported(f"TensorRT refused an input for the size {symbol}: {messages.text()}")
        self.tell(symbol, tensor, 0)

    def slot(self, slot: Slot) -> ITensor:
        """The weight of a slot: an input when bound, else a named constant."""
        if self.bound:
            return self._kernel(slot) if slot.kernel and self.flavour.is_rtx else self.input(slot.name, slot.spec)
        spec, value = slot.spec, self.values.get(slot.name)
        if value is not None:
            weights = self._weights(value, spec.dtype)
        elif self.flavour.null_placeholders:
            weights = trt.Weights(to_trt(spec.dtype), 0, spec.numel)
        else:
            # NumPy's zeros are mapped, not written (PyTorch's are written), so this takes address space and no memory;
            # never the same pointer twice, because set_weights_name tells weights apart by it.
            zeros = torch.from_numpy(np.zeros(spec.nbytes, np.uint8)).view(spec.dtype)
            weights = self._weights(zeros, spec.dtype)
        layer = self.network.add_constant(spec.physical, weights)
        if layer is None:
            raise Unsupported(f"TensorRT refused weight {slot.name} {spec}: {messages.text()}")
        self._name_weights(layer, slot.name)
        if self.mark and not self.network.mark_weights_refittable(slot.name):
            raise Unsupported(f"TensorRT cannot refit weight {slot.name} {spec}: {messages.text()}")
        made = self._take(layer, slot.name)
        self._stored.add(made.name)
        return self._logical(made, spec)

    def _kernel(self, slot: Slot) -> ITensor:
        """The kernel of a convolution as an engine input in the layout of TensorRT's own kernels."""
        tensor = self.network.add_input(slot.name, to_trt(slot.spec.dtype), slot.spec.shape)
        if tensor is None:
            raise Unsupported(f"TensorRT refused kernel {slot.name} {slot.spec}: {messages.text()}")
        tensor.allowed_formats = 1 << int(getattr(trt.TensorFormat, kernel_format(slot.spec.dtype)))
        return self.keep(tensor, list(slot.spec.shape))

    def output(self, value: ITensor, name: str, spec: TensorSpec) -> None:
        """Marks an engine output, written in the memory order of ``spec``."""
        tensor = self.cast(value, spec.dtype)
        have = self.shape(tensor)
        if not may_be(have, [dim(s, self.ranges) for s in spec.shape]):
            raise Unsupported(f"output {name} has shape {have} in TensorRT, {list(spec.shape)} in PyTorch")
        tensor = self.permute(tensor, spec.order)
        # An input, a constant or a tensor that is an output already cannot be marked: give it a layer of its own.
        tensor = self.take(self.network.add_identity(tensor))
        tensor.name = name
        self.network.mark_output(tensor)

    def _logical(self, tensor: ITensor, spec: TensorSpec) -> ITensor:
        return self.permute(tensor, [spec.order.index(d) for d in range(len(spec.order))])

    # ---------------------------------------------------------------- checks

    @staticmethod
    def not_empty(**arguments: Any) -> Iterator[str]:
        """A check for ``unless``: no tensor of the call may lack elements."""
        if any(isinstance(a, torch.Tensor) and a.numel() == 0 for a in arguments.values()):
            yield "an empty tensor"

    @staticmethod
    def fixed_sizes(**arguments: Any) -> Iterator[str]:
        """A check for ``unless``: the converter reads all sizes as numbers when the engine is built."""
        given = [one for a in arguments.values() for one in (a if isinstance(a, (list, tuple)) else [a])]
        sizes = [s for one in given for s in (one.shape if isinstance(one, torch.Tensor) else [one])]
        if any(dynamic(s) for s in sizes):
            yield "a dynamic size: this operator is converted for fixed ones"

    @staticmethod
    def fixed_along(x: torch.Tensor, *dims: int, numbers: Sequence[Any] = ()) -> Generator[str, None, bool]:
        """Reasons against a call whose converter reads the sizes of these dimensions, and these numbers; returns
        whether there are none."""
        fixed = not any(map(dynamic, (*numbers, *(x.shape[d] for d in dims if x.ndim))))
        if not fixed:
            yield "a dynamic size along the dimension that it works on"
        return fixed
