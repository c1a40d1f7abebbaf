"""Every TensorRT name that the package uses exists in all known versions, or is asked for first."""

from __future__ import annotations

from pathlib import Path

import pytest

import trt_stripped_backend
from tests import check_api

PACKAGE = Path(next(iter(trt_stripped_backend.__path__)))
SOURCES = {str(path.relative_to(PACKAGE)): path.read_text() for path in sorted(PACKAGE.rglob("*.py"))}


def test_versions() -> None:
    names = check_api.versions()
    assert len(names) == 24
    assert {name.partition("-")[0] for name in names} == {"cu12", "cu13", "rtx"}


@pytest.mark.parametrize("version", check_api.versions())
def test_package(version: str) -> None:
    api = {version: check_api.load(version)}
    found = {path: lacking for path, source in SOURCES.items() if (lacking := check_api.missing(source, api))}
    assert not found


def test_a_missing_name_is_found() -> None:
    apis = {version: check_api.load(version) for version in ("cu12-10.0.1", "rtx-1.7.1.116")}
    source = "flag = trt.BuilderFlag.REFIT_INDIVIDUAL\nother = trt.BuilderFlag.REFIT.name\nnone = trt.Nothing"
    assert check_api.missing(source, apis) == {
        (1, "BuilderFlag.REFIT_INDIVIDUAL"): ["cu12-10.0.1"],
        (3, "Nothing"): ["cu12-10.0.1", "rtx-1.7.1.116"],
    }


def test_a_guarded_name_is_allowed() -> None:
    apis = {"cu12-10.0.1": check_api.load("cu12-10.0.1")}
    source = "if hasattr(trt.BuilderFlag, 'REFIT_INDIVIDUAL'):\n    flag = trt.BuilderFlag.REFIT_INDIVIDUAL"
    assert check_api.missing(source, apis) == {}
