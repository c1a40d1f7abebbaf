"""Every TensorRT name that the package uses exists in all known versions, or is asked for first."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest

import trt_stripped_backend
from tests import check_api

PACKAGE = Path(next(iter(trt_stripped_backend.__path__)))
SOURCES = {str(path.relative_to(PACKAGE)): path.read_text() for path in sorted(PACKAGE.rglob("*.py"))}


@functools.cache
def missing() -> dict[str, dict[str, list[tuple[int, str]]]]:
    """File → version → the names that it lacks; for all versions at once, as reading a file takes the time."""
    apis = {version: check_api.load(version) for version in check_api.versions()}
    found: dict[str, dict[str, list[tuple[int, str]]]] = {}
    for path, source in SOURCES.items():
        for place, versions in check_api.missing(source, apis).items():
            for version in versions:
                found.setdefault(path, {}).setdefault(version, []).append(place)
    return found


def test_versions() -> None:
    names = check_api.versions()
    assert len(names) == 24
    assert {name.partition("-")[0] for name in names} == {"cu12", "cu13", "rtx"}


@pytest.mark.parametrize("version", check_api.versions())
def test_package(version: str) -> None:
    found = {path: [*names] for path, lacking in missing().items() if (names := lacking.get(version))}
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
