"""Finding TensorRT: which one, which version, what it can do, and what is said when there is none."""

from __future__ import annotations

import importlib.util
import logging
import types
from collections.abc import Iterator
from typing import Any

import pytest
from packaging.version import Version

from tests import check_api
from trt_stripped_backend import flavour
from trt_stripped_backend.errors import OptionError, TRTStrippedError
from trt_stripped_backend.flavour import Flavour


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """A machine that has only the modules put into this dict."""
    modules: dict[str, Any] = {}
    monkeypatch.setattr(flavour, "_chosen", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: modules.get(name))
    monkeypatch.setattr(flavour.importlib, "import_module", lambda name: modules[name])
    yield modules


def library(
    version: str, *, rtx: bool = False, flags: tuple[str, ...] = ("REFIT_INDIVIDUAL", "REFIT_IDENTICAL")
) -> Any:
    module = types.SimpleNamespace(__version__=version, BuilderFlag=types.SimpleNamespace(**dict.fromkeys(flags, 1)))
    if rtx:
        module.ComputeCapability = object
    return module


def test_none_is_installed(machine: dict[str, Any]) -> None:
    assert flavour.installed() == []
    with pytest.raises(TRTStrippedError, match=r"TensorRT is not installed: pip install"):
        flavour.load()
    with pytest.raises(TRTStrippedError, match="tensorrt_rtx is not installed"):
        flavour.load("tensorrt_rtx")


def test_both_are_installed(machine: dict[str, Any]) -> None:
    machine.update(tensorrt=library("10.13.3.9"), tensorrt_rtx=library("1.7.1.116", rtx=True))
    assert flavour.installed() == ["tensorrt", "tensorrt_rtx"]
    assert str(flavour.load()) == "tensorrt 10.13.3.9"


def test_the_wanted_one_is_taken(machine: dict[str, Any]) -> None:
    machine.update(tensorrt=library("10.13.3.9"), tensorrt_rtx=library("1.7.1.116", rtx=True))
    found = flavour.load("tensorrt_rtx")
    assert found.is_rtx
    assert found.builds_without_gpu
    assert flavour.load() is found
    assert flavour.load("auto") is found


def test_a_process_keeps_its_flavour(machine: dict[str, Any]) -> None:
    machine.update(tensorrt=library("10.13.3.9"), tensorrt_rtx=library("1.7.1.116", rtx=True))
    flavour.load("tensorrt")
    with pytest.raises(OptionError, match=r"this process already uses tensorrt 10\.13\.3\.9"):
        flavour.load("tensorrt_rtx")


@pytest.mark.parametrize(("name", "rtx"), [("tensorrt_bindings", False), ("tensorrt_rtx_bindings", True)])
def test_bindings_alone_are_enough(machine: dict[str, Any], name: str, rtx: bool) -> None:
    machine[name] = library("1.6.1.120" if rtx else "10.3.0", rtx=rtx)
    assert flavour.load().is_rtx is rtx


@pytest.mark.parametrize(("name", "version", "rtx"), [("tensorrt", "8.6.1", False), ("tensorrt_rtx", "1.3.0", True)])
def test_too_old(machine: dict[str, Any], name: str, version: str, rtx: bool) -> None:
    machine[name] = library(version, rtx=rtx)
    with pytest.raises(TRTStrippedError, match="is too old"):
        flavour.load()


def test_a_broken_install_says_what_to_do(machine: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    machine["tensorrt_rtx"] = library("1.7.1.116", rtx=True)

    def broken(name: str) -> Any:
        raise OSError("libtensorrt_rtx.so.1: cannot open shared object file")

    monkeypatch.setattr(flavour.importlib, "import_module", broken)
    with pytest.raises(TRTStrippedError, match=r"installed but cannot be imported \(libtensorrt_rtx.*reinstall it"):
        flavour.load()


# ---------------------------------------------------------------- abilities


def of(version: str, name: str = "tensorrt", **kwargs: Any) -> Flavour:
    return Flavour(name, Version(version), library(version, rtx=name == "tensorrt_rtx", **kwargs))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("version", "name", "able"),
    [
        ("1.7.1.116", "tensorrt_rtx", True),
        ("1.7.0", "tensorrt_rtx", True),
        ("1.10.0", "tensorrt_rtx", True),
        ("1.6.1.120", "tensorrt_rtx", False),
        ("11.4.0", "tensorrt", False),
    ],
)
def test_what_rtx_has_and_lacks_since_1_7(version: str, name: str, able: bool) -> None:
    found = of(version, name)
    assert (found.null_placeholders, found.reduces_matrices, found.refuses_hopper) == (able, able, able)


@pytest.mark.parametrize(
    ("version", "drops"), [("11.2.1.2", False), ("11.3.0.99", True), ("11.4.0", False), ("10.13.0", False)]
)
def test_dropped_gemm_bias(version: str, drops: bool) -> None:
    assert of(version).drops_gemm_bias is drops


def test_flags_are_asked_for_by_name() -> None:
    old = of("10.0.1", flags=("REFIT_IDENTICAL",))
    assert not old.refit_individual
    assert old.refit_identical


@pytest.mark.parametrize("version", check_api.versions())
def test_individual_refit_is_where_the_flag_is(version: str) -> None:
    """Absent before 10.3 only, by each version's own list of names."""
    number = Version(version.partition("-")[2])
    has = "BuilderFlag.REFIT_INDIVIDUAL" in check_api.load(version)
    assert has is (version.startswith("rtx") or number >= Version("10.3"))


# ---------------------------------------------------------------- the real one


def test_the_installed_one() -> None:
    found = flavour.load()
    assert found.name in flavour.installed()
    assert found.refit_individual


def test_messages_reach_python_logging_and_exceptions(caplog: pytest.LogCaptureFixture) -> None:
    logger, kinds = flavour.logger(), flavour.trt.ILogger.Severity
    flavour.messages.clear()
    with caplog.at_level(logging.DEBUG, "trt_stripped_backend"):
        for kind in (kinds.INTERNAL_ERROR, kinds.ERROR, kinds.WARNING, kinds.INFO, kinds.VERBOSE):
            logger.log(kind, str(kind))
    assert flavour.messages.text() == f"{kinds.INTERNAL_ERROR}; {kinds.ERROR}"
    assert [r.levelname for r in caplog.records] == ["ERROR", "ERROR", "WARNING", "INFO", "DEBUG"]
    assert {r.name for r in caplog.records} == {"trt_stripped_backend.tensorrt"}
    flavour.messages.clear()
    assert flavour.messages.text() == "TensorRT gave no message"


def test_at_info_tensorrts_own_chatter_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    logger, kinds = flavour.logger(), flavour.trt.ILogger.Severity
    with caplog.at_level(logging.INFO, "trt_stripped_backend"):
        logger.log(kinds.INFO, "detail")
        logger.log(kinds.WARNING, "slow")
    assert [r.getMessage() for r in caplog.records] == ["TensorRT: slow"]
