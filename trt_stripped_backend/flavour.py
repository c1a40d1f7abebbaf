"""Finds TensorRT: ``tensorrt`` or ``tensorrt_rtx``, its version, what it can do, and which refit mode suits it.

This is the only module that compares versions. Everything else uses :data:`trt`, a stand-in that imports the chosen
library at its first attribute access, so that nothing before the build needs TensorRT.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import logging
import threading
from dataclasses import dataclass
from typing import Any, Literal

from packaging.version import Version

from .errors import OptionError, TRTStrippedError
from .options import Options

Name = Literal["tensorrt", "tensorrt_rtx"]

#: Modules to try, in order, for each flavour. The bindings packages work without their meta package.
_MODULES: dict[str, tuple[str, ...]] = {
    "tensorrt": ("tensorrt", "tensorrt_bindings"),
    "tensorrt_rtx": ("tensorrt_rtx", "tensorrt_rtx_bindings"),
}
_MINIMUM = {"tensorrt": Version("10.0"), "tensorrt_rtx": Version("1.4")}
_INSTALL = "pip install 'trt_stripped_backend[rtx]' (TensorRT-RTX) or 'trt_stripped_backend[tensorrt]'"

log = logging.getLogger("trt_stripped_backend")
#: What TensorRT says, at its own levels.
_said = logging.getLogger("trt_stripped_backend.tensorrt")
_lock = threading.Lock()
_chosen: Flavour | None = None


@dataclass(frozen=True)
class Flavour:
    """One TensorRT library and the abilities that this package asks about."""

    name: Name
    version: Version
    module: Any

    @property
    def is_rtx(self) -> bool:
        return self.name == "tensorrt_rtx"

    @property
    def null_placeholders(self) -> bool:
        """Builds refittable constants from null pointers, so without memory, weights or a GPU (RTX 1.7)."""
        return self.is_rtx and self.version >= Version("1.7")

    @property
    def builds_without_gpu(self) -> bool:
        return self.is_rtx

    @property
    def refit_individual(self) -> bool:
        """Individual weights can be marked refittable (tensorrt 10.3; every RTX)."""
        return hasattr(self.module.BuilderFlag, "REFIT_INDIVIDUAL")

    @property
    def refit_identical(self) -> bool:
        return hasattr(self.module.BuilderFlag, "REFIT_IDENTICAL")

    @property
    def drops_gemm_bias(self) -> bool:
        """TensorRT 11.3 documents that a GEMM bias may be dropped under REFIT.

        Source: docs.nvidia.com/deeplearning/tensorrt/11.3.0/inference-library/refitting-engines.html
        """
        return not self.is_rtx and (self.version.major, self.version.minor) == (11, 3)

    @property
    def refuses_hopper(self) -> bool:
        """RTX 1.7.1 loaded no plan on an H200; 1.6.1, built for CUDA 12, did. Hopper is not in RTX's support matrix.

        Source: docs.nvidia.com/deeplearning/tensorrt-rtx/latest/getting-started/support-matrix.html
        """
        return self.is_rtx and self.version >= Version("1.7")

    @property
    def reduces_matrices(self) -> bool:
        """RTX 1.7.1 does not build some sums of four dimensions in an engine with products of three, such as
        ``x @ y, z.sum(3)``; with the other dimensions joined it does. With 1.6.1 they were seen to be right as they
        are."""
        return self.is_rtx and self.version >= Version("1.7")

    def runs(self, name: str, version: str, *, newer: bool) -> bool:
        """Whether it takes plans of another library and version.

        Args:
            name: of the flavour that built the plan.
            version: of that flavour.
            newer: the plan was built for later versions too.
        """
        return name == self.name and (self.version == Version(version) or (newer and self.version > Version(version)))

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


def installed() -> list[Name]:
    """Flavours whose package is present, best first; nothing is imported."""
    names: tuple[Name, ...] = ("tensorrt", "tensorrt_rtx")
    return [name for name in names if any(importlib.util.find_spec(m) is not None for m in _MODULES[name])]


def load(wanted: str = "auto") -> Flavour:
    """The flavour of this process, imported at the first call.

    Args:
        wanted: ``"tensorrt"``, ``"tensorrt_rtx"``, or ``"auto"`` (what is installed; ``tensorrt`` if both are).

    Raises:
        TRTStrippedError: none is installed, or it is too old, or its import fails.
        OptionError: another flavour is already in use in this process.
    """
    global _chosen
    with _lock:
        if _chosen is not None:
            if wanted not in ("auto", _chosen.name):
                raise OptionError(
                    f"flavour={wanted!r}: this process already uses {_chosen}; choose one flavour per process "
                    f"(TRT_STRIPPED_FLAVOUR={wanted})"
                )
            return _chosen
        names = installed() if wanted == "auto" else [wanted]
        if not names or names[0] not in installed():
            what = "TensorRT" if wanted == "auto" else wanted
            raise TRTStrippedError(f"{what} is not installed: {_INSTALL}")
        _chosen = _import(names[0])
        return _chosen


def _import(name: str) -> Flavour:
    found = [m for m in _MODULES[name] if importlib.util.find_spec(m) is not None]
    try:
        module = importlib.import_module(found[0])
    except Exception as error:
        raise TRTStrippedError(
            f"{found[0]} is installed but cannot be imported ({error}): reinstall it, {_INSTALL}"
        ) from error
    version = Version(module.__version__)
    if version < _MINIMUM[name]:
        raise TRTStrippedError(f"{name} {version} is too old; {_MINIMUM[name]} is the first that works: {_INSTALL}")
    return Flavour("tensorrt_rtx" if hasattr(module, "ComputeCapability") else "tensorrt", version, module)


class _Lazy:
    """Stands for the TensorRT module; resolves it at the first attribute access."""

    def __getattr__(self, name: str) -> Any:
        return getattr(load().module, name)


#: The TensorRT module of this process. The name is ``trt`` everywhere, so that ``check_api.py`` sees each use.
trt: Any = _Lazy()


class Messages(threading.local):
    """TensorRT's errors of this thread since :meth:`clear`; they go into our exceptions."""

    def __init__(self) -> None:
        self.errors: list[str] = []

    def clear(self) -> None:
        self.errors.clear()

    def text(self) -> str:
        return "; ".join(self.errors) or "TensorRT gave no message"


messages = Messages()


@functools.cache
def logger() -> Any:
    """The one ``trt.ILogger`` of the process: TensorRT's messages go to Python logging, errors into exceptions too.

    Dozens of lines about each build, below a warning, are passed on only where this package is logged at DEBUG: at INFO
    there is one line for each engine.
    """

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            level = _level(severity)
            if level >= logging.ERROR:
                messages.errors.append(message)
            if level >= logging.WARNING or log.isEnabledFor(logging.DEBUG):
                _said.log(level, "TensorRT: %s", message)

    return Logger()


def _level(severity: Any) -> int:
    kinds = trt.ILogger.Severity
    levels = {kinds.WARNING: logging.WARNING, kinds.INFO: logging.INFO, kinds.VERBOSE: logging.DEBUG}
    return levels.get(severity, logging.ERROR)


def refit_mode(options: Options, flavour: Flavour) -> tuple[str, str]:
    """What the mode becomes, and why.

    Raises:
        OptionError: ``general`` on a TensorRT that is documented to compute it wrongly, without ``verify``.
    """
    mode = options.refit_mode
    if mode == "identical" and not flavour.refit_identical:
        log.warning("refit_mode='identical': %s has no REFIT_IDENTICAL; using 'general'", flavour)
        return "general", f"{flavour} has no REFIT_IDENTICAL"
    if mode == "general" and flavour.drops_gemm_bias and not options.verify:
        raise OptionError(
            f"refit_mode='general' on {flavour}: it may drop GEMM biases; use 'bound', or add verify=True"
        )
    if mode != "auto":
        return mode, "asked for"
    if flavour.is_rtx:
        return "bound", "on tensorrt_rtx the fastest to build, start and update, without a second copy of the weights"
    if flavour.drops_gemm_bias:
        return "bound", f"{flavour} may drop GEMM biases under refit"
    return "general", "the default on tensorrt"
