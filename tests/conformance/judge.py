"""Whether outputs are right: by value, against eager PyTorch and against the same call in a wider type."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from tests.default_dtype import default_dtype

from .samples import HALVES, Outputs, Sample, Task

#: Operators whose values nobody promises.
UNINITIALIZED = frozenset({"empty", "empty_like", "empty_permuted", "empty_strided", "new_empty", "new_empty_strided"})
#: Operators that name any of several equal elements.
TIES = frozenset({"topk", "sort", "argsort", "msort", "kthvalue", "median", "nanmedian", "mode"})
#: The emulated network rounds after each layer, where an engine keeps float32. Last places of the largest value.
_EMULATED = 12


def eager(sample: Sample, seed: int, wide: torch.dtype | None = None) -> Outputs:
    """The sample in PyTorch, with ``wide`` for what is floating-point or becomes so, if given."""
    torch.manual_seed(seed)
    with default_dtype(wide or torch.get_default_dtype()):
        return sample.widened(wide, *sample.make(wide))


def difference(
    task: Task, sample: Sample, have: Sequence[torch.Tensor], want: Outputs, seed: int, *, random: bool = False,
    products: bool = False,
) -> str:  # fmt: skip
    """What is wrong with ``have``; empty when it is right.

    Errors are counted in tolerances of the database, from eager's value or from a wider type's: there, ours may be
    twice eager's own.

    Args:
        task: says the tolerance.
        sample: the call.
        have: to be judged.
        want: eager's.
        seed: that eager ran with.
        random: some values are drawn; lowering may draw others from the same seed, so shapes and types alone count, as
            they do where another seed gives other values.
        products: some values are sums of products, whose terms may be much larger than they. TensorRT-RTX emulates
            float32 there: what cancels leaves an error in the last place of the largest value.
    """
    if len(have) != len(want):
        return f"{len(have)} outputs, {len(want)} in PyTorch"
    for index, (one, other) in enumerate(zip(have, want, strict=True)):
        if (one.dtype, one.shape) != (other.dtype, other.shape):
            is_, was = f"{one.dtype}{list(one.shape)}", f"{other.dtype}{list(other.shape)}"
            return f"output {index} is {is_}, {was} in PyTorch"
        if one.layout != other.layout:
            return f"output {index} is {one.layout}, {other.layout} in PyTorch"
    if random or task.info.name in UNINITIALIZED:
        return ""
    have, want = [t.to_dense() for t in have], tuple(t.to_dense() for t in want)
    found = _values(task, have, want, want, products)
    if not found:
        return ""
    reference = _reference(task, sample, want, seed)
    if reference is not None and not _values(task, have, want, reference, products):
        return ""
    if task.info.name in TIES and "stable=True" not in sample.text and _tied(task, sample.inputs[0], have, want):
        return ""
    again = tuple(t.to_dense() for t in eager(sample, seed + 1))
    return "" if _values(task, again, want, want, products) else found


def _tied(task: Task, x: torch.Tensor, have: Sequence[torch.Tensor], want: Sequence[torch.Tensor]) -> bool:
    """Whether values are right, and indices are of equal elements, none twice."""
    for ours, eagers in zip(have, want, strict=True):
        if eagers is not want[-1]:  # indices come last
            if _values(task, [ours], [eagers], [eagers], False):
                return False
        elif not any(_same_elements(x, ours, eagers, dim) for dim in range(x.ndim)):
            return False
    return True


def _same_elements(x: torch.Tensor, ours: torch.Tensor, eagers: torch.Tensor, dim: int) -> bool:
    if ours.ndim < x.ndim:
        ours, eagers = ours.unsqueeze(dim), eagers.unsqueeze(dim)
    fits = all(a <= b for d, (a, b) in enumerate(zip(ours.shape, x.shape, strict=True)) if d != dim)
    if not fits or int(torch.stack([ours.max(), eagers.max()]).max()) >= x.shape[dim]:
        return False
    once = not bool((ours.sort(dim).values.diff(dim=dim) == 0).any())
    return once and torch.allclose(x.gather(dim, ours), x.gather(dim, eagers), rtol=0, atol=0, equal_nan=True)


def _reference(task: Task, sample: Sample, want: Outputs, seed: int) -> Outputs | None:
    wide = torch.float32 if task.dtype in HALVES else torch.float64
    try:
        made = eager(sample, seed, wide)
    except (RuntimeError, NotImplementedError, TypeError, ValueError):  # a call that names a type may not take another
        return None
    return made if [t.shape for t in made] == [t.shape for t in want] else None


def _values(
    task: Task, have: Sequence[torch.Tensor], want: Sequence[torch.Tensor], reference: Sequence[torch.Tensor],
    products: bool,
) -> str:  # fmt: skip
    for index, (ours, eagers, exact) in enumerate(zip(have, want, reference, strict=True)):
        if not ours.numel():
            continue
        if not eagers.is_floating_point() and not eagers.is_complex():
            bad = ours != eagers
            error = bad.to(torch.float64) * float("inf")
            error = torch.where(bad, error, 0.0)
            limit = 0.0
        else:
            tolerance = task.tolerance(eagers.dtype, eagers.device.type)
            if products and eagers.dtype == torch.float32 and eagers.is_cuda:
                largest = float(exact.abs().nan_to_num(0.0, 0.0, 0.0).max())
                tolerance = tolerance[0] + torch.finfo(torch.float32).eps * largest, tolerance[1]
            error = _error(ours, eagers, exact, tolerance)
            own = _distance(eagers, exact, tolerance)
            own = own[own.isfinite()]
            limit = max(1.0, 2 * float(own.max())) if own.numel() else 1.0
        worst = int(error.argmax()) if error.ndim else 0
        if float(error.reshape(-1)[worst]) > limit:
            count = int((error > limit).sum())
            a, b = ours.reshape(-1)[worst].item(), eagers.reshape(-1)[worst].item()
            far = f"{float(error.reshape(-1)[worst]) / max(limit, 1.0):.3g} times what is allowed"
            return f"output {index}: {a} for {b} at element {worst}, {far}, {count} of {ours.numel()} differ"
    return ""


def _error(
    ours: torch.Tensor, eagers: torch.Tensor, exact: torch.Tensor, tolerance: tuple[float, float]
) -> torch.Tensor:
    """Distance from the exact value in tolerances; 0 where equal to it or to eager's value, NaN and infinity too."""
    same = (ours == eagers) | (ours == exact) | (ours.isnan() & (eagers.isnan() | exact.isnan()))
    return torch.where(same.reshape(-1), 0.0, _distance(ours, exact, tolerance))


def _distance(value: torch.Tensor, exact: torch.Tensor, tolerance: tuple[float, float]) -> torch.Tensor:
    kind = torch.complex128 if value.is_complex() else torch.float64
    a, b = value.reshape(-1).to(kind), exact.reshape(-1).to(kind)
    allowed = tolerance[0] + tolerance[1] * b.abs()
    finite = b[b.isfinite()]
    if value.dtype in HALVES and value.device.type == "cpu" and finite.numel():
        allowed = allowed + _EMULATED * torch.finfo(value.dtype).eps * finite.abs().max()
    error = (a - b).abs() / allowed
    return torch.where(error.isfinite() & b.isfinite(), error, float("inf"))
