"""Views, copies, joins and repeats: the same elements under another shape, order or type."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from ..flavour import trt
from ..sizes import alike, dynamic, has_no_elements
from .create import iota
from .net import DTYPES, ITensor, Net
from .registry import op

aten = torch.ops.aten


@op(aten.view.default, aten.view_copy.default, aten._reshape_copy.default)
def view(net: Net, self: ITensor, size: Sequence[int]) -> ITensor:
    """view(Tensor(a) self, SymInt[] size) -> Tensor(a)"""
    return net.view(self, size)


@op(aten.permute.default)
def permute(net: Net, self: ITensor, dims: Sequence[int]) -> ITensor:
    """permute(Tensor(a) self, int[] dims) -> Tensor(a)"""
    return net.permute(self, dims)


@op(aten.transpose.int)
def transpose(net: Net, self: ITensor, dim0: int, dim1: int) -> ITensor:
    """transpose.int(Tensor(a) self, int dim0, int dim1) -> Tensor(a)"""
    return net.transpose(self, dim0, dim1) if len(self.shape) else self


@op(aten.t.default)
def t(net: Net, self: ITensor) -> ITensor:
    """t(Tensor(a) self) -> Tensor(a)"""
    return net.transpose(self, 0, 1) if len(self.shape) == 2 else self


@op(aten.squeeze.dims, aten.unsqueeze.default)
def squeeze(net: Net, self: ITensor, dim: int | Sequence[int]) -> ITensor:
    """squeeze.dims(Tensor(a) self, int[] dim) -> Tensor(a)
    unsqueeze(Tensor(a) self, int dim) -> Tensor(a)"""
    return net.reshape(self, net.out.shape)


@op(aten.expand.default)
def expand(net: Net, self: ITensor, size: Sequence[int], implicit: bool = False) -> ITensor:
    """expand(Tensor(a) self, SymInt[] size, *, bool implicit=False) -> Tensor(a)"""
    return net.expand(self, size)


@op(aten.clone.default)
def clone(net: Net, self: ITensor) -> ITensor:
    """clone(Tensor self, *, MemoryFormat? memory_format=None) -> Tensor"""
    return self  # a network's tensors are never written to, so a copy is the tensor itself


@op(aten._to_copy.default, dtypes=DTYPES | {torch.uint8})
def to_copy(net: Net, self: ITensor, dtype: torch.dtype | None = None) -> ITensor:
    """_to_copy(Tensor self, *, ScalarType? dtype=None, Layout? layout=None, Device? device=None,
    bool? pin_memory=None, bool non_blocking=False, MemoryFormat? memory_format=None) -> Tensor"""
    if net.dtype(self) == torch.uint8:  # an image: TensorRT takes bytes as inputs, and casts them to float first
        self = net.cast(self, torch.float32)
    made = net.cast(self, net.out.dtype)  # a cast to integers truncates toward zero, in TensorRT as in PyTorch
    if made is not self:
        net.fused.apart(made, lambda: net.cast(net.copied(made), torch.float32))
    return made


@op(aten.copy.default)
def copy(net: Net, self: ITensor, src: ITensor) -> ITensor:
    """copy(Tensor self, Tensor src, bool non_blocking=False) -> Tensor"""
    return net.expand(net.cast(src, net.dtype(self)), net.shape(self))


@op(aten.cat.default)
def cat(net: Net, tensors: Sequence[ITensor], dim: int = 0) -> ITensor:
    """cat(Tensor[] tensors, int dim=0) -> Tensor"""
    if has_no_elements(net.out.shape):
        return net.full(net.out.shape, 0, net.out.dtype)
    # An empty tensor adds nothing, and PyTorch takes one of shape [0] beside any others.
    return net.cat([net.cast(t, net.out.dtype) for t in tensors if not has_no_elements(net.shape(t))], dim)


@op(aten.stack.default)
def stack(net: Net, tensors: Sequence[ITensor], dim: int = 0) -> ITensor:
    """stack(Tensor[] tensors, int dim=0) -> Tensor"""
    return net.cat([net.unsqueeze(net.cast(t, net.out.dtype), dim) for t in tensors], dim)


@op(aten.split_with_sizes.default)
def split_with_sizes(net: Net, self: ITensor, split_sizes: Sequence[int], dim: int = 0) -> tuple[ITensor, ...]:
    """split_with_sizes(Tensor(a -> *) self, SymInt[] split_sizes, int dim=0) -> Tensor(a)[]"""
    return tuple(net.narrow(self, dim, sum(split_sizes[:i]), size) for i, size in enumerate(split_sizes))


@op(aten.split.Tensor, aten.split_copy.Tensor)
def split(net: Net, self: ITensor, split_size: int, dim: int = 0) -> tuple[ITensor, ...]:
    """split.Tensor(Tensor(a -> *) self, SymInt split_size, int dim=0) -> Tensor(a)[]"""
    return tuple(net.narrow(self, dim, i * split_size, out.shape[dim]) for i, out in enumerate(net.out))


@op(aten.unbind.int, aten.unbind_copy.int)
def unbind(net: Net, self: ITensor, dim: int = 0) -> tuple[ITensor, ...]:
    """unbind.int(Tensor(a -> *) self, int dim=0) -> Tensor(a)[]"""
    return tuple(net.squeeze(net.narrow(self, dim, i, 1), dim) for i in range(net.shape(self)[dim]))


@unbind.unless
def _(self: torch.Tensor, dim: int = 0) -> Iterator[str]:
    if dynamic(self.shape[dim]):
        yield "a dynamic number of outputs"


@op(aten.repeat.default)
def repeat(net: Net, self: ITensor, repeats: Sequence[int]) -> ITensor:
    """repeat(Tensor self, SymInt[] repeats) -> Tensor"""
    sizes = [1] * (len(repeats) - len(self.shape)) + list(net.shape(self))
    x, shape = net.reshape(self, sizes), [s * r for s, r in zip(sizes, repeats, strict=True)]
    if all(alike([s], [1]) or alike([r], [1]) for s, r in zip(sizes, repeats, strict=True)):
        return net.expand(x, shape)
    return net.slice(x, [0] * len(shape), shape, [1] * len(shape), trt.SampleMode.WRAP)


@repeat.unless
def _(self: torch.Tensor, repeats: Sequence[int]) -> Iterator[str]:
    if 0 in repeats:
        yield "repeated 0 times"


@op(aten.flip.default)
def flip(net: Net, self: ITensor, dims: Sequence[int]) -> ITensor:
    """flip(Tensor self, int[] dims) -> Tensor"""
    shape = net.shape(self)
    for dim in {d % len(shape) for d in dims if shape}:
        if not alike(shape[dim : dim + 1], [1]):
            # No slice with a step of -1: in a reduction RTX 1.6.1 takes ``(x * x.flip(-1))[..., 6:12]`` of 13 columns
            # for a square, as both operands begin at the sixth.
            self = net.gather(self, iota(net, shape[dim], torch.int32, shape[dim] - 1, -1), dim)
    return self


@op(aten.roll.default)
def roll(net: Net, self: ITensor, shifts: Sequence[int], dims: Sequence[int] = ()) -> ITensor:
    """roll(Tensor self, SymInt[1] shifts, int[1] dims=[]) -> Tensor"""
    x = self if dims else net.reshape(self, [-1])
    shape = list(net.shape(x))
    start = [0] * len(shape)
    for shift, dim in zip(shifts, dims or (0,), strict=True):
        start[dim] = (start[dim] - shift) % shape[dim]
    if any(start):
        x = net.slice(x, start, shape, [1] * len(shape), trt.SampleMode.WRAP)
    return net.reshape(x, net.shape(self))


@roll.unless
def _(self: torch.Tensor, shifts: Sequence[int], dims: Sequence[int] = ()) -> Iterator[str]:
    yield from Net.fixed_along(self, *(dims or range(self.ndim)), numbers=shifts)


for _op in (repeat, flip, roll):
    _op.unless(Net.not_empty)
