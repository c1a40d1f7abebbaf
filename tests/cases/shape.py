"""Views, permutations, casts, joins, splits and repeats, over every type that an engine holds."""

from __future__ import annotations

import torch

from tests.cases import Case, T

aten = torch.ops.aten

F16, BF16, F32 = torch.float16, torch.bfloat16, torch.float32
I32, I64, BOOL = torch.int32, torch.int64, torch.bool
KINDS = {F32: "randn", F16: "randn", BF16: "randn", I32: "int:-9:9", I64: "int:-9:9", BOOL: "bool"}
NAMES = {d: str(d).removeprefix("torch.") for d in KINDS}

BYTES = T((2, 3, 4), torch.uint8, "int:0:256")


def t(*shape: int, dtype: torch.dtype = F32) -> T:
    return T(shape, dtype, KINDS[dtype])


CASES = [
    Case("view", lambda x: x.view(4, 6), (t(2, 3, 4),)),
    Case("view_minus_one", lambda x: x.view(2, -1), (t(2, 3, 4),)),
    Case("view_to_0d", lambda x: x.view(()), (t(1, 1),)),
    Case("view_from_0d", lambda x: x.view(1, 1), (t(),)),
    Case("view_to_rank_8", lambda x: x.view(1, 2, 1, 3, 1, 2, 2, 1), (t(6, 4),)),
    Case("reshape_of_permuted", lambda x: x.permute(2, 0, 1).reshape(8, 3), (t(2, 3, 4),)),
    Case("flatten_unflatten", lambda x: x.flatten(1).unflatten(1, (2, -1)), (t(2, 3, 4),)),
    Case("unsafe_view", lambda x: aten._unsafe_view(x, [6]), (t(2, 3),)),
    Case("view_copy", lambda x: aten.view_copy(x, [3, 2]), (t(2, 3),)),
    Case("reshape_copy", lambda x: aten._reshape_copy(x, [3, -1]), (t(2, 3),)),
    Case("permute", lambda x: x.permute(0, -1, 1), (t(2, 3, 4),)),
    Case("permute_0d", lambda x: x.permute(()), (t(),)),
    Case("transpose_negative", lambda x: x.transpose(-1, -3), (t(2, 3, 4),)),
    Case("transpose_0d", lambda x: x.transpose(0, -1), (t(),)),
    Case("t", lambda x: x.t(), (t(2, 3),)),
    Case("t_1d", lambda x: x.t(), (t(3),)),
    Case("t_0d", lambda x: x.t(), (t(),)),
    Case("movedim_swapaxes", lambda x: x.movedim(0, -1).swapaxes(0, 1), (t(2, 3, 4),)),
    Case("squeeze", lambda x: x.squeeze(), (t(1, 3, 1, 2),)),
    Case("squeeze_dim_not_1", lambda x: x.squeeze(1), (t(1, 3),)),
    Case("squeeze_dims", lambda x: x.squeeze((0, -2, 1)), (t(1, 3, 1, 2),)),
    Case("squeeze_to_0d", lambda x: x.squeeze(), (t(1, 1),)),
    Case("unsqueeze_last", lambda x: x.unsqueeze(-1), (t(2, 3),)),
    Case("unsqueeze_0d", lambda x: x.unsqueeze(0), (t(),)),
    Case("expand", lambda x: x.expand(4, -1, 3), (t(2, 1),)),
    Case("expand_0d", lambda x: x.expand(2, 3), (t(),)),
    Case("expand_same", lambda x: x.expand(2, 3), (t(2, 3),)),
    Case("expand_as", lambda x, y: x.expand_as(y), (t(3), t(2, 3))),
    Case("meshgrid", lambda x, y: torch.meshgrid(x, y, indexing="ij"), (t(3), t(2))),
    Case("clone", lambda x: x.clone() + 1, (t(2, 3),)),
    Case("contiguous", lambda x: x.t().contiguous(), (t(2, 3),)),
    Case("detach_alias", lambda x: aten.alias(x.detach()) * 2, (t(2, 3),)),
    Case("lift_fresh_copy", lambda x: aten.lift_fresh_copy(x) * 2, (t(2, 3),)),
    Case("copy_broadcast", lambda x, y: aten.copy(x, y), (t(2, 3), t(3))),
    Case("copy_cast", lambda x, y: aten.copy(x, y), (t(2, 3, dtype=I32), T((2, 1), F32, "randn"))),
    Case("copy_0d_to_bool", lambda x, y: aten.copy(x, y), (t(2, 3, dtype=BOOL), t(dtype=I64))),
    Case("cat", lambda x, y: torch.cat([x, y], 1), (t(2, 3), t(2, 1))),
    Case("cat_negative_dim", lambda x, y: torch.cat([x, y, x], -2), (t(2, 3), t(4, 3))),
    Case("cat_one", lambda x: torch.cat([x]) + 1, (t(2, 3),)),
    Case("cat_promotes", lambda x, y: torch.cat([x, y]), (t(2, dtype=I64), t(3, dtype=F16))),
    Case("cat_bool_int", lambda x, y: torch.cat([x, y]), (t(2, dtype=BOOL), t(3, dtype=I32))),
    Case("cat_empty", lambda x, y: torch.cat([x, y], 1), (t(2, 0), t(2, 3))),
    Case("cat_empty_of_rank_1", lambda x, y: torch.cat([x, y], 1), (t(0), t(2, 3))),
    Case("stack", lambda x, y: torch.stack([x, y]), (t(2, 3), t(2, 3))),
    Case("stack_last", lambda x, y: torch.stack([x, y], -1), (t(2, 3), t(2, 3))),
    Case("stack_0d", lambda x, y: torch.stack([x, y]), (t(), t())),
    Case("hstack_dstack", lambda x: (torch.hstack([x, x]), torch.dstack([x, x])), (t(2, 3),)),
    Case("split", lambda x: x.split(2, 1), (t(2, 5),)),
    Case("split_with_sizes", lambda x: x.split([1, 3, 1], -1), (t(2, 5),)),
    Case("split_one_used", lambda x: x.split([1, 3, 1], -1)[1] + 1, (t(2, 5),)),
    Case("split_with_empty", lambda x: torch.cat(x.split([0, 3, 2], 1)[1:], 1), (t(2, 5),)),
    Case("chunk", lambda x: x.chunk(3, -1), (t(2, 7),)),
    Case("tensor_split", lambda x: x.tensor_split(3), (t(7),)),
    Case("unbind", lambda x: x.unbind(1), (t(2, 3, 4),)),
    Case("unbind_to_0d", lambda x: x.unbind(), (t(3),)),
    Case("split_copy", lambda x: aten.split_copy(x, 2, -1), (t(2, 3),)),
    Case("split_with_sizes_copy", lambda x: aten.split_with_sizes_copy(x, [2, 1], 1), (t(2, 3),)),
    Case("unbind_copy", lambda x: aten.unbind_copy(x, -1), (t(2, 3),)),
    Case("repeat", lambda x: x.repeat(2, 3), (t(2, 3),)),
    Case("repeat_new_dims", lambda x: x.repeat(2, 1, 3, 1), (t(2, 3),)),
    Case("repeat_size_1", lambda x: x.repeat(2, 4, 1), (t(1, 3),)),
    Case("repeat_ones", lambda x: x.repeat(1, 1) + 1, (t(2, 3),)),
    Case("repeat_0d", lambda x: x.repeat(2, 3), (t(),)),
    Case("repeat_rank_8", lambda x: x.repeat(2, 1, 2, 1, 2, 1, 2, 2), (t(1, 2, 2, 1, 1, 3, 2, 1),)),
    Case("repeat_0_times", lambda x: x.repeat(0, 1), (t(2, 3),), rejected="repeated 0 times"),
    Case("repeat_empty", lambda x: x.repeat(2, 1), (t(0, 3),), rejected="empty"),
    Case("tile", lambda x: x.tile(3), (t(2, 3),)),
    Case("repeat_interleave", lambda x: x.repeat_interleave(3, 1), (t(2, 3),)),
    Case("flip", lambda x: x.flip(0, -1), (t(2, 3, 4),)),
    Case("flip_no_dims", lambda x: x.flip(()) + 1, (t(2, 3),)),
    Case("flip_0d", lambda x: x.flip(0), (t(),)),
    Case("flip_size_1", lambda x: x.flip(0), (t(1, 3),)),
    Case("flip_empty", lambda x: x.flip(0), (t(0, 3),), rejected="empty"),
    Case("rot90", lambda x: x.rot90(-1, (0, 2)), (t(2, 3, 4),)),
    Case("roll", lambda x: x.roll(2, 1), (t(2, 5),)),
    Case("roll_negative", lambda x: x.roll((-1, 7), (0, -1)), (t(3, 5),)),
    Case("roll_flat", lambda x: x.roll(4), (t(2, 5),)),
    Case("roll_full_turn", lambda x: x.roll(-10, 1) + 1, (t(2, 5),)),
    Case("roll_same_dim_twice", lambda x: x.roll((1, 1), (0, 0)), (t(4, 2),)),
    Case("roll_0d", lambda x: x.roll(1) + 1, (t(),)),
    Case("channel_shuffle", lambda x: torch.nn.functional.channel_shuffle(x, 2), (t(1, 4, 2, 3),)),
    Case("block_diag", lambda x, y: torch.block_diag(x, y), (t(2, 2), t(1, 3))),
    Case("kron", lambda x, y: torch.kron(x, y), (t(2, 3), t(2, 2))),
]

for _dtype in (F16, BF16, I32, I64, BOOL):
    _x, _name = t(2, 3, 4, dtype=_dtype), NAMES[_dtype]
    CASES += [
        Case(f"moves_{_name}", lambda x: x.permute(2, 0, 1).reshape(8, 3).unsqueeze(0).expand(2, -1, -1), (_x,)),
        Case(f"cat_split_{_name}", lambda x: torch.cat([x, x[:, :2]], 1).split([2, 3], 1), (_x,)),
        Case(f"repeat_flip_roll_{_name}", lambda x: x.repeat(1, 2, 1).flip(1).roll((1, -1), (0, 2)), (_x,)),
    ]

#: Halves, both signs, and what is not exactly representable in the narrower type.
for _source in KINDS:
    for _target in KINDS:
        if _source is not _target:
            CASES.append(
                Case(
                    f"cast_{NAMES[_source]}_{NAMES[_target]}",
                    lambda x, target=_target: x.to(target),
                    (T((4, 33), _source, "bool" if _source is BOOL else "int:-300:300"),),
                )
            )
CASES += [
    Case("cast_bytes", lambda x: (x.float() / 255, x.to(F16), x.to(I64) + 1), (BYTES,)),
    Case("cast_bytes_bool", lambda x, y: torch.where(x.bool(), y, -y), (BYTES, t(2, 3, 4))),
    Case("cast_bytes_turned", lambda x: x.permute(0, 2, 1).float() + 1, (BYTES,), rejected="uint8 stays in PyTorch"),
    Case("cast_to_bytes", lambda x: x.relu().to(torch.uint8), (t(4, 3),), rejected="uint8 stays in PyTorch"),
    Case("cast_truncates", lambda x: (x * 3).to(I32), (t(4, 33),)),
    Case("cast_truncates_int64", lambda x: (x * 3).to(I64), (t(4, 33, dtype=F16),)),
    Case("cast_truncates_bfloat16", lambda x: (x * 3).long(), (t(4, 33, dtype=BF16),)),
    Case("cast_nan_bool", lambda x: x.bool(), (T((4, 33), F32, "nan"),)),
    Case("cast_small_bool", lambda x: (x / 1e30).bool(), (t(3, 5),)),
    Case("cast_nan_half", lambda x: x.half(), (T((4, 33), F32, "nan"),)),
    Case("cast_overflow_half", lambda x: (x * 1e5).half(), (t(4, 33),)),
    Case("cast_0d", lambda x: x.int(), (t(),)),
]
