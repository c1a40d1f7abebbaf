"""Layers that TensorRT refuses, each for a rule that converters rely on; as in :mod:`.layer_table`."""

from __future__ import annotations

from collections.abc import Iterator

from trt_stripped_backend.flavour import trt

from .cases import T
from .layer_table import BF16, BOOL, HALF, INT, Row, configured


def refused() -> Iterator[Row]:
    """Rows whose plans do not build."""
    x, half, whole, flags = T((2, 3)), T((2, 3), HALF), T((2, 3), INT, "int:0:2"), T((2, 3), BOOL, "bool")
    ops, kinds = trt.ElementWiseOperation, trt.MatrixOperation
    yield Row("elementwise_ranks", lambda n, a, b: n.add_elementwise(a, b, ops.SUM), (x, T((3,))))
    yield Row("elementwise_types", lambda n, a, b: n.add_elementwise(a, b, ops.SUM), (x, half))
    yield Row("elementwise_bool", lambda n, a, b: n.add_elementwise(a, b, ops.SUM), (flags, flags))
    yield Row("elementwise_and_of_numbers", lambda n, a, b: n.add_elementwise(a, b, ops.AND), (whole, whole))
    yield Row("elementwise_shapes", lambda n, a, b: n.add_elementwise(a, b, ops.SUM), (x, T((2, 4))))
    yield Row("unary_int", lambda n, a: n.add_unary(a, trt.UnaryOperation.EXP), (whole,))
    yield Row("activation_int", lambda n, a: n.add_activation(a, trt.ActivationType.SIGMOID), (whole,))
    yield Row("activation_bool", lambda n, a: n.add_activation(a, trt.ActivationType.RELU), (flags,))
    yield Row("reduce_bool", lambda n, a: n.add_reduce(a, trt.ReduceOperation.SUM, 1, False), (flags,))
    yield Row("reduce_nothing", lambda n, a: n.add_reduce(a, trt.ReduceOperation.SUM, 0, False), (x,))
    yield Row("softmax_1d", lambda n, a: n.add_softmax(a), (T((4,)),))
    yield Row("select_types", lambda n, c, a, b: n.add_select(c, a, b), (flags, x, whole))
    yield Row("select_condition", lambda n, c, a, b: n.add_select(c, a, b), (x, x, x))
    yield Row("concatenation_types", lambda n, a, b: n.add_concatenation([a, b]), (x, half))
    yield Row("concatenation_0d", lambda n, a, b: n.add_concatenation([a, b]), (T(()), T(())))
    yield Row("gather_axis", lambda n, a, i: n.add_gather(a, i, -1), (x, T((2,), INT, "int:0:2")))
    yield Row("gather_indices", lambda n, a, i: n.add_gather(a, i, 0), (x, x))
    yield Row("matmul_int", lambda n, a, b: n.add_matrix_multiply(a, kinds.NONE, b, kinds.TRANSPOSE), (whole, whole))
    yield Row("matmul_types", lambda n, a, b: n.add_matrix_multiply(a, kinds.NONE, b, kinds.TRANSPOSE), (x, half))
    yield Row(
        "matmul_ranks", lambda n, a, b: n.add_matrix_multiply(a, kinds.NONE, b, kinds.NONE), (T((2, 3, 4)), T((4, 5)))
    )
    yield Row(
        "matmul_vector_as_matrix",
        lambda n, a, b: n.add_matrix_multiply(a, kinds.NONE, b, kinds.NONE),
        (T((4,)), T((4, 4))),
    )
    yield Row("topk_bool", lambda n, a: n.add_topk(a, trt.TopKOperation.MAX, 1, 1), (flags,))
    yield Row("norm_types", lambda n, a, s, b: n.add_normalization(a, s, b, 2), (half, T((1, 3)), T((1, 3))))
    yield Row("slice_bounds", lambda n, a: n.add_slice(a, (0, 0), (2, 4), (1, 1)), (x,))
    yield Row("pool_1d", lambda n, a: n.add_pooling_nd(a, trt.PoolingType.MAX, (2,)), (T((1, 2, 5)),))
    bf16 = T((1, 2, 4, 4), BF16)
    deconv = configured(lambda n, a: n.add_deconvolution_nd(a, 2, (2, 2), trt.Weights()), {1: 0})
    yield Row("deconvolution_bfloat16", deconv, (bf16, T((2, 2, 2, 2), BF16)))
