"""CUDA's driver, for what PyTorch does not offer: graphs without its random numbers, and streams of one's own."""

from __future__ import annotations

import ctypes
import functools
import sys
from typing import Any


@functools.cache
def driver() -> Any:
    """The driver's library, which PyTorch has loaded already."""
    library: Any = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    pointer, out = ctypes.c_void_p, ctypes.POINTER(ctypes.c_void_p)
    for name, arguments in {
        "cuStreamBeginCapture_v2": (pointer, ctypes.c_int), "cuStreamEndCapture": (pointer, out),
        "cuGraphInstantiateWithFlags": (out, pointer, ctypes.c_ulonglong), "cuGraphLaunch": (pointer, pointer),
        "cuGraphExecDestroy": (pointer,), "cuGraphDestroy": (pointer,), "cuStreamCreate": (out, ctypes.c_uint),
        "cuGetErrorString": (ctypes.c_int, ctypes.POINTER(ctypes.c_char_p)),
    }.items():  # fmt: skip
        getattr(library, name).argtypes = arguments
    return library


def check(status: int) -> None:
    """
    Raises:
        RuntimeError: the driver refused, with its own words.
    """
    if status:
        text = ctypes.c_char_p()
        driver().cuGetErrorString(status, ctypes.byref(text))
        raise RuntimeError(f"CUDA error {status}: {(text.value or b'unknown').decode()}")
