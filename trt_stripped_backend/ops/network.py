"""The network under construction: constants and layers of ``INetworkDefinition``, named, and TensorRT's dtypes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from ..errors import Unsupported
from ..flavour import Flavour, messages, trt
from ..sizes import Dim, Interval
from ..types import flat_bytes
from .fused import Fused
from .turns import Turns

ITensor = Any
Scalar = bool | int | float
Value = Any  # ITensor | Scalar | Dim

FLOAT = frozenset({torch.float32, torch.float16, torch.bfloat16})
HALF = frozenset({torch.float16, torch.bfloat16})
INT = frozenset({torch.int32, torch.int64})
BOOL = frozenset({torch.bool})
#: What an engine's tensors may hold; float64 and complex stay in PyTorch.
DTYPES = FLOAT | INT | BOOL


def to_trt(dtype: torch.dtype) -> Any:
    """The ``trt.DataType`` of a torch dtype.

    Raises:
        Unsupported: TensorRT has no such type.
    """
    table = {
        torch.float32: trt.DataType.FLOAT,
        torch.float16: trt.DataType.HALF,
        torch.bfloat16: trt.DataType.BF16,
        torch.int32: trt.DataType.INT32,
        torch.int64: trt.DataType.INT64,
        torch.bool: trt.DataType.BOOL,
        torch.uint8: trt.DataType.UINT8,
        torch.int8: trt.DataType.INT8,
    }
    if dtype not in table:
        raise Unsupported(f"TensorRT has no type for {dtype}")
    return table[dtype]


def from_trt(dtype: Any) -> torch.dtype:
    table = {
        trt.DataType.FLOAT: torch.float32,
        trt.DataType.HALF: torch.float16,
        trt.DataType.BF16: torch.bfloat16,
        trt.DataType.INT32: torch.int32,
        trt.DataType.INT64: torch.int64,
        trt.DataType.BOOL: torch.bool,
        trt.DataType.UINT8: torch.uint8,
        trt.DataType.INT8: torch.int8,
    }
    return table[dtype]


class Out(NamedTuple):
    """What a node's output must be."""

    shape: tuple[int | Dim, ...]
    dtype: torch.dtype


class Network:
    """A network under construction.

    Args:
        network: an empty ``trt.INetworkDefinition``.
        flavour: the library in use.
        bound: True makes every slot an engine input; False makes it a constant.
        values: host tensors for slots that are built in by value (``identical``, ``immutable``); a slot without a
            value becomes a placeholder: a null pointer where the flavour takes one, else zeros.
        mark: marks each slot as individually refittable.
        name_literals: names constants too, where the builder may strip them.
        tf32: float32 products may round to TF32.
        half_sums: float16 products may be summed in float16.
        ranges: bounds of the dynamic sizes, by symbol.

    Attributes:
        node: label of the FX node being converted, used for layer names.
        argument: the operator that makes its first argument, behind dimensions of one element that come or go; None
            stands for the graph's input.
        users: the operators that take what it makes, likewise; None stands for the graph's output.
        beyond: tells whether what it makes reaches a larger tensor than its operands, see :class:`.reach.Reach`.
        beside: tells whether it is repeated beside other elements of what it was taken of, likewise.
        strided: tells whether it is beside as many elements of that tensor, taken with another step.
        read_again: tells whether a product's operands are read twice before a reduction.
        multiplied: tells whether it may be multiplied by something.
        finite: tells whether what is computed into its operands is finite of zeros, likewise.
        out: what that node's output (or tuple of outputs) must be: an :class:`Out`.
        literals: constants by name, kept where the plan may lack them.
        turns: what each tensor is a view of, and which transpositions stand before it.
        fused: what stands before it in its kernel.
    """

    def __init__(
        self,
        network: Any,
        flavour: Flavour,
        *,
        bound: bool,
        values: dict[str, torch.Tensor] | None = None,
        mark: bool = False,
        name_literals: bool = False,
        tf32: bool = True,
        half_sums: bool = False,
        ranges: Mapping[str, Interval] | None = None,
    ) -> None:
        self.network, self.flavour = network, flavour
        self.bound, self.mark, self.name_literals = bound, mark, name_literals
        self.exact_float32 = flavour.is_rtx and not tf32
        self.half_sums = half_sums
        self.values = values or {}
        self.ranges = dict(ranges or {})
        self.node = ""
        self.argument: Any = None
        self.users: frozenset[Any] = frozenset()
        self.beyond: Callable[[], bool] = bool
        self.beside: Callable[[], bool] = bool
        self.strided: Callable[[], bool] = bool
        self.read_again: Callable[[], bool] = bool
        self.multiplied: Callable[[], bool] = bool
        self.finite: Callable[[], bool] = bool
        self.out: Any = None
        self.literals: dict[str, torch.Tensor] = {}
        self._alive: list[torch.Tensor] = []  # weights are referenced, not copied, until the build ends
        self._constants: dict[tuple[torch.dtype, tuple[int, ...], bytes], ITensor] = {}
        self._raw: dict[str, bytes] = {}  # of literals, by tensor name
        self._layers = 0
        self.turns = Turns()
        self.fused = Fused()

    def constant(self, value: torch.Tensor | Scalar | Sequence[Any], dtype: torch.dtype | None = None) -> ITensor:
        """A literal: part of the engine and of the key. A Python scalar gives a 0-d tensor."""
        tensor = torch.as_tensor(value, dtype=dtype).detach().cpu().contiguous()
        raw = flat_bytes(tensor).numpy().tobytes()
        known = (tensor.dtype, tuple(tensor.shape), raw)
        if known not in self._constants:
            layer = self.network.add_constant(tuple(tensor.shape), self._weights(tensor, tensor.dtype))
            made = self._take(layer, f"literal{len(self._constants)}")
            if self.name_literals:
                name = f"literal{len(self._constants)}"
                self._name_weights(layer, name)
                self.literals[name] = tensor
            self._constants[known], self._raw[made.name] = made, raw
        return self._constants[known]

    def literal_bytes(self, x: ITensor) -> bytes:
        """The elements of a literal; nothing of any other tensor."""
        return self._raw.get(x.name, b"")

    def _weights(self, tensor: torch.Tensor, dtype: torch.dtype) -> Any:
        self._alive.append(tensor)
        return trt.Weights(to_trt(dtype), tensor.data_ptr() if tensor.numel() else 0, tensor.numel())

    def _name_weights(self, layer: Any, name: str) -> None:
        # The layer's own descriptor: a Weights object made here is "not used in the network".
        if not self.network.set_weights_name(layer.weights, name):
            raise Unsupported(f"TensorRT refused the weight name {name}: {messages.text()}")

    def take(self, layer: Any, index: int = 0) -> ITensor:
        """Names a layer after the node being converted and returns one of its outputs.

        Raises:
            Unsupported: the ``add_…`` call returned None; carries TensorRT's message.
        """
        if layer is None:
            raise Unsupported(f"TensorRT refused a layer of {self.node}: {messages.text()}")
        self._layers += 1
        made = self._take(layer, f"{self.node}.{self._layers}", index)
        inputs = [layer.get_input(i) for i in range(layer.num_inputs)]
        inputs = [x for x in inputs if x is not None and x.name not in self._raw]
        self.turns.follow(inputs, made)
        self.fused.follow(inputs, made)
        return made

    @staticmethod
    def _take(layer: Any, name: str, index: int = 0) -> ITensor:
        layer.name = name
        return layer.get_output(index)

    @staticmethod
    def is_tensor(value: Value) -> bool:
        return value is not None and not isinstance(value, (bool, int, float, Dim))

    @staticmethod
    def dtype(value: Value) -> torch.dtype:
        """Element type of a tensor; of a scalar, the type that PyTorch gives it alone."""
        if isinstance(value, bool):
            return torch.bool
        if isinstance(value, (int, Dim)):
            return torch.int64
        if isinstance(value, float):
            return torch.get_default_dtype()
        return from_trt(value.dtype)
