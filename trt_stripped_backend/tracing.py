"""``explain`` and ``prebuild``: the pipeline up to the plan, on fake tensors, without running the model."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch._dynamo.convert_frame as convert_frame
from torch import fx, nn
from torch._dynamo.exc import BackendCompilerFailed
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.nn.parameter import is_lazy
from torch.utils import _pytree as pytree

from . import lowering
from .compilation import VALUED, Compilation
from .errors import BuildFailed, OptionError, TRTStrippedError
from .flavour import load
from .layouts import as_on_cuda
from .options import Options
from .report import Report, merged, stats
from .types import Rejection
from .variant import Variant, copy_marks


def explain(model: Callable[..., Any], *args: Any, options: Any = None, **kwargs: Any) -> Report:
    """What of a model would run in TensorRT, what in PyTorch and why, and which engines the cache holds.

    Traces on fake tensors, as under ``torch.no_grad()``: nothing is run, built or changed, and tensors may be on any
    device, ``meta`` too.

    Args:
        model: a module or function of tensors.
        args: its arguments.
        options: as for ``torch.compile(options=…)``.
        kwargs: its keyword arguments.

    Returns:
        One report over all graphs that Dynamo makes of the model; ``notes`` say why nothing would run here.

    Raises:
        OptionError: an unknown option, or a value that it does not take.
    """
    # What would make a compilation raise is what the report is asked for.
    chosen = dataclasses.replace(Options.of(options), require_full=False)
    report = _plan(model, Variant(args, kwargs), chosen, look_only=True)
    tensors = [*pytree.tree_leaves((args, kwargs)), *(model.parameters() if isinstance(model, nn.Module) else ())]
    if not torch.cuda.is_available():
        report.notes.append("no CUDA device is available: here the model runs in PyTorch, with one as said above")
    elif all(t.device.type == "cpu" for t in tensors if isinstance(t, torch.Tensor)):
        report.notes.append("its tensors are on the CPU, where the model runs in PyTorch: use .cuda()")
    return report


def prebuild(
    model: Callable[..., Any],
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    dynamic_shapes: Any = None,
    variants: Sequence[Variant] = (),
    options: Any = None,
) -> Report:
    """Builds a model's engines into the cache without running it; with tensorrt_rtx, without a GPU too.

    The engines are those that ``torch.compile(model, backend="trt_stripped")`` under ``torch.no_grad()`` or
    ``torch.inference_mode()`` looks for with arguments of the same shapes and dtypes: RTX plans are portable, and a key
    does not name the device of the trace. docs/building.md lists what a key does hold.

    Args:
        model: a module or function of tensors; parameters may be on the ``meta`` device, no value is read.
        args: example arguments.
        kwargs: example keyword arguments.
        dynamic_shapes: which of their sizes vary, as in ``Variant``.
        variants: more ways to call the model, or all of them where no ``args`` and ``kwargs`` are given. Each is built
            as if first in its process, which matters where models of several dtypes share one: see docs/building.md.
        options: as for ``torch.compile(options=…)``. ``build`` does not matter.

    Returns:
        One report, with graphs numbered across the variants.

    Raises:
        OptionError: an unknown option, or a value that it does not take; ``dynamic_shapes`` that do not fit.
        BuildFailed: with ``require_full``, when anything would run in PyTorch; names all of it.
        TRTStrippedError: no TensorRT, or one that cannot build on this machine.
    """
    chosen = Options.of(options)
    flavour = load(chosen.flavour)
    if not torch.cuda.is_available() and not flavour.builds_without_gpu:
        raise TRTStrippedError(f"{flavour} needs a GPU to build; install tensorrt_rtx, which does not, or run on one")
    if chosen.refit_mode in VALUED:
        raise OptionError(f"prebuild: refit_mode={chosen.refit_mode!r} needs the weights' values; run the model")
    alone = bool(args or kwargs or not variants) if isinstance(args, Sequence) else True
    first = [Variant(args, kwargs or {}, dynamic_shapes)] if alone else []
    reports = [_plan(model, one, chosen, look_only=False) for one in (*first, *variants)]
    return reports[0] if len(reports) == 1 else merged(reports)


def _plan(model: Callable[..., Any], variant: Variant, options: Options, *, look_only: bool) -> Report:
    try:
        flavour = load(options.flavour)
    except TRTStrippedError as error:
        return Report(flavour=f"no TensorRT: {error}", rejections=[Rejection("", "graph", "device", str(error))])
    compilation = Compilation.of(options, flavour, None, look_only=look_only)
    compilation.drawn = True

    def capture(gm: fx.GraphModule, example_inputs: Sequence[Any], **_: Any) -> Callable[..., Any]:
        lowering.trace(gm, example_inputs, plan)
        return gm

    def plan(lowered: lowering.Lowered) -> Callable[..., Any]:
        compilation.plan(lowered)
        return lowering.boxed(lowered.module)

    mode = FakeTensorMode(allow_non_fake_inputs=True)
    fakes = _Fakes(mode, _traced_on(), variant.dtype)
    fake_model = fakes.model(model)
    given = tuple(variant.args), dict(variant.kwargs)
    fake_args, fake_kwargs = pytree.tree_map_only(torch.Tensor, fakes.tensor, given)
    variant.marked(fake_model, fake_args, fake_kwargs)
    report = compilation.report
    try:
        layouts = contextlib.nullcontext() if torch.cuda.is_available() else as_on_cuda()
        with _forgotten(), layouts, mode, torch.no_grad():
            dynamic = variant.dynamic_shapes is True
            torch.compile(_anew(fake_model), backend=capture, dynamic=dynamic)(*fake_args, **fake_kwargs)
    except (DataDependentOutputException, DynamicOutputShapeException) as error:
        why = "depends on data, and so does what the model does after it: run the model to see that part"
        compilation.reject(Rejection("", str(error.func), "data", why))
    except BackendCompilerFailed as error:
        if isinstance(error.inner_exception, TRTStrippedError):
            raise error.inner_exception from None
        raise
    if not report.graphs:
        why = "Dynamo made no graph of it; TORCH_LOGS=graph_breaks tells why"
        compilation.reject(Rejection("", "graph", "op", why))
    if options.require_full and report.rejections:
        raise BuildFailed("require_full: these would run in PyTorch:\n  " + "\n  ".join(map(str, report.rejections)))
    stats.add(graphs=report.graphs)
    return report


def _traced_on() -> torch.device:
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


class _Fakes:
    """Fake copies of tensors on one device and, if floating-point, of one dtype: the same fake for the same tensor."""

    def __init__(self, mode: FakeTensorMode, device: torch.device, dtype: torch.dtype | None = None) -> None:
        self.mode, self.device, self.dtype = mode, device, dtype
        self.memo: dict[int, Any] = {}
        self.others: list[Any] = []  # what modules hold beside tensors

    def tensor(self, real: torch.Tensor) -> torch.Tensor:
        """The fake of a tensor.

        Raises:
            TRTStrippedError: it has no shape yet, or is more than values of one type in memory.
        """
        if is_lazy(real):
            raise TRTStrippedError("the model has lazy parameters, which have no shape yet: call it once before")
        if id(real) not in self.memo:
            if real.layout is not torch.strided or real.is_nested or real.is_quantized:
                kind = "nested" if real.is_nested else "quantized" if real.is_quantized else f"{real.layout}"
                raise TRTStrippedError(f"a {kind} tensor cannot be described: run the model, and look at reports()")
            size, stride = tuple(real.shape), tuple(real.stride())
            dtype = self.dtype if self.dtype is not None and real.is_floating_point() else real.dtype
            with self.mode:
                fake = torch.empty_strided(size, stride, dtype=dtype, device=self.device)
                if isinstance(real, nn.Parameter):
                    fake = nn.Parameter(fake, requires_grad=False)
            copy_marks(real, fake)
            self.memo[id(real)] = fake
        made: torch.Tensor = self.memo[id(real)]
        return made

    def model(self, model: Callable[..., Any]) -> Callable[..., Any]:
        """A copy of a module whose tensors are fake; the tensors of the original are neither copied nor read."""
        model = getattr(model, "_orig_mod", model)
        if not isinstance(model, nn.Module):
            return model
        self._find(model, set())
        try:
            return copy.deepcopy(model, dict(self.memo))
        except TypeError:  # it holds a lock, a file or the like: the copy holds the same
            shared = {id(one): one for one in self.others if not _is_copied(one, self.memo)}
            return copy.deepcopy(model, {**self.memo, **shared})

    def _find(self, value: Any, seen: set[int]) -> None:
        """Makes the fakes of all tensors that a module holds, also of those that it keeps in lists and dicts."""
        if isinstance(value, torch.Tensor):
            self.tensor(value)
        elif isinstance(value, (nn.Module, dict, list, tuple)) and id(value) not in seen:
            seen.add(id(value))
            inner = vars(value) if isinstance(value, nn.Module) else value
            for one in inner.values() if isinstance(inner, dict) else inner:
                self._find(one, seen)
        else:
            self.others.append(value)


def _is_copied(value: Any, memo: Mapping[int, Any]) -> bool:
    try:
        copy.deepcopy(value, dict(memo))
    except TypeError:
        return False
    return True


def _anew(model: Callable[..., Any]) -> Callable[..., Any]:
    """A call of the model that has code of its own: Dynamo keeps what it compiles by code, up to a limit."""

    def call(*args: Any, **kwargs: Any) -> Any:
        return model(*args, **kwargs)

    return types.FunctionType(call.__code__.replace(), globals(), "call", None, call.__closure__)


@contextlib.contextmanager
def _forgotten() -> Iterator[None]:
    """Code for which Dynamo compiles something inside is forgotten afterwards: looking must not use up its limit."""
    before = dict(_compiled())
    try:
        yield
    finally:
        for code, count in list(_compiled()):
            if count != before.get(code, 0):
                torch._dynamo.reset_code(code)  # type: ignore[attr-defined]


def _compiled() -> Iterator[tuple[types.CodeType, int]]:
    """Each code that Dynamo has seen, and how much it has compiled for it."""
    entries = getattr(torch._C._dynamo.eval_frame, "_debug_get_cache_entry_list", lambda code: ())
    for reference in list(getattr(getattr(convert_frame, "input_codes", None), "seen", ())):
        code = reference()
        if code is not None:
            yield code, len(entries(code))
