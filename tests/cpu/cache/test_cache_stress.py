"""A short run of the stress script; the long one is run by hand."""

from __future__ import annotations

import pytest

from tests.stress import cache_stress


def test_writers_readers_pruner_and_auditor_at_once(capfd: pytest.CaptureFixture[str]) -> None:
    assert cache_stress.main(["--seconds", "60", "--turns", "60"]) == 0
    assert "120 stored" in capfd.readouterr().out


def test_writers_that_are_killed(capfd: pytest.CaptureFixture[str]) -> None:
    assert cache_stress.main(["--seconds", "3", "--kills", "20", "--write", "3"]) == 0
    assert "killed" in capfd.readouterr().out
