"""How matrix products may round: PyTorch's settings, carried into TensorRT.

TensorRT-RTX ignores a cleared ``BuilderFlag.TF32`` (seen on 1.6.1: relative error 2.9e-4 either way) and obeys the
variable ``NVIDIA_TF32_OVERRIDE``, which must read the same when an engine is built, when a context is made from it and
when it is refitted. So all three happen inside :func:`applied`, whatever the variable holds outside. And the first
engine of a process decides for all: what comes after one with TF32 rounds to it, whatever the variable then says.
:class:`Settlement` keeps to that. Plans do not depend on what was built before them.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator

import torch
from torch import fx
from torch.utils import _pytree as pytree

from .errors import Unsupported

#: Operators whose converters multiply matrices.
PRODUCTS = frozenset({
    "aten.linear", "aten.matmul", "aten.mm", "aten.bmm", "aten.mv", "aten.dot", "aten.addmm", "aten.addbmm",
    "aten.baddbmm", "aten.addmv", "aten.convolution", "aten.scaled_dot_product_attention", "aten._embedding_bag",
    "aten._embedding_bag_forward_only",
})  # fmt: skip
_VARIABLE = "NVIDIA_TF32_OVERRIDE"
_turns = threading.Condition()  # held for moments only, so that nobody waits for a build to ask what is allowed
_holders: list[int] = []  # the threads inside of :func:`applied`
_settings: list[tuple[bool, str | None]] = []  # what applies and what the variable was before, the outermost first


def tf32_allowed() -> bool:
    """As PyTorch is set (``torch.backends.cuda.matmul``), unless the user's variable decides for all libraries."""
    user = _user()
    # torch.get_float32_matmul_precision() raises once the user has set this attribute.
    return user == "1" if user in ("0", "1") else torch.backends.cuda.matmul.fp32_precision == "tf32"


def half_sums_allowed() -> bool:
    """Whether float16 products may be summed in float16: ``torch.backends.cuda.matmul.allow_fp16_accumulation``."""
    return bool(torch.backends.cuda.matmul.allow_fp16_accumulation)


def _user() -> str | None:
    """The variable as the user set it."""
    with _turns:
        return _settings[0][1] if _settings else os.environ.get(_VARIABLE)


def exact_in_tf32(graph: fx.Graph) -> bool:
    """Whether no product of a graph has a float32 operand: TF32 holds all of float16 and bfloat16, so it loses nothing
    of these, and is far faster than emulated float32. A graph without products must not hold float32 at all, because
    its engine decides for those of the graphs to come, which will be of its types."""
    products = [node for node in graph.nodes if str(node.target).rpartition(".")[0] in PRODUCTS]
    values = (one.meta.get("val") for node in products or graph.nodes for one in node.all_input_nodes)
    return not any(isinstance(value, torch.Tensor) and value.dtype == torch.float32 for value in values)


def has_half(graph: fx.Graph) -> bool:
    """Whether a graph has a float16 tensor, without which no sum is in float16."""
    values = [one for node in graph.nodes for one in pytree.tree_leaves(node.meta.get("val"))]
    return any(isinstance(value, torch.Tensor) and value.dtype == torch.float16 for value in values)


class Settlement:
    """Whether the engines of a process get TF32, which the first of them decides for all.

    Args:
        like: starts as another one stands now.
    """

    def __init__(self, like: Settlement | None = None) -> None:
        self._first: bool | None = like._first if like is not None else None

    def tf32(self, allowed: bool, exact: bool) -> bool:
        """Whether the next engine gets TF32.

        Args:
            allowed: what :func:`tf32_allowed` said.
            exact: what :func:`exact_in_tf32` said of the whole graph that the engine is a piece of.

        Raises:
            Unsupported: it must not, and an earlier engine had it.
        """
        wanted = allowed or (_user() != "0" and exact)
        self._settle(wanted, "start the process with", ", or allow TF32 (torch.backends.cuda.matmul.allow_tf32 = True)")
        return wanted and bool(self._first)

    def made(self, tf32: bool) -> None:
        """Notes that this process runs an engine that was made elsewhere, with TF32 or without.

        Raises:
            Unsupported: it must be without, and an earlier engine had it.
        """
        self._settle(tf32, "load it first, or start the process with", "")

    def _settle(self, wanted: bool, way_out: str, more: str) -> None:
        with _turns:
            if self._first is None:
                self._first = wanted
            if self._first and not wanted:
                raise Unsupported(
                    "its float32 products may not round to TF32, and the first engine of this process may, which "
                    f"NVIDIA's libraries keep to: {way_out} {_VARIABLE}=0{more}"
                )


#: This process's.
settlement = Settlement()


@contextlib.contextmanager
def applied(tf32: bool) -> Iterator[None]:
    """While open, NVIDIA's libraries read that TF32 is off, or decide by themselves.

    Threads that want the same are inside together, so that an engine is loaded while another one is built; those that
    want the other wait. A thread may change its mind inside, once it is alone there.
    """
    me = threading.get_ident()

    def shared() -> bool:
        return len(_settings) == 1 and _settings[0][0] == tf32

    with _turns:
        _turns.wait_for(lambda: not _settings or shared() or set(_holders) == {me})
        own = not shared()
        if own:
            _settings.append((tf32, os.environ.get(_VARIABLE)))
            _set(None if tf32 else "0")
        _holders.append(me)
    try:
        yield
    finally:
        with _turns:
            _holders.remove(me)
            if not _holders or (own and len(_settings) > 1):
                _set(_settings.pop()[1])
            _turns.notify_all()


def _set(value: str | None) -> None:
    if value is None:
        os.environ.pop(_VARIABLE, None)
    else:
        os.environ[_VARIABLE] = value
