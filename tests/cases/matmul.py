"""Matrix products of all ranks, affine maps, scaled sums of products."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from tests.cases import Case, T

aten = torch.ops.aten


def product(name: str, a: tuple[int, ...], b: tuple[int, ...]) -> Case:
    return Case(f"matmul_{name}", torch.matmul, (T(a), T(b)))


CASES = [
    Case("linear", F.linear, (T((5, 8)), T((6, 8)), T((6,))), (1, 2)),
    Case("linear_no_bias", F.linear, (T((5, 8)), T((6, 8))), (1,)),
    Case("linear_vector", F.linear, (T((8,)), T((6, 8)), T((6,))), (1, 2)),
    Case("linear_sequence", F.linear, (T((2, 3, 8)), T((6, 8)), T((6,))), (1, 2)),
    Case("linear_rank_5", F.linear, (T((2, 1, 3, 2, 8)), T((1, 8)), T((1,))), (1, 2)),
    Case("linear_one_output", F.linear, (T((2, 3, 8)), T((8,))), (1,)),
    Case("linear_one_output_vector", F.linear, (T((8,)), T((8,))), (1,)),
    Case("linear_weight_is_data", F.linear, (T((5, 8)), T((6, 8)), T((6,)))),
    Case("tied", lambda x, w: F.linear(x, w) @ w, (T((5, 8)), T((6, 8))), (1,)),
    product("vectors", (7,), (7,)),
    product("vector_matrix", (7,), (7, 5)),
    product("matrix_vector", (5, 7), (7,)),
    product("matrices", (4, 7), (7, 5)),
    product("vector_batch", (7,), (3, 2, 7, 5)),
    product("batch_vector", (3, 2, 5, 7), (7,)),
    product("batch_matrix", (3, 4, 7), (7, 5)),
    product("matrix_batch", (4, 7), (3, 7, 5)),
    product("broadcast", (2, 1, 4, 7), (3, 7, 5)),
    product("broadcast_both", (2, 1, 4, 7), (1, 3, 7, 5)),
    product("inner_one", (4, 1), (1, 5)),
    Case("matmul_transposed", lambda a, b: a.mT @ b.mT, (T((2, 7, 4)), T((2, 5, 7)))),
    Case("mm", torch.mm, (T((4, 7)), T((7, 5)))),
    Case("bmm", torch.bmm, (T((3, 4, 7)), T((3, 7, 5)))),
    Case("mv", torch.mv, (T((4, 7)), T((7,)))),
    Case("dot", torch.dot, (T((7,)), T((7,)))),
    Case("addmm", torch.addmm, (T((5,)), T((4, 7)), T((7, 5))), (0, 2)),
    Case("addmm_matrix", torch.addmm, (T((4, 5)), T((4, 7)), T((7, 5)))),
    Case("addmm_column", torch.addmm, (T((4, 1)), T((4, 7)), T((7, 5)))),
    Case("addmm_scaled", lambda c, a, b: torch.addmm(c, a, b, beta=0.5, alpha=-2), (T((5,)), T((4, 7)), T((7, 5)))),
    Case("addmm_beta_0", lambda c, a, b: torch.addmm(c, a, b, beta=0), (T((5,), kind="nan"), T((4, 7)), T((7, 5)))),
    Case("addmm_alpha_only", lambda c, a, b: torch.addmm(c, a, b, alpha=3), (T((5,)), T((4, 7)), T((7, 5)))),
    Case("baddbmm", torch.baddbmm, (T((3, 4, 5)), T((3, 4, 7)), T((3, 7, 5)))),
    Case(
        "baddbmm_scaled",
        lambda c, a, b: torch.baddbmm(c, a, b, beta=2, alpha=0.5),
        (T((1, 5)), T((3, 4, 7)), T((3, 7, 5))),
    ),
    Case("addbmm", torch.addbmm, (T((4, 5)), T((3, 4, 7)), T((3, 7, 5)))),
    Case(
        "addbmm_scaled", lambda c, a, b: torch.addbmm(c, a, b, beta=2, alpha=0.5), (T((5,)), T((3, 4, 7)), T((3, 7, 5)))
    ),
    Case("addmv", torch.addmv, (T((4,)), T((4, 7)), T((7,)))),
    Case("addmv_scaled", lambda c, a, b: torch.addmv(c, a, b, beta=-1, alpha=2), (T((1,)), T((4, 7)), T((7,)))),
    Case("einsum", lambda a, b: torch.einsum("bhid,bhjd->bhij", a, b), (T((2, 3, 4, 5)), T((2, 3, 6, 5)))),
    Case("einsum_with_itself", lambda x: torch.einsum("bij,bkj->bik", x, x), (T((2, 3, 7)),)),
    Case("linear_rank_4", F.linear, (T((2, 3, 4, 8)), T((6, 8)), T((6,))), (1, 2)),
    Case(
        "linear_beside_vector", lambda x, w, b, v: (F.linear(x, w, b), x @ v),
        (T((2, 3, 5, 5)), T((3, 5)), T((3,)), T((5,))), (1, 2),
    ),
    Case("logarithms_of_odd_terms", lambda x, w: x.log() @ w, (T((5, 7), kind="pos"), T((7, 4))), (1,)),
    Case("shares_of_odd_terms", lambda x, w: x.log_softmax(0) @ w, (T((16, 301)), T((301, 6))), (1,), tol=1e-4),
    Case("logarithms_of_odd_terms_in_a_batch", lambda x, w: x.log() @ w, (T((3, 5, 13), kind="pos"), T((3, 13, 8)))),
    Case("logarithms_of_odd_terms_of_one", lambda x, w: x.log() @ w, (T((1, 5, 13), kind="pos"), T((13, 8))), (1,)),
    Case("odd_terms_that_were_taken", lambda x, w: x[:, :13].reciprocal() @ w,
         (T((5, 16), kind="pos"), T((13, 8))), (1,)),
    Case("odd_halves", lambda x, w: x.reciprocal() @ w,
         (T((1, 1, 2, 255), torch.float16, "pos"), T((1, 1, 255, 16), torch.float16)), tol=2e-2),
    Case("odd_halves_on_the_right", lambda x, w: F.linear(x, w.reciprocal()),
         (T((33, 255), torch.float16, "pos"), T((10, 255), torch.float16, "pos")), tol=2e-2),
    Case("attention_of_odd_logarithms", lambda q, k: F.scaled_dot_product_attention(q.log(), k, k),
         (T((2, 3, 5, 13), kind="pos"), T((2, 3, 7, 13)))),
    Case("linear_of_odd_logarithms", lambda x, w, b: F.relu(F.linear(x.log(), w, b)),
         (T((33, 15), kind="pos"), T((8, 15)), T((8,))), (1, 2)),
    Case("mm_empty", torch.mm, (T((4, 0)), T((0, 5))), rejected="empty"),
    Case(
        "matmul_int",
        torch.matmul,
        (T((4, 7), torch.int32, "int:0:9"), T((7, 5), torch.int32, "int:0:9")),
        rejected="int32",
    ),
]
_BOTH = (
    "linear", "linear_sequence", "linear_rank_4", "einsum_with_itself", "matmul_broadcast", "bmm", "addmm",
    "addmm_scaled", "baddbmm", "logarithms_of_odd_terms",
)  # fmt: skip
CASES += [c.with_dtype(d) for d in (torch.float16, torch.bfloat16) for c in CASES if c.name in _BOTH]
