"""Whether float32 matrix products may round to TF32: PyTorch's setting, carried into TensorRT.

TensorRT-RTX ignores a cleared ``BuilderFlag.TF32`` (seen on 1.6.1: relative error 2.9e-4 either way) and obeys the
variable ``NVIDIA_TF32_OVERRIDE``, which must read the same when an engine is built, when a context is made from it and
when it is refitted. So all three happen inside :func:`applied`, whatever the variable holds outside.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator

import torch

_VARIABLE = "NVIDIA_TF32_OVERRIDE"
_held = threading.RLock()
_changing = threading.Lock()  # held for moments only, so that nobody waits for a build to ask what is allowed
_users: list[str | None] = []  # what the variable was before each holder, the outermost first


def tf32_allowed() -> bool:
    """As PyTorch is set (``torch.backends.cuda.matmul``), unless the user's variable decides for all libraries."""
    with _changing:
        user = _users[0] if _users else os.environ.get(_VARIABLE)
    # torch.get_float32_matmul_precision() raises once the user has set this attribute.
    return user == "1" if user in ("0", "1") else torch.backends.cuda.matmul.fp32_precision == "tf32"


@contextlib.contextmanager
def applied(tf32: bool) -> Iterator[None]:
    """While open, NVIDIA's libraries read that TF32 is off, or decide by themselves. One holder at a time."""
    with _held:
        with _changing:
            before = os.environ.get(_VARIABLE)
            _users.append(before)
            _set(None if tf32 else "0")
        try:
            yield
        finally:
            with _changing:
                _users.pop()
                _set(before)


def _set(value: str | None) -> None:
    if value is None:
        os.environ.pop(_VARIABLE, None)
    else:
        os.environ[_VARIABLE] = value
