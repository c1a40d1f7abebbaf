"""Options: parsing, the environment, what is refused, what is in the key."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trt_stripped_backend.errors import CacheError, OptionError
from trt_stripped_backend.options import IN_KEY, MODES, PREFIX, Options, default_cache_dir, parse_size, table

FIELDS = {field.name: field for field in dataclasses.fields(Options)}


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith(PREFIX):
            monkeypatch.delenv(name)


def test_defaults() -> None:
    assert Options.of(None) == Options.of({}) == Options()
    assert Options().refit_mode == "auto"
    assert Options().min_block_size == 5


def test_an_object_is_checked_and_completed_as_a_dict_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Options.of(Options(min_block_size=7)) == Options.of({"min_block_size": 7})
    assert Options(cache_dir="/tmp/a").cache_dirs == (Path("/tmp/a"),)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="did you mean 'bound'"):
        Options(refit_mode="bogus")
    with pytest.raises(OptionError, match="'min_block_size' takes a whole number from 1; got 0"):
        dataclasses.replace(Options(), min_block_size=0)
    monkeypatch.setenv("TRT_STRIPPED_CACHE_DIR", "/tmp/fleet")
    monkeypatch.setenv("TRT_STRIPPED_MIN_BLOCK_SIZE", "3")
    options = Options.of(Options(min_block_size=7))
    assert (options.min_block_size, options.cache_dirs) == (7, (Path("/tmp/fleet"),))


def test_what_was_changed() -> None:
    assert Options().changed() == {}
    assert Options(verify=True, cache_size=8 << 30).changed() == {"verify": True}


def test_defaults_are_what_their_parsers_make() -> None:
    for name, field in FIELDS.items():
        assert field.metadata["parse"](field.default) == field.default, name


def test_options_are_frozen_and_hashable() -> None:
    options = Options.of({"torch_executed_ops": ["aten.gelu"], "cache_dir": "/tmp/a"})
    assert hash(options) == hash(dataclasses.replace(options))
    with pytest.raises(dataclasses.FrozenInstanceError):
        options.verify = True  # type: ignore[misc]


# ---------------------------------------------------------------- refused


@pytest.mark.parametrize(
    ("given_", "message"),
    [
        ({"refit_mod": "bound"}, "did you mean 'refit_mode'"),
        ({"zzz": 1}, "known options: refit_mode, flavour"),
        ({"refit_mode": "generl"}, "did you mean 'general'"),
        ({"refit_mode": None}, "option 'refit_mode' takes one of 'auto'"),
        ({"min_block_size": 0}, "a whole number from 1"),
        ({"min_block_size": 2.5}, "a whole number from 1"),
        ({"min_block_size": True}, "a whole number from 1"),
        ({"optimization_level": 6}, "from 0 to 5"),
        ({"verify": "maybe"}, "True or False"),
        ({"cache_size": "8 parsecs"}, "a size in bytes"),
        ({"cache_size": -1}, "a size of 0 or more"),
        ({"torch_executed_ops": ["gelu"]}, "operator names such as"),
        ({"cache_errors": "ignore"}, "'warn', 'raise'"),
        ({"cache_size": "9" * 400 + ".5"}, "a size in bytes"),
        ({"workspace_size": 1 << 63}, "below 2**63"),
        ({"max_aux_streams": 1 << 31}, "a whole number from 0"),
        ({"lock_timeout": "9" * 400}, "a whole number from 0"),
        ({"torch_executed_ops": None}, "takes operator names such as"),
        ({"allow_ops": 5}, "takes operator names such as"),
        ({"torch_executed_ops": "aten.gellu"}, "PyTorch has no 'aten.gellu', did you mean 'aten.gelu'?"),
        ({"allow_ops": ["aten.cumsum.defualt"]}, "did you mean 'aten.cumsum.default'?"),
        ({"cache_dir": 5}, "takes a directory, or several"),
        ({"cache_dir": [None]}, "takes a directory, or several"),
        ({"cache_dir": "a\0b"}, "takes a directory, or several"),
        ({"cache_dir": "~nosuchuser/x"}, "no such user, or no home directory"),
    ],
)
def test_refused(given_: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError) as caught:
        Options.of(given_)
    assert message in str(caught.value)


@pytest.mark.parametrize("given_", ["refit_mode=bound", 3, ["verify"]])
def test_refused_shapes(given_: Any) -> None:
    with pytest.raises(OptionError, match="options must be a dict"):
        Options.of(given_)


def test_an_option_error_is_a_value_error() -> None:
    assert issubclass(OptionError, ValueError)


# ---------------------------------------------------------------- values


@pytest.mark.parametrize("mode", MODES)
def test_modes(mode: str) -> None:
    assert Options.of({"refit_mode": mode}).refit_mode == mode


@pytest.mark.parametrize(
    ("value", "names"),
    [
        ("aten.gelu, aten.cumsum.default", {"aten.gelu", "aten.cumsum.default"}),
        (["torch.ops.aten.gelu"], {"aten.gelu"}),
        ("mine.whatever", {"mine.whatever"}),
        ({"aten.gelu"}, {"aten.gelu"}),
        ("", set()),
    ],
)
def test_operator_names(value: Any, names: set[str]) -> None:
    assert Options.of({"torch_executed_ops": value}).torch_executed_ops == names


def test_overloads_are_operator_names() -> None:
    import torch

    given_ = [torch.ops.aten.gelu.default, torch.ops.aten.cumsum]
    assert Options.of({"allow_ops": given_}).allow_ops == {"aten.gelu.default", "aten.cumsum"}


@pytest.mark.parametrize(
    ("value", "dirs"),
    [
        ("/tmp/a", (Path("/tmp/a"),)),
        (f"/tmp/a{os.pathsep}/tmp/b", (Path("/tmp/a"), Path("/tmp/b"))),
        (Path("/tmp/a"), (Path("/tmp/a"),)),
        (["/tmp/a", Path("/tmp/b")], (Path("/tmp/a"), Path("/tmp/b"))),
        ("~/x", (Path.home() / "x",)),
    ],
)
def test_directories(value: Any, dirs: tuple[Path, ...]) -> None:
    assert Options.of({"cache_dir": value}).cache_dirs == dirs


def test_default_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert default_cache_dir() == Path("/somewhere/trt_stripped")
    assert Options.of({}).cache_dirs == (Path("/somewhere/trt_stripped"),)


@pytest.mark.parametrize("answer", ["~/.cache/trt_stripped", RuntimeError("no home")])
def test_without_a_home_directory(monkeypatch: pytest.MonkeyPatch, answer: Any) -> None:
    monkeypatch.setattr("platformdirs.user_cache_dir", mock.Mock(side_effect=[answer]))
    with pytest.raises(CacheError, match="TRT_STRIPPED_CACHE_DIR"):
        _ = Options.of({}).cache_dirs


# ---------------------------------------------------------------- sizes


@given(st.integers(min_value=0, max_value=1 << 60))
def test_sizes_in_bytes(size: int) -> None:
    assert parse_size(size) == parse_size(str(size)) == parse_size(f"{size} B") == size


@given(st.integers(min_value=0, max_value=1 << 20), st.sampled_from("KMGT"), st.sampled_from(["", " "]))
def test_sizes_with_units(count: int, unit: str, space: str) -> None:
    power = "KMGT".index(unit) + 1
    assert parse_size(f"{count}{space}{unit}iB") == parse_size(f"{count}{unit.lower()}i") == count * 1024**power
    assert parse_size(f"{count}{space}{unit}B") == parse_size(f"{count}{unit}") == count * 1000**power


@given(st.text(max_size=12))
def test_sizes_are_parsed_or_refused(text: str) -> None:
    try:
        assert parse_size(text) >= 0
    except ValueError as error:
        assert "a size" in str(error)


# ---------------------------------------------------------------- the environment


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("refit_mode", "general", "general"),
        ("flavour", "tensorrt_rtx", "tensorrt_rtx"),
        ("verify", "1", True),
        ("cache", "0", False),
        ("min_block_size", "3", 3),
        ("cache_size", "512MiB", 512 << 20),
        ("torch_executed_ops", "aten.gelu aten.relu", frozenset({"aten.gelu", "aten.relu"})),
        ("cache_dir", "/tmp/a", (Path("/tmp/a"),)),
        ("workspace_size", "1GiB", 1 << 30),
    ],
)
def test_variables(monkeypatch: pytest.MonkeyPatch, name: str, text: str, value: Any) -> None:
    monkeypatch.setenv(PREFIX + name.upper(), text)
    assert getattr(Options.of({}), name) == value


def test_code_wins_over_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRT_STRIPPED_MIN_BLOCK_SIZE", "3")
    monkeypatch.setenv("TRT_STRIPPED_VERIFY", "1")
    options = Options.of({"min_block_size": 9})
    assert (options.min_block_size, options.verify) == (9, True)


def test_an_empty_variable_is_no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRT_STRIPPED_REFIT_MODE", "")
    assert Options.of({}) == Options()


def test_a_bad_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRT_STRIPPED_CACHE_SIZE", "huge")
    with pytest.raises(OptionError, match=r"TRT_STRIPPED_CACHE_SIZE takes .* got 'huge'"):
        Options.of({})


# ---------------------------------------------------------------- key and table


def test_an_option_leaves_the_key_only_with_a_reason() -> None:
    for field in FIELDS.values():
        key = field.metadata["key"]
        assert key in IN_KEY or len(key.removeprefix("no: ").split()) > 1, field.name


def test_the_key_part_is_json_and_holds_what_decides_a_plan() -> None:
    part = Options.of({"workspace_size": "1MiB"}).in_key("tensorrt")
    assert json.loads(json.dumps(part)) == part
    assert set(part) == {name for name, field in FIELDS.items() if not field.metadata["key"].startswith("no: ")}
    assert part.keys() - Options().in_key("tensorrt_rtx") == {"hardware_compatible", "version_compatible"}
    assert part["workspace_size"] == 1 << 20


def test_options_outside_the_key_do_not_change_it() -> None:
    for name, value in {"cache_dir": "/tmp/a", "min_block_size": 2, "verify": True, "cache_size": 0}.items():
        assert Options.of({name: value}).in_key("tensorrt") == Options().in_key("tensorrt")


def test_table_has_a_row_for_each_option() -> None:
    rows = table()
    assert [row["name"] for row in rows] == list(FIELDS)
    assert all(row["help"] and row["variable"] == PREFIX + row["name"].upper() for row in rows)


def test_when_to_build_is_not_in_the_key() -> None:
    assert Options.of({"build": "background"}).in_key("tensorrt") == Options.of({}).in_key("tensorrt")
    with pytest.raises(OptionError, match="did you mean 'background'"):
        Options.of({"build": "backgruond"})
