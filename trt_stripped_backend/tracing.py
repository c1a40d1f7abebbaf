"""``explain`` and ``prebuild``: the pipeline up to the plan, on fake tensors, without running the model."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch._dynamo.convert_frame as convert_frame
from torch import fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree

from . import lowering
from .compilation import VALUED, Compilation
from .errors import OptionError, TRTStrippedError
from .flavour import load
from .options import Options
from .report import Report, stats
from .types import Rejection


def explain(model: Callable[..., Any], *args: Any, options: Any = None, **kwargs: Any) -> Report:
    """What of a model would run in TensorRT, what in PyTorch and why, and which engines the cache holds.

    Traces on fake tensors: nothing is run, built or changed, and tensors may be on any device, ``meta`` too.

    Args:
        model: a module or function of tensors.
        args: its arguments.
        options: as for ``torch.compile(options=…)``.
        kwargs: its keyword arguments.

    Raises:
        OptionError: an unknown option, or a value that it does not take.
    """
    return _plan(model, args, kwargs, Options.of(options), look_only=True)


def prebuild(
    model: Callable[..., Any], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, *, options: Any = None
) -> Report:
    """Builds a model's engines into the cache without running it; with tensorrt_rtx, without a GPU too.

    The engines are those that ``torch.compile(model, backend="trt_stripped")`` under ``torch.no_grad()`` looks for with
    arguments of the same shapes and dtypes: RTX plans are portable, and a key does not name the device of the trace.

    Args:
        model: a module or function of tensors; parameters may be on the ``meta`` device, no value is read.
        args: example arguments.
        kwargs: example keyword arguments.
        options: as for ``torch.compile(options=…)``.

    Raises:
        OptionError: an unknown option, or a value that it does not take.
        TRTStrippedError: no TensorRT, or one that cannot build on this machine.
    """
    chosen = Options.of(options)
    flavour = load(chosen.flavour)
    if not torch.cuda.is_available() and not flavour.builds_without_gpu:
        raise TRTStrippedError(f"{flavour} needs a GPU to build; install tensorrt_rtx, which does not, or run on one")
    if chosen.refit_mode in VALUED:
        raise OptionError(f"prebuild: refit_mode={chosen.refit_mode!r} needs the weights' values; run the model")
    return _plan(model, args, kwargs or {}, chosen, look_only=False)


def _plan(
    model: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], options: Options, *, look_only: bool
) -> Report:
    try:
        flavour = load(options.flavour)
    except TRTStrippedError as error:
        return Report(flavour=f"no TensorRT: {error}", rejections=[Rejection("", "graph", "device", str(error))])
    compilation = Compilation.of(options, flavour, None, look_only=look_only)

    def capture(gm: fx.GraphModule, example_inputs: Sequence[Any], **_: Any) -> Callable[..., Any]:
        lowering.trace(gm, example_inputs, plan)
        return gm

    def plan(lowered: lowering.Lowered) -> Callable[..., Any]:
        compilation.plan(lowered)

        def call(args: list[Any]) -> Any:
            return lowered.module(*args)

        call._boxed_call = True  # type: ignore[attr-defined]
        return call

    mode = FakeTensorMode(allow_non_fake_inputs=True)
    cuda = torch.cuda.is_available()
    target = torch.device("cuda", torch.cuda.current_device()) if cuda else torch.device("cpu")
    fakes = _Fakes(mode, target)
    with _forgotten(), mode, torch.no_grad():
        fake_model = fakes.model(model)
        fake_args, fake_kwargs = pytree.tree_map_only(torch.Tensor, fakes.tensor, (tuple(args), dict(kwargs)))
        torch.compile(fake_model, backend=capture, dynamic=False)(*fake_args, **fake_kwargs)
    stats.add(graphs=compilation.report.graphs)
    return compilation.report


class _Fakes:
    """Fake copies of tensors on one device, the same fake for the same tensor."""

    def __init__(self, mode: FakeTensorMode, device: torch.device) -> None:
        self.mode, self.device = mode, device
        self.memo: dict[int, Any] = {}

    def tensor(self, real: torch.Tensor) -> torch.Tensor:
        if id(real) not in self.memo:
            size, stride = tuple(real.shape), tuple(real.stride())
            with self.mode:
                fake = torch.empty_strided(size, stride, dtype=real.dtype, device=self.device)
                if isinstance(real, nn.Parameter):
                    fake = nn.Parameter(fake, requires_grad=False)
            self.memo[id(real)] = fake
        made: torch.Tensor = self.memo[id(real)]
        return made

    def model(self, model: Callable[..., Any]) -> Callable[..., Any]:
        """A copy of a module whose tensors are fake; the tensors of the original are neither copied nor read."""
        model = getattr(model, "_orig_mod", model)
        if not isinstance(model, nn.Module):
            return model
        for module in model.modules():
            for value in [*module._parameters.values(), *module._buffers.values(), *vars(module).values()]:
                if isinstance(value, torch.Tensor):
                    self.tensor(value)
        return copy.deepcopy(model, dict(self.memo))


@contextlib.contextmanager
def _forgotten() -> Iterator[None]:
    """Code that Dynamo first sees inside is forgotten afterwards: looking must not fill the user's code cache."""
    seen = getattr(getattr(convert_frame, "input_codes", None), "seen", None)
    before = len(seen) if seen is not None else 0
    try:
        yield
    finally:
        for reference in list(seen or ())[before:]:
            code = reference()
            if code is not None:
                torch._dynamo.reset_code(code)  # type: ignore[attr-defined]
