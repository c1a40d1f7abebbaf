"""The same once more, of the same tensor otherwise turned or over another dimension: what a compiler may fuse, and take
for one another."""

from __future__ import annotations

from typing import Any

from .builder import FLOATS, INTS, Builder
from .graph import Ref, Step
from .registry import of


def _earlier(b: Builder) -> tuple[Ref, tuple[Any, ...], Step] | None:
    """A step that reads a tensor with two dimensions first, and what it reads beside it."""
    found = [s for s in b.steps if s.args and isinstance(s.args[0], Ref) and b.of(s.args[0]).ndim > 1][::-1]
    if not found:
        return None
    step = found[b.whole(0, len(found) - 1)]
    first, *rest = step.args
    return first, tuple(rest), step


@of("again")
def turned(b: Builder) -> None:
    earlier = _earlier(b)
    if earlier is not None:
        x, rest, step = earlier
        b.add("Tensor.transpose", x, b.dim(x), b.dim(x))
        b.add(step.fn, Ref(f"v{b.made - 1}"), *rest, **step.kwargs)


@of("again")
def along(b: Builder) -> None:
    earlier = _earlier(b)
    if earlier is not None:
        x, rest, step = earlier
        if rest and isinstance(rest[0], list):
            b.add(step.fn, x, b.dims(x), *rest[1:], **step.kwargs)
        elif rest and type(rest[0]) is int:
            b.add(step.fn, x, b.dim(x), *rest[1:], **step.kwargs)
        elif "dim" in step.kwargs:
            b.add(step.fn, x, *rest, **{**step.kwargs, "dim": b.dim(x)})


@of("again")
def crossed(b: Builder) -> None:
    """A tensor beside itself, each repeated along a dimension of the other, and what that comes to."""
    x, began = b.pick((*FLOATS, *INTS), low=1, high=4), b.made
    for _ in range(2):
        b.add("Tensor.unsqueeze", x, b.whole(-b.of(x).ndim - 1, b.of(x).ndim))
    if b.made == began + 2:
        b.add(b.one_of("torch.sub", "torch.mul", "torch.maximum"), Ref(f"v{began}"), Ref(f"v{began + 1}"))
    if b.made == began + 3:
        last = Ref(f"v{began + 2}")
        b.add(b.one_of("torch.amax", "torch.sum", "torch.argmin", "F.softmax"), last, dim=b.dim(last))
