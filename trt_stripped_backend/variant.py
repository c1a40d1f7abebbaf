"""One way in which a model will be called: its arguments, their dynamic sizes, and the dtype of the whole."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from .errors import OptionError


@dataclass(frozen=True)
class Variant:
    """Arguments to build engines for, beside others: another shape, dtype or dynamic range.

    Attributes:
        args: example arguments; on any device, ``meta`` too.
        kwargs: example keyword arguments.
        dynamic_shapes: which sizes vary, in the form of ``torch.export.export``: for each argument, by name or in
            order, ``{dimension: Dim}`` or one ``Dim`` or None for each dimension, nested as the arguments are; or a
            ``torch.export.ShapesCollection``; or True for every size, as ``torch.compile(dynamic=True)``. A ``Dim``
            without bounds is what PyTorch makes of a size that it has seen change; one with bounds what
            ``torch._dynamo.mark_dynamic(x, dim, min=…, max=…)`` does. Tensors that were marked so need nothing here.
        dtype: builds for ``model.to(dtype)`` and floating-point arguments of it.
    """

    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    dynamic_shapes: Any = None
    dtype: torch.dtype | None = None

    def __post_init__(self) -> None:
        check_arguments(self.args)

    def marked(self, model: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Marks the dynamic dimensions of stand-ins for the arguments.

        Raises:
            OptionError: ``dynamic_shapes`` does not fit the arguments, or a dimension that PyTorch cannot vary.
        """
        shapes = self.dynamic_shapes
        if shapes is None or shapes is True:
            return
        if hasattr(shapes, "dynamic_shapes"):  # torch.export.ShapesCollection and AdditionalInputs
            shapes = shapes.dynamic_shapes(model, tuple(self.args), dict(self.kwargs))
        forward = model.forward if isinstance(model, nn.Module) else model
        named = inspect.signature(forward).bind(*args, **kwargs).arguments
        _mark(named if isinstance(shapes, Mapping) else list(named.values()), shapes, "dynamic_shapes")


def check_arguments(args: object) -> None:
    """Raises OptionError for example arguments that are no sequence: those of a tensor alone would be its rows."""
    if not isinstance(args, Sequence) or isinstance(args, str):
        raise OptionError(f"example arguments are a tuple, such as (x,), not a {type(args).__name__}")


def copy_marks(real: torch.Tensor, fake: torch.Tensor) -> None:
    """Gives a tensor what ``mark_dynamic`` and its like said of another."""
    for name, value in vars(real).items():
        if name == "_specialize_on" or (name.startswith("_dynamo_") and name != "_dynamo_static_input_type"):
            setattr(fake, name, value)


def _mark(value: Any, shapes: Any, where: str) -> None:
    if shapes is None:
        return
    if isinstance(value, torch.Tensor):
        if not isinstance(shapes, (Mapping, tuple, list)):
            raise OptionError(f"{where}: a tensor takes {{dimension: Dim}} or one entry a dimension, not {shapes!r}")
        if not isinstance(shapes, Mapping) and len(shapes) != value.ndim:
            raise OptionError(f"{where}: {len(shapes)} entries for a tensor of {value.ndim} dimensions")
        for dim, one in shapes.items() if isinstance(shapes, Mapping) else enumerate(shapes):
            if not isinstance(dim, int) or not -value.ndim <= dim < value.ndim:
                raise OptionError(f"{where}: a tensor of {value.ndim} dimensions has no dimension {dim!r}")
            _mark_one(value, dim % value.ndim, one, f"{where}[{dim}]")
    elif isinstance(value, Mapping) and isinstance(shapes, Mapping):
        for name, one in shapes.items():
            if name not in value:
                raise OptionError(f"{where}: there is no argument {name!r}; there are {', '.join(map(repr, value))}")
            _mark(value[name], one, f"{where}[{name!r}]")
    elif isinstance(value, (tuple, list)) and isinstance(shapes, (tuple, list)):
        if len(shapes) != len(value):
            raise OptionError(f"{where}: {len(shapes)} entries for {len(value)} arguments")
        for index, one in enumerate(shapes):
            _mark(value[index], one, f"{where}[{index}]")
    else:
        raise OptionError(f"{where}: only tensors have dynamic sizes, and {type(value).__name__} is none")


def _mark_one(value: torch.Tensor, dim: int, wanted: Any, where: str) -> None:
    size, kind = value.shape[dim], getattr(getattr(wanted, "type", None), "name", "")
    if wanted is None or kind == "STATIC" or (isinstance(wanted, int) and wanted == size):
        return
    if not hasattr(wanted, "min") or not hasattr(wanted, "max"):
        raise OptionError(f"{where}: a torch.export.Dim, None or the size, which is {size}; not {wanted!r}")
    low, high = (None if b is None or not 0 < b < sys.maxsize else int(b) for b in (wanted.min, wanted.max))
    if kind == "AUTO" and low is None and high is None:
        torch._dynamo.maybe_mark_dynamic(value, dim)
        return
    if size < 2:
        raise OptionError(f"{where}: PyTorch makes a graph of its own for size {size}; give an example of 2 or more")
    if not (low or 0) <= size <= (high or size):
        raise OptionError(f"{where}: the example's size {size} is outside of {wanted}")
    if low is None and high is None:
        torch._dynamo.mark_dynamic(value, dim)
    else:  # it takes both bounds or none
        bounds = {"min": low or 2, "max": high or sys.maxsize - 1}
        torch._dynamo.mark_dynamic(value, dim, **bounds)
