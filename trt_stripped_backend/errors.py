"""Exceptions of the package. Each message names the thing and says what to do next."""

from __future__ import annotations


class TRTStrippedError(Exception):
    """Base class of all errors raised by this package."""


class OptionError(TRTStrippedError, ValueError):
    """An unknown option, or a value that an option does not take."""


class Unsupported(TRTStrippedError):
    """A node cannot be converted; the partitioner or the build turns this into a ``Rejection``."""


class BuildFailed(TRTStrippedError, RuntimeError):
    """TensorRT did not build an engine; the message carries TensorRT's own."""


class NotBuilt(BuildFailed):
    """TensorRT took a network and built no engine of it, which another time would end alike."""


class RefitFailed(TRTStrippedError, RuntimeError):
    """An engine could not be given all its weights; it is Empty and must not run."""


class NotWarm(RefitFailed):
    """A CUDA graph is being recorded and a call needs what cannot be recorded, such as its first run or a refit."""


class Outgrown(RefitFailed):
    """A size is beyond what a restored engine was built for, and another can be built only of the graph itself."""


class MissingEngine(TRTStrippedError, LookupError):
    """A saved function names an engine that is nowhere to be found."""


class InputError(TRTStrippedError, ValueError):
    """The arguments of a call are not what a program was exported for."""


class BadEntry(TRTStrippedError, ValueError):
    """A cache entry or a stored program is truncated, foreign, of another format version, or not what was written."""


class CacheError(TRTStrippedError, OSError):
    """The cache directory is unsafe or unusable (owner, permissions, disk)."""
