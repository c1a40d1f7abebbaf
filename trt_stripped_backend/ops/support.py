"""What converts and what does not, told from the registry: for ``trt-stripped ops`` and docs/operators.md."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ..types import dtype_name
from . import library
from .network import BOOL, FLOAT, INT
from .registry import Op


@dataclass(frozen=True)
class Support:
    """One registered overload.

    Attributes:
        operator: ``aten.add.Tensor``.
        family: the module of its converter.
        schema: what ATen declares.
        dtypes: of its tensors, such as ``float16``.
        refittable: False for what only ``immutable`` engines and ``allow_ops`` run in TensorRT.
        limits: reasons that keep a call in PyTorch; ``…`` stands for what depends on the call.
    """

    operator: str
    family: str
    schema: str
    dtypes: tuple[str, ...]
    refittable: bool
    limits: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Left:
    """Operators that stay in PyTorch, and why."""

    kind: str
    reason: str
    operators: tuple[str, ...]


#: What people may look for and not find. Operators that nobody named here stay in PyTorch too: "no converter".
LEFT = (
    Left("data", "the shape of the result depends on data", (
        "nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive", "bincount", "argwhere",
    )),
    Left("random", "random: an engine would repeat the same numbers", (
        "rand", "randn", "randint", "randperm", "bernoulli", "multinomial", "normal", "exponential", "rrelu",
    )),
    Left("dtype", "float64 or complex, which TensorRT does not compute in", (
        "float_power", "_fft_r2c", "_fft_c2c", "_fft_c2r", "view_as_real", "view_as_complex",
    )),
    Left("layer", "TensorRT has no layer for it, and nothing made of other layers would be fast", (
        "cummax", "cummin", "logcumsumexp", "histc", "mode", "index_reduce", "grid_sampler_3d", "fractional_max_pool2d",
        "fractional_max_pool3d", "_linalg_svd", "_linalg_det", "_linalg_eigh", "linalg_inv_ex", "linalg_qr",
        "linalg_cholesky_ex", "i0", "polygamma", "special_bessel_j0", "nextafter", "copysign", "gcd", "lcm",
        "_trilinear",
    )),
    Left("bits", "TensorRT has no arithmetic on the bits of integers", (
        "bitwise_left_shift", "bitwise_right_shift",
    )),
    Left("attention", "a kernel that PyTorch chooses inside scaled_dot_product_attention, which converts as a whole; "
        "called by itself it also returns the state of a random generator", (
        "_scaled_dot_product_flash_attention", "_scaled_dot_product_efficient_attention",
        "_scaled_dot_product_cudnn_attention",
    )),
    Left("cpu", "a kernel for the CPU alone: on a GPU the same module becomes operators that convert", (
        "mkldnn_rnn_layer",
    )),
    Left("prims", "below what PyTorch hands to a backend; its aten form converts", (
        "prims.div", "prims.sum", "prims.broadcast_in_dim",
    )),
    Left("extension", "an operator of Torch-TensorRT's own: quantization, or communication between GPUs", (
        "tensorrt.quantize_op", "tensorrt.dynamic_block_quantize_op", "tensorrt_fused_nccl_all_gather_op",
        "tensorrt_fused_nccl_all_reduce_op", "tensorrt_fused_nccl_all_to_all_op", "tensorrt_fused_nccl_gather_op",
        "tensorrt_fused_nccl_reduce_scatter_op", "tensorrt_fused_nccl_scatter_op",
    )),
)  # fmt: skip


def supported() -> list[Support]:
    """Every registered overload, by name."""
    found = [_of(target, op) for target, op in library.all_ops().items()]
    return sorted(found, key=lambda one: one.operator)


def _of(target: Any, op: Op) -> Support:
    family = op.convert.__module__.rpartition(".")[2]
    dtypes = op.dtypes if op.dtypes is not None else FLOAT | INT | BOOL
    limits = tuple(dict.fromkeys(text for check in op.checks for text in limits_of(check)))
    schema = str(target._schema).removeprefix("aten::")
    return Support(str(target), family, schema, tuple(sorted(map(dtype_name, dtypes))), op.refittable, limits)


def limits_of(check: Callable[..., Any]) -> Iterator[str]:
    """The texts that a generator of reasons yields, itself or through a function of its module."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(check)))
    except OSError:  # an installation without sources
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Yield):
            yield _text(node.value)
        elif isinstance(node, ast.YieldFrom) and isinstance(node.value, ast.Call):
            inner = _named(node.value.func, check.__globals__)
            if inner is not None:
                yield from limits_of(inner)


def _named(node: ast.expr, known: Mapping[str, Any]) -> Any:
    """What a name, or an attribute of one, stands for in a module; None for anything else."""
    if isinstance(node, ast.Attribute):
        return getattr(_named(node.value, known), node.attr, None)
    return known.get(node.id) if isinstance(node, ast.Name) else None


def _text(node: ast.expr | None) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part) for part in node.values)
    return "…"


def short(dtypes: tuple[str, ...]) -> str:
    """Dtypes for people: ``float, int, bool``, and by name where one of a kind is missing."""
    rest, words = set(dtypes), []
    for word, kind in (("float", FLOAT), ("int", INT), ("bool", BOOL)):
        names = set(map(dtype_name, kind))
        if names <= rest:
            words.append(word)
            rest -= names
    return ", ".join([*words, *sorted(rest)])


