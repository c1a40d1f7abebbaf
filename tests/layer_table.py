"""One row a layer and a corner of it: how to add it to a network, real or emulated, and what goes in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from trt_stripped_backend.flavour import trt

from .cases import T

HALF, BF16, INT, LONG, BOOL = torch.float16, torch.bfloat16, torch.int32, torch.int64, torch.bool
Add = Callable[..., Any]


@dataclass(frozen=True)
class Row:
    """``add(network, *tensors)`` returns a layer; ``outputs`` says how many of its outputs have a defined value."""

    name: str
    add: Add
    inputs: tuple[T, ...]
    outputs: int = 1
    tol: float = 1e-4

    def make(self) -> list[torch.Tensor]:
        generator = torch.Generator().manual_seed(0)
        return [spec.make("cpu", generator) for spec in self.inputs]


def configured(add: Callable[..., Any], inputs: dict[int, int] | None = None, /, **attributes: Any) -> Add:
    """A row's ``add`` that then sets attributes, and inputs of the layer from further tensors of the row."""

    def run(network: Any, *tensors: Any) -> Any:
        used = len(tensors) - len(inputs or {})
        layer = add(network, *tensors[:used])
        for index, position in (inputs or {}).items():
            layer.set_input(index, tensors[used + position])
        for name, value in attributes.items():
            setattr(layer, name, value)
        return layer

    return run


def constant(network: Any, value: torch.Tensor) -> Any:
    weights = trt.Weights(
        {LONG: trt.DataType.INT64, INT: trt.DataType.INT32, torch.float32: trt.DataType.FLOAT}[value.dtype],
        value.data_ptr(),
        value.numel(),
    )
    _alive.append(value)
    return network.add_constant(tuple(value.shape), weights).get_output(0)


_alive: list[torch.Tensor] = []  # TensorRT refers to a constant's memory until the build ends


def rows() -> Iterator[Row]:
    """Layers that TensorRT builds."""
    yield from _pointwise()
    yield from _moves()
    yield from _combinations()
    yield from _resampling()


def _pointwise() -> Iterator[Row]:
    x, y = T((2, 5)), T((2, 5), kind="pos")
    for op in trt.UnaryOperation.__members__.values():
        kind = {"NOT": "bool", "ACOSH": "pos", "LOG": "pos", "SQRT": "pos", "ISINF": "nan", "ISNAN": "nan"}.get(
            op.name, "randn"
        )
        yield Row(
            f"unary_{op.name}",
            lambda n, a, op=op: n.add_unary(a, op),
            (T((2, 5), BOOL if kind == "bool" else torch.float32, kind),),
        )
    halves = T((4, 5), kind="int:-9:9")
    yield Row("round_half", lambda n, a: n.add_unary(_scaled(n, a, 0.5), trt.UnaryOperation.ROUND), (halves,))
    for op in trt.ElementWiseOperation.__members__.values():
        add = lambda n, a, b, op=op: n.add_elementwise(a, b, op)  # noqa: E731
        if op.name in ("AND", "OR", "XOR"):
            yield Row(f"elementwise_{op.name}", add, (T((2, 5), BOOL, "bool"), T((2, 1), BOOL, "bool")))
            continue
        yield Row(f"elementwise_{op.name}", add, (T((2, 5), kind="pos" if op.name == "POW" else "randn"), T((2, 1))))
        for dtype in (INT, LONG):
            second = "int:0:4" if op.name == "POW" else "int:1:4"
            yield Row(f"elementwise_{op.name}_{dtype}", add, (T((2, 5), dtype, "int:-7:7"), T((1, 5), dtype, second)))
    yield Row(
        "floor_div_signs",
        lambda n, a, b: n.add_elementwise(a, b, trt.ElementWiseOperation.FLOOR_DIV),
        (T((4, 5), INT, "int:-7:7"), T((4, 5), INT, "int:-3:-1")),
    )
    yield Row(
        "equal_nan", lambda n, a: n.add_elementwise(a, a, trt.ElementWiseOperation.EQUAL), (T((4, 8), kind="nan"),)
    )
    yield Row(
        "equal_bool",
        lambda n, a, b: n.add_elementwise(a, b, trt.ElementWiseOperation.EQUAL),
        (T((4, 8), BOOL, "bool"),) * 2,
    )
    for kind in trt.ActivationType.__members__.values():
        add = lambda n, a, kind=kind: n.add_activation(a, kind)  # noqa: E731
        yield Row(f"activation_{kind.name}", configured(add, alpha=0.3, beta=0.7), (x,))
    yield Row("relu_int", lambda n, a: n.add_activation(a, trt.ActivationType.RELU), (T((2, 5), INT, "int:-5:5"),))
    yield Row("prelu", lambda n, a, b: n.add_parametric_relu(a, b), (T((2, 3, 4)), T((1, 3, 1))))
    yield Row("select", lambda n, c, a, b: n.add_select(c, a, b), (T((1, 5), BOOL, "bool"), x, T((2, 1))))
    yield Row(
        "fill_linspace",
        lambda n, a: n.add_elementwise(a, _fill(n, 5, 3, 2), trt.ElementWiseOperation.SUM),
        (T((5,), LONG, "int:0:9"),),
    )
    dtypes = {"f32": torch.float32, "f16": HALF, "bf16": BF16, "i32": INT, "i64": LONG, "bool": BOOL}
    from trt_stripped_backend.ops.network import to_trt

    for a, first in dtypes.items():
        for b, second in dtypes.items():
            kind = "randn" if first.is_floating_point else "bool" if first is BOOL else "int:-9:9"
            if second is not BOOL or first is BOOL:
                yield Row(f"cast_{a}_{b}", lambda n, v, to=second: n.add_cast(v, to_trt(to)), (T((3, 7), first, kind),))
    yield Row("div_positive", lambda n, a, b: n.add_elementwise(a, b, trt.ElementWiseOperation.DIV), (x, y))


def _scaled(network: Any, x: Any, factor: float) -> Any:
    scale = constant(network, torch.tensor([[factor]]))
    return network.add_elementwise(x, scale, trt.ElementWiseOperation.PROD).get_output(0)


def _fill(network: Any, size: int, start: int, step: int) -> Any:
    layer = network.add_fill((size,), trt.FillOperation.LINSPACE, trt.DataType.INT64)
    layer.set_input(1, constant(network, torch.tensor(start)))
    layer.set_input(2, constant(network, torch.tensor([step])))
    return layer.get_output(0)


def _moves() -> Iterator[Row]:
    x = T((2, 3, 4))
    shuffle = lambda n, a: n.add_shuffle(a)  # noqa: E731
    yield Row("reshape", configured(shuffle, reshape_dims=(4, -1)), (x,))
    yield Row("reshape_zero_copies", configured(shuffle, reshape_dims=(0, 12)), (x,))
    yield Row("transpose", configured(shuffle, first_transpose=trt.Permutation([2, 0, 1])), (x,))
    yield Row(
        "transpose_reshape_transpose",
        configured(
            shuffle,
            first_transpose=trt.Permutation([1, 0, 2]),
            reshape_dims=(6, 4),
            second_transpose=trt.Permutation([1, 0]),
        ),
        (x,),
    )
    for mode, start, shape, stride in (
        ("STRICT_BOUNDS", (1, 0), (2, 3), (1, 2)),
        ("STRICT_BOUNDS", (3, 0), (4, 3), (-1, 1)),
        ("STRICT_BOUNDS", (1, 0), (3, 5), (0, 1)),
        ("FILL", (-1, 2), (6, 5), (1, 1)),
        ("CLAMP", (-2, -1), (8, 7), (1, 1)),
        ("REFLECT", (-2, -3), (8, 11), (1, 1)),
        ("WRAP", (-3, 4), (9, 8), (1, 1)),
        ("REFLECT", (-9, 0), (20, 5), (1, 1)),
        ("FILL", (5, 0), (7, 5), (-1, 1)),
    ):
        add = lambda n, a, s=start, z=shape, t=stride: n.add_slice(a, s, z, t)  # noqa: E731
        yield Row(
            f"slice_{mode}_{start}_{stride}", configured(add, mode=trt.SampleMode.__members__[mode]), (T((4, 5)),)
        )
    fill = configured(lambda n, a: n.add_slice(a, (-1, 0), (6, 5), (1, 1)), {4: 0}, mode=trt.SampleMode.FILL)
    yield Row("slice_fill_value", fill, (T((4, 5)), T(())))
    yield Row("slice_bool", lambda n, a: n.add_slice(a, (1, 0), (2, 3), (1, 2)), (T((4, 5), BOOL, "bool"),))
    yield Row("concatenation", configured(lambda n, a, b: n.add_concatenation([a, b]), axis=1), (T((2, 3)), T((2, 2))))
    yield Row("padding", lambda n, a: n.add_padding_nd(a, (1, -1), (2, 1)), (T((1, 2, 4, 5)),))
    for dtype in (torch.float32, LONG, BOOL):
        data = T((4, 5), dtype, "bool" if dtype is BOOL else "int:-9:9")
        yield Row(f"gather_{dtype}", lambda n, a, i: n.add_gather(a, i, 1), (data, T((2, 3), INT, "int:0:5")))
    modes = trt.GatherMode
    yield Row("gather_0d_index", lambda n, a, i: n.add_gather(a, i, 0), (T((4, 5)), T((), INT, "int:0:4")))
    yield Row(
        "gather_batched",
        configured(lambda n, a, i: n.add_gather(a, i, 1), num_elementwise_dims=1),
        (T((2, 5, 3)), T((2, 4), INT, "int:0:5")),
    )
    yield Row(
        "gather_elements",
        configured(lambda n, a, i: n.add_gather_v2(a, i, modes.ELEMENT), axis=1),
        (T((4, 5)), T((4, 3), LONG, "int:0:5")),
    )
    yield Row("gather_nd", lambda n, a, i: n.add_gather_v2(a, i, modes.ND), (T((4, 5, 2)), T((3, 2), INT, "int:0:4")))
    yield Row(
        "gather_nd_batched",
        configured(lambda n, a, i: n.add_gather_v2(a, i, modes.ND), num_elementwise_dims=1),
        (T((2, 5, 3)), T((2, 4, 1), INT, "int:0:5")),
    )
    yield Row(
        "scatter_elements",
        configured(lambda n, a, i, u: n.add_scatter(a, i, u, trt.ScatterMode.ELEMENT), axis=0),
        (T((5, 4)), T((1, 4), LONG, "int:0:5"), T((1, 4))),
    )
    yield Row(
        "scatter_nd",
        lambda n, a, u: n.add_scatter(a, constant(n, torch.tensor([[3], [0]], dtype=INT)), u, trt.ScatterMode.ND),
        (T((5, 4)), T((2, 4))),
    )
    yield Row(
        "one_hot",
        lambda n, i, v: n.add_one_hot(i, v, constant(n, torch.tensor(6, dtype=INT)), -1),
        (T((2, 3), INT, "int:0:6"), T((2,))),
    )
    for op in trt.TopKOperation.__members__.values():
        yield Row(
            f"topk_{op.name}", lambda n, a, op=op: n.add_topk(a, op, 3, 2), (T((4, 9), kind="unique"),), outputs=2
        )
    yield Row(
        "topk_int", lambda n, a: n.add_topk(a, trt.TopKOperation.MAX, 2, 1), (T((4, 9), INT, "unique"),), outputs=2
    )
    for exclusive in (False, True):
        for reverse in (False, True):
            yield Row(
                f"cumulative_{exclusive}_{reverse}",
                lambda n, a, e=exclusive, r=reverse: n.add_cumulative(
                    a, constant(n, torch.tensor(1)), trt.CumulativeOperation.SUM, e, r
                ),
                (T((3, 6)),),
            )


def _combinations() -> Iterator[Row]:
    for op in ("SUM", "PROD", "MAX", "MIN", "AVG"):
        kind = trt.ReduceOperation.__members__[op]
        yield Row(f"reduce_{op}", lambda n, a, k=kind: n.add_reduce(a, k, 0b101, False), (T((2, 3, 4)),))
        yield Row(
            f"reduce_{op}_int", lambda n, a, k=kind: n.add_reduce(a, k, 0b10, True), (T((2, 3), INT, "int:-4:5"),)
        )
    yield Row("softmax", configured(lambda n, a: n.add_softmax(a), axes=0b10), (T((2, 3, 4)),))
    yield Row("softmax_default_axis", lambda n, a: n.add_softmax(a), (T((2, 3, 4)),))
    kinds = trt.MatrixOperation
    yield Row(
        "matmul", lambda n, a, b: n.add_matrix_multiply(a, kinds.NONE, b, kinds.TRANSPOSE), (T((2, 3, 4)), T((1, 5, 4)))
    )
    yield Row(
        "matmul_vector", lambda n, a, b: n.add_matrix_multiply(a, kinds.NONE, b, kinds.VECTOR), (T((3, 4)), T((4,)))
    )
    yield Row(
        "matmul_half",
        lambda n, a, b: n.add_matrix_multiply(a, kinds.NONE, b, kinds.NONE),
        (T((3, 64), HALF), T((64, 4), HALF)),
        tol=1e-2,
    )
    yield Row("einsum", lambda n, a, b: n.add_einsum([a, b], "bij,bkj->bik"), (T((2, 3, 4)), T((2, 5, 4))))
    for rank, sizes in ((2, (5, 6)), (3, (4, 5, 6))):
        x, kernel = T((2, 4, *sizes)), T((6, 2, *(3,) * rank))
        conv = lambda n, a, r=rank: n.add_convolution_nd(a, 6, (3,) * r, trt.Weights())  # noqa: E731
        pad = tuple(range(1, rank + 1))
        yield Row(
            f"convolution_{rank}d",
            configured(conv, {1: 0, 2: 1}, num_groups=2, stride_nd=(2,) * rank, padding_nd=pad),
            (x, kernel, T((6,))),
        )
        yield Row(
            f"convolution_{rank}d_uneven",
            configured(conv, {1: 0}, num_groups=2, dilation_nd=(1,) * rank, pre_padding=pad, post_padding=(0,) * rank),
            (x, kernel),
        )
        deconv = lambda n, a, r=rank: n.add_deconvolution_nd(a, 6, (3,) * r, trt.Weights())  # noqa: E731
        weight = T((4, 3, *(3,) * rank))
        yield Row(
            f"deconvolution_{rank}d",
            configured(
                deconv, {1: 0}, num_groups=2, stride_nd=(2,) * rank, pre_padding=(1,) * rank, post_padding=(0,) * rank
            ),
            (x, weight),
        )
        for kind in (trt.PoolingType.MAX, trt.PoolingType.AVERAGE):
            pool = lambda n, a, k=kind, r=rank: n.add_pooling_nd(a, k, (3,) * r)  # noqa: E731
            for mode in ("EXPLICIT_ROUND_DOWN", "EXPLICIT_ROUND_UP"):
                settings = {
                    "stride_nd": (2,) * rank,
                    "padding_nd": (1,) * rank,
                    "padding_mode": trt.PaddingMode.__members__[mode],
                }
                yield Row(f"pooling_{rank}d_{kind.name}_{mode}", configured(pool, **settings), (x,))
                if kind == trt.PoolingType.AVERAGE and mode == "EXPLICIT_ROUND_DOWN":  # rounded up, versions differ
                    yield Row(
                        f"pooling_{rank}d_counts_padding_{mode}",
                        configured(pool, **settings, average_count_excludes_padding=False),
                        (x,),
                    )
    yield Row(
        "layer_norm", lambda n, a, s, b: n.add_normalization(a, s, b, 0b100), (T((2, 3, 8)), T((1, 1, 8)), T((1, 1, 8)))
    )
    yield Row(
        "instance_norm",
        lambda n, a, s, b: n.add_normalization(a, s, b, 0b1100),
        (T((2, 4, 5, 5)), T((1, 4, 1, 1)), T((1, 4, 1, 1))),
    )
    yield Row(
        "group_norm",
        configured(lambda n, a, s, b: n.add_normalization(a, s, b, 0b1100), num_groups=2),
        (T((2, 4, 5, 5)), T((1, 2, 1, 1)), T((1, 2, 1, 1))),
    )


def _resampling() -> Iterator[Row]:
    x = T((1, 2, 5, 6))
    resize = lambda n, a: n.add_resize(a)  # noqa: E731
    moves, modes, rounds = trt.ResizeCoordinateTransformation, trt.InterpolationMode, trt.ResizeRoundMode
    for move in (moves.ALIGN_CORNERS, moves.ASYMMETRIC, moves.HALF_PIXEL):
        for shape in ((1, 2, 8, 11), (1, 2, 3, 4), (1, 2, 1, 9)):
            for mode in (modes.LINEAR, modes.CUBIC):
                settings = {"resize_mode": mode, "coordinate_transformation": move, "shape": shape}
                yield Row(f"resize_{mode.name}_{move.name}_{shape}", configured(resize, **settings), (x,), tol=1e-3)
    for rounding in (rounds.FLOOR, rounds.CEIL, rounds.HALF_UP, rounds.HALF_DOWN):
        for move in (moves.ASYMMETRIC, moves.HALF_PIXEL):
            settings = {"coordinate_transformation": move, "nearest_rounding": rounding, "shape": (1, 2, 7, 4)}
            yield Row(f"resize_nearest_{rounding.name}_{move.name}", configured(resize, **settings), (x,))
    for mode in (modes.NEAREST, modes.LINEAR):
        settings = {"resize_mode": mode, "coordinate_transformation": moves.ASYMMETRIC, "scales": [1.0, 1.0, 1.3, 0.7]}
        yield Row(f"resize_{mode.name}_scales", configured(resize, **settings), (x,), tol=1e-3)
    yield Row(
        "resize_cubic_coefficient",
        configured(resize, resize_mode=modes.CUBIC, cubic_coeff=-0.5, shape=(1, 2, 9, 9)),
        (x,),
        tol=1e-3,
    )
    grid = T((1, 4, 3, 2))
    for mode in (modes.NEAREST, modes.LINEAR, modes.CUBIC):
        for sample in (trt.SampleMode.CLAMP, trt.SampleMode.FILL, trt.SampleMode.REFLECT):
            for corners in (False, True):
                settings = {"interpolation_mode": mode, "sample_mode": sample, "align_corners": corners}
                add = configured(lambda n, a, g: n.add_grid_sample(a, g), **settings)
                yield Row(f"grid_sample_{mode.name}_{sample.name}_{corners}", add, (x, grid), tol=1e-3)
