"""TF32 follows PyTorch's setting; the variable that says so is put back, also with threads."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from trt_stripped_backend.errors import Unsupported
from trt_stripped_backend.precision import Settlement, applied, tf32_allowed

VARIABLE = "NVIDIA_TF32_OVERRIDE"


@pytest.fixture(autouse=True)
def untouched(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv(VARIABLE, raising=False)
    before = torch.backends.cuda.matmul.fp32_precision
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision("highest")
    torch.backends.cuda.matmul.fp32_precision = before


@pytest.mark.parametrize("tf32", [False, True])
@pytest.mark.parametrize("before", [None, "0", "1"])
def test_set_and_restored(tf32: bool, before: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if before is not None:
        monkeypatch.setenv(VARIABLE, before)
    with applied(tf32):
        assert os.environ.get(VARIABLE) == (None if tf32 else "0")
    assert os.environ.get(VARIABLE) == before
    with pytest.raises(RuntimeError, match="stop"), applied(tf32):
        raise RuntimeError("stop")
    assert os.environ.get(VARIABLE) == before


def test_nested() -> None:
    with applied(False):
        with applied(True):
            assert VARIABLE not in os.environ
            with applied(False):
                assert os.environ[VARIABLE] == "0"
            assert VARIABLE not in os.environ
        assert os.environ[VARIABLE] == "0"
    assert VARIABLE not in os.environ


def test_threads_take_turns() -> None:
    start, wrong = threading.Barrier(8), []

    def work(tf32: bool) -> None:
        start.wait()
        for _ in range(200):
            with applied(tf32):
                found = [os.environ.get(VARIABLE) for _ in range(3)]
            if set(found) != {None if tf32 else "0"}:
                wrong.append(found)

    threads = [threading.Thread(target=work, args=(bool(n % 2),)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert VARIABLE not in os.environ


def test_a_build_does_not_change_what_others_are_allowed() -> None:
    """Another thread asks while an engine is built without TF32: it neither waits nor reads the build's setting."""
    torch.set_float32_matmul_precision("high")
    seen: list[bool] = []
    with applied(False), applied(True), applied(False):
        thread = threading.Thread(target=lambda: seen.append(tf32_allowed()))
        thread.start()
        thread.join(timeout=60)
        assert tf32_allowed()
    assert seen == [True]


@pytest.mark.parametrize(("user", "allowed"), [("0", False), ("1", True), ("", None), ("yes", None)])
def test_the_users_variable_decides(user: str, allowed: bool | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, user)
    for precision in ("highest", "high"):
        torch.set_float32_matmul_precision(precision)
        want = allowed if allowed is not None else precision == "high"
        assert tf32_allowed() is want
        with applied(not want):
            assert tf32_allowed() is want


def test_every_way_of_setting() -> None:
    matmul: Any = torch.backends.cuda.matmul
    assert not tf32_allowed()
    for precision, allowed in (("high", True), ("medium", True), ("highest", False)):
        torch.set_float32_matmul_precision(precision)
        assert tf32_allowed() is allowed
    matmul.allow_tf32 = True
    assert tf32_allowed()
    matmul.allow_tf32 = False
    assert not tf32_allowed()
    matmul.fp32_precision = "tf32"
    assert tf32_allowed()
    matmul.fp32_precision = "ieee"
    assert not tf32_allowed()


def test_the_first_engine_settles_for_all() -> None:
    """True: float16 products, which lose nothing in TF32."""
    exact, rounding = Settlement(), Settlement()
    assert [exact.tf32(False, half) for half in (False, True, False)] == [False, False, False]
    assert [rounding.tf32(False, True), rounding.tf32(True, False)] == [True, True]
    with pytest.raises(Unsupported, match="start the process with NVIDIA_TF32_OVERRIDE=0, or allow"):
        rounding.tf32(False, False)
    with pytest.raises(Unsupported):
        Settlement(rounding).tf32(False, False)
    assert Settlement(exact).tf32(True, True) is False


def test_engines_that_were_made_elsewhere_settle_too() -> None:
    exact, rounding = Settlement(), Settlement()
    for tf32 in (False, True, False):
        exact.made(tf32)
    assert exact.tf32(False, True) is False
    rounding.made(True)
    with pytest.raises(Unsupported, match="load it first"):
        rounding.made(False)


def test_with_the_variable_no_order_matters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "0")
    for order in ((False, True), (True, False)):
        settlement = Settlement()
        assert not any(settlement.tf32(tf32_allowed(), half) for half in order)


def test_who_wants_the_same_does_not_wait() -> None:
    """An engine is loaded while another one is built."""
    seen: list[str | None] = []

    def load() -> None:
        with applied(False):
            seen.append(os.environ.get(VARIABLE))

    with applied(False):
        thread = threading.Thread(target=load)
        thread.start()
        thread.join(timeout=60)
        assert seen == ["0"]
        assert os.environ[VARIABLE] == "0"
    assert VARIABLE not in os.environ
