"""How far a result may be from PyTorch's: as far as PyTorch itself is when each step errs by a rounding or two."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from tests.default_dtype import default_dtype
from trt_stripped_backend.precision import tf32_allowed

from .graph import Graph, Step
from .registry import EXACT

#: Perturbed runs, and how many times their spread an error may be.
RUNS, FACTOR = 6, 10.0
#: Roundings by which each step errs in a perturbed run, and by which a result may err for each step in any case.
ROUNDINGS = 2.0


@dataclass(frozen=True)
class Verdict:
    """What a comparison found.

    Attributes:
        wrong: what; empty if nothing.
        checked: elements that were compared.
        open: elements that were not, because PyTorch's own roundings decide them (a comparison of nearly equal values).
    """

    wrong: str
    checked: int
    open: int


class Judge:
    """The results of a graph for some inputs, and how sure they are.

    Args:
        inputs: on the CPU.
    """

    def __init__(self, graph: Graph, inputs: Sequence[torch.Tensor]) -> None:
        self.graph = graph
        self.eager = graph(*inputs)
        with default_dtype(torch.float64):
            exact = graph.run([_wide(t) for t in inputs], lambda step, values: step.call(values, torch.float64))
        generator = torch.Generator().manual_seed(0)
        perturbed = [
            graph.run(inputs, lambda s, v, zero=zero: _perturbed(s, v, generator, zero))  # type: ignore[misc]
            for zero in (1, -1, *[0] * (RUNS - 2))
        ]
        self.runs = [exact, self.eager, *perturbed]
        steps = len(graph.steps)
        types = {t.dtype for t in [*inputs, *self.eager] if t.is_floating_point()} or {torch.float32}
        self.relative = ROUNDINGS * steps * max(map(_eps, types))

    def __call__(self, have: Sequence[torch.Tensor]) -> Verdict:
        """Compares all outputs, element by element."""
        if len(have) != len(self.eager):
            return Verdict(f"{len(have)} outputs, {len(self.eager)} in PyTorch", 0, 0)
        checked = open_ = 0
        for index, (ours, eagers) in enumerate(zip(have, self.eager, strict=True)):
            if (ours.dtype, ours.shape) != (eagers.dtype, eagers.shape):
                what = f"{ours.dtype}{list(ours.shape)}, {eagers.dtype}{list(eagers.shape)} in PyTorch"
                return Verdict(f"output {index} is {what}", checked, open_)
            sure, bad, text = self._compare(ours.cpu(), [run[index].to(torch.float64) for run in self.runs])
            checked, open_ = checked + int(sure.sum()), open_ + int((~sure).sum())
            if bad.any():
                return Verdict(f"output {index}: {int(bad.sum())} of {bad.numel()} elements: {text}", checked, open_)
        return Verdict("", checked, open_)

    def _compare(self, have: torch.Tensor, runs: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor, str]:
        all_runs = torch.stack(list(runs))
        ours, exact = have.to(torch.float64), all_runs[0]
        finite = all_runs.isfinite()
        agree = finite.all(0) | ((~finite).all(0) & ((all_runs == exact) | (all_runs.isnan() & exact.isnan())).all(0))
        low, high = all_runs.nan_to_num(0, 0, 0).amin(0), all_runs.nan_to_num(0, 0, 0).amax(0)
        if have.is_floating_point():
            # Whatever the type, engines compute in float32: what cancels leaves its last places.
            largest = float(torch.where(exact.isfinite(), exact.abs(), 0.0).max()) if exact.numel() else 0.0
            small = torch.finfo(have.dtype).tiny + 4 * torch.finfo(torch.float32).eps * largest
            allowed = FACTOR * (high - low) + self.relative * exact.abs() + small
            # What is mostly noise, or overflows the type, says nothing.
            sure = agree & ~(finite.all(0) & (high - low > 0.5 * torch.maximum(high.abs(), low.abs()) + small))
        else:
            allowed, sure = torch.zeros_like(exact), agree & (low == high)
        same = (ours == exact) | (ours.isnan() & exact.isnan()) | ((ours - exact).abs() <= allowed)
        bad = sure & ~same
        if not bad.any():
            return sure, bad, ""
        at = int(bad.reshape(-1).to(torch.int8).argmax())
        pick = [t.reshape(-1)[at].item() for t in (ours, exact, allowed)]
        return sure, bad, "at {} there is {:.9g}, not {:.9g} ± {:.2g}".format(at, *pick)


def _wide(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to(torch.float64) if tensor.is_floating_point() else tensor


def _perturbed(
    step: Step, values: dict[str, torch.Tensor], generator: torch.Generator, zero: int
) -> list[torch.Tensor]:
    """A step's results, off by some roundings, of operands that are off by as much; see :func:`_either_zero`."""
    if step.fn in EXACT:
        return step.call(values)
    shaken = {ref.name: _shaken(values[ref.name], generator) for ref in step.refs()}
    results = step.call(shaken)
    if step.fn == "F.gelu":  # TensorRT rounds its factor, 1 + erf, to the tensor's type: far below zero nothing is left
        (x,) = shaken.values()
        results = [made + (_shaken(x, generator) - x) for made in results]
    return [_either_zero(_shaken(made, generator), generator, zero) for made in results]


def _eps(dtype: torch.dtype) -> float:
    """A rounding; products round float32 to the ten bits of TF32 where they may."""
    return 2**-10 if dtype == torch.float32 and tf32_allowed() else torch.finfo(dtype).eps


def _shaken(value: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    if not value.is_floating_point():
        return value
    noise = 2 * torch.rand(value.shape, generator=generator, dtype=torch.float64) - 1
    return (value.to(torch.float64) * (1 + ROUNDINGS * _eps(value.dtype) * noise)).to(value.dtype)


def _either_zero(value: torch.Tensor, generator: torch.Generator, zero: int) -> torch.Tensor:
    """With zeros of either sign: which one a sum leaves depends on its order and on what else it adds.

    Args:
        zero: the sign of all of them, or 0 for any.
    """
    if not value.is_floating_point():
        return value
    signs = torch.randint(0, 2, value.shape, generator=generator) * 2 - 1 if not zero else torch.tensor(zero)
    return torch.where(value == 0, torch.copysign(torch.zeros_like(value), signs.to(value.dtype)), value)
