"""The samples of ``op_db`` as functions of tensors."""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.testing._comparison import default_tolerances
from torch.testing._internal.common_device_type import toleranceOverride
from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.opinfo.core import OpInfo
from torch.utils import _pytree as pytree

from trt_stripped_backend.types import dtype_name

# PyTorch's test helpers forbid to set flags, such as TF32's, for the whole process.
torch.backends.flags_frozen.__globals__["__allow_nonbracketed_mutation_flag"] = True

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.bool)

HALVES = (torch.float16, torch.bfloat16)

#: Operators with hundreds of samples, which are split into so many tasks.
LARGE = frozenset({
    "nn.functional.max_pool1d", "nn.functional.max_pool2d", "nn.functional.max_pool3d",
    "max_pool2d_with_indices_backward", "logspace", "logspace.tensor_overload", "unique", "unique_consecutive",
    "nn.functional.multi_head_attention_forward", "masked.norm", "nn.functional.gaussian_nll_loss",
    "nn.functional.max_unpool2d", "searchsorted",
})  # fmt: skip
PARTS = 12

Outputs = tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class Task:
    """One operator of the database with one element type, or a part of its samples: the unit of a run.

    Attributes:
        info: of the database.
        dtype: of its tensors.
        part: which one.
        parts: of how many.
    """

    info: OpInfo
    dtype: torch.dtype
    part: int = 0
    parts: int = 1

    @property
    def op(self) -> str:
        return str(self.info.full_name)

    @property
    def name(self) -> str:
        """``operator:dtype``, then ``:part`` if there are several."""
        return f"{self.op}:{dtype_name(self.dtype)}" + (f":{self.part}" if self.parts > 1 else "")

    def hash(self, seed: int) -> int:
        """The same number in every process and on every machine."""
        return zlib.crc32(f"{seed}:{self.name}".encode())

    def _values(self, seed: int) -> int:
        return zlib.crc32(f"{seed}:{self.op}:{dtype_name(self.dtype)}".encode())

    def tolerance(self, dtype: torch.dtype, device: str) -> tuple[float, float]:
        """(absolute, relative) for outputs of a type: its default, or the widest that the database grants."""
        absolute, relative = default_tolerances(dtype)[::-1]
        for info in self.info.decorators or ():
            inner = getattr(info, "decorators", [info])
            if getattr(info, "device_type", None) not in (None, device):
                continue
            for one in inner:
                if isinstance(one, toleranceOverride) and self.dtype in one.d:
                    absolute = max(absolute, one.d[self.dtype].atol)
                    relative = max(relative, one.d[self.dtype].rtol)
        return absolute, relative

    def samples(self, device: str, seed: int, limit: int | None = None) -> Iterator[Sample]:
        """The operator's samples, or ``limit`` of them, drawn by ``seed``."""
        torch.manual_seed(self._values(seed))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = [_sample(self.info, i, s) for i, s in enumerate(_any(self.info).sample_inputs(device, self.dtype))]
        if limit is not None and len(made) > limit:
            order = torch.randperm(len(made), generator=torch.Generator().manual_seed(self._values(seed)))
            made = [made[i] for i in sorted(order[:limit].tolist())]
        yield from made[self.part :: self.parts]


@dataclass(frozen=True)
class Sample:
    """One call.

    Attributes:
        index: its place among the operator's samples.
        fn: the call as a function of its tensors alone; gives all tensors of its result.
        widened: the same of a type and the tensors, with that type where the call asks for a half one.
        inputs: those tensors.
        text: the other arguments and the shapes, for people.
    """

    index: int
    fn: Callable[..., Outputs]
    widened: Callable[..., Outputs]
    inputs: tuple[torch.Tensor, ...]
    text: str

    def make(self, wide: torch.dtype | None = None) -> list[torch.Tensor]:
        """Copies of the inputs with their strides; floating-point ones as ``wide``, if given."""
        return [_copy(t) if wide is None or not t.is_floating_point() else _copy(t).to(wide) for t in self.inputs]


def tasks(dtypes: Sequence[torch.dtype], device: str, ops: Sequence[str] = ()) -> list[Task]:
    """Every operator with every element type that it takes, or those of ``ops``."""
    chosen = [info for info in op_db if not ops or info.full_name in ops or info.name in ops]
    pairs = [(info, d) for info in chosen for d in dtypes if d in _any(info).supported_dtypes(device)]
    split = [(info, d, PARTS if info.full_name in LARGE else 1) for info, d in pairs]
    return [Task(info, d, part, parts) for info, d, parts in split for part in range(parts)]


def _any(value: object) -> Any:
    """For what PyTorch gives no types."""
    return value


def _sample(info: OpInfo, index: int, sample: Any) -> Sample:
    leaves, spec = pytree.tree_flatten((sample.input, sample.args, sample.kwargs))
    places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor)]

    def fn(*tensors: torch.Tensor) -> Outputs:
        return widened(None, *tensors)

    def widened(wide: torch.dtype | None, *tensors: torch.Tensor) -> Outputs:
        filled = [wide if wide is not None and any(leaf is half for half in HALVES) else leaf for leaf in leaves]
        for place, tensor in zip(places, tensors, strict=True):
            filled[place] = tensor
        first, args, kwargs = pytree.tree_unflatten(filled, spec)
        return tuple(t for t in pytree.tree_leaves(info.op(first, *args, **kwargs)) if isinstance(t, torch.Tensor))

    shown = pytree.tree_map_only(torch.Tensor, lambda t: _Shown(t), (sample.input, *sample.args))
    kwargs = pytree.tree_map_only(torch.Tensor, lambda t: _Shown(t), sample.kwargs)
    text = ", ".join([*map(repr, shown), *(f"{k}={v!r}" for k, v in kwargs.items())])
    return Sample(index, fn, widened, tuple(leaves[i] for i in places), text[:300])


class _Shown:
    def __init__(self, tensor: torch.Tensor) -> None:
        self.text = f"{dtype_name(tensor.dtype)}{list(tensor.shape)}"

    def __repr__(self) -> str:
        return self.text


def _copy(tensor: torch.Tensor) -> torch.Tensor:
    if tensor.layout is not torch.strided or tensor.is_conj() or tensor.is_neg():
        copy: torch.Tensor = tensor.clone()
        return copy
    memory = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
    storage = _any(tensor.untyped_storage()).clone()
    return memory.set_(storage, tensor.storage_offset(), tensor.shape, tensor.stride())
